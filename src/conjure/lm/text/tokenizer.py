"""BPE vocabularies: text to token ids and back.

Main entries: `Tokenizer.from_folder`, `Tokenizer.train`, `IncrementalDecoder`. The `tokenizers` library does
the splitting and merging, as the folder's own files say; here is what makes it exact: nothing is stripped or
cleaned up, and special tokens written in a text are ordinary text unless asked for. Invariant:
``decode(encode(text)) == text``, but for what `Tokenizer.alters` says of the model.

Source: Radford et al. 2019, section 2.2. Parity: tests/parity/test_tokenizer.py.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

from conjure.core.files import open_regular, sha256_bytes
from conjure.errors import CheckpointError, DataError, UsageError
from conjure.lm.text.special_tokens import (
    END_OF_TEXT,
    SpecialTokens,
    read_json,
    read_special_tokens,
    spelling,
    turn_ends,
)
from conjure.lm.text.tokenizer_detection import (
    GPT2_KIND,
    SPACE,
    TokenizerKind,
    detect_kind,
    without_prefix_space,
)

# Names under which GPT-2's vocabulary and merges are published, ours (and Hugging Face's) first.
_VOCABULARY_NAMES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_BYTES = 256
_LARGEST_ID = (1 << 22) - 1  # sixteen times the largest vocabulary in use; an id beyond it is damage
WHITE_SPACE = "".join(  # as Unicode has it; Python counts four control characters more
    character
    for character in map(chr, range(0x3001))
    if character.isspace() and character not in "\x1c\x1d\x1e\x1f"
)
_WHITE_SPACE = re.compile(f"[{WHITE_SPACE}]*")
_PIECE_CHARACTERS = 1 << 16  # a longer text is encoded in pieces, on all cores and in little memory


class Tokenizer:
    """A BPE vocabulary with an end-of-text token.

    Made by `from_folder` or `train`; safe to share between threads, and immutable.

    Attributes:
        end_of_text: The token that ends a document.
        end_of_text_id: Its id.
        end_ids: Every id that ends a text, a chat's turn included.
        start_ids: What stands before every document: BOS where the model wants it, else nothing.
        lstrip_ids: Special tokens that take away the white space before them.
        rstrip_ids: Special tokens that take away the white space after them.
        kind: How tokens are spelled, and what is done to text.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special: SpecialTokens,
        kind: TokenizerKind = GPT2_KIND,
        ids: Iterable[int] | None = None,
    ) -> None:
        end_of_text_id = backend.token_to_id(special.end)
        assert end_of_text_id is not None, f"{special.end} is not in the vocabulary"
        self._backend = backend
        self._special_tokens = special
        self.kind = kind
        self.end_of_text = special.end
        self.end_of_text_id = end_of_text_id
        self.end_ids = special.end_ids | {end_of_text_id}
        start_id = None if special.start is None else backend.token_to_id(special.start)
        self.start_ids: list[int] = [] if start_id is None else [start_id]
        added = backend.get_added_tokens_decoder()
        self._special = {token.content: id_ for id_, token in added.items() if token.special}
        self.lstrip_ids = {id_ for id_, token in added.items() if token.special and token.lstrip}
        self.rstrip_ids = {id_ for id_, token in added.items() if token.special and token.rstrip}
        # Other tokens may spell a space as ▁, added ones too: Gemma's runs of spaces are such.
        self._verbatim = frozenset(
            token.content for token in added.values() if token.special or kind.byte_level
        )
        if ids is None:
            ids = backend.get_vocab(with_added_tokens=True).values()
        self._has_token = _mask_of([*ids, *added], without=backend.token_to_id(""))

    @classmethod
    def from_folder(cls, folder: Path | str) -> "Tokenizer":
        """The tokenizer of a checkpoint folder.

        Reads ``tokenizer.json``, or ``vocab.json`` with ``merges.txt`` (also under their first names,
        ``encoder.json`` and ``vocab.bpe``). Padding and truncation are switched off.

        Raises:
            CheckpointError: The files are missing, damaged, or describe a tokenizer of no known kind.
        """
        folder = Path(folder)
        content, kind = _read_tokenizer_json(folder)
        backend = _backend(folder, content) if content is not None else _read_vocabulary_and_merges(folder)
        if backend is None:
            raise CheckpointError(
                f"{folder} contains no tokenizer: tokenizer.json, or vocab.json with merges.txt, is needed",
                hint="copy those files from the base model",
            )
        if kind.byte_level:
            _refuse_prefix_space(folder, content)
        special = read_special_tokens(folder, backend, content)
        added = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
        if special.end not in added:
            backend.add_special_tokens([AddedToken(special.end, special=True, normalized=False)])
        ids = None if content is None else content["model"]["vocab"].values()
        return cls(_made_exact(backend, kind, special.start), special, kind, ids)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn a vocabulary: 256 bytes, the most useful merges, and the end-of-text token last, as GPT-2's.

        Args:
            texts: What to learn from; merges never cross from one text into the next.
            vocab_size: Number of token ids wanted; fewer come out when the texts hold too few merges.

        Raises:
            UsageError: `vocab_size` leaves no room for the 256 bytes and the end-of-text token.
        """
        if vocab_size <= _BYTES:
            raise UsageError(
                f"vocab_size is {vocab_size}; a byte-level vocabulary needs at least {_BYTES + 1}"
            )
        learner = tokenizers.Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            initial_alphabet=sorted(_BYTE_TO_CHARACTER.values()),
            show_progress=False,
        )
        learner.train_from_iterator(chain.from_iterable(map(split_safely, texts)), trainer)
        learned = json.loads(learner.to_str())["model"]
        vocabulary = {**learned["vocab"], END_OF_TEXT: len(learned["vocab"])}
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, [tuple(pair) for pair in learned["merges"]]))
        backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
        special = SpecialTokens(END_OF_TEXT, None, frozenset(), {})
        return cls(_made_exact(backend, GPT2_KIND), special)

    def limited_to(self, vocab_size: int) -> "Tokenizer | None":
        """This tokenizer without the ids that a model of `vocab_size` lacks; None if text can need them.

        A token that was only ever added (``[PAD]``) is no loss; one that merges lead to, or end of text, is.
        """
        if self.vocab_size <= vocab_size:
            return self
        settings = json.loads(self._backend.to_str())
        vocabulary: dict[str, int] = settings["model"]["vocab"]
        merged = {"".join(pair) for pair in settings["model"]["merges"]}
        beyond = {token for token, id_ in vocabulary.items() if id_ >= vocab_size}
        if self.end_of_text_id >= vocab_size or any(token in merged or len(token) == 1 for token in beyond):
            return None
        settings["model"]["vocab"] = {token: id_ for token, id_ in vocabulary.items() if token not in beyond}
        settings["added_tokens"] = [token for token in settings["added_tokens"] if token["id"] < vocab_size]
        backend = tokenizers.Tokenizer.from_str(json.dumps(settings))
        ends = frozenset(id_ for id_ in self.end_ids if id_ < vocab_size)
        special = replace(self._special_tokens, end_ids=ends)
        return Tokenizer(_made_exact(backend, self.kind, special.start), special, self.kind)

    @property
    def alters(self) -> str | None:
        """What is not exact about decoding an encoded text, in words; None where nothing is."""
        return self.kind.alters

    @property
    def start_id(self) -> int:
        """What a document is read after: BOS where the model wants it, else the end of another document."""
        return self.start_ids[0] if self.start_ids else self.end_of_text_id

    def prompt_ids(self, ids: Sequence[int]) -> list[int]:
        """A prompt whose text has these ids: never none, for a model reads before it writes."""
        return [*self.start_ids, *ids] or [self.start_id]

    @property
    def start_token(self) -> str:
        """`start_id`, as it is written."""
        return self._special_tokens.start or self.end_of_text

    @property
    def chat_template(self) -> Any:
        """The chat template, as the folder has it; None where it has none."""
        return self._special_tokens.settings.get("chat_template")

    def with_chat_template(self, template: Any) -> "Tokenizer":
        """The same with another chat template; what ends its turns ends a text too."""
        special = self._special_tokens
        settings = {**special.settings, "chat_template": template}
        ends = self.end_ids.union(turn_ends(self._backend, template))
        return Tokenizer(self._backend, replace(special, settings=settings, end_ids=ends), self.kind)

    def with_special(self, tokens: Collection[str]) -> "Tokenizer":
        """The same with these added tokens counted as special ones too: text that spells them stays text."""
        settings = json.loads(self._backend.to_str())
        settings["added_tokens"] = [
            {**token, "special": token["special"] or token["content"] in tokens}
            for token in settings["added_tokens"]
        ]
        special = self._special_tokens
        backend = _made_exact(tokenizers.Tokenizer.from_str(json.dumps(settings)), self.kind, special.start)
        return Tokenizer(backend, special, self.kind)

    def gives_the_ids_of(self, other: "Tokenizer", text: str) -> bool:
        """Whether this one has the tokens, merges and start of another, and cuts a text as that one does.

        Args:
            other: The other one.
            text: Hard to cut, for files may say the same way of splitting words in several ways.
        """
        if self.digest == other.digest:
            return True
        alike = (self.tokens, self.merges, self.start_ids) == (other.tokens, other.merges, other.start_ids)
        return alike and self.encode(text) == other.encode(text)

    @property
    def named_special_tokens(self) -> dict[str, str]:
        """Special tokens by the names that the folder's settings give them, such as ``bos_token``."""
        settings = self._special_tokens.settings
        spelled = {name: spelling(value) for name, value in settings.items() if name.endswith("_token")}
        named = {name: token for name, token in spelled.items() if token is not None}
        return {"bos_token": self._special_tokens.start or "", "eos_token": self.end_of_text, **named}

    def ids_without_token(self, count: int) -> list[int]:
        """Of the ids below `count` those that mean nothing: holes, and what a padded vocabulary has more."""
        return [*(hole for hole in self._holes if hole < count), *range(self.vocab_size, count)]

    @cached_property
    def _holes(self) -> list[int]:
        return [id_ for id_, known in enumerate(self._has_token) if not known]

    @cached_property
    def vocab_size(self) -> int:
        """Number of token ids: one more than the largest."""
        return len(self._has_token)

    @property
    def tokens(self) -> list[str]:
        """Every token by id, as ``vocab.json`` spells it; empty where an id has none."""
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        spelled = [""] * self.vocab_size
        for token, id_ in vocabulary.items():
            spelled[id_] = token
        return spelled

    @property
    def content(self) -> dict[str, Any]:
        """What ``tokenizer.json`` says of it."""
        return json.loads(self._backend.to_str())

    @property
    def merges(self) -> list[str]:
        """The merges in order, as ``merges.txt`` spells them."""
        return [" ".join(pair) for pair in json.loads(self._backend.to_str())["model"]["merges"]]

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Tokens that are no ordinary text, by how they are written: their ids. End of text is one."""
        return self._special

    @cached_property
    def added_tokens(self) -> frozenset[str]:
        """Tokens that text is searched for before it is cut, special ones not among them."""
        added = self._backend.get_added_tokens_decoder().values()
        return frozenset(token.content for token in added if not token.special)

    def count_special(self, text: str) -> Counter[str]:
        """How often special tokens are written out in a text."""
        return Counter(match[0] for match in self._written_special.finditer(text))

    @cached_property
    def cut(self) -> re.Pattern[str] | None:
        """Places where a long text may be cut; None where none is sure, or a token to look for has one."""
        cut = self.kind.cut
        if cut is None or any(map(cut.search, (*self.added_tokens, *self._special))):
            return None
        return cut

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of everything that decides which ids a text gets."""
        facts = f"{self.end_of_text}{self.start_ids or ''}{'prefix once' if self.kind.prefix_once else ''}"
        return sha256_bytes(f"{self._backend.to_str()}\n{facts}".encode())

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The ids of `text`, every character of it.

        Args:
            text: Any text; nothing is stripped, and no space is put in front.
            allow_special: Take special tokens written out in the text, such as ``<|endoftext|>``, for
                those tokens. Otherwise they are ordinary characters, so a text cannot forge a boundary.

        Raises:
            DataError: The text holds half of a surrogate pair, which no encoding of text can carry.
        """
        return self.encode_batch([text], allow_special=allow_special)[0]

    def encode_continued(self, text: str) -> list[int]:
        """The ids of a text that goes on from other text: no space is put before it.

        Raises:
            DataError: As for `encode`.
        """
        return self._without_prefix_space.encode(text)

    @cached_property
    def _without_prefix_space(self) -> "Tokenizer":
        if not self.kind.prefix_space:
            return self
        settings = without_prefix_space(json.loads(self._backend.to_str()))
        kind = replace(self.kind, prefix_space=False, prefix_once=False)
        start = self._special_tokens.start
        backend = _made_exact(tokenizers.Tokenizer.from_str(json.dumps(settings)), kind, start)
        return Tokenizer(backend, self._special_tokens, kind)

    def encode_batch(self, texts: Sequence[str], *, allow_special: bool = False) -> list[list[int]]:
        """The ids of each text, as `encode` gives them, on all cores.

        Raises:
            DataError: A text holds half of a surrogate pair.
        """
        if allow_special and any(map(self._written_special.search, texts)):
            return [self._encode_with_special(text) for text in texts]
        pieces = [list(split_safely(text, cut=self.cut)) for text in texts]
        flat = list(chain.from_iterable(pieces))
        try:
            encodings = iter(self._backend.encode_batch_fast(flat, add_special_tokens=False))
        except TypeError as error:
            raise _not_text(texts) from error
        if self._missing_bytes:
            self._refuse_missing_bytes(flat)
        return [[id_ for _ in parts for id_ in next(encodings).ids] for parts in pieces]

    def split_special(self, text: str) -> Iterator[str | int]:
        """A text in parts: the ids of the special tokens written out in it, and what is between them."""
        start = 0
        for match in self._written_special.finditer(text):
            id_, before = self._special[match[0]], text[start : match.start()]
            if id_ in self.lstrip_ids:
                before = before.rstrip(WHITE_SPACE)
            if before:
                yield before
            yield id_
            start = _end_of_white_space(text, match.end()) if id_ in self.rstrip_ids else match.end()
        if start < len(text):
            yield text[start:]

    def _encode_with_special(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self.split_special(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self.encode_continued(part) if ids and self.kind.prefix_once else self.encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a document's `ids`; bytes that are not UTF-8 become U+FFFD, nothing else is altered."""
        text = self.decode_bytes(ids).decode("utf-8", errors="replace")
        return text.removeprefix(" ") if self.kind.prefix_space else text

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes `ids` stand for; an id that no token has (a padded vocabulary's) stands for none."""
        table = self._token_bytes
        return b"".join([table[id_] for id_ in ids])

    def save(self, folder: Path | str, *, context_length: int | None = None) -> None:
        """Write the files that transformers, vLLM and llama.cpp's converter read.

        Args:
            folder: An existing folder; receives tokenizer.json and tokenizer_config.json, of GPT-2's kind
                vocab.json and merges.txt too.
            context_length: Longest sequence of the model, in tokens, for tools that ask the tokenizer.
        """
        folder = Path(folder)
        self._backend.save(str(folder / "tokenizer.json"))
        settings: dict[str, Any] = {**self._special_tokens.settings, "eos_token": self.end_of_text}
        if self.kind.is_gpt2:
            self._save_vocabulary_and_merges(folder)
            settings |= {
                "add_bos_token": bool(self.start_ids),
                "add_prefix_space": False,
                "bos_token": self.start_token if self.start_ids else self._named_or_end("bos_token"),
                "clean_up_tokenization_spaces": False,
                "tokenizer_class": "GPT2Tokenizer",
                "unk_token": self._named_or_end("unk_token"),
            }
        if context_length is not None:
            settings["model_max_length"] = context_length
        text = json.dumps(settings, indent=2, ensure_ascii=False, sort_keys=True)
        (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    def _named_or_end(self, name: str) -> str:
        """The token that the settings give this name, if there is such a token; else end of text."""
        token = spelling(self._special_tokens.settings.get(name))
        return self.end_of_text if token is None or self._backend.token_to_id(token) is None else token

    def _save_vocabulary_and_merges(self, folder: Path) -> None:
        model = json.loads(self._backend.to_str())["model"]
        (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *self.merges, ""]
        (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")

    @cached_property
    def _written_special(self) -> re.Pattern[str]:
        longest_first = sorted(self._special, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))

    @cached_property
    def _token_bytes(self) -> "_TokenBytes":
        return _TokenBytes(self._bytes_of_id)

    def _bytes_of_id(self, id_: int) -> bytes:
        """The bytes of one token; none for an id that no token has."""
        token = self._backend.id_to_token(id_) if 0 <= id_ < self.vocab_size else None
        if token is None:
            return b""
        spell = _bytes_of if self.kind.byte_level else _bytes_of_characters
        return token.encode() if token in self._verbatim else spell(token)

    @cached_property
    def _missing_bytes(self) -> frozenset[int]:
        """Bytes without a token: none in GPT-2's vocabulary, some in carelessly trained ones."""
        if not self.kind.byte_level:
            return frozenset()
        find = self._backend.token_to_id
        return frozenset(byte for byte, character in _BYTE_TO_CHARACTER.items() if find(character) is None)

    def _refuse_missing_bytes(self, texts: Iterable[str]) -> None:
        for text in texts:
            missing = self._missing_bytes.intersection(text.encode())
            if missing:
                raise DataError(
                    f"this model's vocabulary has no token for byte 0x{min(missing):02x}, "
                    f"which {_excerpt(text)} contains",
                    hint="use a model whose vocabulary covers all 256 bytes, as GPT-2's does",
                )


class _TokenBytes(dict[int, bytes]):
    """Bytes of tokens by id, found as they are asked for: a short text needs few of a large vocabulary.

    Args:
        find: Gives those of one id.
    """

    def __init__(self, find: Callable[[int], bytes]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, id_: int) -> bytes:
        found = self[id_] = self._find(id_)
        return found


def _mask_of(ids: Sequence[int], *, without: int | None) -> bytearray:
    """For each id up to the largest 1 if it is among `ids`, else 0; 0 also for one that means nothing."""
    mask = bytearray(max(ids) + 1)
    for id_ in ids:
        mask[id_] = 1
    if without is not None:
        mask[without] = 0
    return mask


class IncrementalDecoder:
    """Turns a stream of ids into text as they come, never half a character.

    Joined, the pieces are what `Tokenizer.decode` gives for all the ids at once.

    Args:
        tokenizer: Whose ids.
        continues: Whether the ids go on from others, so that a space before them is one.
    """

    def __init__(self, tokenizer: Tokenizer, *, continues: bool = False) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._drops_space = tokenizer.kind.prefix_space and not continues

    def feed(self, token_id: int) -> str:
        """The characters this id completes, perhaps none."""
        text = self._decoder.decode(self._tokenizer.decode_bytes([token_id]))
        if self._drops_space and text:
            self._drops_space = False
            return text.removeprefix(" ")
        return text

    def flush(self) -> str:
        """What is left of a character that never became whole, as U+FFFD."""
        return self._decoder.decode(b"", final=True)


def split_safely(
    text: str, size: int = _PIECE_CHARACTERS, *, cut: re.Pattern[str] | None = GPT2_KIND.cut
) -> Iterator[str]:
    """Cut a long text where its ids are sure to stay the same: at word boundaries of the pre-tokenizer.

    Args:
        text: Any text.
        size: Characters in a piece, at least; a piece is longer where no safe place comes sooner.
        cut: Safe places, as `TokenizerKind.cut` has them; None cuts nowhere.

    Yields:
        Pieces that join up to `text`; their ids join up to the text's ids.
    """
    start = 0
    while cut is not None and len(text) - start > size:
        place = cut.search(text, start + size)
        if place is None:
            break
        yield text[start : place.start()]
        start = place.start()
    yield text[start:] if start else text


def _end_of_white_space(text: str, start: int) -> int:
    match = _WHITE_SPACE.match(text, start)
    assert match is not None
    return match.end()


def _byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in GPT-2's vocabulary files."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(_BYTES) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(_BYTES + index) for index, byte in enumerate(others)
    }


_BYTE_TO_CHARACTER = _byte_alphabet()
_CHARACTER_TO_BYTE = {character: byte for byte, character in _BYTE_TO_CHARACTER.items()}


def _bytes_of(token: str) -> bytes:
    try:
        return bytes([_CHARACTER_TO_BYTE[character] for character in token])
    except KeyError:  # a token somebody put in by hand, such as <|конец|>
        return token.encode()


_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def _bytes_of_characters(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()


def _made_exact(
    backend: tokenizers.Tokenizer, kind: TokenizerKind, start: str | None = None
) -> tokenizers.Tokenizer:
    """Switch off what would cut or pad a text, or take what is written in it for special tokens.

    Args:
        backend: The tokenizer; it is changed.
        kind: Its kind.
        start: What the model wants before every document, for tools that let the tokenizer put it there.
    """
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = True  # that is: as the ordinary text they are written in
    if not kind.is_gpt2:
        _put_start(backend, start)
        return backend
    # The vocabulary files of GPT-2 say nothing of the rest, and what is said elsewhere of it may be wrong.
    backend.normalizer = None  # pyright: ignore[reportAttributeAccessIssue]
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    _put_start(backend, start)
    backend.decoder = decoders.ByteLevel()
    return backend


def _put_start(backend: tokenizers.Tokenizer, start: str | None) -> None:
    """Have other tools put before a text what the model wants there: for some, this decides, not settings."""
    start_id = backend.token_to_id(start) if start is not None else None
    starts = [] if start is None or start_id is None else [(start, start_id)]
    put, text = (backend.encode("", add_special_tokens=each).ids for each in (True, False))
    if put != [*(id_ for _, id_ in starts), *text]:
        before = [token for token, _ in starts]
        backend.post_processor = processors.TemplateProcessing(
            single=[*before, "$A"],
            pair=[*before, "$A", *(f"{token}:1" for token in before), "$B:1"],
            special_tokens=starts,
        )


def _read_tokenizer_json(folder: Path) -> tuple[dict[str, Any] | None, TokenizerKind]:
    """The content of tokenizer.json, None where there is none, and the kind of tokenizer."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return None, GPT2_KIND
    content = read_json(path)
    kind = detect_kind(content)
    if isinstance(kind, str):
        raise CheckpointError(
            f"{path} describes {kind}; conjure supports byte-level BPE, and BPE with byte fallback",
            hint="use a checkpoint with such a tokenizer, as GPT-2, Llama, Qwen and Gemma have",
        )
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise CheckpointError(f"{path} is damaged: added_tokens is not a list of tokens")
    _check_ids(path, content["model"].get("vocab"))
    _check_ids(path, {str(token.get("content")): token.get("id") for token in added})
    return content, kind


def _backend(folder: Path, content: Mapping[str, Any]) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    try:
        try:
            return tokenizers.Tokenizer.from_file(str(path))
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - such as a byte order mark, which Python has understood
            return tokenizers.Tokenizer.from_str(json.dumps(content))
    except MemoryError:
        raise  # says nothing of the file
    except Exception as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _check_ids(path: Path, vocabulary: Any) -> None:
    """Refuse ids that would ask for a table of any size, or for none.

    Raises:
        CheckpointError: One is no integer from 0 to `_LARGEST_ID`.
    """
    if not isinstance(vocabulary, dict):
        raise CheckpointError(f"{path} is damaged: its vocabulary is not an object")
    ids = vocabulary.values()
    if set(map(type, ids)) <= {int} and (not ids or (min(ids) >= 0 and max(ids) <= _LARGEST_ID)):
        return
    for token, id_ in vocabulary.items():  # which one is it
        if not isinstance(id_, int) or isinstance(id_, bool) or not 0 <= id_ <= _LARGEST_ID:
            raise CheckpointError(
                f"{path} is damaged: it gives token {_excerpt(token)} the id {_excerpt(str(id_))};"
                f" ids are integers from 0 to {_LARGEST_ID:,}"
            )


def _refuse_prefix_space(folder: Path, content: Mapping[str, Any] | None) -> None:
    """Refuse a tokenizer that puts a space before every text, by transformers' rule of who decides that.

    Args:
        folder: Its folder.
        content: Of its ``tokenizer.json``, where it has one.

    Raises:
        CheckpointError: It does.
    """
    decides = folder / "tokenizer_config.json"
    settings = read_json(decides) if decides.exists() else {}
    follows_config = str(settings.get("tokenizer_class") or "GPT2").startswith("GPT2")
    if content is not None and not follows_config:
        decides = folder / "tokenizer.json"
        words = content.get("pre_tokenizer") or {}
        steps = words.get("pretokenizers", [words])
        settings = steps[-1] if isinstance(steps, list) and steps and isinstance(steps[-1], dict) else {}
    if settings.get("add_prefix_space"):
        raise CheckpointError(
            f"{decides} asks for a space before every text (add_prefix_space), which conjure does not add:"
            " its token ids would not be those the model was trained with"
        )


def _refuse_other_classes(folder: Path) -> None:
    """Refuse a vocabulary and merges that are not of GPT-2's kind: the files do not say how words are split.

    Raises:
        CheckpointError: ``tokenizer_config.json`` names another class of tokenizers.
    """
    path = folder / "tokenizer_config.json"
    name = str((read_json(path) if path.exists() else {}).get("tokenizer_class") or "GPT2")
    if not name.startswith("GPT2"):
        raise CheckpointError(
            f"{path} has tokenizer_class {_excerpt(name)}, and {folder} contains no tokenizer.json, which"
            " conjure needs for any tokenizer but GPT-2's",
            hint="save it with AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers",
        )


def _read_vocabulary_and_merges(folder: Path) -> tokenizers.Tokenizer | None:
    for vocabulary_name, merges_name in _VOCABULARY_NAMES:
        vocabulary_path, merges_path = folder / vocabulary_name, folder / merges_name
        if not vocabulary_path.exists() or not merges_path.exists():
            continue
        _refuse_other_classes(folder)
        vocabulary = read_json(vocabulary_path)
        _check_ids(vocabulary_path, vocabulary)
        try:
            with open_regular(merges_path) as file:
                lines = file.read().decode().split("\n")
            merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
            backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))  # pyright: ignore[reportArgumentType]
        except MemoryError:
            raise  # says nothing of the files
        except Exception as error:
            raise CheckpointError(
                f"{vocabulary_path} and {merges_path} do not match or are damaged: {error}"
            ) from error
        _add_tokens(folder / "added_tokens.json", backend)
        return backend
    return None


def _add_tokens(path: Path, backend: tokenizers.Tokenizer) -> None:
    """Tokens that a fine-tune put after the vocabulary, as transformers once kept them."""
    added = read_json(path) if path.exists() else {}
    _check_ids(path, added)
    for token, id_ in sorted(added.items(), key=lambda item: str(item[1]).zfill(9)):
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        if backend.token_to_id(token) != id_:
            raise CheckpointError(f"{path} gives {token!r} id {id_!r}; {backend.token_to_id(token)} is next")


def _not_text(texts: Sequence[str]) -> Exception:
    """The error for a batch the library refused: names the first character that is no character."""
    for text in texts:
        if not isinstance(text, str):
            return TypeError(f"text must be str, not {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as fault:
            return DataError(
                f"the text contains half of a surrogate pair, U+{ord(text[fault.start]):04X}, "
                f"at character {fault.start}; such a text cannot be encoded"
            )
    raise AssertionError("the tokenizer refused a batch of good texts")


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")
