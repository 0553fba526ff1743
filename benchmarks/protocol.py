"""One way to measure every tuned model, however it was trained: nats per byte of held-out records.

Main entry: `Material`. Invariant: every setting trains on the same records and is measured on the same
others, and a byte counts alike for every tokenizer and block size.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from conjure.lm.generation.score import Tally, Windows, score_documents
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.language_model import LanguageModel, load
from conjure.lm.models.decoder import Decoder
from conjure.lm.report.measure_model import record_texts
from conjure.lm.text.records import read_records
from conjure.lm.text.split import Split, hold_out
from conjure.lm.text.token_cache import tokenise
from conjure.lm.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class HeldOut:
    """What a model makes of the held-out records.

    Attributes:
        separate: Nats per byte, each record read after an end-of-text token and its own bytes scored.
        joined: Nats per byte of all records as one text, a line end between them.
    """

    separate: float
    joined: float


@dataclass(frozen=True)
class Material:
    """A model to start from and a text, split as `conjure finetune` splits it."""

    model: str
    data: Path

    @cached_property
    def base(self) -> LanguageModel:
        """The model, untuned."""
        return load(self.model)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.base.tokenizer

    @cached_property
    def _split(self) -> Split:
        return hold_out(tokenise(read_records([self.data]), self.tokenizer))

    @cached_property
    def training(self) -> list[str]:
        """The records to learn from."""
        return list(record_texts(self._split.train, self.tokenizer))

    @cached_property
    def held_out(self) -> list[str]:
        """The records to measure on."""
        if self._split.heldout is None or self._split.method != "records":
            raise SystemExit(f"{self.data} has too few records to hold some out")
        return list(record_texts(self._split.heldout, self.tokenizer))

    def measure(self, model: Decoder) -> HeldOut:
        """The held-out figures of a model."""
        return HeldOut(self._nats_per_byte(model, self.held_out), self._nats_per_byte(model, [self._joined]))

    @cached_property
    def _joined(self) -> str:
        return "\n".join(self.held_out)

    def _nats_per_byte(self, model: Decoder, texts: list[str]) -> float:
        scores = score_documents(TorchScorer(model), self.tokenizer, texts, Windows.of(model))
        tally = sum((score.tally for score in scores), Tally())
        return -tally.total / tally.bytes
