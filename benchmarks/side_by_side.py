"""Measures conjure and its peers side by side, and writes what came of it.

Main entry: `main`; ``make bench`` calls it through benchmarks/run. Every contender runs in a process of its
own, one at a time; each round takes all of them, beginning with another one, so that a machine that slows
down slows all alike; the median of the rounds counts. Invariant: the documents hold whole runs only.
"""

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
from contenders import GROUPS, HERE, OURS, PEERS, Contender, contenders
from limits import Shape, step_bytes
from processes import Outcome, WorkerError, run, variables
from report import write_report
from results import MEASURES, Reading, Readings, summarise

CACHE = HERE / ".cache"
RESULTS = CACHE / "results"
DOCUMENTS = HERE.parent / "docs" / "benchmarks"
DATA = HERE.parent / "examples" / "jokes" / "jokes.csv"
BATCH = 2
MORE_THAN_A_CACHE = 2 << 30  # bytes
PROMPT, LONG_PROMPT, SHORT_PROMPT = 32, 900, 64
OUTPUT_HELP = "Default: docs/benchmarks; benchmarks/.cache/results with --only or --quick."
QUICK_HELP = "One round of less work, with fewer peers: at most 5 minutes on 2 cores, and rougher."
DECODING = ("decode_1", "decode_16", "decode_64", "prefill")


@dataclass(frozen=True)
class Sizes:
    """How much work a measurement is.

    Attributes:
        block: Tokens in a block of training.
        short_block: The same of short records.
        long_prompt: Tokens of the prefill.
        new: Tokens to write, by rows.
        steps: Training steps to time at most, after `warm_up`.
        seconds: Training stops once so much time was timed.
        warm_up: Training steps before that.
        records: Records to score at most.
        matrix: Edge of the square matrices with which torch's rates are measured.
    """

    block: int = 1024
    short_block: int = 128
    long_prompt: int = LONG_PROMPT
    new: dict[int, int] = field(default_factory=lambda: {1: 128, 16: 32, 64: 16})
    steps: int = 4
    seconds: float = 12.0
    warm_up: int = 3  # memory is new to a process in its first steps, and a new page costs microseconds
    records: int = 300
    matrix: int = 2048

    def decoding(self) -> dict[str, dict[str, int]]:
        """The work of every measure of decoding."""
        measures = {
            f"decode_{rows}": {"rows": rows, "prompt": PROMPT, "new": new} for rows, new in self.new.items()
        }
        return {**measures, "prefill": {"rows": 1, "prompt": self.long_prompt, "new": 1}}


FULL = Sizes()
QUICK = Sizes(new={1: 64, 16: 16, 64: 8}, steps=1, seconds=5.0, warm_up=1, records=100)
TINY = Sizes(
    block=64,
    short_block=32,
    long_prompt=SHORT_PROMPT,
    new={1: 6, 16: 4, 64: 3},
    steps=2,
    warm_up=1,
    records=20,
    matrix=256,
)


def main() -> None:
    options = parse()
    sizes = TINY if options.tiny else QUICK if options.quick else FULL
    chosen = options.only.split(",") if options.only else list(MEASURES)
    folder, facts = prepared(options, sizes)
    common = {
        "checkpoint": str(folder / "checkpoint"),
        "ctranslate2": str(folder / "ctranslate2"),
        "prompts": str(folder / "prompts.json"),
        "records": str(folder / "records.json"),
        "blocks": str(folder / "blocks.npy"),
        "data": str(options.data),
        "end_of_text": facts["end_of_text"],
        "threads": options.threads,
        "batch": BATCH,
        "block": sizes.block,
        "short_block": sizes.short_block,
        "steps": sizes.steps,
        "seconds": sizes.seconds,
        "warm_up": sizes.warm_up,
        "matrix": sizes.matrix,
        "measures": {name: work for name, work in sizes.decoding().items() if name in chosen},
    }
    config = json.loads((folder / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    decoded = {name: work for name, work in common["measures"].items() if name != "prefill"}
    common["read_bytes"] = {
        "memory_bandwidth": MORE_THAN_A_CACHE,
        **{f"memory_bandwidth_{name}": step_bytes(Shape.of(config), work) for name, work in decoded.items()},
    }
    wanted = {"decode" if name in DECODING else name for name in chosen}
    taking_part = [
        contender
        for contender in contenders(folder, common)
        if contender.group in wanted and not (options.quick and (contender.once or contender.slow))
    ]
    before = machine.facts(PEERS / "python")
    readings = Rounds(options, common, taking_part).run()
    settings = {
        "command": "make bench" if len(sys.argv) == 1 else f"benchmarks/run {' '.join(sys.argv[1:])}",
        "quick": options.quick,
        "rounds": options.repeats,
        "threads": options.threads,
        "data": options.data.name,
        **facts,
    }
    results = summarise(
        readings,
        shape=config,
        work=common,
        machine=before,
        settings=settings,
    )
    write_report(results, options.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help=f"Some measures, with commas: {','.join(MEASURES)}")
    parser.add_argument("--quick", action="store_true", help=QUICK_HELP)
    parser.add_argument("--repeats", type=int, help="Rounds (3; 1 with --quick).")
    parser.add_argument(
        "--threads", type=int, default=machine.cores(), help="Of every contender (all cores)."
    )
    parser.add_argument("--data", type=Path, default=DATA, help="Text to train on and score (our jokes).")
    parser.add_argument("--vocabulary", type=Path, help="Folder with GPT-2's vocab.json and merges.txt.")
    parser.add_argument("--output", type=Path, help=OUTPUT_HELP)
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = sorted(set(options.only.split(",") if options.only else ()) - set(MEASURES))
    if unknown:
        parser.error(f"--only {','.join(unknown)}: allowed are {', '.join(MEASURES)}")
    if options.repeats is None:
        options.repeats = 1 if options.quick else 3
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; it must be at least 1")
    if options.output is None:
        # The documents hold whole runs only.
        partial = options.only or options.quick or options.tiny
        options.output = RESULTS if partial else DOCUMENTS
    return options


def prepared(options: argparse.Namespace, sizes: Sizes) -> tuple[Path, dict[str, Any]]:
    """The folder with the model and its text, and what workers/prepare.py told of it; made if need be."""
    task = {
        "data": str(options.data.resolve()),
        "vocabulary": str(options.vocabulary.resolve()) if options.vocabulary else None,
        "tiny": options.tiny,
        "block": sizes.block,
        "prompts": {PROMPT: 64, sizes.long_prompt: 1},
    }
    recipe = [json.dumps(task), *(path.read_text(encoding="utf-8") for path in recipe_files(options))]
    folder = CACHE / hashlib.sha256("".join(recipe).encode()).hexdigest()[:12]
    stamp = folder / "facts.json"
    if not stamp.exists():
        note(f"Making the model and its text in {folder.relative_to(HERE.parent)}")
        shutil.rmtree(folder, ignore_errors=True)
        CACHE.mkdir(exist_ok=True)
        (CACHE / ".gitignore").write_text("*\n", encoding="utf-8")
        made = worker(OURS / "python", "prepare.py", {**task, "folder": str(folder)}, options.threads)
        stamp.write_text(json.dumps(made), encoding="utf-8")
    if PEERS.exists() and not (folder / "ctranslate2").exists():
        paths = {name: str(folder / name) for name in ("checkpoint", "ctranslate2")}
        worker(PEERS / "python", "convert_ctranslate2.py", paths, options.threads)
    records = json.loads((folder / "all-records.json").read_text(encoding="utf-8"))[: sizes.records]
    (folder / "records.json").write_text(json.dumps(records), encoding="utf-8")
    return folder, {
        **json.loads(stamp.read_text(encoding="utf-8")),
        "scored_records": len(records),
        "scored_tokens": sum(len(record["ids"]) for record in records),
    }


def recipe_files(options: argparse.Namespace) -> list[Path]:
    """What a made folder depends on besides options: it is made anew when one of them changes."""
    return [HERE / "workers" / "prepare.py", HERE / "constraints.txt", options.data]


def worker(python: Path, script: str, task: dict[str, Any], threads: int) -> dict[str, Any]:
    command = [str(python), str(HERE / "workers" / script), json.dumps(task)]
    return last_json(run(command, variables(threads, CACHE / "home")))


def last_json(outcome: Outcome) -> dict[str, Any]:
    return json.loads(outcome.output.strip().splitlines()[-1])


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Rounds:
    """All contenders, again and again."""

    def __init__(
        self, options: argparse.Namespace, common: dict[str, Any], taking_part: list[Contender]
    ) -> None:
        self._options, self._common = options, common
        self._taking_part = taking_part
        self._readings = Readings(contenders=taking_part)
        self._took: dict[tuple[str, str], float] = defaultdict(float)

    def run(self) -> Readings:
        """Everything, round by round."""
        for number in range(self._options.repeats):
            self._measure_ceilings()
            for group in self._groups(number):
                members = [contender for contender in self._taking_part if contender.group == group]
                first = number % max(1, len(members))
                for contender in members[first:] + members[:first]:
                    self._measure(contender, number)
        return self._readings

    def _groups(self, number: int) -> tuple[str, ...]:
        """What a round measures: training, with steps of many seconds, is left out of the last of several."""
        last = number > 0 and number == self._options.repeats - 1
        return tuple(group for group in GROUPS if not (last and group == "train"))

    def _measure_ceilings(self) -> None:
        found = worker(OURS / "python", "ceilings.py", self._common, self._options.threads)
        self._readings.ceilings.append(found)

    def _measure(self, contender: Contender, number: int) -> None:
        key = (contender.group, contender.name)
        if key in self._readings.left_out or (number > 0 and contender.once):
            return
        if contender.missing is not None:
            self._readings.left_out[key] = contender.missing
            return
        started = time.perf_counter()
        try:
            reading = self._read(contender)
        except WorkerError as failure:
            self._readings.left_out[key] = str(failure)
            note(f"round {number + 1} · {contender.group} · {contender.name}: left out: {failure}")
            return
        if not contender.once:
            self._took[key] = time.perf_counter() - started
        self._readings.taken[key].append(reading)
        shown = ", ".join(f"{name} {value:,.3g}" for name, value in reading.figures.items())
        note(f"round {number + 1} · {contender.group} · {contender.name}: {shown}{self._time_left(number)}")

    def _read(self, contender: Contender) -> Reading:
        settings = {**variables(self._options.threads, CACHE / "home"), **contender.variables}
        if contender.command:
            outcome = run(list(contender.command), settings)
            return Reading({"cold_start": outcome.first_output_s}, outcome.peak_bytes)
        script = str(HERE / "workers" / contender.script)
        outcome = run([str(contender.python), script, json.dumps(contender.task)], settings)
        return Reading(last_json(outcome), outcome.peak_bytes)

    def _time_left(self, number: int) -> str:
        """Once every contender was seen, how long the rest will take."""
        rounds_left = self._options.repeats - number - 1
        if number == 0 or not rounds_left:
            return ""
        return f" · at least {rounds_left * sum(self._took.values()) / 60:.0f} min left"


if __name__ == "__main__":
    main()
