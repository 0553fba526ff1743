"""How fast each pair of channels rotates with the position, by every known scaling; without torch.

Main entry: `rope_frequencies`. Invariant: everything is float32, as the models were trained with.

Source: YaRN: Peng et al. 2023 (arXiv:2309.00071).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def rope_frequencies(
    channels: int, base: float, scaling: str, settings: Mapping[str, Any]
) -> tuple[np.ndarray, float]:
    """The angle per position of each pair, float32, (N / 2,), and the factor of cosines and sines.

    Args:
        channels: How many of a head's rotate, N: the first ones.
        base: The last pair rotates by about 1 / base per position, the first by 1.
        scaling: One of `SCALINGS`: how the angles are made smaller for contexts longer than trained with.
        settings: What that scaling is told, by the names in a ``config.json``.
    """
    exponents = np.arange(0, channels, 2, dtype=np.float32) / np.float32(channels)
    frequencies = np.float32(1.0) / np.float32(base) ** exponents
    scaled, factor = SCALINGS[scaling](frequencies, {"rope_theta": base, **settings})
    return scaled.astype(np.float32), factor


def _linear(frequencies: np.ndarray, given: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    """All positions so many times closer together."""
    return frequencies / given["factor"], 1.0


def _llama3(frequencies: np.ndarray, given: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    """Only pairs that rotate slowly are slowed down; those in between by a share of it."""
    turns = (
        given["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    )  # in the context trained with
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    share = ((turns - low) / (high - low)).clip(0, 1)
    return (1 - share) * frequencies / given["factor"] + share * frequencies, 1.0


def _yarn(frequencies: np.ndarray, given: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    """As llama3, but the share falls along a line over the pairs' numbers; and scores grow."""
    pairs = np.arange(len(frequencies), dtype=np.float32)

    def pair_that_turns(times: float) -> float:
        wavelength = given["original_max_position_embeddings"] / (times * 2 * math.pi)
        return len(pairs) * math.log(wavelength) / math.log(given["rope_theta"])

    first, last = pair_that_turns(given["beta_fast"] or 32), pair_that_turns(given["beta_slow"] or 1)
    if given["truncate"]:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * len(pairs) - 1)
    share = 1 - ((pairs - first) / ((last - first) or 0.001)).clip(0, 1)
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


SCALINGS: dict[str, Callable[[np.ndarray, Mapping[str, Any]], tuple[np.ndarray, float]]] = {
    "default": lambda frequencies, _: (frequencies, 1.0),
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
