"""`--dedup keep`, `drop` and `weight` on texts with known duplicates: which one learns best from them?

Main entry: `dedup`, called by ``python benchmarks/report_checks.py dedup DATA RESULTS``. Every model is tuned
with the defaults, and measured on jokes that none was trained on; and on the repeated ones, whether it can
recite them. What is done is in RESULTS after each training; called again, it goes on from there. The other
checks draw their texts with `different_texts` and score them with `score_texts`, too.
"""

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from conjure.lm.generation.score import Tally, Windows, score_documents
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.language_model import LanguageModel, load
from conjure.lm.report.extraction import extracted_share
from conjure.lm.report.statistics import compare_losses, margin
from conjure.lm.text.near_duplicates import group_records
from conjure.lm.text.records import read_records
from conjure.lm.text.split import DEDUP, Dedup
from conjure.lm.training.finetune import run_training
from conjure.lm.training.preparation import prepare
from conjure.lm.training.request import FinetuneRequest

ORIGINALS, RESERVE = 150, 300  # groups of jokes to learn from, and to measure on
SEEDS = (1, 2)
REPEATED = 0.1  # share of the originals
FLOODING, FLOODS = 8, 30

Retell = Callable[[random.Random, str], str]


@dataclass
class Trained:
    """One training: nats of each reserve joke, and what it recites of the repeated ones."""

    corpus: str
    way: Dedup
    seed: int
    tokens: list[float]
    totals: list[float]
    trained_tokens: int
    recited: int
    repeated: int

    @property
    def tallies(self) -> list[Tally]:
        """One for each joke of the reserve."""
        return [Tally(total, tokens) for total, tokens in zip(self.totals, self.tokens, strict=True)]


def dedup(data: Path, results: Path, retellings: Sequence[Retell]) -> None:
    """Train on each text in each way, and print what each came to."""
    done = [Trained(**one) for one in json.loads(results.read_text())] if results.exists() else []
    known = {(one.corpus, one.way, one.seed) for one in done}
    for seed in SEEDS:
        originals, reserve = _drawn(data, seed)
        for name, corpus in _corpora(random.Random(seed), originals, retellings).items():
            for way in DEDUP:
                if (name, way, seed) in known:
                    continue
                done.append(_trained(name, corpus, way, seed, reserve))
                results.write_text(json.dumps([asdict(one) for one in done]))
                print(f"{name:18} {way:6} seed {seed}: {_loss(done[-1]):.4f}", flush=True)
    _print_table(done)


def _drawn(data: Path, seed: int) -> tuple[list[str], list[str]]:
    """Jokes to learn from and jokes to measure on; no two of them say the same."""
    long_enough = [text for text in different_texts(data) if len(text.split()) >= 8]
    chosen = random.Random(seed).sample(long_enough, ORIGINALS + RESERVE)
    return chosen[:ORIGINALS], chosen[ORIGINALS:]


def different_texts(data: Path) -> list[str]:
    """The texts of a table; of those that say the same, the first."""
    texts = list(read_records([data]))
    return [texts[index] for index in group_records(texts).first_records.tolist()]


@dataclass
class Corpus:
    """Records in an order of chance, and those among the originals that stand in it more than once."""

    records: list[str]
    repeated: list[str]


def _corpora(
    source: random.Random, originals: Sequence[str], retellings: Sequence[Retell]
) -> dict[str, Corpus]:
    some = source.sample(originals, round(REPEATED * len(originals)))
    flood = some[:FLOODING]
    twice = [text for text in some for _ in range(source.randrange(1, 4))]
    retold = list(_retold(source, some, retellings))
    return {
        "some copies": _mixed(source, originals, twice, some),
        "many, half retold": _mixed(source, originals, retold, some),
        "a few, 30 times": _mixed(source, originals, flood * (FLOODS - 1), flood),
    }


def _mixed(
    source: random.Random, originals: Sequence[str], added: Sequence[str], repeated: list[str]
) -> Corpus:
    records = [*originals, *added]
    source.shuffle(records)
    return Corpus(records, repeated)


def _retold(source: random.Random, texts: Sequence[str], retellings: Sequence[Retell]) -> Iterator[str]:
    for text in texts:
        for _ in range(source.randrange(1, 20)):
            yield source.choice(retellings)(source, text) if source.random() < 0.5 else text


def _trained(name: str, corpus: Corpus, way: Dedup, seed: int, reserve: Sequence[str]) -> Trained:
    with tempfile.TemporaryDirectory() as folder:
        path, tuned = Path(folder) / "text.jsonl", Path(folder) / "tuned"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in corpus.records))
        request = FinetuneRequest(data=[path], output=tuned, dedup=way, seed=seed, sample_every=0)
        trained = run_training(prepare(request))
        model = load(tuned)
    tallies = score_texts(model, reserve)
    share = extracted_share(model.model, model.tokenizer, corpus.repeated)
    return Trained(
        name,
        way,
        seed,
        [tally.tokens for tally in tallies],
        [tally.total for tally in tallies],
        trained.history.tokens,
        share.extracted if share is not None else 0,
        share.records if share is not None else 0,
    )


def score_texts(model: LanguageModel, texts: Sequence[str]) -> list[Tally]:
    """What a model makes of each text."""
    found = score_documents(TorchScorer(model.model), model.tokenizer, texts, Windows.of(model.model))
    return [score.tally for score in found]


def _loss(*trained: Trained) -> float:
    return sum((sum(one.tallies, Tally()) for one in trained), Tally()).loss


def _print_table(done: Sequence[Trained]) -> None:
    print("| text | --dedup | loss on unseen jokes | against keep | trained tokens | recited |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in dict.fromkeys(one.corpus for one in done):
        kept = [one for one in done if (one.corpus, one.way) == (name, "keep")]
        for way in DEDUP:
            own = [one for one in done if (one.corpus, one.way) == (name, way)]
            if len(own) < len(kept):
                continue
            tokens = np.mean([one.trained_tokens for one in own])
            recited = f"{sum(one.recited for one in own)} of {sum(one.repeated for one in own)}"
            print(
                f"| {name} | {way} | {_loss(*own):.3f} | {_against(kept, own) if way != 'keep' else ''} "
                f"| {tokens:,.0f} | {recited} |"
            )


def _against(kept: Sequence[Trained], own: Sequence[Trained]) -> str:
    """The change of the loss, each joke of each seed counting by itself, with 95 % confidence."""
    before = [tally for one in kept for tally in one.tallies]
    change = compare_losses(before, [tally for one in own for tally in one.tallies])
    assert change.standard_error is not None
    return f"{change.change:+.3f} ± {margin(change.standard_error, change.groups):.3f}"
