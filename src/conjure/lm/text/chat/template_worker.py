"""The process that renders chat templates: a template is a program, and this is where it may go wrong.

Main entry: `main`, run as a script by `conjure.lm.text.chat.template`. Every line of standard input asks for
one rendering, and every line of standard output answers one. Invariants: a template cannot change anything
outside its own rendering (jinja2's immutable sandbox); one that uses too much CPU time or memory ends this
process or its own rendering, and nothing else.
"""

import json
import resource
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MEMORY_BYTES = 1 << 30
_CPU_SECONDS = 2.0
_OUTPUT_CHARACTERS = 1 << 24
_FAILURES = (
    TemplateError,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)


class RefusalError(TemplateError):
    """A template called ``raise_exception``."""


class _TooLongError(Exception):
    pass


class GenerationBlock(Extension):
    """``{% generation %}…{% endgeneration %}``: what a template says is the model's own text.

    The variables ``generation_start`` and ``generation_end`` are put around it.
    """

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """The block's content between the two variables."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        start, end = (nodes.Output([nodes.Name(f"generation_{side}", "load")]) for side in ("start", "end"))
        return nodes.Scope([start, *body, end]).set_lineno(line)


def main() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is for the program that asks
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS)  # its signal ends the process, even inside C code
        answer = _answer(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"text": _render(request)}
    except RefusalError as error:
        return {"refused": str(error)}
    except _TooLongError:
        return {"failed": f"writes more than {_OUTPUT_CHARACTERS:,} characters"}
    except MemoryError:
        return {"failed": f"needs more than {_MEMORY_BYTES >> 20:,} MiB of memory"}
    except _FAILURES as error:
        return {"failed": f"fails: {' '.join(str(error).split()) or type(error).__name__}"}


def _render(request: dict[str, Any]) -> str:
    now = datetime.fromisoformat(request["date"])
    variables = {**request["variables"], "strftime_now": now.strftime}
    parts, size = [], 0
    for part in _compiled(request["template"]).generate(variables):
        size += len(part)
        if size > _OUTPUT_CHARACTERS:
            raise _TooLongError
        parts.append(part)
    return "".join(parts)


@lru_cache(maxsize=8)
def _compiled(source: str) -> Template:
    return environment().from_string(source)


def environment() -> Environment:
    """Jinja2 as model makers expect it: the switches and functions of transformers, in a sandbox."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # plain text for a model, not HTML
        extensions=[GenerationBlock, loopcontrols],
    )
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _refuse
    return made


def _refuse(message: str) -> None:
    raise RefusalError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # by position too, as templates may have it
    indent: int | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=(separators[0], separators[1]) if separators is not None else None,
        sort_keys=sort_keys,
    )


if __name__ == "__main__":
    main()
