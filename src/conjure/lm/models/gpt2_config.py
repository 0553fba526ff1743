"""The shape of a GPT-2 model, as its ``config.json`` states it.

Main entry: `GPT2Config.from_dict`, which reads the names Hugging Face checkpoints use and refuses
what this architecture cannot be. Invariant: a `GPT2Config` that exists describes a model that can be built.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from conjure.errors import ModelError

# A config is input from outside: beyond these the request is a mistake (GPT-2 XL has 1.6e9 and 48).
MAX_PARAMETERS = 20_000_000_000
MAX_LAYERS = 1_000

# config.json's name -> ours. The last four are how transformers spells the same settings for any model.
_CHECKPOINT_NAMES = {
    "n_positions": "context_length",
    "max_position_embeddings": "context_length",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

# transformers' names for the feed-forward layer's function -> ours.
_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# Names of attributes, what they may be, and how to say so.
_ALLOWED: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (
        ("vocab_size", "context_length", "n_embd", "n_layer", "n_head"),
        lambda value: _is_whole(value) and value >= 1,
        "a whole number of at least 1",
    ),
    (
        ("n_inner",),
        lambda value: value is None or (_is_whole(value) and value >= 1),
        "a whole number of at least 1, or null,",
    ),
    (
        ("embd_pdrop", "resid_pdrop", "attn_pdrop"),
        lambda value: _is_number(value) and 0 <= value < 1,
        "a number from 0 to below 1",
    ),
    (
        ("layer_norm_epsilon", "initializer_range"),
        lambda value: _is_number(value) and value >= 0,
        "a number of at least 0",
    ),
    (
        ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings"),
        lambda value: isinstance(value, bool),
        "true or false",
    ),
    (
        ("bos_token_id", "eos_token_id"),
        lambda value: value is None or (_is_whole(value) and value >= 0),
        "a token id or null",
    ),
    (
        ("activation_function",),
        lambda value: isinstance(value, str) and value in _ACTIVATIONS,
        f"one of {', '.join(_ACTIVATIONS)}",
    ),
)


@dataclass(frozen=True, slots=True)
class GPT2Config:
    """Shape and regularisation of a GPT-2 model; the defaults are the 124M-parameter one.

    Attributes:
        vocab_size: Number of token ids, V.
        context_length: Longest sequence in tokens (``n_positions``, GPT-2's ``n_ctx``).
        n_embd: Channels of the residual stream, C.
        n_layer: Number of transformer blocks.
        n_head: Attention heads, H; each has ``n_embd // n_head`` channels.
        n_inner: Channels inside the feed-forward layer; None means ``4 * n_embd``.
        activation_function: Of the feed-forward layer, by transformers' name; GPT-2's is ``gelu_new``.
        scale_attn_weights: Attention scores are divided by the root of the head size.
        scale_attn_by_inverse_layer_idx: They are also divided by the layer's number, counted from 1.
        tie_word_embeddings: The head is the token embedding; False means it has weights of its own.
        layer_norm_epsilon: Added to the variance in every layer norm.
        embd_pdrop: Dropout after the embeddings, while training.
        resid_pdrop: Dropout on each branch before it joins the residual stream, while training.
        attn_pdrop: Dropout on attention weights, while training.
        initializer_range: Standard deviation of fresh weights.
        bos_token_id: Id that starts a document (GPT-2 uses its end-of-text id for both).
        eos_token_id: Id that ends a document. Neither is ever looked up in the embedding unchecked:
            configs of small models often keep GPT-2's 50256.
    """

    vocab_size: int = 50257
    context_length: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True
    layer_norm_epsilon: float = 1e-5
    embd_pdrop: float = 0.1
    resid_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    initializer_range: float = 0.02
    bos_token_id: int | None = 50256
    eos_token_id: int | None = 50256

    def __post_init__(self) -> None:
        """Refuse, all at once, what cannot be a model."""
        faults = [*self._faulty_values()]
        if not faults:
            faults = [*self._faulty_combinations()]
        if faults:
            raise ModelError(f"this model configuration cannot be built: {'; '.join(faults)}")

    def _faulty_values(self) -> Iterator[str]:
        for names, allows, wanted in _ALLOWED:
            for name in names:
                value = getattr(self, name)
                if not allows(value):
                    yield f"{name} is {value!r}, {wanted} is needed"

    def _faulty_combinations(self) -> Iterator[str]:
        if self.n_embd % self.n_head:
            yield f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}"
        if self.n_layer > MAX_LAYERS:
            yield f"it asks for {self.n_layer:,} layers, more than the {MAX_LAYERS:,} allowed"
        if self.parameter_count > MAX_PARAMETERS:
            yield f"it asks for {self.parameter_count:,} parameters, more than the {MAX_PARAMETERS:,} allowed"

    @property
    def inner(self) -> int:
        """Channels inside the feed-forward layer."""
        return self.n_inner if self.n_inner is not None else 4 * self.n_embd

    @property
    def head_size(self) -> int:
        """Channels of one attention head, D."""
        return self.n_embd // self.n_head

    @property
    def activation(self) -> str:
        """The feed-forward layer's function: ``gelu_tanh``, ``gelu``, ``relu`` or ``silu``."""
        return _ACTIVATIONS[self.activation_function]

    @property
    def parameter_count(self) -> int:
        """Number of distinct weights; a tied head counts once."""
        channels, inner = self.n_embd, self.inner
        attention = 3 * channels * channels + 3 * channels + channels * channels + channels
        feed_forward = 2 * channels * inner + inner + channels
        block = attention + feed_forward + 4 * channels
        embeddings = (self.vocab_size + self.context_length) * channels
        head = 0 if self.tie_word_embeddings else self.vocab_size * channels
        return embeddings + self.n_layer * block + 2 * channels + head

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "GPT2Config":
        """Read the contents of a checkpoint's ``config.json``.

        Args:
            settings: The parsed JSON object; names this class does not know are ignored, among them those
                that change how numbers are computed but not which (``reorder_and_upcast_attn``).

        Raises:
            ModelError: It is another architecture, or describes a model that cannot be built.
        """
        model_type = settings.get("model_type", "gpt2")
        if model_type != "gpt2":
            raise ModelError(
                f"config.json says model_type {model_type!r}; conjure runs GPT-2 models (model_type 'gpt2')"
            )
        if settings.get("add_cross_attention"):
            raise ModelError("config.json asks for cross-attention, which a language model does not have")
        known = {field.name for field in fields(cls)}
        ours = {name: value for name, value in settings.items() if name in known}
        for name, our_name in _CHECKPOINT_NAMES.items():
            if name in settings:
                ours.setdefault(our_name, settings[name])
        if "n_ctx" in settings:  # what the first checkpoints called it
            ours.setdefault("context_length", settings["n_ctx"])
        for name in ("bos_token_id", "eos_token_id"):
            if isinstance(ours.get(name), list) and ours[name]:
                ours[name] = ours[name][0]  # some list several; the first is the document's
        return cls(**ours)

    def to_dict(self) -> dict[str, Any]:
        """The ``config.json`` that transformers, vLLM and llama.cpp's converter read."""
        return {
            "activation_function": self.activation_function,
            "architectures": ["GPT2LMHeadModel"],
            "attn_pdrop": self.attn_pdrop,
            "bos_token_id": self.bos_token_id,
            "embd_pdrop": self.embd_pdrop,
            "eos_token_id": self.eos_token_id,
            "initializer_range": self.initializer_range,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "model_type": "gpt2",
            "n_ctx": self.context_length,
            "n_embd": self.n_embd,
            "n_head": self.n_head,
            "n_inner": self.n_inner,
            "n_layer": self.n_layer,
            "n_positions": self.context_length,
            "resid_pdrop": self.resid_pdrop,
            "scale_attn_by_inverse_layer_idx": self.scale_attn_by_inverse_layer_idx,
            "scale_attn_weights": self.scale_attn_weights,
            "tie_word_embeddings": self.tie_word_embeddings,
            "vocab_size": self.vocab_size,
        }
