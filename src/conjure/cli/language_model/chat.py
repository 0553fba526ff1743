"""What `conjure chat` does: reads messages, shows answers as they come, remembers both.

Main entries: `chat`, `Chat`. Invariant: stdout holds the answers and nothing else.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import date
from itertools import count
from typing import BinaryIO

import click

from conjure.cli.render import note, visible
from conjure.errors import ConjureError, ContextLengthError, DataError
from conjure.lm.generation.engine_loading import LoadedEngine, load_engine
from conjure.lm.generation.generate import Sample, stream
from conjure.lm.generation.request import LARGEST_SEED, EncodedPrompt, GenerationRequest
from conjure.lm.text.chat.encoding import ChatEncoder
from conjure.lm.text.chat.formats import Message
from conjure.lm.text.encodings import strip_byte_order_marks
from conjure.recipes.resource_lookup import data_path, model_lookup

_COMMAND = re.compile(r"/[a-z]+\s*")
_RESET = "/reset"
_ANSWER_SHARE = 4  # a part of so many of the context is kept for an answer, if that may be so long


def chat(request: GenerationRequest, *, model: str, adapter: str | None, precision: str, day: date) -> int:
    """Chat until the messages end; the exit status.

    Args:
        request: How to write; its prompts are not looked at.
        model: A name, a folder, a resource or a hub model.
        adapter: A PEFT folder or resource whose LoRA weights to merge into it.
        precision: Number format of the weights.
        day: What a chat template gets that asks for the date.
    """
    loaded = load_engine(
        model,
        precision=precision,
        adapter=data_path(adapter) if adapter is not None else None,
        lookups=[model_lookup],
    )
    encoder = ChatEncoder.of(loaded.tokenizer, model=model, day=day)
    talk = Chat(loaded, encoder, request)
    note(f"{loaded.origin} · {loaded.precision} · seed {request.seed} · /reset starts over, ^D exits")
    is_typed = sys.stdin.isatty()
    for message in _typed() if is_typed else _lines(sys.stdin.buffer):
        if message.strip() == _RESET:
            talk.reset()
            note("A new conversation.")
        elif _COMMAND.fullmatch(message):
            note(f"There is no command {message.strip()}; {_RESET} starts over, ^D exits.")
        elif is_typed:
            _answer_typed(talk, message)
        else:
            _answer(talk, message)
    return 0


class Chat:
    """A conversation as it goes on.

    Attributes:
        request: How answers are written; its prompts are not looked at.
        messages: What has been said so far.
        left_out: How many of the oldest messages the latest answer was given without.
        longest: How many tokens the latest answer could have.
        finish_reason: Why the latest answer ended; None if it was interrupted.
    """

    def __init__(self, loaded: LoadedEngine, encoder: ChatEncoder, request: GenerationRequest) -> None:
        self.messages: list[Message] = []
        self.left_out = 0
        self.longest = request.max_new_tokens
        self.finish_reason: str | None = None
        self.request = request
        self._forgotten = 0  # oldest messages that no later answer can be given with either
        self._loaded, self._encoder = loaded, encoder
        self._answers = 0

    def reset(self) -> None:
        """Forget what was said."""
        self.messages, self._forgotten = [], 0

    def answer(self, message: str) -> Iterator[str]:
        """The answer to a message, piece by piece; what was written until an interrupt is remembered.

        Raises:
            DataError: The chat template refuses the conversation.
            ContextLengthError: The message does not fit the model's context.
        """
        prompt = self._prompt([*self.messages, Message("user", message)])
        request = replace(
            self.request,
            max_new_tokens=self.longest,
            prompts=[EncodedPrompt(message, prompt)],
            seed=(self.request.seed + self._answers) % (LARGEST_SEED + 1),
        )
        self._answers += 1
        self.finish_reason = None
        pieces: list[str] = []
        try:
            for event in stream(self._loaded.engine, self._loaded.tokenizer, request):
                if isinstance(event, Sample):
                    self.finish_reason = event.finish_reason
                elif event.text:
                    pieces.append(event.text)
                    yield event.text
        finally:
            self.messages += [Message("user", message), Message("assistant", "".join(pieces))]
            self._forgotten = self.left_out

    def _prompt(self, messages: list[Message]) -> list[int]:
        """The conversation in tokens, without its oldest messages where they leave too little for an answer.

        Raises:
            ContextLengthError: The last message alone does not fit the context.
        """
        context = self._loaded.engine.context_length
        wanted = min(self.request.max_new_tokens, context // _ANSWER_SHARE)
        self.left_out = self._forgotten
        while True:
            ids = self._encoder.prompt(messages[self.left_out :], context_length=context)
            room = context - len(ids)
            if room >= wanted or self.left_out + 2 > len(messages) - 1:
                break
            self.left_out += 2  # a message and its answer
        if room < 1:
            raise ContextLengthError(
                f"the message is {len(ids):,} tokens long; the model's context is {context:,}"
            )
        self.longest = min(self.request.max_new_tokens, room)
        return ids


def _answer_typed(talk: Chat, message: str) -> None:
    """Answer somebody who can go on after an interrupt or an error."""
    try:
        _answer(talk, message)
    except KeyboardInterrupt:
        _end_answer(talk)
    except ConjureError as error:
        note(f"{error}; {_RESET} starts over.")


def _answer(talk: Chat, message: str) -> None:
    """Show the answer to a message.

    Raises:
        ConjureError: See `Chat.answer`.
    """
    for piece in talk.answer(message):
        click.echo(visible(piece), nl=False)
        sys.stdout.flush()
    _end_answer(talk)


def _end_answer(talk: Chat) -> None:
    """End the line of an answer, and say what is worth knowing about it."""
    click.echo()
    if talk.left_out:
        note(f"The conversation exceeds the context: its first {talk.left_out} messages were left out.")
    if talk.finish_reason == "length":
        is_full = talk.longest < talk.request.max_new_tokens
        limit = "at the end of the context" if is_full else "at the maximum length (--length)"
        note(f"The answer was cut off {limit}.")


def _lines(file: BinaryIO) -> Iterator[str]:
    """The lines of standard input; blank ones are no messages."""
    return (text for text in map(_decoded, file, count(1)) if text.strip())


def _typed() -> Iterator[str]:
    """What is typed, message by message; blank ones are none."""
    with suppress(ImportError):  # lines can be edited and called back where Python has it
        import readline

        readline.parse_and_bind("set enable-bracketed-paste on")  # several pasted lines are one message
    while True:
        try:
            line = _asked()
        except EOFError:
            click.echo(err=True)
            return
        except UnicodeDecodeError as error:
            note(f"That is not UTF-8 text: byte {error.start + 1} cannot be read.")
            continue
        except KeyboardInterrupt:
            click.echo(err=True)
            continue
        if line.strip():
            yield line


def _asked() -> str:
    """The line that is typed; the prompt goes where it is seen, and into no file with the answers."""
    if sys.stdout.isatty():
        return input("> ")
    click.echo("> ", nl=False, err=True)
    return input()


def _decoded(line: bytes, number: int) -> str:
    try:
        return strip_byte_order_marks(line.decode()).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"standard input is not UTF-8 text: byte {error.start + 1:,} of line {number:,} cannot be read"
        ) from error
