"""Has a chat model write the text that sprite learns from.

    python examples/sprite/write_text.py TEXT_FOLDER --minutes 60

Prompt number i of a seed always gets the same text, bit for bit, in whatever batch and after however many
breaks: what is written is added to TEXT_FOLDER/written-*.jsonl, one file for each start, and a later start
goes on with the numbers that are missing. Where anything else computes, two processes of one thread each
(OMP_NUM_THREADS=1), with --part 1/2 and --part 2/2, write more than one of two threads. Stopped by Ctrl+C, by
SIGTERM or at the end of its time it loses the texts it is in the middle of, and writes them again later.
"""

import argparse
import json
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
from prompts import Prompt, draw

from conjure.lm.generation.engine_loading import LoadedEngine, load_engine
from conjure.lm.generation.request import SamplingSettings
from conjure.lm.generation.sampling import random_stream, sample_tokens
from conjure.lm.native.logits import logit_summary
from conjure.lm.text.tokenizer import Tokenizer

MODEL = "smollm2"
# Variety comes from the prompts, so the model may say what it is surest of.
SETTINGS = SamplingSettings(temperature=0.5, top_k=40, top_p=0.9)
ROWS = 64
MOST_TOKENS = 40  # in a sentence; a longer one is broken off
TITLE = re.compile(r"\b(?:Mrs?|Ms|Dr|St|[A-Z])\.$")
MOST_ROOM = 256  # tokens of a text, with what is asked


@dataclass
class Text:
    """One text while it is written.

    Attributes:
        number: Of its prompt.
        prompt: What it goes on from.
        stream: Its randomness.
        ids: The tokens written so far, after the first opening.
        logprobs: Log-probability of each that the model chose.
        unread: Tokens of it that the model has still to be given.
        part: Which part is being written.
        sentences: Sentences of this part that have ended.
        tokens: Tokens of this part that the model chose.
    """

    number: int
    prompt: Prompt
    stream: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    unread: list[int] = field(default_factory=list)
    part: int = 0
    sentences: int = 0
    tokens: int = 0

    def text(self, tokenizer: Tokenizer) -> str:
        """What it says so far."""
        return self.prompt.openings[0] + tokenizer.decode(self.ids)

    def closing(self, tokenizer: Tokenizer) -> str:
        """The quotation mark that is still missing, if one is."""
        return '"' * (self.text(tokenizer).count('"') % 2)

    def record(self, tokenizer: Tokenizer, *, ended: bool) -> dict:
        """What is kept of it."""
        return {
            "number": self.number,
            "form": self.prompt.form,
            "text": self.text(tokenizer) + (self.closing(tokenizer) if ended else ""),
            "frame": self.prompt.frame,
            "ended": ended,
            "tokens": len(self.ids),
            "logprob": round(float(np.mean(self.logprobs)), 4),
        }


class Writing:
    """Many texts that are written together; a new one takes the place of each that has ended."""

    def __init__(
        self,
        loaded: LoadedEngine,
        seed: int,
        numbers: Iterator[int],
        *,
        rows: int = ROWS,
        settings: SamplingSettings = SETTINGS,
    ) -> None:
        self._rows, self._settings = rows, settings
        self._seed, self._numbers, self._tokenizer = seed, numbers, loaded.tokenizer
        self._session = loaded.engine.session()
        self._shared_rows: dict[str, int] = {}
        self._texts: dict[int, Text] = {}

    def step(self) -> list[dict]:
        """Write a token of each; the records of the texts that have ended with it."""
        while len(self._texts) < self._rows:
            self._begin(next(self._numbers))
        rows, logits = self._session.step(list(self._texts))
        ended = []
        for row, token, logprob in zip(rows, *self._choose(rows, logits), strict=True):
            ended += self._take(row, token, logprob)
        return ended

    def _choose(self, rows: list[int], logits: np.ndarray) -> tuple[list[int], list[float]]:
        """A token for each row, and its log-probability."""
        texts = [self._texts[row] for row in rows]
        logsumexp, _ = logit_summary(logits)
        chosen = sample_tokens(
            logits,
            [[] for _ in texts],  # the settings do not look back
            [text.stream for text in texts],
            [len(text.ids) for text in texts],
            self._settings,
        )
        return chosen.tolist(), (logits[np.arange(len(rows)), chosen] - logsumexp).tolist()

    def _begin(self, number: int) -> None:
        prompt, encode = draw(self._seed, number), self._tokenizer.encode
        opening = encode(prompt.openings[0])
        [row] = self._session.fork(self._shared_row(prompt.shared), 1)
        text = Text(number, prompt, random_stream(self._seed, number))
        text.unread = [*encode(prompt.asked, allow_special=True), *opening]
        self._texts[row] = text
        self._session.append(row, text.unread.pop(0))

    def _shared_row(self, shared: str) -> int:
        """A row that has read what many prompts begin with; texts go on from copies of it."""
        if shared not in self._shared_rows:
            ids = self._tokenizer.encode(shared, allow_special=True)
            [row] = self._session.add([ids], [len(ids) + MOST_ROOM])
            while self._session.step([row])[0] != [row]:
                pass
            self._shared_rows[shared] = row
        return self._shared_rows[shared]

    def _take(self, row: int, token: int, logprob: float) -> list[dict]:
        """Give a row its next token, the one chosen or one that is forced; its record where that ends it."""
        text = self._texts[row]
        if not text.unread:
            text.logprobs.append(logprob)
            text.tokens += 1
            written = self._tokenizer.decode([token])
            closes = token in self._tokenizer.end_ids or "\n" in written
            if not closes:
                text.ids.append(token)
                text.unread.append(token)
                text.sentences += ends_sentence(written) and ends_sentence(text.text(self._tokenizer))
            if closes or text.sentences == text.prompt.sentences:
                if not ends_sentence(text.text(self._tokenizer)):
                    return self._end(row, ended=False)
                text.part, text.sentences, text.tokens = text.part + 1, 0, 0
                if text.part == len(text.prompt.openings):
                    return self._end(row, ended=True)
                closing = text.closing(self._tokenizer)
                opening = self._tokenizer.encode(f"{closing} {text.prompt.openings[text.part]}")
                text.ids += opening
                text.unread += opening
            elif text.tokens == MOST_TOKENS * text.prompt.sentences:
                return self._end(row, ended=False)
        self._session.append(row, text.unread.pop(0))
        return []

    def _end(self, row: int, *, ended: bool) -> list[dict]:
        self._session.drop([row])
        return [self._texts.pop(row).record(self._tokenizer, ended=ended)]


def ends_sentence(text: str) -> bool:
    """Whether a text ends as sentences do, and not with a title or a letter."""
    text = text.rstrip("\"' ")
    return text.endswith((".", "!", "?")) and not TITLE.search(text)


def read_written(folder: Path) -> list[dict]:
    """All texts of a folder, by their numbers; a line that was being written when all ended is left out."""
    records = {}
    for path in sorted(folder.glob("written-*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            records[record["number"]] = record
    return [records[number] for number in sorted(records)]


def next_file(folder: Path) -> Path:
    """The file of a new start, after all that are there."""
    last = max(
        (int(path.stem.removeprefix("written-")) for path in folder.glob("written-*.jsonl")), default=0
    )
    return folder / f"written-{last + 1:04}.jsonl"


def settled_seed(folder: Path, seed: int) -> int:
    """The seed of a folder: that of its first start."""
    path = folder / "seed.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"seed": seed}))
    return json.loads(path.read_text())["seed"]


def part(text: str) -> tuple[int, int]:
    """Which of how many parts: of several processes each writes other numbers."""
    first, step = map(int, text.split("/"))
    if not 1 <= first <= step:
        raise argparse.ArgumentTypeError(f"there is no part {text}")
    return first, step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--texts", type=int, help="stop after so many texts, earlier starts included")
    parser.add_argument("--seed", type=int, default=1, help="of a new folder")
    parser.add_argument(
        "--part", type=part, default=(1, 1), metavar="I/N", help="every Nth number, from the Ith"
    )
    arguments = parser.parse_args()
    seed = settled_seed(arguments.folder, arguments.seed)
    done = {record["number"] for record in read_written(arguments.folder)}
    first, step = arguments.part
    print(f"{len(done):,} texts are there", flush=True)
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.append(True))
    writing = Writing(
        load_engine(MODEL, precision="int8", rows=ROWS),
        seed,
        (number for number in count(first - 1, step) if number not in done),
    )
    path = next_file(arguments.folder)
    started = told = time.monotonic()
    texts = tokens = 0
    with path.open("x", encoding="utf-8") as file:
        while not stopped and time.monotonic() - started < arguments.minutes * 60:
            for record in writing.step():
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                texts, tokens = texts + 1, tokens + record["tokens"]
            file.flush()
            if arguments.texts is not None and len(done) + texts >= arguments.texts:
                break
            if time.monotonic() - told >= 60:
                told = time.monotonic()
                print(f"{told - started:6.0f} s  {texts:,} texts  {tokens:,} tokens", flush=True)
    print(f"{texts:,} texts of {tokens:,} tokens added in {time.monotonic() - started:.0f} s: {path}")


if __name__ == "__main__":
    main()
