"""Chat templates: a conversation as the text that a model was trained to see.

Main entries: `ChatTemplate.render`, `find_template`, `template_source`. A template comes with a model and is
a program, so it is rendered in a process of its own (`conjure.lm.text.chat.template_worker`), in jinja2's
immutable sandbox, with bounds on its size, its output, its memory and its CPU time. Invariant: equal
messages, template and date give equal text, today and later.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from conjure.core.text import today
from conjure.errors import CheckpointError, DataError
from conjure.lm.text.chat.formats import Message
from conjure.lm.text.special_tokens import LARGEST_TEMPLATE
from conjure.lm.text.tokenizer import Tokenizer

_WORKER = Path(__file__).with_name("template_worker.py")
_DEFAULT_NAME = "default"  # of several templates


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template.

    Attributes:
        source: The jinja2 text.
        variables: Special tokens by the names that templates use for them.
        day: What the template gets when it asks for the date.
    """

    source: str
    variables: Mapping[str, str] = field(hash=False)
    day: date

    @property
    def asks_for_date(self) -> bool:
        """Whether what it writes may depend on the date."""
        return "strftime_now" in self.source

    def render(
        self,
        messages: Sequence[Message],
        *,
        opens_answer: bool = False,
        generation_marks: tuple[str, str] = ("", ""),
    ) -> str:
        """The conversation as text, control tokens spelled out.

        Args:
            messages: The conversation.
            opens_answer: End with what stands before an answer, so that the model gives one.
            generation_marks: What to put before and after each part that the template itself says is the
                model's (``{% generation %}``).

        Raises:
            DataError: The template refuses the conversation.
            CheckpointError: The template is no valid one, or exceeds its bounds.
        """
        variables = {
            "tools": None,
            "documents": None,
            **self.variables,
            "messages": [{"role": each.role, "content": each.content} for each in messages],
            "add_generation_prompt": opens_answer,
            "generation_start": generation_marks[0],
            "generation_end": generation_marks[1],
        }
        request = {"template": self.source, "variables": variables, "date": self.day.isoformat()}
        answer = _worker.ask(request)
        if "refused" in answer:
            raise DataError(f"the chat template refuses the conversation: {answer['refused']}")
        if "failed" in answer:
            raise CheckpointError(f"the model's chat template {answer['failed']}")
        return answer["text"]


def find_template(tokenizer: Tokenizer, *, day: date | None = None) -> ChatTemplate | None:
    """The chat template of a model; None where it has none.

    Args:
        tokenizer: The model's own.
        day: What the template gets when it asks for the date; None is today.

    Raises:
        CheckpointError: The template is too large, or none of several is the one to use.
    """
    source = template_source(tokenizer)
    if source is None:
        return None
    if len(source) > LARGEST_TEMPLATE:
        raise CheckpointError(
            f"the model's chat template is larger than {LARGEST_TEMPLATE:,} characters, the most allowed"
        )
    variables = tokenizer.named_special_tokens
    return ChatTemplate(source, variables, day if day is not None else today())


def template_source(tokenizer: Tokenizer) -> str | None:
    """The text of a model's chat template, of its only one or of several named ones; None where it has none.

    Raises:
        CheckpointError: None of several is the one to use.
    """
    found = tokenizer.chat_template
    if found is None or isinstance(found, str):
        return found or None
    pairs = found if isinstance(found, list) else [found]
    named = {each.get("name"): each.get("template") for each in pairs if isinstance(each, dict)}
    source = named.get(_DEFAULT_NAME)
    if isinstance(source, str):
        return source
    raise CheckpointError(
        f"the model has several chat templates and none of them is named {_DEFAULT_NAME!r}",
        hint="keep the one to use as chat_template.jinja",
    )


class _Worker:
    """The rendering process, started when it is needed and started again when a template has ended it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, request: Mapping[str, Any]) -> dict[str, str]:
        """The answer to a request, as the worker gives it."""
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            try:
                answer = self._exchange(line)
            except BaseException:
                self.close()  # an answer may still be on its way
                raise
            if not answer:
                self.close()
        if not answer:
            return {"failed": "runs too long and was stopped"}
        return json.loads(answer)

    def _exchange(self, line: bytes) -> bytes:
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except BrokenPipeError:
            return b""
        return process.stdout.readline()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            if self._owner == os.getpid():
                self.close()
            self._owner = os.getpid()  # after a fork the other process's pipes are not this one's
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        process.wait()


_worker = _Worker()
atexit.register(_worker.close)
