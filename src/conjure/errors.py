"""Every error conjure raises on purpose, in one tree.

    ConjureError
    ├── UsageError             what was asked for cannot be (exit status 2)
    ├── NotFoundError          a run, resource, model or file that is not there
    ├── ConflictError          it is there already, or something still needs it
    ├── DataError              text that cannot be read or holds nothing usable
    ├── CheckpointError        a model folder that is incomplete, damaged or of a refused kind
    ├── ModelError             a model that cannot be built or asked this
    │   ├── ShapeError         tensors whose shapes do not fit together
    │   └── ContextLengthError more tokens than the model has positions for
    ├── TrainingError          training cannot start or go on
    ├── StoreError             conjure's own database or home folder is unusable
    ├── RunFailedError         a run ended in another way than `complete`
    └── ExecutorError          a run could not be executed
        ├── SnapshotError      the code could not be recorded
        ├── BuildError         the environment could not be built
        └── MountError         a resource could not be mounted

A message says what failed, the value seen and what is allowed; `fix` is what to type next, `hint` what to do.
What was asked for has a name in each interface: ``--max-new-tokens 5`` in a terminal, ``max_new_tokens=5`` in
Python, a key in JSON. So a message names it with `option`, and whoever tells the error spells it
(`ConjureError.with_option_names`); what tells nothing else spells as Python does.
"""

import json
import re
from collections.abc import Callable
from typing import NamedTuple

_BEGIN, _VALUE, _END = "\ue000", "\ue001", "\ue002"  # of characters that no text has
_NAMED = re.compile(f"{_BEGIN}([^{_VALUE}]*){_VALUE}([^{_END}]*){_END}")

_NO_MEMORY = ("can't allocate memory", "out of memory")

# Spells an option: its name as Python has it, and its values; none where only the name is told.
Spell = Callable[[str, tuple[object, ...]], str]


def option(name: str, *values: str | float | bool) -> str:
    """An option in the text of an error, to be spelled by the interface that tells it.

    Args:
        name: Its name in Python, such as ``max_new_tokens``.
        *values: What to give it, True for one that is only switched on; none where only its name is told.
    """
    return f"{_BEGIN}{name}{_VALUE}{json.dumps(values)}{_END}"


def spell_in_python(name: str, values: tuple[object, ...]) -> str:
    """An option as an argument: ``max_new_tokens=5``."""
    if not values:
        return name
    return f"{name}={values[0]!r}" if len(values) == 1 else f"{name}={list(values)!r}"


def _spell_as_flag(name: str, values: tuple[object, ...]) -> str:
    """An option as a flag: ``--max-new-tokens 5``."""
    flag = f"--{name.replace('_', '-')}"
    return " ".join(f"{flag} {value}" for value in values if value is not True) or flag


def _spelled(text: str, spell: Spell) -> str:
    return _NAMED.sub(lambda found: spell(found[1], tuple(json.loads(found[2]))), text)


class ErrorText(NamedTuple):
    """An error in the words of one interface."""

    message: str
    fix: str | None
    hint: str | None


class ConjureError(Exception):
    """Base of every error that is somebody's to act on, as opposed to a bug.

    Attributes:
        code: Stable name for programs (``--json`` output); never changes once released.
        exit_status: What a command line ends with.
        field: Name of the option that is wrong, as Python has it; None where it is none's fault.
        unspelled: Message, fix and hint for another error to be made of; options in them are still to be
            spelled.
        fix: A command that works as it stands, or options to add to the one that was typed; None where there
            is none. Names in it are quoted (`conjure.core.quoting.shell_words`).
        hint: What to do, in words, where no command does it or it is not enough.
    """

    code = "error"
    exit_status = 1

    def __init__(
        self, message: str, *, field: str | None = None, fix: str | None = None, hint: str | None = None
    ) -> None:
        self.unspelled = ErrorText(message, fix, hint)
        told = self.with_option_names(spell_in_python)
        super().__init__(told.message)
        named = _NAMED.search(message)
        self.field = field if field is not None or named is None else named[1]
        self.fix = told.fix
        self.hint = told.hint

    def with_option_names(self, spell: Spell) -> ErrorText:
        """The error as an interface tells it that spells options so."""
        message, fix, hint = self.unspelled
        return ErrorText(
            _spelled(message, spell),
            None if fix is None else _spelled(fix, spell),
            None if hint is None else _spelled(hint, spell),
        )

    def in_full(self) -> str:
        """What failed and what to do, in one text, for a record that any interface may show later.

        Options are spelled as on the command line, which is where most read it.
        """
        message, fix, hint = self.with_option_names(_spell_as_flag)
        advice = "; ".join(filter(None, (hint, fix and f"try: {fix}")))
        return f"{message} ({advice})" if advice else message


def out_of_memory(error: Exception) -> ConjureError | None:
    """The error to tell where memory has run out; None where that is not what happened."""
    # torch says so in a RuntimeError, and is not imported here to ask.
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    ):
        return ConjureError(
            "not enough memory: use a smaller model, fewer samples at a time, or a smaller batch"
        )
    return None


class UsageError(ConjureError):
    """What was asked for cannot be: a bad value, a contradiction, an unknown option."""

    code = "usage"
    exit_status = 2


class NotFoundError(ConjureError):
    """A run, resource, model or file that is not there."""

    code = "not_found"


class ConflictError(ConjureError):
    """Something is there already, or something else still needs it."""

    code = "conflict"


class DataError(ConjureError):
    """Text that cannot be read, or that holds nothing usable."""

    code = "data"


class CheckpointError(ConjureError):
    """A model folder that is incomplete, damaged, or of a kind that is refused."""

    code = "checkpoint"


class ModelError(ConjureError):
    """A model that cannot be built, or that cannot do what was asked of it."""

    code = "model"


class ShapeError(ModelError):
    """Tensors whose shapes do not fit together."""

    code = "shape"


class ContextLengthError(ModelError):
    """More tokens than the model has positions for."""

    code = "context_length"


class TrainingError(ConjureError):
    """Training cannot start, or cannot go on."""

    code = "training"


class StoreError(ConjureError):
    """conjure's own database or home folder cannot be used."""

    code = "store"


class RunFailedError(ConjureError):
    """A run ended in another way than `complete`."""

    code = "run_failed"


class ExecutorError(ConjureError):
    """A run could not be executed."""

    code = "executor"


class SnapshotError(ExecutorError):
    """The code a run should start from could not be recorded."""

    code = "snapshot"


class BuildError(ExecutorError):
    """The environment a run asked for could not be built."""

    code = "build"


class MountError(ExecutorError):
    """A resource could not be put in a run's working folder."""

    code = "mount"
