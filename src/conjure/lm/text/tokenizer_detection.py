"""What kind of tokenizer a ``tokenizer.json`` describes: how tokens are spelled, and what is done to text.

Main entries: `detect_kind`, `flat_steps`, `without_prefix_space`. Two kinds are known: byte-level BPE (GPT-2,
SmolLM, Llama 3, Qwen, NeoX), whatever its way of splitting words, and BPE over characters with ▁ for the
space and bytes for what is missing (Llama 2, Gemma). Invariant: a text cut where a kind says it may be cut
has the ids of its pieces.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SPACE = "▁"  # what stands for a space in tokens that are not byte-level

# Places where GPT-2's pre-tokenizer always starts a new word, whatever surrounds them: before a space or a
# line end that follows a non-space, and between punctuation and a letter (an apostrophe may start a
# contraction, so it does not count). U+180E was a space in older Unicode versions: left alone. Digits taken
# apart before that (SmolLM) add places and take none away.
_GPT2_CUT = re.compile(
    r"(?<=[^\s\x85\u180e])(?=[ \n])|(?<=[,.;:!?。，、！？；：])(?=[A-Za-z\u3040-\u30ff\u4e00-\u9fff])"
)
# Llama 3's and Qwen's words may begin with a punctuation mark and end with line ends, but none has a space
# after anything else; nor does composing characters (NFC) reach over a space.
_SPACE_CUT = re.compile(r"(?<=[^\s\x85\u180e])(?= )")
_PIECE_CUT = re.compile(rf"(?<=[^\s\x85\u180e{SPACE}])(?= )")  # where ▁ is a space too
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}NUMBERS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS_OF_LLAMA3, WORDS_OF_QWEN = _WORDS.replace("NUMBERS", "{1,3}"), _WORDS.replace("NUMBERS", "")
_SPACE_CUT_PATTERNS = {WORDS_OF_LLAMA3, WORDS_OF_QWEN}
_UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")


@dataclass(frozen=True, slots=True)
class TokenizerKind:
    """One kind of tokenizer.

    Attributes:
        byte_level: Whether tokens spell bytes, as GPT-2's do; else characters, with ▁ for the space.
        form: The Unicode form that text is put into first; None leaves it.
        prefix_space: Whether a space is put before a text (and taken away again when it is decoded).
        prefix_once: Whether it is put only where the whole text begins, and not after a control token.
        cut: Places where a long text may be cut; None where none is sure.
        is_gpt2: Whether words are split as GPT-2 splits them, and nothing else is done.
    """

    byte_level: bool = True
    form: str | None = None
    prefix_space: bool = False
    prefix_once: bool = False
    cut: re.Pattern[str] | None = _GPT2_CUT
    is_gpt2: bool = False

    @property
    def alters(self) -> str | None:
        """What happens to a text that is encoded and decoded; None where every text comes back exactly."""
        changes = [f"text is put into Unicode form {self.form}"] * (self.form is not None)
        changes += [f"{SPACE} becomes a space"] * (not self.byte_level)
        return ", and ".join(changes) or None


GPT2_KIND = TokenizerKind(is_gpt2=True)


def detect_kind(settings: Mapping[str, Any]) -> TokenizerKind | str:
    """The kind that the content of a ``tokenizer.json`` describes; words for what is not known."""
    model = settings.get("model") or {}
    if not isinstance(model, dict):
        return "no tokenizer"
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        return f"a {model.get('type', 'nameless')} tokenizer"
    if model.get("dropout"):
        return "a tokenizer that leaves out merges at random (dropout)"
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return "a BPE tokenizer that marks parts of words"
    normalizers = list(flat_steps(settings.get("normalizer"), "normalizers"))
    splitters = list(flat_steps(settings.get("pre_tokenizer"), "pretokenizers"))
    if model.get("byte_fallback"):
        return _with_byte_fallback(model, normalizers, splitters)
    return _byte_level(normalizers, splitters)


def flat_steps(part: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, sequences laid flat."""
    if not isinstance(part, dict):
        return
    inner = part.get(name)
    if part.get("type") != "Sequence":
        yield part
    elif isinstance(inner, list):
        for each in inner:
            yield from flat_steps(each, name)


def _byte_level(
    normalizers: list[Mapping[str, Any]], splitters: list[Mapping[str, Any]]
) -> TokenizerKind | str:
    kinds = [str(step.get("type")) for step in splitters]
    if kinds[-1:] != ["ByteLevel"] or not {*kinds} <= {"ByteLevel", "Digits", "Split"}:
        return f"a BPE tokenizer with the unsupported pre-tokenizer {'+'.join(kinds) or 'nothing'}"
    forms = [str(step.get("type")) for step in normalizers]
    if len(forms) > 1 or not {*forms} <= {*_UNICODE_FORMS}:
        return f"a tokenizer that normalizes text ({'+'.join(forms)})"
    form = forms[0] if forms else None
    regex = bool(splitters[-1].get("use_regex", True))
    alone = kinds == ["ByteLevel"]
    if alone and not regex:
        return "a BPE tokenizer with the unsupported pre-tokenizer ByteLevel without its pattern"
    if alone and form is None:
        return GPT2_KIND
    patterns = {str(_pattern_of(step)) for step in splitters if step["type"] == "Split"}
    cut = None
    if regex and not patterns and form is None:
        cut = _GPT2_CUT
    elif form in (None, "NFC") and patterns <= _SPACE_CUT_PATTERNS:
        cut = _SPACE_CUT
    return TokenizerKind(form=form, cut=cut)


def _pattern_of(step: Mapping[str, Any]) -> Any:
    pattern = step.get("pattern")
    return pattern.get("Regex") if isinstance(pattern, dict) else None


def _with_byte_fallback(
    model: Mapping[str, Any], normalizers: list[Mapping[str, Any]], splitters: list[Mapping[str, Any]]
) -> TokenizerKind | str:
    forms = [str(step.get("type")) for step in normalizers]
    unknown = {*forms} - {"Prepend", "Replace", *_UNICODE_FORMS}
    if unknown:
        return f"a tokenizer that normalizes text ({'+'.join(sorted(unknown))})"
    kinds = [str(step.get("type")) for step in splitters]
    if not {*kinds} <= {"Split", "Metaspace"}:
        return f"a BPE tokenizer with the unsupported pre-tokenizer {'+'.join(kinds)}"
    metaspace = next((step for step in splitters if step["type"] == "Metaspace"), {"prepend_scheme": "never"})
    scheme = metaspace.get("prepend_scheme", "always")
    prefix = "Prepend" in forms or scheme != "never"
    form = next((form for form in forms if form in _UNICODE_FORMS), None)
    vocabulary = model.get("vocab")
    crosses = re.compile(f"[^{SPACE}]{SPACE}")
    tokens = [token for token in vocabulary if isinstance(token, str)] if isinstance(vocabulary, dict) else []
    # A cut before a space is safe if no token goes on with a space after something else.
    is_safe = not prefix and form in (None, "NFC") and not any(map(crosses.search, tokens))
    return TokenizerKind(
        byte_level=False,
        form=form,
        prefix_space=prefix,
        prefix_once="Prepend" not in forms and scheme == "first",
        cut=_PIECE_CUT if is_safe else None,
    )


def without_prefix_space(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a ``tokenizer.json`` changed so that no space is put before a text."""
    normalizers = [
        step
        for step in flat_steps(settings.get("normalizer"), "normalizers")
        if step.get("type") != "Prepend"
    ]
    splitters = [
        {**step, "prepend_scheme": "never"} if step.get("type") == "Metaspace" else step
        for step in flat_steps(settings.get("pre_tokenizer"), "pretokenizers")
    ]
    return {
        **settings,
        "normalizer": {"type": "Sequence", "normalizers": normalizers} if normalizers else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splitters} if splitters else None,
    }
