"""The shape of a GPT-2 model, as its ``config.json`` states it.

Main entry: `GPT2Config.from_dict`, which reads the names Hugging Face checkpoints use and refuses
what this architecture cannot be. Invariant: a `GPT2Config` that exists describes a model that can be built.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from conjure.errors import ModelError

# A config is input from outside: beyond this the request is a mistake (GPT-2 XL has 1.6e9).
MAX_PARAMETERS = 20_000_000_000

# config.json's name -> ours, where they differ.
_CHECKPOINT_NAMES = {"n_positions": "context_length"}

# Settings of transformers' GPT2Config that change the mathematics; any other value is a different model.
_FIXED_SETTINGS: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}


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
        layer_norm_epsilon: Added to the variance in every layer norm.
        embd_pdrop: Dropout after the embeddings, while training.
        resid_pdrop: Dropout on each branch before it joins the residual stream, while training.
        attn_pdrop: Dropout on attention weights, while training.
        initializer_range: Standard deviation of fresh weights.
        bos_token_id: Id that starts a document (GPT-2 uses its end-of-text id for both).
        eos_token_id: Id that ends a document.
    """

    vocab_size: int = 50257
    context_length: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    layer_norm_epsilon: float = 1e-5
    embd_pdrop: float = 0.1
    resid_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    initializer_range: float = 0.02
    bos_token_id: int = 50256
    eos_token_id: int = 50256

    def __post_init__(self) -> None:
        """Refuse, all at once, what cannot be a model."""
        faults = list(self._faults())
        if faults:
            raise ModelError(f"this model configuration cannot be built: {'; '.join(faults)}")

    def _faults(self) -> list[str]:
        faults = []
        for name in ("vocab_size", "context_length", "n_embd", "n_layer", "n_head", "inner"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                faults.append(f"{name} is {value!r}, a whole number of at least 1 is needed")
        if faults:
            return faults
        if self.n_embd % self.n_head:
            faults.append(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}")
        if self.parameter_count > MAX_PARAMETERS:
            faults.append(
                f"it asks for {self.parameter_count:,} parameters, more than the {MAX_PARAMETERS:,} allowed"
            )
        return faults

    @property
    def inner(self) -> int:
        """Channels inside the feed-forward layer."""
        return self.n_inner if self.n_inner is not None else 4 * self.n_embd

    @property
    def head_size(self) -> int:
        """Channels of one attention head, D."""
        return self.n_embd // self.n_head

    @property
    def parameter_count(self) -> int:
        """Number of distinct weights, the tied head counted once."""
        channels, inner = self.n_embd, self.inner
        attention = 3 * channels * channels + 3 * channels + channels * channels + channels
        feed_forward = 2 * channels * inner + inner + channels
        block = attention + feed_forward + 4 * channels
        embeddings = (self.vocab_size + self.context_length) * channels
        return embeddings + self.n_layer * block + 2 * channels

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "GPT2Config":
        """Read the contents of a checkpoint's ``config.json``.

        Args:
            settings: The parsed JSON object; names this class does not know are ignored.

        Raises:
            ModelError: It is another architecture, or describes a model that cannot be built.
        """
        model_type = settings.get("model_type", "gpt2")
        if model_type != "gpt2":
            raise ModelError(
                f"config.json says model_type {model_type!r}; conjure runs GPT-2 models (model_type 'gpt2')"
            )
        for name, allowed in _FIXED_SETTINGS.items():
            if name in settings and settings[name] not in allowed:
                raise ModelError(
                    f"config.json says {name} {settings[name]!r}; conjure's GPT-2 needs {allowed[0]!r}"
                )
        known = {field.name for field in fields(cls)}
        renamed = {_CHECKPOINT_NAMES.get(name, name): value for name, value in settings.items()}
        if "context_length" not in renamed and "n_ctx" in settings:
            renamed["context_length"] = settings["n_ctx"]
        return cls(**{name: value for name, value in renamed.items() if name in known})

    def to_dict(self) -> dict[str, Any]:
        """The ``config.json`` that transformers, vLLM and llama.cpp's converter read."""
        return {
            "activation_function": "gelu_new",
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
            "tie_word_embeddings": True,
            "vocab_size": self.vocab_size,
        }
