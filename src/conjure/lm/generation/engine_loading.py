"""A model loaded with an engine, in the number format that was asked for or is fastest for the work.

Main entry: `load_engine`. Invariants: ``float32`` is exact, and everything else is only taken when it is
asked for, by name or as ``auto``; torch is imported only where the native engine does not do the work.

``auto`` takes, on a GPU, what `fast_dtype` finds. On a CPU it takes int8 where the native engine is built:
that reads half of bfloat16's bytes per token, and with AVX512-VNNI or AVX2 multiplies faster than torch, for
one row as for many. Where it runs its portable instructions, that is so for few rows only; many get what
`fast_dtype` finds, if torch is installed.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from conjure.errors import CheckpointError, ModelError, UsageError, option
from conjure.installation import install_command
from conjure.lm.bounds import value_fault
from conjure.lm.checkpoints.checkpoint_folder import read_config
from conjure.lm.checkpoints.checkpoint_weights import load_tokenizer, missing_tokenizer, open_weights
from conjure.lm.checkpoints.model_resolver import Lookup, ModelSource, resolve_model
from conjure.lm.generation.engines.base import Engine
from conjure.lm.generation.engines.native import NativeEngine, supports
from conjure.lm.generation.engines.native_weights import Format, NativeWeights
from conjure.lm.generation.engines.weights_cache import cached_weights
from conjure.lm.hardware import chosen_precision, gpu_is_there
from conjure.lm.models.shape import ModelConfig
from conjure.lm.native import Status, status
from conjure.lm.text.tokenizer import Tokenizer

PRECISIONS = ("auto", "float32", "bfloat16", "int8")
_ROWS_FOR_TORCH = 8  # measured: where portable instructions fall behind torch's float32 products


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine, its tokenizer and their names: the arguments of `conjure.lm.generation.generate.stream`.

    Attributes:
        engine: Runs the model.
        tokenizer: The model's own.
        source: Where the model was found.
        precision: Number format and engine, in words.
    """

    engine: Engine
    tokenizer: Tokenizer
    source: ModelSource
    precision: str

    @property
    def origin(self) -> str:
        """Where the model came from, in words."""
        return str(self.source)


def load_engine(
    name: str | Path,
    *,
    precision: str = "auto",
    rows: int = 1,
    adapter: str | Path | None = None,
    lookups: Iterable[Lookup] = (),
    on_making: Callable[[], None] = lambda: None,
) -> LoadedEngine:
    """Load a model with the engine that generates with it.

    Args:
        name: As for `conjure.lm.language_model.load`.
        precision: One of `PRECISIONS`.
        rows: How many samples will be written; ``auto`` looks at it.
        adapter: A PEFT folder whose LoRA weights to merge into the model.
        lookups: Tell the folders of names only the caller knows, such as ``runs/3``.
        on_making: Called before a model's int8 weights are made, once for each model; it takes seconds.

    Raises:
        NotFoundError: There is no such model here, and it cannot be fetched.
        CheckpointError: Its files are incomplete, damaged or of a refused kind, or it has no tokenizer.
        UsageError: The name or the precision cannot be one.
    """
    if precision not in PRECISIONS:
        raise value_fault("precision", f"is {precision!r}; allowed: {', '.join(PRECISIONS)}")
    source, config, tokenizer = find_model(name, adapter, lookups)
    native = status()
    on_gpu = precision != "int8" and gpu_is_there()
    chosen = native_format(config, precision, rows, native) if not on_gpu else None
    engine, words = (
        _torch_engine(source.folder, precision)
        if chosen is None
        else native_engine(source.folder, chosen, native, on_making)
    )
    return LoadedEngine(engine, tokenizer, source, words)


def find_model(
    name: str | Path, adapter: str | Path | None, lookups: Iterable[Lookup]
) -> tuple[ModelSource, ModelConfig, Tokenizer]:
    """Where a model lies, its shape and its tokenizer; arguments and errors as for `load_engine`."""
    source = resolve_model(name, lookups=lookups)
    if adapter is not None:
        # It merges weights with torch, which nobody else pays for here.
        from conjure.lm.checkpoints.adapters import apply_adapter

        source = apply_adapter(source, adapter)
    config = read_config(source.folder)
    tokenizer = load_tokenizer(source.folder, config)
    if tokenizer is None:
        raise missing_tokenizer(str(source))
    return source, config, tokenizer


def native_format(config: ModelConfig, precision: str, rows: int, native: Status) -> Format | None:
    """What the native engine, on the CPU, is to store weights in; None where torch does the work.

    Args:
        config: The model's.
        precision: One of `PRECISIONS`.
        rows: How many samples will be written.
        native: What the engine can do here.
    """
    if native.library is None or not supports(config):
        return None
    if precision == "int8":
        return "int8"
    chosen = chosen_precision(precision)
    torch_is_faster = native.instructions == "portable" and rows >= _ROWS_FOR_TORCH
    if chosen == "bfloat16" or (torch_is_faster and find_spec("torch") is not None):
        return None
    return "float32" if chosen == "float32" else "int8"


def native_engine(
    folder: Path, format: Format, native: Status, on_making: Callable[[], None] = lambda: None
) -> tuple[NativeEngine, str]:
    """The native engine, weights laid out as they are read, and what to call it.

    Args:
        folder: The checkpoint's.
        format: ``int8`` or ``float32``; matrices that are stored in bfloat16 stay so in the latter.
        native: What the engine can do here.
        on_making: As for `load_engine`.

    Raises:
        CheckpointError: The weights hold what is no number, or cannot be read.
    """
    try:
        weights = cached_weights(folder, on_making) if format == "int8" else _exact_weights(folder)
    except ModelError as error:
        raise CheckpointError(f"the model in {folder} cannot be used: {error}") from error
    return NativeEngine(weights, native), f"{format}, native {native.instructions}"


def _exact_weights(folder: Path) -> NativeWeights:
    with open_weights(folder) as stored:
        exact: Format = "bfloat16" if stored.matrices_are_bfloat16 else "float32"
        return NativeWeights.make(stored.config, exact, stored.parts)


def refuse_without_torch(folder: Path, precision: str) -> None:
    """Refuse a model that only torch can run here, where it is not installed."""
    if find_spec("torch") is None:
        raise UsageError(
            f"the model in {folder} needs torch for {option('precision', precision)} here, and it is not"
            " installed",
            fix=install_command("lm"),
        )


def _torch_engine(folder: Path, precision: str) -> tuple[Engine, str]:
    refuse_without_torch(folder, precision)
    # torch takes a second to import.
    from conjure.lm.generation.engines.torch_loading import load_torch_engine

    return load_torch_engine(folder, precision)
