"""A model in memory, ready for many requests at once.

Main entries: `ServedModel`, `load_served_model`. Invariant: the exact model, which only log-probabilities of
prompts need, is loaded when it is first asked for and kept.
"""

import threading
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from conjure.lm.generation.engine_loading import load_writer
from conjure.lm.generation.engines.base import Engine
from conjure.lm.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from conjure.lm.models.base import CausalLM


class ServedModel:
    """A model that requests can name.

    Attributes:
        name: What requests call it.
        folder: Its checkpoint.
        engine: Computes the next token's logits.
        tokenizer: Its own.
        precision: Number format and engine, in words.
        retired: No new request will name it; it goes when its last one has ended.
    """

    def __init__(self, name: str, folder: Path, engine: Engine, tokenizer: Tokenizer, precision: str) -> None:
        self.name, self.folder, self.engine, self.tokenizer = name, folder, engine, tokenizer
        self.precision = precision
        self.retired = False
        self._exact: CausalLM | None = None
        self._loading = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """Stands for what decides a text beside the request: conjure's version and the number format."""
        return f"conjure-{version('conjure')}-{self.precision.replace(', ', '-').replace(' ', '-')}"

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its text together."""
        return self.engine.context_length

    def exact(self) -> "CausalLM":
        """The model in float32, which log-probabilities of prompts come from."""
        # Imports torch, which generating in int8 does not need.
        from conjure.lm.checkpoints.pretrained import load_model

        with self._loading:
            if self._exact is None:
                self._exact = load_model(self.folder)
            return self._exact


def load_served_model(name: str, folder: Path, *, precision: str, rows: int) -> ServedModel:
    """Load a model.

    Args:
        name: What requests call it.
        folder: Its checkpoint.
        precision: As for `load_writer`.
        rows: How many texts may be written at once.

    Raises:
        ConjureError: It cannot be loaded.
    """
    writer = load_writer(folder, precision=precision, rows=rows)
    return ServedModel(name, folder, writer.engine, writer.tokenizer, writer.precision)
