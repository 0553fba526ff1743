"""The torch engine for a checkpoint, in the number format that was asked for.

Main entry: `load_torch_engine`. Invariant: ``int8`` has the native engine's numbers.
"""

from pathlib import Path

import torch

from conjure.lm.bounds import value_fault
from conjure.lm.checkpoints.pretrained import load_model
from conjure.lm.generation.engines.base import Engine
from conjure.lm.generation.engines.cuda_graph import torch_engine
from conjure.lm.generation.engines.int8_quantization import Int8Decoder
from conjure.lm.generation.engines.torch_engine import TorchEngine
from conjure.lm.hardware import fast_dtype, pick_device
from conjure.lm.models.decoder import Decoder


def load_torch_engine(folder: Path, precision: str) -> tuple[Engine, str]:
    """The engine, and what to call it.

    Args:
        folder: The checkpoint's.
        precision: One of `conjure.lm.generation.engine_loading.PRECISIONS`.

    Raises:
        CheckpointError: Its files are incomplete, damaged or of a refused kind.
        UsageError: The model cannot be rounded to int8.
    """
    if precision == "int8":
        return _rounded(folder)
    device = pick_device()
    dtype = fast_dtype(device, precision)
    return torch_engine(load_model(folder, dtype).to(device)), _words(dtype, device)


def _rounded(folder: Path) -> tuple[Engine, str]:
    model = load_model(folder)
    if not isinstance(model, Decoder):
        raise value_fault("precision", f"is int8, which {model.config.family} models do not support")
    return TorchEngine(Int8Decoder(model)), "int8, torch"


def _words(dtype: torch.dtype, device: torch.device) -> str:
    name = str(dtype).removeprefix("torch.")
    return name if device.type == "cpu" else f"{name}, {device.type}"
