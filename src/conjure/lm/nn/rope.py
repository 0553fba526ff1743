"""Rotary positions: channels of queries and keys rotate in pairs, by angles that grow with the position.

Main entries: `rotary_tables`, `apply_rotary`. Channel i is paired with channel i + N / 2 of the N that
rotate. Invariant: angles are made in float32, because bfloat16 cannot tell position 257 from 258.

Sources: Su et al. 2021 (arXiv:2104.09864); YaRN: Peng et al. 2023 (arXiv:2309.00071).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

RotaryTables = tuple[Tensor, Tensor]
"""Cosines and sines of each position's angles, (T, N) or (B, 1, T, N)."""


def rotary_tables(
    positions: Tensor, channels: int, base: float, scaling: str, settings: Mapping[str, Any]
) -> RotaryTables:
    """What `apply_rotary` needs for tokens at these positions.

    Args:
        positions: int64, (T,) or (B, T).
        channels: How many of a head's rotate, N: the first ones.
        base: The last pair rotates by about 1 / base per position, the first by 1.
        scaling: One of `SCALINGS`: how the angles are made smaller for contexts longer than trained with.
        settings: What that scaling is told, by the names in a ``config.json``.
    """
    exponents = torch.arange(0, channels, 2, dtype=torch.float32, device=positions.device) / channels
    frequencies, factor = SCALINGS[scaling](1.0 / base**exponents, {"rope_theta": base, **settings})
    angles = positions[..., None].float() * frequencies  # (…, T, N / 2)
    angles = torch.cat([angles, angles], -1)
    if positions.dim() == 2:
        angles = angles[:, None]
    return angles.cos() * factor, angles.sin() * factor


def apply_rotary(x: Tensor, tables: RotaryTables) -> Tensor:
    """Rotate the first N channels of each head of `x`, (B, H, T, D), and leave the others."""
    cosines, sines = (table.to(x.dtype) for table in tables)
    rotating, rest = x.split([cosines.shape[-1], x.shape[-1] - cosines.shape[-1]], dim=-1)
    first, second = rotating.chunk(2, dim=-1)
    rotated = rotating * cosines + torch.cat([-second, first], -1) * sines
    return torch.cat([rotated, rest], -1) if rest.shape[-1] else rotated


def _linear(frequencies: Tensor, given: Mapping[str, Any]) -> tuple[Tensor, float]:
    """All positions so many times closer together."""
    return frequencies / given["factor"], 1.0


def _llama3(frequencies: Tensor, given: Mapping[str, Any]) -> tuple[Tensor, float]:
    """Only pairs that rotate slowly are slowed down; those in between by a share of it."""
    turns = (
        given["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    )  # in the context trained with
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - share) * frequencies / given["factor"] + share * frequencies, 1.0


def _yarn(frequencies: Tensor, given: Mapping[str, Any]) -> tuple[Tensor, float]:
    """As llama3, but the share falls along a line over the pairs' numbers; and scores grow."""
    pairs = torch.arange(len(frequencies), dtype=torch.float32, device=frequencies.device)

    def pair_that_turns(times: float) -> float:
        wavelength = given["original_max_position_embeddings"] / (times * 2 * math.pi)
        return len(pairs) * math.log(wavelength) / math.log(given["rope_theta"])

    first, last = pair_that_turns(given["beta_fast"] or 32), pair_that_turns(given["beta_slow"] or 1)
    if given["truncate"]:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * len(pairs) - 1)
    share = 1 - ((pairs - first) / ((last - first) or 0.001)).clamp(0, 1)
    return (1 - share) * frequencies / given["factor"] + share * frequencies, _growth(given)


def _growth(given: Mapping[str, Any]) -> float:
    """What cosines and sines are multiplied by, so that attention stays as sharp in a longer context."""
    if given["attention_factor"] is not None:
        return given["attention_factor"]

    def growth(scale: float) -> float:
        return 0.1 * scale * math.log(given["factor"]) + 1.0 if given["factor"] > 1 else 1.0

    if given["mscale"] and given["mscale_all_dim"]:
        return growth(given["mscale"]) / growth(given["mscale_all_dim"])
    return growth(1.0)


SCALINGS: dict[str, Callable[[Tensor, Mapping[str, Any]], tuple[Tensor, float]]] = {
    "default": lambda frequencies, _: (frequencies, 1.0),
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
