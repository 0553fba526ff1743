"""What a GGUF file says of a model of ours: its keys, its vocabulary, its tensors.

Main entries: `header_keys`, `vocabulary_keys`, `stored_tensors`. Invariant: keys that, read back, would
describe another model are not written; the reading side decides.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from conjure.errors import ModelError, option
from conjure.lm.checkpoints.gguf.families import EMBEDDING, FAMILIES, HEAD, ROPE_FREQS
from conjure.lm.checkpoints.gguf.header import FULL_ATTENTION_EVERY, GGUFShape, llama3_divisors, plain
from conjure.lm.checkpoints.gguf.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    pre_tokenizer_name,
)
from conjure.lm.models.registry import read_model_config
from conjure.lm.models.shape import ModelConfig, Shape
from conjure.lm.text.chat.template import template_source
from conjure.lm.text.special_tokens import END_OF_MESSAGE, TURN_ENDS
from conjure.lm.text.tokenizer import Tokenizer
from conjure.lm.text.tokenizer_detection import SPACE

if TYPE_CHECKING:
    import gguf
    import numpy as np
    from numpy.typing import NDArray

_NO_MERGE = -1e6  # the score of a token that no merge makes: after all the others
# What is said elsewhere, or matters only while training.
_NOT_SAID = {"family", "bos_id", "eos_ids", "settings", "initializer_range"}


def add_keys(writer: "gguf.GGUFWriter", keys: Mapping[str, Any]) -> None:
    """Have keys written, each as the kind of number or text that its value is."""
    for key, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)


def header_keys(config: ModelConfig) -> tuple[str, dict[str, Any], list[float] | None]:
    """The architecture's name in llama.cpp, the keys of the shape, and the divisors of rotary frequencies.

    Raises:
        ModelError: GGUF cannot describe this model.
    """
    names = {family.model_type: name for name, family in FAMILIES.items()}
    if config.family not in names or not isinstance(config, Shape):
        raise ModelError(
            f"GGUF can be written for {', '.join(names)} models; this is a {config.family}",
            hint=option("format", "safetensors"),
        )
    architecture = names[config.family]
    keys, divisors = _keys(architecture, config)
    _check_says_the_same(architecture, keys, divisors, config)
    return architecture, keys, divisors


def _keys(architecture: str, config: Shape) -> tuple[dict[str, Any], list[float] | None]:
    keys: dict[str, Any] = {
        "context_length": config.context_length,
        "embedding_length": config.n_embd,
        "feed_forward_length": config.inner,
        "block_count": config.n_layer,
        "attention.head_count": config.n_head,
        "vocab_size": config.vocab_size,
    }
    kind = "layer_norm_rms_epsilon" if config.norm == "rms" else "layer_norm_epsilon"
    keys[f"attention.{kind}"] = config.norm_epsilon
    if architecture == "gptneox":
        keys["use_parallel_residual"] = config.residual == "parallel"
    elif architecture != "gpt2":
        keys["attention.head_count_kv"] = config.n_kv_head
        keys["attention.key_length"] = keys["attention.value_length"] = config.head_size
    keys |= _window_keys(config)
    rope = next((layer.rope for layer in config.layers if layer.window is None), config.layers[0].rope)
    if rope is None:
        return keys, None
    keys |= {"rope.freq_base": rope.base, "rope.dimension_count": rope.channels}
    told = dict(rope.settings)
    if rope.scaling == "llama3":
        return keys, llama3_divisors(told, rope.base, rope.channels)
    if rope.scaling != "default":
        keys |= {"rope.scaling.type": rope.scaling, "rope.scaling.factor": told["factor"]}
    if rope.scaling == "yarn":
        keys["rope.scaling.original_context_length"] = int(told["original_max_position_embeddings"] or 0)
        for name in ("beta_fast", "beta_slow"):
            if told.get(name) is not None:
                keys[f"rope.scaling.yarn_{name}"] = told[name]
    return keys, None


def _window_keys(config: Shape) -> dict[str, Any]:
    local = next((layer for layer in config.layers if layer.window is not None), None)
    if local is None or local.rope is None:
        return {}
    keys: dict[str, Any] = {"attention.sliding_window": local.window, "rope.freq_base_swa": local.rope.base}
    full = next((number for number, layer in enumerate(config.layers, 1) if layer.window is None), None)
    every = full if full is not None else 0
    if every != FULL_ATTENTION_EVERY and (full or config.n_layer >= FULL_ATTENTION_EVERY):
        keys["attention.sliding_window_pattern"] = every
    return keys


def _check_says_the_same(
    architecture: str, keys: Mapping[str, Any], divisors: list[float] | None, config: Shape
) -> None:
    """Read the keys back as a file's, and compare.

    Raises:
        ModelError: Another model would come out.
    """
    shape = _shape(architecture, keys, divisors, config)
    family = FAMILIES[architecture]
    settings = {
        "model_type": family.model_type,
        **family.config(shape),
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied,
        # Told by the tensors that are there, not by keys.
        **({"attention_bias": config.out_bias} if architecture == "llama" else {}),
        **({"mlp_bias": config.mlp_bias} if architecture == "llama" else {}),
    }
    back = read_model_config(settings)
    names = [each.name for each in fields(config) if each.name not in _NOT_SAID]
    differs = [
        name
        for name in names
        if not name.endswith("_dropout")
        and _with_plain_floats(getattr(back, name, None)) != _with_plain_floats(getattr(config, name))
    ]
    if differs:
        name = differs[0]
        raise ModelError(
            f"GGUF cannot describe this model: llama.cpp's {architecture} has {name}"
            f" {_excerpt(getattr(back, name, None))}, and this model {_excerpt(getattr(config, name))}"
        )


def _with_plain_floats(value: Any) -> Any:
    """A fact of a model, to be compared, with its floats as a file has them: of seven digits."""
    if isinstance(value, float):
        return plain(value)
    if isinstance(value, tuple):
        return tuple(map(_with_plain_floats, value))
    if is_dataclass(value):
        return [_with_plain_floats(getattr(value, each.name)) for each in fields(value)]
    return value


def _excerpt(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:119] + "…"


def _shape(
    architecture: str, keys: Mapping[str, Any], divisors: list[float] | None, config: Shape
) -> GGUFShape:
    named = {f"{architecture}.{key}": value for key, value in keys.items()}
    return GGUFShape.from_keys(
        {"general.architecture": architecture, **named},
        vocabulary=config.vocab_size,
        tied=config.tied,
        rope_divisors=divisors,
    )


def stored_tensors(
    config: Shape, tensors: "Mapping[str, NDArray[np.float32]]"
) -> "Iterator[tuple[str, str, NDArray[np.float32]]]":
    """Every tensor in GGUF's layout: its name there, its name in a checkpoint folder, its numbers."""
    import numpy as np

    architecture, keys, divisors = header_keys(config)
    shape = _shape(architecture, keys, divisors, config)
    family = FAMILIES[architecture]
    rules = family.rules(config.n_layer)
    for name, rule in rules.items():
        is_copy = name == HEAD and family.needs_head and config.tied
        ours = rules[EMBEDDING].name if is_copy else rule.name
        if ours in tensors:
            yield name, ours, np.ascontiguousarray(rule.write(tensors[ours], shape))
    if divisors is not None:
        yield ROPE_FREQS, ROPE_FREQS, np.array(divisors, np.float32)


def vocabulary_keys(tokenizer: Tokenizer, vocab_size: int, bos_id: int | None = None) -> dict[str, Any]:
    """The vocabulary, filled up to the model's: llama.cpp wants a token for every row of the embedding.

    Args:
        tokenizer: The tokenizer.
        vocab_size: Of the model.
        bos_id: The token that starts a document by the model's configuration, where the tokenizer names none.

    Raises:
        ModelError: GGUF has no name for its way of splitting words.
        CheckpointError: It has several chat templates, and none is the one to use.
    """
    tokens = tokenizer.tokens + [""] * (vocab_size - tokenizer.vocab_size)
    keys: dict[str, Any] = {
        "tokens": [_spelled(token, tokenizer) or f"[PAD{id_}]" for id_, token in enumerate(tokens)],
        "token_type": [_type(token, tokenizer) for token in tokens],
        "bos_token_id": _bos_id(tokenizer, tokens, bos_id),
        "eos_token_id": tokenizer.end_of_text_id,
        **_turn_ends(tokenizer),
        "add_bos_token": bool(tokenizer.start_ids),
    }
    if tokenizer.kind.byte_level:
        name = pre_tokenizer_name(tokenizer.content)
        if name is None:
            raise ModelError("GGUF has no name for this model's pre-tokenizer")
        keys |= {"model": "gpt2", "pre": name, "merges": tokenizer.merges}
    else:
        ranks: dict[str, float] = {}
        for rank, merge in enumerate(tokenizer.merges):
            ranks.setdefault(merge.replace(" ", ""), -float(rank))
        keys |= {
            "model": "llama",
            "scores": [ranks.get(token, _NO_MERGE) for token in tokens],
            "add_space_prefix": tokenizer.kind.prefix_space,
        }
    named = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    template = template_source(tokenizer)
    return named | ({"tokenizer.chat_template": template} if template is not None else {})


def _bos_id(tokenizer: Tokenizer, tokens: Sequence[str], configured: int | None) -> int:
    """BOS, which chat templates may write also where no text starts with it."""
    if tokenizer.start_ids:
        return tokenizer.start_ids[0]
    named = tokenizer.named_special_tokens["bos_token"]
    if named and named in tokens:
        return tokens.index(named)
    if configured is not None and configured < len(tokens) and tokens[configured]:
        return configured
    return tokenizer.end_of_text_id


def _turn_ends(tokenizer: Tokenizer) -> dict[str, int]:
    """The tokens that end a turn and a message in one, of those that end a text."""
    ends = {token: id_ for token, id_ in tokenizer.special_tokens.items() if id_ in tokenizer.end_ids}
    turn = next((ends[token] for token in TURN_ENDS if token in ends and token != END_OF_MESSAGE), None)
    known = {"eot_token_id": turn, "eom_token_id": ends.get(END_OF_MESSAGE)}
    return {key: id_ for key, id_ in known.items() if id_ is not None}


def _spelled(token: str, tokenizer: Tokenizer) -> str:
    """A token as GGUF has it: llama.cpp looks for added tokens in a text before it writes its spaces as ▁."""
    is_added = _type(token, tokenizer) == USER_DEFINED
    return token.replace(SPACE, " ") if is_added and not tokenizer.kind.byte_level else token


def _type(token: str, tokenizer: Tokenizer) -> int:
    if not token:
        return UNUSED
    if not tokenizer.kind.byte_level and len(token) == 6 and token.startswith("<0x"):
        return BYTE
    if token == "<unk>" and not tokenizer.kind.byte_level:  # noqa: S105  # no password
        return UNKNOWN
    if token in tokenizer.special_tokens:
        return CONTROL
    # An added token is found in a text before it is cut, and spelled as it is.
    return USER_DEFINED if token in tokenizer.added_tokens else NORMAL
