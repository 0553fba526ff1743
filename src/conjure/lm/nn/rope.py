"""Rotary positions: channels of queries and keys rotate in pairs, by angles that grow with the position.

Main entries: `rotary_tables`, `apply_rotary`. Channel i is paired with channel i + N / 2 of the N that
rotate. Invariants: angles are made in float32, because bfloat16 cannot tell position 257 from 258; only the
first tables of a kind on a device copy anything to it, which a step that is recorded as a CUDA graph may not.

Source: Su et al. 2021 (arXiv:2104.09864).
"""

import functools
from typing import Any

import torch
from torch import Tensor

from conjure.lm.nn.rope_frequencies import rope_frequencies

RotaryTables = tuple[Tensor, Tensor]
"""Cosines and sines of each position's angles, (T, N) or (B, 1, T, N)."""


def rotary_tables(
    positions: Tensor, channels: int, base: float, scaling: str, settings: tuple[tuple[str, Any], ...]
) -> RotaryTables:
    """What `apply_rotary` needs for tokens at these positions.

    Args:
        positions: int64, (T,) or (B, T).
        channels: How many of a head's rotate, N: the first ones.
        base: As for `rope_frequencies`, like the next two.
        scaling: Its name.
        settings: What it is told, by name.
    """
    frequencies, factor = _frequencies_on(positions.device, channels, base, scaling, settings)
    angles = positions[..., None].float() * frequencies  # (…, T, N / 2)
    angles = torch.cat([angles, angles], -1)
    if positions.dim() == 2:
        angles = angles[:, None]
    return angles.cos() * factor, angles.sin() * factor


@functools.cache
def _frequencies_on(
    device: torch.device, channels: int, base: float, scaling: str, settings: tuple[tuple[str, Any], ...]
) -> tuple[Tensor, float]:
    """Those of `rope_frequencies`, on a device."""
    frequencies, factor = rope_frequencies(channels, base, scaling, dict(settings))
    with torch.inference_mode(False):  # training takes them too, whoever asks first
        return torch.from_numpy(frequencies).to(device), factor


def apply_rotary(x: Tensor, tables: RotaryTables) -> Tensor:
    """Rotate the first N channels of each head of `x`, (B, H, T, D), and leave the others."""
    cosines, sines = (table.to(x.dtype) for table in tables)
    rotating, rest = x.split([cosines.shape[-1], x.shape[-1] - cosines.shape[-1]], dim=-1)
    first, second = rotating.chunk(2, dim=-1)
    rotated = rotating * cosines + torch.cat([-second, first], -1) * sines
    return torch.cat([rotated, rest], -1) if rest.shape[-1] else rotated
