"""How often the report's answer to "is it better?" is right, and how well groups of records are found.

python benchmarks/report_checks.py trainings DATA LOSSES   40 small trainings, each checked on a reserve
python benchmarks/report_checks.py nulls LOSSES            2,000 trainings that changed nothing, simulated
python benchmarks/report_checks.py power LOSSES            how often a real change is seen, by its size
python benchmarks/report_checks.py pairs DATA              precision and recall of groups on labelled pairs
python benchmarks/report_checks.py copies FILE…            planted copies found, and compared with brute force
python benchmarks/report_checks.py million FOLDER          time and memory for a million records
python benchmarks/report_checks.py dedup DATA RESULTS      --dedup keep, drop and weight, side by side

DATA is a table with one column of text; LOSSES a JSON file that `trainings` writes and the others read. What
`trainings` and `dedup` have done is in their file after each training: called again, they go on from there.
"""

import argparse
import json
import math
import random
import re
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dedup_checks
import numpy as np
from copy_checks import copies

from conjure.lm.generation.score import Tally
from conjure.lm.language_model import LanguageModel, load
from conjure.lm.report.statistics import LEVEL, SMALLEST_CHANGE, compare_losses
from conjure.lm.text.near_duplicates import group_records
from conjure.lm.text.records import read_records
from conjure.lm.training.finetune import run_training
from conjure.lm.training.preparation import prepare
from conjure.lm.training.request import FinetuneRequest

TRAININGS = 40
POOL, MOST_WORDS = 1000, 20  # short jokes, no two of which say the same
HELD_OUT, RESERVE = 40, 200  # jokes of a training; all others of the pool are trained on
RATES = (1e-6, 1e-5, 3e-5, 1e-4, 3e-4)
STEPS = (1, 2, 4, 8)
NULLS = 2000
GROUPS = (6, 10, 30, 60, 200, 1000)
DRAWN_GROUPS = 60  # above, the limit of the draws of signs, a normal distribution, stands for them here
EFFECTS = (0.02, 0.05, 0.1, 0.2, 0.4)
SIMULATIONS = 200


@dataclass
class Losses:
    """The held-out groups of one training: tokens, and nats before and after."""

    tokens: list[float]
    before: list[float]
    after: list[float]


@dataclass
class CheckedTraining:
    """One training: what was said of it, and the change of the loss on the reserve."""

    rate: float
    steps: int
    outcome: str
    change: float
    p_value: float
    reserve_change: float
    losses: Losses

    @property
    def contradicted(self) -> bool:
        """Whether a clear answer has the other sign than the change on the reserve."""
        return self.outcome != "unclear" and self.change * self.reserve_change < 0

    def __str__(self) -> str:
        """One line of the log."""
        return (
            f"rate {self.rate:g} steps {self.steps}: {self.outcome:8} change {self.change:+.4f} "
            f"p {self.p_value:.3f}; reserve {self.reserve_change:+.4f}{' CONTRADICTED' * self.contradicted}"
        )


def trainings(data: Path, losses: Path) -> None:
    """Small trainings whose verdict is compared with the mean loss on a reserve of unseen groups.

    What is done is in LOSSES after each training; called again, it goes on from there.
    """
    pool = _short_jokes(data)
    before = dedup_checks.score_texts(load("sprite"), pool)
    done = _read(losses) if losses.exists() else []
    for number in range(len(done), TRAININGS):
        done.append(_check(number, pool, before))
        losses.write_text(json.dumps([asdict(one) for one in done]))
        print(f"{number:2} {done[-1]}", flush=True)
    clear = sum(one.outcome != "unclear" for one in done)
    contradicted = sum(one.contradicted for one in done)
    print(f"{len(done)} trainings, {clear} with a clear answer, {contradicted} contradicted by the reserve")


def _short_jokes(data: Path) -> list[str]:
    return [text for text in dedup_checks.different_texts(data) if len(text.split()) <= MOST_WORDS][:POOL]


def _check(number: int, pool: Sequence[str], base: Sequence[Tally]) -> CheckedTraining:
    order = random.Random(number).sample(range(len(pool)), len(pool))
    held_out, reserve, train = (
        order[:HELD_OUT],
        order[HELD_OUT : HELD_OUT + RESERVE],
        order[HELD_OUT + RESERVE :],
    )
    rate, steps = RATES[number % len(RATES)], STEPS[number % len(STEPS)]
    with tempfile.TemporaryDirectory() as folder:
        tuned = _tune(Path(folder), [pool[index] for index in train], rate, steps, number)
    before, after = (
        [base[index] for index in (*held_out, *reserve)],
        dedup_checks.score_texts(tuned, [pool[index] for index in (*held_out, *reserve)]),
    )
    shown = compare_losses(before[:HELD_OUT], after[:HELD_OUT])
    true = compare_losses(before[HELD_OUT:], after[HELD_OUT:])
    losses = Losses(
        [tally.tokens for tally in after[:HELD_OUT]],
        [tally.total for tally in before[:HELD_OUT]],
        [tally.total for tally in after[:HELD_OUT]],
    )
    return CheckedTraining(rate, steps, shown.outcome, shown.change, shown.p_value, true.change, losses)


def _tune(folder: Path, texts: Sequence[str], rate: float, steps: int, seed: int) -> LanguageModel:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    options: dict[str, Any] = {"holdout": 0, "learning_rate": rate, "max_steps": steps, "warmup_ratio": 0}
    request = FinetuneRequest(
        data=[path], output=folder / "tuned", schedule="constant", sample_every=0, seed=seed, **options
    )
    run_training(prepare(request))
    return load(folder / "tuned")


def nulls(losses: Path) -> None:
    """How often random signs of real differences are called a change."""
    source = np.random.default_rng(0)
    trained = [one.losses for one in _read(losses)]
    found = {"better": 0, "worse": 0, "unclear": 0}
    below = 0
    for number in range(NULLS):
        one = trained[number % len(trained)]
        differences = np.array(one.after) - np.array(one.before)
        # Scaled up, or the smallest change that counts would hide what the test does.
        differences *= (
            20 / max(1e-9, float(np.abs(differences).mean())) * source.choice([-1, 1], len(differences))
        )
        change = compare_losses(*_tallies(one, differences))
        found[change.outcome] += 1
        below += change.p_value < 0.05
    print(f"{NULLS} nulls: {found}; p below 0.05 in {below / NULLS:.2%}")


def power(losses: Path) -> None:
    """How often a change of some size is called one, by the number of groups."""
    source = np.random.default_rng(1)
    trained = [one.losses for one in _read(losses)]
    tokens = np.concatenate([one.tokens for one in trained])
    # What varies from group to group in a training that has an effect: as in those of the largest rate.
    spread = _spread(trained)
    print("| groups | " + " | ".join(f"{effect:g}" for effect in EFFECTS) + " |")
    print("| --- |" + " --- |" * len(EFFECTS))
    for count in GROUPS:
        shares = []
        for effect in EFFECTS:
            seen = 0
            for _ in range(SIMULATIONS):
                length = source.choice(tokens, count)
                noise = source.choice(spread, count) * source.choice([-1, 1], count) * np.sqrt(length)
                gains = effect * length + noise
                seen += _seen(length, gains)
            shares.append(f"{seen / SIMULATIONS:.0%}")
        print(f"| {count:,} | " + " | ".join(shares) + " |")


def _seen(tokens: np.ndarray, gains: np.ndarray) -> bool:
    """Whether groups that gained so many nats are called better."""
    if len(tokens) <= DRAWN_GROUPS:
        one = Losses(tokens.tolist(), [0.0] * len(tokens), gains.tolist())
        return compare_losses(*_tallies(one, gains)).outcome == "better"
    p_value = math.erfc(abs(gains.sum()) / math.sqrt(2 * (gains**2).sum()))
    return bool(gains.sum() / tokens.sum() >= SMALLEST_CHANGE) and p_value < LEVEL


def _spread(trained: Sequence[Losses]) -> np.ndarray:
    """Deviations of groups' differences from their training's mean, over the root of their tokens."""
    parts = []
    for one in trained:
        tokens, differences = np.array(one.tokens), np.array(one.after) - np.array(one.before)
        mean = differences.sum() / tokens.sum()
        parts.append((float(abs(mean)), (differences - mean * tokens) / np.sqrt(tokens)))
    return max(parts, key=lambda part: part[0])[1]


def _tallies(one: Losses, differences: np.ndarray) -> tuple[list[Tally], list[Tally]]:
    before = [Tally(-1000.0, tokens) for tokens in one.tokens]
    after = [
        Tally(-1000.0 + change, tokens)
        for tokens, change in zip(one.tokens, differences.tolist(), strict=True)
    ]
    return before, after


def _read(losses: Path) -> list[CheckedTraining]:
    stored = json.loads(losses.read_text())
    return [CheckedTraining(**{**one, "losses": Losses(**one["losses"])}) for one in stored]


# ------------------------------------------------------------------------------------------------ groups


def pairs(data: Path) -> None:
    """Texts told again in known ways must be found; different texts of the data must not be joined."""
    texts = [text for text in dict.fromkeys(read_records([data])) if len(text.split()) >= 8]
    source = random.Random(0)
    vocabulary = sorted({word for text in texts for word in text.split()})
    print("| told again | pairs | found |\n| --- | --- | --- |")
    for name, retell in _retellings(vocabulary).items():
        chosen = source.sample(texts, min(500, len(texts)))
        retold = [retell(source, text) for text in chosen]
        labels = group_records([*texts, *retold]).labels
        places = {text: place for place, text in enumerate(texts)}
        found = sum(labels[places[text]] == labels[len(texts) + n] for n, text in enumerate(chosen))
        print(f"| {name} | {len(chosen)} | {found / len(chosen):.1%} |")
    alone = group_records(texts)
    print(f"joined within the data: {len(texts) - alone.count} of {len(texts)}, largest {alone.largest}")
    for label in np.flatnonzero(alone.sizes > 1).tolist():
        print("---")
        for place in np.flatnonzero(alone.labels == label).tolist():
            print("  ", texts[place])


def _retellings(vocabulary: Sequence[str]) -> dict[str, Callable[[random.Random, str], str]]:
    def signs(_: random.Random, text: str) -> str:
        return text.upper().replace(",", " –").replace(".", "!")

    def words(count: int) -> Callable[[random.Random, str], str]:
        def retell(source: random.Random, text: str) -> str:
            parts = text.split()
            for place in source.sample(range(len(parts)), count):
                parts[place] = source.choice(vocabulary)
            return " ".join(parts)

        return retell

    def inside(source: random.Random, text: str) -> str:
        around = [" ".join(source.choices(vocabulary, k=15)) for _ in range(2)]
        return f"{around[0]} {text} {around[1]}"

    def opening(source: random.Random, text: str) -> str:
        return f"{' '.join(source.choices(vocabulary, k=4))} {text}"

    def cut(_: random.Random, text: str) -> str:
        parts = text.split()
        return " ".join(parts[: max(8, round(0.7 * len(parts)))])

    return {
        "case and punctuation": signs,
        "one word changed": words(1),
        "two words changed": words(2),
        "inside a longer text": inside,
        "another opening": opening,
        "cut to 70 %": cut,
    }


def million(folder: Path) -> None:
    """Group a million sentences: those of the text files in a folder, and such with one word changed."""
    source = random.Random(1)
    texts: list[str] = []
    for path in sorted(folder.glob("*.txt")):
        texts += [
            part for part in re.split(r"(?<=[.!?])\s+", path.read_text(errors="replace")) if len(part) > 20
        ]
    texts = texts[:1_000_000]
    originals = len(texts)
    while len(texts) < 1_000_000:
        words = texts[source.randrange(originals)].split()
        words[source.randrange(len(words))] = f"thing{source.randrange(1000)}"
        texts.append(" ".join(words))
    started, used = time.perf_counter(), time.process_time()
    groups = group_records(texts)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{len(texts):,} records, {groups.distinct:,} distinct, {groups.count:,} groups,"
        f" largest {groups.largest}: {seconds:.0f} s, {used:.0f} s of processor, {peak:.2f} GB"
    )


def dedup(data: Path, results: Path) -> None:
    """The loss on unseen jokes after training on texts with copies and retellings in them, in each way."""
    vocabulary = sorted({word for text in read_records([data]) for word in text.split()})
    dedup_checks.dedup(data, results, list(_retellings(vocabulary).values()))


def main() -> None:
    """Carry out the check that is asked for."""
    checks = {one.__name__: one for one in (trainings, nulls, power, pairs, copies, million, dedup)}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument("check", choices=checks)
    parser.add_argument("paths", type=Path, nargs="*")
    options = parser.parse_args()
    checks[options.check](*options.paths)


if __name__ == "__main__":
    main()
