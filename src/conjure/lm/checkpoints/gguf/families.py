"""How each family of models is spelled in GGUF and in a Hugging Face folder.

Main entry: `FAMILIES`. A family is data: which tensor is which, what is done to its numbers on the way in
and back out, and what `config.json` says. Invariant: ``write(read(x)) == x`` for every tensor, to the last
bit but for Gemma's norms, whose 1 is subtracted and added (tests/unit/lm/checkpoints/gguf).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from conjure.lm.checkpoints.gguf.header import GGUFShape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a tensor is called in a Hugging Face folder, and how its numbers are laid out there.

    Attributes:
        name: After the layer's prefix, where it is a layer's.
        read: From GGUF's layout.
        write: Into GGUF's layout.
        optional: Whether a model may lack it.
    """

    name: str
    read: "Callable[[Numbers, GGUFShape], Numbers]"
    write: "Callable[[Numbers, GGUFShape], Numbers]"
    optional: bool = False

    @property
    def by_rows(self) -> bool:
        """Whether rows can be read one after the other, as they are."""
        return self.read is _same

    @property
    def transposes(self) -> bool:
        """Whether rows and columns are swapped."""
        return self.read is _transposed


@dataclass(frozen=True, slots=True)
class Family:
    """One family.

    Attributes:
        model_type: Hugging Face's name.
        layer_prefix: Of a layer's tensors in a Hugging Face folder; ``{}`` is the layer's number.
        layer: Rules of a layer's tensors, by GGUF's name after ``blk.N.``.
        outer: Rules of the others.
        config: What `config.json` says beside the sizes all families have.
        biases: What it says of biases that a model may lack, and the tensor in each layer that tells.
        needs_head: Whether llama.cpp wants the head also where it is the token embedding.
    """

    model_type: str
    layer_prefix: str
    layer: Mapping[str, Rule]
    outer: Mapping[str, Rule]
    config: Callable[[GGUFShape], dict[str, Any]]
    biases: Mapping[str, str] = field(default_factory=dict)
    needs_head: bool = False

    def rules(self, layers: int) -> dict[str, Rule]:
        """Every tensor's rule by its name in GGUF, with whole names."""
        rules = dict(self.outer)
        for index in range(layers):
            prefix = self.layer_prefix.format(index)
            for name, rule in self.layer.items():
                whole = Rule(prefix + rule.name, rule.read, rule.write, rule.optional)
                rules[f"blk.{index}.{name}"] = whole
        return rules


HEAD, EMBEDDING, ROPE_FREQS = "output.weight", "token_embd.weight", "rope_freqs.weight"


def stored_shape(name: str, shape: GGUFShape) -> tuple[int, ...]:
    """The shape a tensor has in a GGUF file, rows first."""
    channels, queries, keys = shape.channels, shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    matrices = {
        "token_embd": (shape.vocabulary, channels),
        "output": (shape.vocabulary, channels),
        "position_embd": (shape.context, channels),
        "attn_q": (queries, channels),
        "attn_k": (keys, channels),
        "attn_v": (keys, channels),
        "attn_qkv": (queries + 2 * keys, channels),
        "attn_output": (channels, queries),
        "ffn_gate": (shape.inner, channels),
        "ffn_up": (shape.inner, channels),
        "ffn_down": (channels, shape.inner),
        "attn_q_norm": (shape.head_size,),
        "attn_k_norm": (shape.head_size,),
    }
    part, _, kind = name.rpartition(".")
    size = matrices.get(part.rpartition(".")[2], (channels,))
    return size[:1] if kind == "bias" else size


def _same(numbers: "Numbers", shape: GGUFShape) -> "Numbers":  # noqa: ARG001  # a rule's form
    return numbers


def _transposed(numbers: "Numbers", shape: GGUFShape) -> "Numbers":  # noqa: ARG001
    return numbers.T


def _less_one(numbers: "Numbers", shape: GGUFShape) -> "Numbers":  # noqa: ARG001
    return numbers - 1


def _plus_one(numbers: "Numbers", shape: GGUFShape) -> "Numbers":  # noqa: ARG001
    return numbers + 1


def _halves_from_pairs(numbers: "Numbers", shape: GGUFShape) -> "Numbers":
    """Rows of q or k that llama.cpp rotates in adjacent pairs, put so that halves of a head are rotated."""
    return (
        numbers.reshape(-1, shape.head_size // 2, 2, *numbers.shape[1:]).swapaxes(1, 2).reshape(numbers.shape)
    )


def _pairs_from_halves(numbers: "Numbers", shape: GGUFShape) -> "Numbers":
    return (
        numbers.reshape(-1, 2, shape.head_size // 2, *numbers.shape[1:]).swapaxes(1, 2).reshape(numbers.shape)
    )


def _by_head(numbers: "Numbers", shape: GGUFShape) -> "Numbers":
    """All q, all k, all v, put as q, k and v of each head in turn."""
    return numbers.reshape(3, shape.heads, -1, *numbers.shape[1:]).swapaxes(0, 1).reshape(numbers.shape)


def _by_kind(numbers: "Numbers", shape: GGUFShape) -> "Numbers":
    return numbers.reshape(shape.heads, 3, -1, *numbers.shape[1:]).swapaxes(0, 1).reshape(numbers.shape)


def _rule(name: str, *, optional: bool = False) -> Rule:
    return Rule(name, _same, _same, optional)


def _rotated(name: str, *, optional: bool = False) -> Rule:
    return Rule(name, _halves_from_pairs, _pairs_from_halves, optional)


def _shifted(name: str) -> Rule:
    return Rule(name, _less_one, _plus_one)


def _matrix(name: str) -> Rule:
    return Rule(name, _transposed, _transposed)


def _with_biases(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """The rules of weights, and the same for their biases."""
    biases = {
        f"{name.removesuffix('weight')}bias": Rule(
            f"{rule.name.removesuffix('weight')}bias",
            _same if rule.read is _transposed else rule.read,
            _same if rule.write is _transposed else rule.write,
        )
        for name, rule in rules.items()
    }
    return {**rules, **biases}


_OUTER = {
    EMBEDDING: _rule("model.embed_tokens.weight"),
    "output_norm.weight": _rule("model.norm.weight"),
    HEAD: _rule("lm_head.weight", optional=True),
}
_GATED = {
    "ffn_gate.weight": _rule("mlp.gate_proj.weight"),
    "ffn_up.weight": _rule("mlp.up_proj.weight"),
    "ffn_down.weight": _rule("mlp.down_proj.weight"),
}
_QWEN = {
    "attn_norm.weight": _rule("input_layernorm.weight"),
    "attn_q.weight": _rule("self_attn.q_proj.weight"),
    "attn_k.weight": _rule("self_attn.k_proj.weight"),
    "attn_v.weight": _rule("self_attn.v_proj.weight"),
    "attn_output.weight": _rule("self_attn.o_proj.weight"),
    "ffn_norm.weight": _rule("post_attention_layernorm.weight"),
    **_GATED,
}


def _config(shape: GGUFShape) -> dict[str, Any]:
    """What families with rotary positions and RMS norms have in common, by the names every reader knows."""
    config = {
        "hidden_size": shape.channels,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.epsilon,
        "rope_theta": shape.rope_base,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
    }
    if shape.scaling is not None:
        config["rope_scaling"] = dict(shape.scaling)
    return config


def _llama_config(shape: GGUFShape) -> dict[str, Any]:
    return {"architectures": ["LlamaForCausalLM"], **_config(shape)}


def _qwen2_config(shape: GGUFShape) -> dict[str, Any]:
    config = {"architectures": ["Qwen2ForCausalLM"], **_config(shape), "use_sliding_window": False}
    del config["attention_bias"], config["head_dim"]  # q, k and v always have one; C / H always
    return config


def _qwen3_config(shape: GGUFShape) -> dict[str, Any]:
    return {"architectures": ["Qwen3ForCausalLM"], **_config(shape), "use_sliding_window": False}


def _gemma3_config(shape: GGUFShape) -> dict[str, Any]:
    # Activation and score scale stand in no key: they are the family's.
    is_largest = shape.layers == 62  # the 27B model, as llama.cpp tells it
    return {
        "architectures": ["Gemma3ForCausalLM"],
        **_config(shape),
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": shape.channels // shape.heads if is_largest else shape.head_size,
        "rope_local_base_freq": shape.local_rope_base,
        "sliding_window": shape.window or 4096,  # which no layer has where a file gives none
        "layer_types": ["sliding_attention" if local else "full_attention" for local in shape.windowed],
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }


def _neox_config(shape: GGUFShape) -> dict[str, Any]:
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "hidden_size": shape.channels,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": shape.context,
        "layer_norm_eps": shape.epsilon,
        "rotary_pct": shape.rope_size / shape.head_size,
        "rotary_emb_base": shape.rope_base,
        "hidden_act": "gelu",
        "attention_bias": True,
        "use_parallel_residual": shape.parallel,
    }


def _gpt2_config(shape: GGUFShape) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "n_positions": shape.context,
        "n_ctx": shape.context,
        "n_embd": shape.channels,
        "n_layer": shape.layers,
        "n_head": shape.heads,
        "n_inner": shape.inner,
        "layer_norm_epsilon": shape.epsilon,
        "activation_function": "gelu_new",
    }


FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        "llama",
        "model.layers.{}.",
        {
            **_QWEN,
            "attn_q.weight": _rotated("self_attn.q_proj.weight"),
            "attn_k.weight": _rotated("self_attn.k_proj.weight"),
            "attn_q.bias": _rotated("self_attn.q_proj.bias", optional=True),
            "attn_k.bias": _rotated("self_attn.k_proj.bias", optional=True),
            "attn_v.bias": _rule("self_attn.v_proj.bias", optional=True),
            "attn_output.bias": _rule("self_attn.o_proj.bias", optional=True),
            "ffn_gate.bias": _rule("mlp.gate_proj.bias", optional=True),
            "ffn_up.bias": _rule("mlp.up_proj.bias", optional=True),
            "ffn_down.bias": _rule("mlp.down_proj.bias", optional=True),
        },
        _OUTER,
        _llama_config,
        {"attention_bias": "attn_q.bias", "mlp_bias": "ffn_up.bias"},
    ),
    "qwen2": Family(
        "qwen2",
        "model.layers.{}.",
        {
            **_QWEN,
            "attn_q.bias": _rule("self_attn.q_proj.bias"),
            "attn_k.bias": _rule("self_attn.k_proj.bias"),
            "attn_v.bias": _rule("self_attn.v_proj.bias"),
        },
        _OUTER,
        _qwen2_config,
    ),
    "qwen3": Family(
        "qwen3",
        "model.layers.{}.",
        {
            **_QWEN,
            "attn_q_norm.weight": _rule("self_attn.q_norm.weight"),
            "attn_k_norm.weight": _rule("self_attn.k_norm.weight"),
        },
        _OUTER,
        _qwen3_config,
    ),
    "gemma3": Family(
        "gemma3_text",
        "model.layers.{}.",
        {
            **_QWEN,
            "attn_norm.weight": _shifted("input_layernorm.weight"),
            "attn_q_norm.weight": _shifted("self_attn.q_norm.weight"),
            "attn_k_norm.weight": _shifted("self_attn.k_norm.weight"),
            "post_attention_norm.weight": _shifted("post_attention_layernorm.weight"),
            "ffn_norm.weight": _shifted("pre_feedforward_layernorm.weight"),
            "post_ffw_norm.weight": _shifted("post_feedforward_layernorm.weight"),
        },
        {**_OUTER, "output_norm.weight": _shifted("model.norm.weight")},
        _gemma3_config,
    ),
    "gptneox": Family(
        "gpt_neox",
        "gpt_neox.layers.{}.",
        _with_biases(
            {
                "attn_norm.weight": _rule("input_layernorm.weight"),
                "attn_qkv.weight": Rule("attention.query_key_value.weight", _by_head, _by_kind),
                "attn_output.weight": _rule("attention.dense.weight"),
                "ffn_norm.weight": _rule("post_attention_layernorm.weight"),
                "ffn_up.weight": _rule("mlp.dense_h_to_4h.weight"),
                "ffn_down.weight": _rule("mlp.dense_4h_to_h.weight"),
            }
        ),
        {
            EMBEDDING: _rule("gpt_neox.embed_in.weight"),
            **_with_biases({"output_norm.weight": _rule("gpt_neox.final_layer_norm.weight")}),
            HEAD: _rule("embed_out.weight", optional=True),
        },
        _neox_config,
        needs_head=True,
    ),
    "gpt2": Family(
        "gpt2",
        "transformer.h.{}.",
        _with_biases(
            {
                "attn_norm.weight": _rule("ln_1.weight"),
                "attn_qkv.weight": _matrix("attn.c_attn.weight"),
                "attn_output.weight": _matrix("attn.c_proj.weight"),
                "ffn_norm.weight": _rule("ln_2.weight"),
                "ffn_up.weight": _matrix("mlp.c_fc.weight"),
                "ffn_down.weight": _matrix("mlp.c_proj.weight"),
            }
        ),
        {
            EMBEDDING: _rule("transformer.wte.weight"),
            "position_embd.weight": _rule("transformer.wpe.weight"),
            **_with_biases({"output_norm.weight": _rule("transformer.ln_f.weight")}),
            HEAD: _rule("lm_head.weight", optional=True),
        },
        _gpt2_config,
    ),
}
