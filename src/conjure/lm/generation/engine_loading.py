"""A model made ready to write text, in the number format that was asked for or is fastest for the work.

Main entry: `load_writer`. Invariant: ``float32`` is exact, and everything else is only taken when it is asked
for, by name or as ``auto``.

``auto`` takes, on a GPU, what `fast_dtype` finds. On a CPU it takes int8 where the native engine is built:
that reads half of bfloat16's bytes per token, and with AVX512-VNNI or AVX2 multiplies faster than torch, for
one row as for many. Where it runs its portable instructions, that is so for few rows only; many get what
`fast_dtype` finds.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from conjure.lm.bounds import value_fault
from conjure.lm.checkpoints.adapters import apply_adapter
from conjure.lm.checkpoints.layout import read_config
from conjure.lm.checkpoints.model_resolver import Lookup, resolve_model
from conjure.lm.checkpoints.pretrained import load_model, load_tokenizer, missing_tokenizer, open_model
from conjure.lm.generation.engines.base import Engine
from conjure.lm.generation.engines.cuda_graph import torch_engine
from conjure.lm.generation.engines.int8_quantization import Int8Decoder, QuantisedModel
from conjure.lm.generation.engines.native import NativeEngine, supports
from conjure.lm.generation.engines.torch_engine import TorchEngine
from conjure.lm.hardware import PRECISION_VARIABLE, fast_dtype, pick_device
from conjure.lm.models.decoder import Decoder
from conjure.lm.models.shape import ModelConfig
from conjure.lm.native import Status, status
from conjure.lm.text.tokenizer import Tokenizer

PRECISIONS = ("auto", "float32", "bfloat16", "int8")
_ROWS_FOR_TORCH = 8  # measured: where portable instructions fall behind torch's float32 products


@dataclass(frozen=True, slots=True)
class Writer:
    """An engine, its tokenizer and their names: the arguments of `conjure.lm.generation.generate.stream`.

    Attributes:
        engine: Runs the model.
        tokenizer: The model's own.
        origin: Where the model came from, in words.
        precision: Number format and engine, in words.
    """

    engine: Engine
    tokenizer: Tokenizer
    origin: str
    precision: str


def load_writer(
    name: str | Path,
    *,
    precision: str = "auto",
    rows: int = 1,
    adapter: str | Path | None = None,
    lookups: Iterable[Lookup] = (),
) -> Writer:
    """Load a model for writing.

    Args:
        name: As for `conjure.lm.language_model.load`.
        precision: One of `PRECISIONS`.
        rows: How many samples will be written; ``auto`` looks at it.
        adapter: A PEFT folder whose LoRA weights to merge into the model.
        lookups: Tell the folders of names only the caller knows, such as ``runs/3``.

    Raises:
        NotFoundError: There is no such model here, and it cannot be fetched.
        CheckpointError: Its files are incomplete, damaged or of a refused kind, or it has no tokenizer.
        UsageError: The name or the precision cannot be one.
    """
    if precision not in PRECISIONS:
        raise value_fault("precision", f"is {precision!r}; allowed are {', '.join(PRECISIONS)}")
    source = apply_adapter(resolve_model(name, lookups=lookups), adapter)
    config = read_config(source.folder)
    tokenizer = load_tokenizer(source.folder, config)
    if tokenizer is None:
        raise missing_tokenizer(str(source))
    device = pick_device()
    automatic = precision == "auto" and PRECISION_VARIABLE not in os.environ
    if precision == "int8" or (automatic and int8_is_fastest(config, device, rows, status())):
        engine, words = int8_engine(source.folder)
    else:
        dtype = fast_dtype(device, precision)
        engine, words = torch_engine(load_model(source.folder, dtype).to(device)), _words(dtype, device)
    return Writer(engine, tokenizer, str(source), words)


def int8_is_fastest(config: ModelConfig, device: torch.device, rows: int, native: Status) -> bool:
    """Whether to write so many samples in int8, given what the native engine can do here."""
    if device.type != "cpu" or native.library is None or not supports(config):
        return False
    return native.instructions != "portable" or rows < _ROWS_FOR_TORCH


def int8_engine(folder: Path) -> tuple[Engine, str]:
    """The native engine, weights rounded as they are read; where it cannot, torch with the same numbers.

    Args:
        folder: The checkpoint's.

    Returns:
        The engine, and what to call it.
    """
    native = status()
    if native.library is None or not supports(read_config(folder)):
        return _rounded_in_torch(folder)
    with open_model(folder) as (model, read):
        assert isinstance(model, Decoder), "the native engine supports no other"
        weights = QuantisedModel.read(model.config, lambda name: read(name, torch.float32))
    return NativeEngine(weights, native), f"int8, native {native.instructions}"


def _rounded_in_torch(folder: Path) -> tuple[Engine, str]:
    model = load_model(folder)
    if not isinstance(model, Decoder):
        raise value_fault("precision", f"is int8, which {model.config.family} models cannot be rounded to")
    return TorchEngine(Int8Decoder(model)), "int8, torch"


def _words(dtype: torch.dtype, device: torch.device) -> str:
    name = str(dtype).removeprefix("torch.")
    return name if device.type == "cpu" else f"{name}, {device.type}"
