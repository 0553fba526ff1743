"""A GGUF file's vocabulary as the tokenizer files of a Hugging Face folder.

Main entry: `tokenizer_files`. A file holds tokens, their types, and merges (byte-level BPE, ``gpt2``) or
scores (SentencePiece-like BPE with byte fallback, ``llama``); how words are split stands in it only as a
name. Invariant: a name that is not known is refused, because a guess would give other ids than the model
learned.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conjure.errors import ModelError
from conjure.lm.text.tokenizer_detection import SPACE, WORDS_OF_LLAMA3, WORDS_OF_QWEN, flat_steps

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_MAX_CHARACTERS = 1_024  # of a token: all its splits are tried; the longest in use have 256

_GPT2_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_BYTES_ONLY = {**_GPT2_BYTES, "use_regex": False}


@dataclass(frozen=True, slots=True)
class _Split:
    """How text is prepared and cut into words before bytes are merged.

    Attributes:
        steps: Of the pre-tokenizer.
        composed: Whether text is put into Unicode's composed form (NFC) first.
        whole_words: Whether a word that is a token is taken whole, whatever the merges.
    """

    steps: Sequence[Mapping[str, Any]]
    composed: bool = False
    whole_words: bool = False


def _words(pattern: str) -> Mapping[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_GPT2 = _Split([_GPT2_BYTES])
_LLAMA3 = _Split([_words(WORDS_OF_LLAMA3), _BYTES_ONLY], whole_words=True)
_WORDS_OF_QWEN = [_words(WORDS_OF_QWEN), _BYTES_ONLY]
_LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3")
# llama.cpp's names of pre-tokenizers, those of the families here.
_SPLITS = {
    "gpt-2": _GPT2,
    "olmo": _Split([_GPT2_BYTES], composed=True),  # GPT-NeoX's, by llama.cpp's name
    "smollm": _Split([{"type": "Digits", "individual_digits": True}, _GPT2_BYTES]),
    **dict.fromkeys(_LLAMA3_NAMES, _LLAMA3),
    "qwen2": _Split(_WORDS_OF_QWEN, composed=True),
    "deepseek-r1-qwen": _Split(_WORDS_OF_QWEN),
}
# Files of these families from before the names existed.
_WITHOUT_NAME = {"gpt2": "gpt-2", "gptneox": "olmo"}

_SPECIAL_KEYS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_ENDS = ("eos", "eot", "eom")
_DISPENSABLE = ("unknown", "padding")  # some files have ids beyond their tokens; llama.cpp passes them over
_NAMED = (*_SPECIAL_KEYS.values(), *_ENDS[1:])


def pre_tokenizer_name(content: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for the way a ``tokenizer.json`` splits words; None where it has none."""
    found = _signature(content)
    for name, split in _SPLITS.items():
        model = {"ignore_merges": split.whole_words}
        steps = {"type": "Sequence", "pretokenizers": list(split.steps)}
        normalizer = {"type": "NFC"} if split.composed else None
        if found == _signature({"model": model, "pre_tokenizer": steps, "normalizer": normalizer}):
            return name
    return None


def _signature(content: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides how a byte-level tokenizer splits text."""
    forms = [step["type"] for step in flat_steps(content.get("normalizer"), "normalizers")]
    steps = flat_steps(content.get("pre_tokenizer"), "pretokenizers")
    telling = [
        (step["type"], step.get("use_regex", True), step.get("individual_digits"), step.get("pattern"))
        for step in steps
    ]
    whole_words = bool((content.get("model") or {}).get("ignore_merges"))
    return forms, telling, whole_words


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The contents of ``tokenizer.json``, ``tokenizer_config.json`` and ``generation_config.json``.

    Attributes:
        tokenizer: The vocabulary, and how text becomes tokens.
        config: Special tokens and the chat template.
        generation: Ids that start and end a text.
    """

    tokenizer: Mapping[str, Any]
    config: Mapping[str, Any]
    generation: Mapping[str, Any]


def tokenizer_files(keys: Mapping[str, Any], *, vocabulary: int, context: int) -> TokenizerFiles:
    """Rebuild a file's tokenizer.

    Args:
        keys: The header's.
        vocabulary: Rows of the token embedding: no more tokens than that.
        context: Longest sequence of the model.

    Raises:
        ModelError: The vocabulary is missing, damaged or of a kind that is not known.
    """
    tokens, types = _tokens(keys, vocabulary)
    kind = keys.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(keys, tokens, types)
    elif kind == "llama":
        tokenizer = _sentence_piece(keys, tokens, types)
    else:
        raise ModelError(f"its tokenizer is of kind {str(kind)[:40]!r}; supported: gpt2, llama")
    found = {name: _special_id(keys, name, tokens) for name in _NAMED}
    ids = {name: id_ for name, id_ in found.items() if id_ is not None}
    # As llama.cpp does where a file does not say it.
    usual = kind == "llama" or keys.get("tokenizer.ggml.pre") in _LLAMA3_NAMES
    wants_start = _flag(keys, "add_bos_token", default=usual) and "bos" in ids
    if wants_start:
        tokenizer["post_processor"] = _start_once(tokens[ids["bos"]], ids["bos"])
    config: dict[str, Any] = {
        "add_bos_token": wants_start,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{ours: tokens[ids[name]] for ours, name in _SPECIAL_KEYS.items() if name in ids},
    }
    template = keys.get("tokenizer.chat_template")
    if isinstance(template, str) and template:
        config["chat_template"] = template
    ends = list(dict.fromkeys(ids[name] for name in _ENDS if name in ids))
    generation = {"bos_token_id": ids.get("bos"), "eos_token_id": ends[0] if len(ends) == 1 else ends or None}
    return TokenizerFiles(tokenizer, config, generation)


def _tokens(keys: Mapping[str, Any], vocabulary: int) -> tuple[list[str], list[int]]:
    """Tokens and types by id; an id that only fills up the embedding has an empty token."""
    tokens = _list(keys, "tokens", str)
    if not tokens:
        raise ModelError("it has no vocabulary (tokenizer.ggml.tokens)")
    types = _list(keys, "token_type", int) or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise ModelError(f"its vocabulary has {len(tokens):,} tokens and {len(types):,} types")
    if len(tokens) > vocabulary:
        raise ModelError(f"its vocabulary has {len(tokens):,} tokens, and its embedding {vocabulary:,} rows")
    filling = [
        kind == UNUSED and token == f"[PAD{id_}]"
        for id_, (token, kind) in enumerate(zip(tokens, types, strict=True))
    ]
    tokens = ["" if fills else token for token, fills in zip(tokens, filling, strict=True)]
    named = [token for token in tokens if token]
    if not named:
        raise ModelError("its vocabulary has only empty tokens")
    longest = max(map(len, named))
    if longest > _MAX_CHARACTERS:
        raise ModelError(
            f"its vocabulary has a token of {longest:,} characters; at most {_MAX_CHARACTERS:,} are allowed"
        )
    if len(set(named)) != len(named):
        raise ModelError("its vocabulary has the same token twice")
    return tokens, types


def _list(keys: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    value = keys.get(f"tokenizer.ggml.{name}", [])
    if not isinstance(value, list) or (value and not isinstance(value[0], kind)):
        raise ModelError(f"tokenizer.ggml.{name} is not a list of {kind.__name__}")
    return value


def _flag(keys: Mapping[str, Any], name: str, *, default: bool) -> bool:
    return bool(keys.get(f"tokenizer.ggml.{name}", default))


def _special_id(keys: Mapping[str, Any], name: str, tokens: Sequence[str]) -> int | None:
    id_ = keys.get(f"tokenizer.ggml.{name}_token_id")
    if id_ is None or id_ == 0xFFFFFFFF:  # -1: none
        return None
    if not isinstance(id_, int) or not 0 <= id_ < len(tokens) or not tokens[id_]:
        if name in _DISPENSABLE:
            return None
        raise ModelError(f"tokenizer.ggml.{name}_token_id is {str(id_)[:40]}, which is not a token")
    return id_


def _byte_level(keys: Mapping[str, Any], tokens: list[str], types: list[int]) -> dict[str, Any]:
    name = keys.get("tokenizer.ggml.pre") or _WITHOUT_NAME.get(str(keys.get("general.architecture")))
    if name not in _SPLITS:
        known = ", ".join(_SPLITS)
        raise ModelError(
            f"its pre-tokenizer (tokenizer.ggml.pre) is {str(name)[:40]!r}, which conjure does not support"
            f" (supported: {known})"
        )
    split = _SPLITS[name]
    known_tokens = set(tokens)
    merges = [tuple(merge.split(" ")) for merge in _list(keys, "merges", str)]
    for merge in merges:
        if len(merge) != 2 or not {*merge, "".join(merge)} <= known_tokens:
            raise ModelError(f"its merge {' '.join(merge)[:40]!r} does not join two tokens to a third")
    return {
        **_frame(tokens, types),
        "normalizer": {"type": "NFC"} if split.composed else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(split.steps)}
        if len(split.steps) > 1
        else split.steps[0],
        "decoder": dict(_GPT2_BYTES),
        "model": _bpe(tokens, types, merges, ignore_merges=split.whole_words),
    }


def _sentence_piece(keys: Mapping[str, Any], tokens: list[str], types: list[int]) -> dict[str, Any]:
    scores = _list(keys, "scores", float)
    if len(scores) != len(tokens):
        raise ModelError(f"its vocabulary has {len(tokens):,} tokens and {len(scores):,} scores")
    byte_tokens = {token for token, kind in zip(tokens, types, strict=True) if kind == BYTE}
    needed = {f"<0x{byte:02X}>" for byte in range(256)}
    if byte_tokens != needed:
        raise ModelError(f"its vocabulary has only {len(byte_tokens & needed)} of the 256 byte tokens")
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    prefixed = _flag(keys, "add_space_prefix", default=True)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    steps = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}]
    decoders = [*steps, {"type": "Fuse"}]
    if prefixed:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        **_frame(tokens, types),
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, spaces]}
        if prefixed
        else spaces,
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(
            tokens,
            types,
            list(_merges_by_score(tokens, types, scores)),
            byte_fallback=True,
            fuse_unk=True,
            unk_token=unknown,
        ),
    }


def _merges_by_score(
    tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]
) -> Iterable[tuple[str, str]]:
    """The merges that lead to each token, the best-scored token first."""
    ids = {
        token: id_
        for id_, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (NORMAL, USER_DEFINED, UNUSED) and token
    }
    for token in sorted(ids, key=lambda token: (-scores[ids[token]], ids[token])):
        splits = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        both = [(left, right) for left, right in splits if left in ids and right in ids]
        yield from sorted(both, key=lambda pair: (ids[pair[0]], ids[pair[1]]))


def _bpe(
    tokens: Sequence[str], types: Sequence[int], merges: Sequence[tuple[str, ...]], **changes: Any
) -> dict[str, Any]:
    added = _added_ids(tokens, types)
    tail = max(id_ for id_, token in enumerate(tokens) if token) + 1
    if "" not in tokens[:tail]:  # else an added token would move into the hole
        while tail and tail - 1 in added:
            tail -= 1  # tokens added after the vocabulary stand only in the list of added ones
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **changes,
        "vocab": {token: id_ for id_, token in enumerate(tokens[:tail]) if token},
        "merges": [list(merge) for merge in merges],
    }


def _added_ids(tokens: Sequence[str], types: Sequence[int]) -> dict[int, bool]:
    """Ids of tokens that text is searched for before it is cut, and whether they are special."""
    return {
        id_: kind != USER_DEFINED
        for id_, kind in enumerate(types)
        if kind in (CONTROL, USER_DEFINED, UNKNOWN) and tokens[id_]
    }


def _frame(tokens: Sequence[str], types: Sequence[int]) -> dict[str, Any]:
    as_it_is = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id_, "content": tokens[id_], **as_it_is, "special": special}
            for id_, special in _added_ids(tokens, types).items()
        ],
        "post_processor": None,
    }


def _start_once(token: str, id_: int) -> dict[str, Any]:
    """What puts the start token before a text, for tools that let the tokenizer do it."""
    text = {"Sequence": {"id": "A", "type_id": 0}}
    start = {"SpecialToken": {"id": token, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [start, text],
        "pair": [start, text, {**start}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [id_], "tokens": [token]}},
    }
