"""What a GGUF header says of a model's shape, each value held against what it can be.

Main entry: `GGUFShape.from_keys`. Invariant: one that exists has integers in bounds, and nothing in
the header that would change a model's numbers has been passed over.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conjure.errors import ModelError

_MAX_LAYERS = 1_000
_MAX_SIZE = 1 << 24  # channels, heads, context: far beyond any model
_MAX_ROPE_BASE = 1e30  # as in config.json

# Keys that change no number; those of scaling do so only in YaRN, where they are read.
_WITHOUT_EFFECT = {
    "vocab_size",
    "tensor_data_layout",
    "pooling_type",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
}
# Keys of what no family here has, and the values that say so.
_NEUTRAL: Mapping[str, tuple[float, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.scale": (0,),
    "attention.shared_kv_layers": (0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "final_logit_softcapping": (0,),
    "leading_dense_block_count": (0,),
    "logit_scale": (0, 1),
    "nextn_predict_layers": (0,),
    "residual_scale": (0, 1),
    "rope.scale_linear": (0, 1),
    "rope.scaling.alpha": (0,),
    "rope.scaling.attn_factor": (1,),
    "rope.scaling.yarn_attn_factor": (-1, 1),
    "rope.scaling.yarn_ext_factor": (-1, 0),
    "rope.scaling.yarn_log_multiplier": (0,),
}
_LAYER_NORMS = ("gpt2", "gptneox")
# Of Gemma 3's layers, where a file does not say it.
FULL_ATTENTION_EVERY = 6


@dataclass(frozen=True, slots=True)
class GGUFShape:
    """Sizes and settings that all families have.

    Attributes:
        architecture: llama.cpp's name of the family.
        layers: Number of transformer blocks.
        channels: Of the residual stream, C.
        heads: Query heads, H.
        kv_heads: Key and value heads, K.
        head_size: Channels of one head, D.
        inner: Channels inside the feed-forward layer, F.
        context: Longest sequence in tokens.
        vocabulary: Rows of the token embedding, V.
        epsilon: Added in every norm.
        rope_base: Of rotary positions.
        rope_size: Channels of a head that are rotated.
        window: Of local attention layers; 0 where there are none.
        windowed: For each layer whether its attention is local.
        local_rope_base: Of rotary positions in those.
        scaling: Of rotary positions, as ``config.json`` has it; None for none.
        parallel: Whether attention and feed-forward layer read the same input.
        tied: Whether the head is the token embedding.
    """

    architecture: str
    layers: int
    channels: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int
    context: int
    vocabulary: int
    epsilon: float
    rope_base: float
    rope_size: int
    window: int
    windowed: tuple[bool, ...]
    local_rope_base: float
    scaling: Mapping[str, Any] | None
    parallel: bool
    tied: bool

    @classmethod
    def from_keys(
        cls, keys: Mapping[str, Any], *, vocabulary: int, tied: bool, rope_divisors: Sequence[float] | None
    ) -> "GGUFShape":
        """Read the shape.

        Args:
            keys: The header's.
            vocabulary: Rows of the token embedding.
            tied: Whether the head is the token embedding.
            rope_divisors: Content of tensor ``rope_freqs.weight``, where there is one.

        Raises:
            ModelError: A value is missing or out of bounds, or the model is not one that can be run.
        """
        read = _Values(keys)
        heads, channels = read.whole("attention.head_count"), read.whole("embedding_length")
        kv_heads = read.whole("attention.head_count_kv", default=heads)
        if heads % kv_heads:
            raise ModelError(f"it has {heads} heads, which is not a multiple of {kv_heads} key/value heads")
        head_size = read.whole("attention.key_length", default=max(1, channels // heads))
        if read.whole("attention.value_length", default=head_size) != head_size:
            raise ModelError("its keys and values have different sizes, which conjure does not support")
        rope_size = read.whole("rope.dimension_count", default=head_size)
        if rope_size > head_size or rope_size % 2:
            raise ModelError(f"it rotates {rope_size} of {head_size} channels of a head, which is impossible")
        if rope_size != head_size and read.architecture != "gptneox":
            raise ModelError(
                f"it rotates {rope_size} of {head_size} channels of a head, which conjure supports only for"
                " gptneox"
            )
        layers = read.whole("block_count", limit=_MAX_LAYERS)
        window, windowed, local_base = _windows(read, layers)
        norm = "layer_norm" if read.architecture in _LAYER_NORMS else "layer_norm_rms"
        rope_base = read.rope_base("rope.freq_base")
        shape = cls(
            architecture=read.architecture,
            layers=layers,
            channels=channels,
            heads=heads,
            kv_heads=kv_heads,
            head_size=head_size,
            inner=read.whole("feed_forward_length"),
            context=read.whole("context_length"),
            vocabulary=vocabulary,
            epsilon=read.number(f"attention.{norm}_epsilon"),
            rope_base=rope_base,
            rope_size=rope_size,
            window=window,
            windowed=windowed,
            local_rope_base=local_base,
            scaling=_scaling(read, rope_base, rope_size, rope_divisors),
            parallel=read.architecture == "gptneox" and bool(read.get("use_parallel_residual", True)),
            tied=tied,
        )
        read.refuse_unread()
        return shape


class _Values:
    """The header's values of one architecture, checked as they are read."""

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self.architecture = str(keys.get("general.architecture"))
        prefix = f"{self.architecture}."
        self._values = {
            key.removeprefix(prefix): value for key, value in keys.items() if key.startswith(prefix)
        }

        self._read = set[str]()

    def refuse_unread(self) -> None:
        """Refuse every key that nobody has asked for, unless it is known to change nothing.

        Raises:
            ModelError: There is one.
        """
        for key in sorted(self._values.keys() - self._read - _WITHOUT_EFFECT):
            value = self._values[key]
            if value not in _NEUTRAL.get(key, ()):
                name = _short(f"{self.architecture}.{key}", 80)
                raise ModelError(f"its key {name} is {_short(value)}, which conjure does not support")

    def get(self, key: str, default: Any = None) -> Any:
        self._read.add(key)
        return self._values.get(key, default)

    def whole(self, key: str, *, default: int | None = None, least: int = 1, limit: int = _MAX_SIZE) -> int:
        value = self.get(key, default)
        if isinstance(value, list) and value and all(each == value[0] for each in value):
            value = value[0]  # some files give one number for each layer
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= limit:
            raise self._wrong(key, value, f"an integer from {least} to {limit:,}")
        return value

    def number(self, key: str, *, default: float | None = math.nan) -> Any:
        value = self.get(key, default)
        if value is None:
            return None
        if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise self._wrong(key, value, "a positive number")
        return plain(float(value))

    def rope_base(self, key: str) -> float:
        base = self.number(key, default=10_000.0)
        if not 1 < base <= _MAX_ROPE_BASE:
            raise ModelError(f"{key} must be a number above 1 and at most {_MAX_ROPE_BASE:g}, not {base}")
        return base

    def _wrong(self, key: str, value: object, wanted: str) -> ModelError:
        name = f"{self.architecture}.{key}"
        if key not in self._values:
            return ModelError(f"{name} is missing; it must be {wanted}")
        return ModelError(f"{name} must be {wanted}, not {_short(value)}")


def _windows(read: _Values, layers: int) -> tuple[int, tuple[bool, ...], float]:
    """The window of local attention, which layers have it, and their rotary base."""
    if read.architecture != "gemma3":
        return 0, (False,) * layers, 0.0
    window = read.whole("attention.sliding_window", default=0, least=0)
    base = read.rope_base("rope.freq_base_swa")
    key = "attention.sliding_window_pattern"
    pattern = read.get(key)
    if isinstance(pattern, list):
        if len(pattern) != layers or any(each not in (0, 1) for each in pattern):
            raise ModelError(f"gemma3.{key} must be a number, or 0 or 1 for each of {layers} layers")
        windowed = tuple(map(bool, pattern))
    else:
        every = read.whole(key, default=FULL_ATTENTION_EVERY, least=0)
        windowed = tuple(not every or number % every > 0 for number in range(1, layers + 1))
    return window, tuple(each and window > 0 for each in windowed), base


def _scaling(
    read: _Values, base: float, size: int, divisors: Sequence[float] | None
) -> Mapping[str, Any] | None:
    # Without a type llama.cpp takes a factor for linear scaling.
    unnamed = "none" if read.get("rope.scaling.factor") in (None, 0, 1) else "linear"
    kind = read.get("rope.scaling.type") or unnamed
    if divisors is not None:
        if kind not in ("none", "llama3"):
            raise ModelError(f"it has both rope_freqs and rope.scaling.type {_short(kind)}")
        return llama3_scaling(divisors, base, size)
    if kind == "none":
        return None
    factor = read.number("rope.scaling.factor")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise ModelError(f"rope.scaling.type is {_short(kind)}; supported: none, linear, yarn")
    if read.number("rope.scaling.yarn_ext_factor", default=1.0) != 1.0:
        raise ModelError("rope.scaling.yarn_ext_factor is not 1, which conjure does not support")
    scaling = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": read.whole("rope.scaling.original_context_length"),
    }
    for ours, key in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
        value = read.number(f"rope.scaling.{key}", default=None)
        if value is not None:
            scaling[ours] = value
    return scaling


def llama3_divisors(scaling: Mapping[str, Any], base: float, size: int) -> list[float]:
    """What Llama 3's scaling divides each of a head's rotary frequencies by."""
    factor, original = float(scaling["factor"]), float(scaling["original_max_position_embeddings"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    divisors = []
    for index in range(size // 2):
        turns = original / (2 * math.pi * base ** (2 * index / size))  # in the original context
        if turns > high:
            divisors.append(1.0)
        elif turns < low:
            divisors.append(factor)
        else:
            kept = (turns - low) / (high - low)
            divisors.append(1 / ((1 - kept) / factor + kept))
    return divisors


def llama3_scaling(divisors: Sequence[float], base: float, size: int) -> Mapping[str, Any] | None:
    """The settings of Llama 3's scaling that give these divisors; None where nothing is scaled.

    The formula knows three lengths only by their ratios, so the lower bound is taken as 1, as every file
    has it, and the others follow from the frequencies in between.

    Raises:
        ModelError: No settings give them.
    """
    factor = plain(max(divisors, default=1.0))
    if len(divisors) != size // 2 or not all(math.isfinite(each) and each >= 1 for each in divisors):
        raise ModelError("its rope_freqs are not divisors of the frequencies it has")
    if factor == 1:
        return None
    for original, high in _llama3_candidates(divisors, base, size, factor):
        scaling = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }
        wanted = llama3_divisors(scaling, base, size)
        if all(math.isclose(one, other, rel_tol=1e-4) for one, other in zip(wanted, divisors, strict=True)):
            return scaling
    raise ModelError("its rope_freqs do not follow the rule of llama3, the only one that conjure supports")


def _llama3_candidates(
    divisors: Sequence[float], base: float, size: int, factor: float
) -> list[tuple[int, float]]:
    blended = [
        (1 / (2 * math.pi * base ** (2 * index / size)), (1 / each - 1 / factor) / (1 - 1 / factor))
        for index, each in enumerate(divisors)
        if 1 < each < factor * (1 - 1e-6)
    ]
    usual = 4.0  # the upper bound that Llama 3 has, and its length
    candidates = [
        (8192, usual),
        *((round((1 + kept * (usual - 1)) / turns), usual) for turns, kept in blended),
    ]
    if len(blended) >= 2:
        (first, upper), (last, lower) = blended[0], blended[-1]
        slope = (upper - lower) / (first - last)
        offset = lower - slope * last
        if slope > 0 and offset < 0:
            span = -1 / offset
            candidates.append((round(slope * span), round(1 + span, 3)))
    return candidates


def plain(value: float) -> float:
    """A float32 number by its short spelling: 1e-05 for 9.999999747378752e-06."""
    return float(f"{value:.7g}")


def _short(value: object, limit: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
