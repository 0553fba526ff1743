"""Conversations as token ids, each with whether a model is to learn it.

Main entries: `ChatEncoder`, `PromptEncoder`, `conversation_encoder`, `encode_record`. Invariants: what a
message says is never taken for a special token or a role marker, however it is spelled (another added token,
such as ``<think>``, is part of what models write, and stays a token); and either it is exactly known which
tokens are the model's own answers, or the conversation is refused.

A template is rendered twice, once with every message between two private-use characters that no message has.
Without them both renderings must be equal: then it is known which characters are whose. An answer begins
where the rendering that asks for it ends: from there on the model writes when it is asked. Text between two
control tokens is encoded at once, as transformers does; only where a token would lie across the edge of an
answer, it is cut there, as it is when the model itself writes the answer.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache
from itertools import islice
from typing import NamedTuple, Protocol

from conjure.core.files import sha256_bytes
from conjure.errors import CheckpointError, DataError, UsageError, option
from conjure.lm.text.chat.formats import ChatFormat, Conversation, Message, is_answer
from conjure.lm.text.chat.template import ChatTemplate, find_template
from conjure.lm.text.tokenizer import WHITE_SPACE, Tokenizer

# What a token is to training: never a target, part of what is given, or part of an answer.
FIRST, GIVEN, ANSWER = 0, 1, 2

_MARKS = range(0xF0000, 0xFFFFE)  # a private-use plane; fonts with icons have some of it
_NOT_A_WORD = re.compile(r"[^\w\s▁]")  # white space and words in a template mark no role


class Part(NamedTuple):
    """Characters of a rendering, and whose they are.

    Attributes:
        text: The characters.
        message: Number of the message that says them; None where the template does.
        is_learned: Whether they are an answer.
    """

    text: str
    message: int | None = None
    is_learned: bool = False


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A conversation in tokens.

    Attributes:
        ids: The tokens.
        kinds: `FIRST`, `GIVEN` or `ANSWER` for each of them.
    """

    ids: list[int]
    kinds: list[int]

    def answers(self, end_ids: Collection[int] = ()) -> Iterator[range]:
        """The places of each answer.

        Args:
            end_ids: Tokens that end an answer; they are left out at its end.
        """
        start = None
        for place, kind in enumerate([*self.kinds, GIVEN]):
            if kind == ANSWER and start is None:
                start = place
            elif kind != ANSWER and start is not None:
                stop = place
                while stop > start and self.ids[stop - 1] in end_ids:
                    stop -= 1
                yield range(start, stop)
                start = None

    def answer_text(self, tokenizer: Tokenizer) -> str:
        """What the answers say, one below the other."""
        return b"\n".join(self.answer_bytes(tokenizer)).decode("utf-8", "replace")

    def answer_bytes(self, tokenizer: Tokenizer) -> list[bytes]:
        """What each answer says, as UTF-8."""
        spans = self.answers(tokenizer.end_ids)
        return [tokenizer.decode_bytes(self.ids[span.start : span.stop]) for span in spans]

    def question(self, tokenizer: Tokenizer) -> tuple[str, list[int]]:
        """What comes before the last answer: its text without control tokens, and its tokens."""
        last = list(self.answers())[-1]
        ids = self.ids[: last.start]
        special = set(tokenizer.special_tokens.values())
        return tokenizer.decode([id_ for id_ in ids if id_ not in special]), ids


class ConversationEncoder(Protocol):
    """Turns conversations into tokens."""

    @property
    def digest(self) -> str:
        """Of what decides the tokens, the tokenizer apart."""
        ...

    @property
    def adds_end_of_text(self) -> bool:
        """Whether every conversation ends with the end-of-text token."""
        ...

    def encode(self, messages: Sequence[Message]) -> EncodedChat:
        """The tokens of a whole conversation."""
        ...


class ChatEncoder:
    """Encodes conversations by a chat template.

    Attributes:
        template: The template.
    """

    adds_end_of_text = False

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self._given = tokenizer
        self.template = template

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return _with_role_markers(self._given, self.template)

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, model: str, day: date | None = None) -> "ChatEncoder":
        """The encoder of a model.

        Args:
            tokenizer: The model's.
            model: What to call it in a message.
            day: What the template gets when it asks for the date; None is today.

        Raises:
            UsageError: The model has no chat template.
            CheckpointError: Its template cannot be used.
        """
        template = find_template(tokenizer, day=day)
        if template is None:
            raise UsageError(
                f"{model} has no chat template: it is a base model, which continues text and does not chat",
                hint=f"use a chat model, such as smollm2, or `conjure generate` without {option('chat')}",
            )
        return cls(tokenizer, template)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of what decides the tokens of a conversation, the tokenizer apart."""
        day = self.template.day.isoformat() if self.template.asks_for_date else None
        facts = [self.template.source, dict(self.template.variables), day]
        return sha256_bytes(json.dumps(facts, sort_keys=True).encode())

    def prompt(self, messages: Sequence[Message], *, context_length: int | None = None) -> list[int]:
        """The tokens after which the model gives its next answer.

        Args:
            messages: The conversation.
            context_length: Of the model; where a prompt is more than twice as long, and so of no use, it is
                not found out where its answers begin, which takes a rendering for each.

        Raises:
            DataError: The template refuses the conversation, or a message spells a control token and the
                template changes that message.
            CheckpointError: The template cannot be used.
        """
        plain = self.template.render(messages, opens_answer=True)
        parts = self._parts(messages, plain, opens_answer=True)
        if parts is None:
            self._refuse_control_tokens(messages, "the chat template changes messages")
            parts = [Part(plain)]
        elif context_length is None or not self._exceeds(parts, 2 * context_length):
            parts = self._with_openings(messages, plain, parts)
        return self._with_start([id_ for id_, _ in self._tokens(parts)])

    def encode(self, messages: Sequence[Message]) -> EncodedChat:
        """The tokens of a whole conversation; each answer includes the token that ends it.

        Raises:
            DataError: The template refuses the conversation, or changes it so that it is not exactly known
                which tokens are answers.
            CheckpointError: The template cannot be used.
        """
        plain = self.template.render(messages)
        answers = [number for number, message in enumerate(messages) if message.role == "assistant"]
        parts = self._parts(messages, plain)
        if parts is None or not set(answers) <= {part.message for part in parts}:
            are_learned = [messages[number].is_learned for number in answers]
            parts = self._generation_parts(messages, plain, are_learned)
        else:
            parts = self._with_openings(messages, plain, parts)
        tokens = list(self._tokens(parts))
        if tokens[-1][1] and tokens[-1][0] not in self._tokenizer.end_ids:
            tokens.append((self._tokenizer.end_of_text_id, True))
        ids = self._with_start([id_ for id_, _ in tokens])
        kinds = [GIVEN] * (len(ids) - len(tokens)) + [ANSWER if learned else GIVEN for _, learned in tokens]
        return EncodedChat(ids, [FIRST, *kinds[1:]])

    def _with_start(self, ids: list[int]) -> list[int]:
        """BOS where the model wants it, once: many templates write it themselves."""
        start = self._tokenizer.start_ids
        return ids if ids[: len(start)] == start else [*start, *ids]

    def _parts(
        self, messages: Sequence[Message], plain: str, *, opens_answer: bool = False
    ) -> list[Part] | None:
        """The rendering in parts; None where the template changes what a message says."""
        marks = _unused_marks(messages, 2 * len(messages))
        for mark in (_marked_whole, _marked_stripped):
            marked = [each._replace(content=mark(each.content, marks, n)) for n, each in enumerate(messages)]
            try:
                rendered = self.template.render(marked, opens_answer=opens_answer)
            except (DataError, CheckpointError):  # it looks at what is said
                continue
            parts = _unmarked(rendered, marks)
            if parts is not None and "".join(part.text for part in parts) == plain:
                return [part._replace(is_learned=_is_answer(messages, part)) for part in parts]
        return None

    def _generation_parts(
        self, messages: Sequence[Message], plain: str, are_learned: Sequence[bool]
    ) -> list[Part]:
        """The rendering in parts by what the template itself says is the model's.

        Raises:
            DataError: It does not say so of every answer, or a message spells a control token.
        """
        reason = "the chat template changes or leaves out an answer"
        self._refuse_control_tokens(messages, reason)
        start, end = _unused_marks(messages, 2)
        rendered = self.template.render(messages, generation_marks=(start, end))
        first, *others = rendered.split(start)
        if rendered.replace(start, "").replace(end, "") != plain or len(others) != len(are_learned):
            raise DataError(f"{reason}, so it is not known which tokens to train on")
        parts = [Part(first)]
        for each, is_learned in zip(others, are_learned, strict=True):
            answer, _, rest = each.partition(end)
            parts += [Part(answer, is_learned=is_learned), Part(rest)]
        return parts

    def _with_openings(self, messages: Sequence[Message], plain: str, parts: Sequence[Part]) -> list[Part]:
        """The parts, to be learned from where the model goes on by itself when it is asked for an answer.

        Some templates write more there before what the message says, such as an empty block of thoughts.
        """
        numbers = iter(number for number, message in enumerate(messages) if is_answer(message))
        opened: list[Part] = []
        place = 0
        for part in parts:
            if part.is_learned:
                number = part.message if part.message is not None else next(numbers)
                asked = self._asked(messages[:number])
                if asked is not None and plain.startswith(asked):
                    opened = _learned_at_end(opened, place - len(asked))
            opened.append(part)
            place += len(part.text)
        return opened

    def _asked(self, messages: Sequence[Message]) -> str | None:
        """What the model is given to answer these messages; None where the template cannot write it."""
        try:
            return self.template.render(messages, opens_answer=True)
        except (DataError, CheckpointError):
            return None

    def _exceeds(self, parts: Sequence[Part], most: int) -> bool:
        """Whether there are more than so many tokens; seldom counted, for few texts have more characters."""
        characters = sum(len(part.text) for part in parts)
        return characters > most and sum(1 for _ in self._tokens(parts)) > most

    def _refuse_control_tokens(self, messages: Sequence[Message], reason: str) -> None:
        for message in messages:
            for token in self._tokenizer.count_special(message.content):
                raise DataError(f"{reason}, and a message contains {token}, which would become that token")

    def _tokens(self, parts: Sequence[Part]) -> Iterator[tuple[int, bool]]:
        """Every token, and whether it is to be learned."""
        segment: list[tuple[str, bool]] = []
        continues = after_rstrip = False
        for atom, is_learned in self._atoms(parts):
            if isinstance(atom, str):
                segment.append((atom, is_learned))
                continue
            ends_answer = _follows_answer(segment) and self._may_end(atom)
            if ends_answer and not segment[-1][1]:
                segment[-1] = (segment[-1][0], True)  # the white space in between
            segment = _stripped(segment, start=after_rstrip, end=atom in self._tokenizer.lstrip_ids)
            yield from encode_pieces(self._tokenizer, segment, continues=continues)
            yield atom, is_learned or ends_answer
            segment, continues = [], self._tokenizer.kind.prefix_once
            after_rstrip = atom in self._tokenizer.rstrip_ids
        segment = _stripped(segment, start=after_rstrip, end=False)
        yield from encode_pieces(self._tokenizer, segment, continues=continues)

    def _may_end(self, token_id: int) -> bool:
        """Whether a control token may end an answer: not where it only starts the next turn."""
        return token_id in self._tokenizer.end_ids or token_id not in self._tokenizer.start_ids

    def _atoms(self, parts: Sequence[Part]) -> Iterator[tuple[str | int, bool]]:
        """Control tokens, which the template alone can write, and the texts between them."""
        for part in parts:
            atoms = self._tokenizer.split_special(part.text) if part.message is None else [part.text]
            yield from ((atom, part.is_learned) for atom in atoms)


class PromptEncoder:
    """Encodes a prompt and its completion as they are, for a model without a chat template."""

    adds_end_of_text = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    digest = "prompt and completion as they are"

    def encode(self, messages: Sequence[Message]) -> EncodedChat:
        """The tokens of both texts and of the end, the second text and the end to be learned.

        Raises:
            DataError: There are more or other messages than a prompt and its completion.
        """
        if [message.role for message in messages] != ["user", "assistant"]:
            raise DataError("the model has no chat template, so a prompt and a completion must be strings")
        pieces = [(message.content, is_answer(message)) for message in messages]
        tokens = list(encode_pieces(self._tokenizer, [piece for piece in pieces if piece[0]]))
        start = self._tokenizer.start_ids
        ids = [*start, *(id_ for id_, _ in tokens), self._tokenizer.end_of_text_id]
        kinds = [ANSWER if learned else GIVEN for _, learned in tokens]
        return EncodedChat(ids, [*[FIRST] * len(start), *kinds, ANSWER])


def conversation_encoder(
    formats: frozenset[ChatFormat], tokenizer: Tokenizer, *, model: str, day: date | None = None
) -> ConversationEncoder | None:
    """What turns conversations into a model's tokens; None where there are no conversations.

    Args:
        formats: How the conversations are kept.
        tokenizer: The model's.
        model: What to call it in a message.
        day: What a chat template gets when it asks for the date; None is today.

    Raises:
        UsageError: The model has no chat template, and the conversations are no plain prompts.
        CheckpointError: Its template cannot be used.
    """
    if not formats:
        return None
    template = find_template(tokenizer, day=day)
    if template is not None:
        return ChatEncoder(tokenizer, template)
    if formats == {ChatFormat.PROMPT}:
        return PromptEncoder(tokenizer)
    raise UsageError(
        f"{model} has no chat template, and the data contain conversations ({', '.join(sorted(formats))})",
        hint="use a chat model, such as smollm2; or keep the data as prompt and completion; or read one"
        f" column as plain text, with {option('column')}",
    )


def encode_record(encoder: ConversationEncoder, conversation: Conversation) -> EncodedChat:
    """The tokens of a conversation; an error says which one it is.

    Raises:
        DataError: It cannot be encoded.
        CheckpointError: The chat template cannot be used with it, and perhaps not at all.
    """
    try:
        return encoder.encode(conversation.messages)
    except DataError as error:
        raise DataError(f"{conversation.where}: {error}") from error
    except CheckpointError as error:
        hint = "if the template works for other records, change this one, or leave it out"
        raise CheckpointError(f"{conversation.where}: {error}", hint=hint) from error


def encode_pieces(
    tokenizer: Tokenizer, pieces: Sequence[tuple[str, bool]], *, continues: bool = False
) -> list[tuple[int, bool]]:
    """The tokens of texts that follow each other, each with its text's mark.

    They are those of the joined text, unless one would lie across the edge between two marks: then each text
    is encoded by itself.

    Args:
        tokenizer: Whose tokens.
        pieces: The texts and their marks.
        continues: Whether the first goes on from other text, so that no space is put before it.
    """
    encode = tokenizer.encode_continued if continues else tokenizer.encode
    merged = list(_merged(pieces))
    if not merged:
        return []
    whole = encode("".join(text for text, _ in merged))
    marks: list[bool] = []
    text = ""
    for piece, mark in merged[:-1]:
        text += piece
        before = encode(text)
        if whole[: len(before)] != before:
            return [
                (id_, mark)
                for number, (piece, mark) in enumerate(merged)
                for id_ in (tokenizer.encode_continued(piece) if number else encode(piece))
            ]
        marks += [mark] * (len(before) - len(marks))
    marks += [merged[-1][1]] * (len(whole) - len(marks))
    return list(zip(whole, marks, strict=True))


def _stripped(pieces: Sequence[tuple[str, bool]], *, start: bool, end: bool) -> list[tuple[str, bool]]:
    """The pieces without white space where the joined text starts, and without that where it ends."""
    joined = "".join(text for text, _ in pieces)
    first = len(joined) - len(joined.lstrip(WHITE_SPACE)) if start else 0
    last = len(joined.rstrip(WHITE_SPACE)) if end else len(joined)
    stripped: list[tuple[str, bool]] = []
    place = 0
    for text, mark in pieces:
        stripped.append((text[max(first - place, 0) : max(last - place, 0)], mark))
        place += len(text)
    return stripped


def _merged(pieces: Sequence[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """Neighbours with one mark as one."""
    text, mark = "", False
    for piece, its_mark in pieces:
        if text and its_mark != mark:
            yield text, mark
            text = ""
        text, mark = text + piece, its_mark
    if text:
        yield text, mark


@lru_cache(maxsize=8)  # a server needs it for every prompt
def _with_role_markers(tokenizer: Tokenizer, template: ChatTemplate) -> Tokenizer:
    """The tokenizer with a template's role markers as special tokens: some files do not mark them so."""
    markers = _role_markers(tokenizer, template)
    return tokenizer.with_special(markers) if markers else tokenizer


def _role_markers(tokenizer: Tokenizer, template: ChatTemplate) -> frozenset[str]:
    """Added tokens that the template puts around messages, such as ``<｜User｜>``.

    Those of a pair, such as ``<think>`` and ``</think>``, are parts of an answer, also where it writes them.
    """
    added = tokenizer.added_tokens
    candidates = [token for token in added if _NOT_A_WORD.search(token) and not _is_of_pair(token, added)]
    written = _written_by(template) if candidates else ""
    return frozenset(token for token in candidates if token in written)


def _is_of_pair(token: str, tokens: Collection[str]) -> bool:
    """Whether it is ``<x>`` or ``</x>``, and both are among the tokens."""
    rest = token.removeprefix("<").removeprefix("/")
    return token.startswith("<") and f"<{rest}" in tokens and f"</{rest}" in tokens


def _written_by(template: ChatTemplate) -> str:
    """What a template writes around a system message, a question, an answer and another question.

    Some templates take no system message, and some no more than a question.
    """
    turns = [Message(role, chr(_MARKS[0])) for role in ("system", "user", "assistant", "user")]
    for messages in (turns, turns[1:], turns[1:2]):
        with suppress(DataError, CheckpointError):
            return template.render(messages, opens_answer=True)
    return ""


def _is_answer(messages: Sequence[Message], part: Part) -> bool:
    return part.message is not None and is_answer(messages[part.message])


def _learned_at_end(parts: Sequence[Part], characters: int) -> list[Part]:
    """The parts, the last characters to be learned; as they are where a message says some of those."""
    if characters <= 0 or not parts or parts[-1].message is not None or len(parts[-1].text) < characters:
        return list(parts)
    *others, last = parts
    given, learned = last.text[:-characters], last.text[-characters:]
    return [*others, *([Part(given)] if given else []), Part(learned, is_learned=True)]


def _follows_answer(segment: Sequence[tuple[str, bool]]) -> bool:
    """Whether what comes after the segment comes right after an answer, but for white space."""
    texts = [piece for piece in segment if piece[0]]
    if len(texts) > 1 and not texts[-1][1] and not texts[-1][0].strip():
        texts.pop()
    return bool(texts) and texts[-1][1]


def _unused_marks(messages: Sequence[Message], count: int) -> list[str]:
    """So many characters that no message has.

    Raises:
        DataError: There are not so many.
    """
    used = set[str]().union(*(message.content for message in messages))
    marks = list(islice((mark for mark in map(chr, _MARKS) if mark not in used), count))
    if len(marks) < count:
        raise DataError(f"the conversation has more than {len(_MARKS) // 2:,} messages")
    return marks


def _marked_whole(content: str, marks: Sequence[str], number: int) -> str:
    return f"{marks[2 * number]}{content}{marks[2 * number + 1]}"


def _marked_stripped(content: str, marks: Sequence[str], number: int) -> str:
    """With the marks inside its outer white space, which many templates take away."""
    stripped = content.strip()
    before = content[: len(content) - len(content.lstrip())] if stripped else content
    return f"{before}{_marked_whole(stripped, marks, number)}{content[len(before) + len(stripped) :]}"


def _unmarked(rendered: str, marks: Sequence[str]) -> list[Part] | None:
    """The parts that marks tell apart; None where a mark is missing or stands in the wrong place."""
    parts: list[Part] = []
    numbers = {mark: number for number, mark in enumerate(marks)}
    seen = set[int]()
    start, within = 0, None
    for place, character in enumerate(rendered):
        if character not in numbers:
            continue
        number, closes = divmod(numbers[character], 2)
        if (within != number) if closes else (within is not None or number in seen):
            return None
        parts.append(Part(rendered[start:place], within))
        within = None if closes else number
        seen.add(number)
        start = place + 1
    if within is not None:
        return None
    return [part for part in [*parts, Part(rendered[start:])] if part.text]
