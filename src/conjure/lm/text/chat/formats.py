"""The formats in which people keep conversations, told apart by their keys.

Main entries: `find_format`, `read_conversation`. Invariant: a conversation that comes out has an answer, and
its roles are in order: a system message may come first, then user and assistant take turns.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from conjure.lm.text.table_reader import Fault


class Message(NamedTuple):
    """One turn of a conversation.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        content: What is said.
    """

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A record that is a conversation.

    Attributes:
        messages: Its turns.
        where: File and line, for a message about it.
    """

    messages: tuple[Message, ...]
    where: str

    @property
    def text(self) -> str:
        """What is said, the system's message left out: by this, conversations are compared."""
        return "\n".join(message.content for message in self.messages if message.role != "system")

    @property
    def answers(self) -> Iterator[str]:
        """What the assistant says."""
        return (message.content for message in self.messages if message.role == "assistant")


class ChatFormat(StrEnum):
    """How a table holds conversations; the values are what a person is shown."""

    MESSAGES = "messages"
    SHAREGPT = "ShareGPT conversations"
    PROMPT = "prompt/completion"
    ALPACA = "Alpaca instruction/output"


_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}


def find_format(samples: Mapping[str, Sequence[str]]) -> ChatFormat | None:
    """The format of a table; None for one that holds plain text.

    Args:
        samples: Each column's first texts; none where it holds other things, such as lists.
    """
    names = set(samples)
    for name, format_ in (("messages", ChatFormat.MESSAGES), ("conversations", ChatFormat.SHAREGPT)):
        if name in names and not samples[name]:
            return format_
    if {"prompt", "completion"} <= names:
        return ChatFormat.PROMPT
    if {"instruction", "output"} <= names:
        return ChatFormat.ALPACA
    return None


def read_conversation(record: Mapping[str, Any], format_: ChatFormat) -> tuple[Message, ...] | Fault:
    """The messages of a record, or the fault that it has instead."""
    match format_:
        case ChatFormat.MESSAGES:
            found = _messages(record.get("messages"))
        case ChatFormat.SHAREGPT:
            found = _messages(record.get("conversations"))
        case ChatFormat.PROMPT:
            found = _joined(record)
        case ChatFormat.ALPACA:
            found = _of_alpaca(record)
    return found if isinstance(found, Fault) else _checked(found)


def _messages(value: Any) -> tuple[Message, ...] | Fault:
    if not isinstance(value, list) or not value:
        return Fault.MISSING_COLUMN if value is None else Fault.NOT_MESSAGES
    messages = []
    for each in value:
        if not isinstance(each, dict):
            return Fault.NOT_MESSAGES
        role = each.get("role", each.get("from"))
        content = each.get("content", each.get("value"))
        if not isinstance(role, str) or role not in _ROLES:
            return Fault.UNKNOWN_ROLE
        if not isinstance(content, str):
            return Fault.NOT_TEXT
        messages.append(Message(_ROLES[role], content))
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
    if given is not None and not isinstance(given, str):
        return Fault.NOT_TEXT
    asked = f"{instruction}\n\n{given}" if given and given.strip() else instruction
    return Message("user", asked), Message("assistant", output)


def _checked(messages: tuple[Message, ...]) -> tuple[Message, ...] | Fault:
    turns = [message.role for message in messages]
    turns = turns[1:] if turns[0] == "system" else turns
    if any(role != ("user", "assistant")[place % 2] for place, role in enumerate(turns)):
        return Fault.ROLES
    if not any(message.role == "assistant" for message in messages):
        return Fault.NO_ANSWER
    if any("\0" in message.content for message in messages):
        return Fault.NUL
    if any(not message.content.strip() for message in messages if message.role == "assistant"):
        return Fault.EMPTY_ANSWER
    return messages
