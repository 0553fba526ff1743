"""The formats in which people keep conversations, told apart by their keys.

Main entries: `find_format`, `read_conversation`, `text_of_content`. Invariants: a conversation that comes out
has an answer to learn, and its roles are in order: a system message may come first, then user and assistant
take turns; and nothing that is part of a conversation is left out of it: what cannot be kept is a fault.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from conjure.lm.text.table_reader import ColumnSample, Fault


class Message(NamedTuple):
    """One turn of a conversation.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        content: What is said.
        is_learned: Of the assistant's, whether a model is to learn to say it.
    """

    role: str
    content: str
    is_learned: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """A record that is a conversation.

    Attributes:
        messages: Its turns.
        where: File and line, for a message about it.
        source_index: Which of the sources holds it.
        number: Its line or row there, from 1.
    """

    messages: tuple[Message, ...]
    where: str
    source_index: int = 0
    number: int = 0

    @property
    def text(self) -> str:
        """What is said, the system's message left out: by this, conversations are compared."""
        return "\n".join(message.content for message in self.messages if message.role != "system")

    @property
    def answers(self) -> Iterator[str]:
        """What the assistant says and a model is to learn."""
        return (message.content for message in self.messages if is_answer(message))


class ChatFormat(StrEnum):
    """How a table holds conversations; the values are what a person is shown."""

    MESSAGES = "messages"
    SHAREGPT = "ShareGPT conversations"
    PROMPT = "prompt/completion"
    ALPACA = "Alpaca instruction/output"


_TURNS = ("user", "assistant")
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}


# Keys of a record and of a message whose values are part of a conversation that cannot be kept.
_MEDIA = dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), Fault.MEDIA)
_OF_RECORDS = {"tools": Fault.TOOLS, "functions": Fault.TOOLS, **_MEDIA}
_OF_MESSAGES = {
    "tool_calls": Fault.TOOLS,
    "function_call": Fault.TOOLS,
    "reasoning_content": Fault.REASONING,
    "reasoning": Fault.REASONING,
    "thinking": Fault.REASONING,
    **_MEDIA,
}
_SYSTEM = ("system", "system_prompt")  # keys of a record
# Those of which nothing may be cut.
_READ = ("messages", "conversations", "prompt", "completion", "instruction", "input", "output", "history",
         *_SYSTEM, *_OF_RECORDS)  # fmt: skip
_SAYS_NOTHING = ("", "[]", "{}", "null")  # of a text that is JSON itself


def is_answer(message: Message) -> bool:
    """Whether a model is to learn a message."""
    return message.role == "assistant" and message.is_learned


def find_format(samples: Mapping[str, ColumnSample]) -> ChatFormat | None:
    """The format of a table; None for one that holds plain text.

    What few rows have says nothing of the others, as long as those have a text.

    Args:
        samples: What the first rows say of each column.
    """
    common = {name: each for name, each in samples.items() if each.is_common}
    names = common if any(each.holds_text for each in common.values()) else samples
    for name, format_ in (("messages", ChatFormat.MESSAGES), ("conversations", ChatFormat.SHAREGPT)):
        if name in names and not names[name].holds_text:
            return format_
    if {"prompt", "completion"} <= set(names):
        return ChatFormat.PROMPT
    if {"instruction", "output"} <= set(names):
        return ChatFormat.ALPACA
    return None


def read_conversation(record: Mapping[str, Any], format_: ChatFormat) -> tuple[Message, ...] | Fault:
    """The messages of a record, or the fault that it has instead."""
    cut = next((value for value in map(record.get, _READ) if isinstance(value, Fault)), None)
    fault = cut if cut is not None else _unkept(record, _OF_RECORDS)
    if fault is not None:
        return fault
    found = _turns(record, format_)
    if isinstance(found, Fault):
        return found
    for said in filter(_is_given, map(record.get, _SYSTEM)):
        if not isinstance(said, str):
            return Fault.NOT_TEXT
        if found[0].role != "system" or found[0].content.strip() != said.strip():
            found = (Message("system", said), *found)
    return _checked(found)


def text_of_content(content: Any) -> str | None:
    """What a message says by its content, a text or a list of parts; None where not all of it is text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part["text"] for part in parts if _is_text(part)]
    return "".join(texts) if texts and len(texts) == len(parts) else None


def _is_text(part: Any) -> bool:
    """Whether a part is text only: in tables it also has the keys of other parts, with nulls."""
    given = {name for name, value in part.items() if value is not None} if isinstance(part, dict) else set()
    return given == {"type", "text"} and part["type"] == "text" and isinstance(part["text"], str)


def _turns(record: Mapping[str, Any], format_: ChatFormat) -> tuple[Message, ...] | Fault:
    match format_:
        case ChatFormat.MESSAGES:
            return _messages(record.get("messages"))
        case ChatFormat.SHAREGPT:
            return _messages(record.get("conversations"))
        case ChatFormat.PROMPT:
            return _joined(record)
        case ChatFormat.ALPACA:
            return _of_alpaca(record)


def _unkept(values: Mapping[str, Any], faults: Mapping[str, Fault]) -> Fault | None:
    """The fault of a value that is part of the conversation and has no place in its messages."""
    return next((fault for key, fault in faults.items() if _is_given(values.get(key))), None)


def _is_given(value: Any) -> bool:
    """Whether a value says anything: tables fill what a record lacks with nulls, NaN and empty lists."""
    match value:
        case str():
            return value.strip() not in _SAYS_NOTHING
        case list():
            return any(map(_is_given, value))
        case dict():
            return any(map(_is_given, value.values()))
        case bool():
            return value
        case float():
            return not math.isnan(value)
    return value is not None


def _messages(value: Any) -> tuple[Message, ...] | Fault:
    if not isinstance(value, list) or not value:
        return Fault.MISSING_COLUMN if value is None else Fault.NOT_MESSAGES
    messages = []
    for each in value:
        if not isinstance(each, dict):
            return Fault.NOT_MESSAGES
        fault = _unkept(each, _OF_MESSAGES)
        if fault is not None:
            return fault
        role = each.get("role", each.get("from"))
        content = text_of_content(each.get("content", each.get("value")))
        if not isinstance(role, str) or role not in _ROLES:
            return Fault.UNKNOWN_ROLE
        if content is None:
            return Fault.NOT_TEXT
        weight = each.get("weight")
        if weight not in (None, 0, 1):
            return Fault.WEIGHT
        messages.append(Message(_ROLES[role], content, is_learned=weight != 0))
    return tuple(messages)


def _joined(record: Mapping[str, Any]) -> tuple[Message, ...] | Fault:
    """A prompt and its completion, each a text or a list of messages."""
    parts: list[Message] = []
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        value = record.get(name)
        if value is None:
            return Fault.NO_ANSWER if role == "assistant" else Fault.MISSING_COLUMN
        found = (Message(role, value),) if isinstance(value, str) else _messages(value)
        if isinstance(found, Fault):
            return found
        parts += found
    return tuple(parts)


def _of_alpaca(record: Mapping[str, Any]) -> tuple[Message, ...] | Fault:
    instruction, given, output = (record.get(name) for name in ("instruction", "input", "output"))
    if instruction is None or output is None:
        return Fault.NO_ANSWER if output is None else Fault.MISSING_COLUMN
    if not isinstance(instruction, str) or not isinstance(output, str):
        return Fault.NOT_TEXT
    if _is_given(given) and not isinstance(given, str):
        return Fault.NOT_TEXT
    earlier = _of_history(record.get("history"))
    if isinstance(earlier, Fault):
        return earlier
    asked = f"{instruction}\n\n{given}" if isinstance(given, str) and given.strip() else instruction
    return *earlier, Message("user", asked), Message("assistant", output)


def _of_history(value: Any) -> tuple[Message, ...] | Fault:
    """Earlier turns, which LLaMA-Factory keeps as pairs of a question and its answer."""
    if not _is_given(value):
        return ()
    pairs = value if isinstance(value, list) else [value]
    messages: list[Message] = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != len(_TURNS):
            return Fault.NOT_PAIRS
        if not all(isinstance(text, str) for text in pair):
            return Fault.NOT_TEXT
        messages += [Message(role, text) for role, text in zip(_TURNS, pair, strict=True)]
    return tuple(messages)


def _checked(messages: tuple[Message, ...]) -> tuple[Message, ...] | Fault:
    turns = [message.role for message in messages]
    turns = turns[1:] if turns[0] == "system" else turns
    if any(role != _TURNS[place % 2] for place, role in enumerate(turns)):
        return Fault.ROLES
    if not any(map(is_answer, messages)):
        return Fault.NO_ANSWER
    if any("\0" in message.content for message in messages):
        return Fault.NUL
    if any(not message.content.strip() for message in messages if message.role == "assistant"):
        return Fault.EMPTY_ANSWER
    return messages
