"""A model in memory, ready for many requests at once.

Main entries: `ServedModel`, `load_served_model`. Invariant: the exact weights, which only log-probabilities
of prompts need, are loaded when they are first asked for and kept.
"""

import threading
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from conjure.lm.generation.engine_loading import LoadedEngine, load_engine
from conjure.lm.generation.engines.all_logits import PositionReader
from conjure.lm.generation.scorer_loading import load_positions


class ServedModel:
    """A model that requests can name.

    Attributes:
        name: What requests call it.
        folder: Its checkpoint.
        engine: Computes the next token's logits.
        tokenizer: Its own, with the chat template in use.
        precision: Number format and engine, in words.
        retired: No new request will name it; it goes when its last one has ended.
    """

    def __init__(self, name: str, folder: Path, loaded: LoadedEngine) -> None:
        self.name, self.folder = name, folder
        self.engine, self.tokenizer, self.precision = loaded.engine, loaded.tokenizer, loaded.precision
        self.retired = False
        self._exact: PositionReader | None = None
        self._loading = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """Stands for what decides a text beside the request: conjure's version and the number format."""
        return f"conjure-{version('conjure')}-{self.precision.replace(', ', '-').replace(' ', '-')}"

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its text together."""
        return self.engine.context_length

    def exact(self) -> PositionReader:
        """The model in float32, which log-probabilities of prompts come from."""
        with self._loading:
            if self._exact is None:
                self._exact = load_positions(self.folder)
            return self._exact


def load_served_model(
    name: str, folder: Path, *, precision: str, rows: int, chat_template: str | None = None
) -> ServedModel:
    """Load a model.

    Args:
        name: What requests call it.
        folder: Its checkpoint.
        precision: As for `load_engine`.
        rows: How many texts may be written at once.
        chat_template: A template to use instead of the model's own.

    Raises:
        ConjureError: It cannot be loaded.
    """
    loaded = load_engine(folder, precision=precision, rows=rows)
    if chat_template is not None:
        loaded = replace(loaded, tokenizer=loaded.tokenizer.with_chat_template(chat_template))
    return ServedModel(name, folder, loaded)
