"""What the two scripts share: how they are called, what they say, and how they end.

Main entry: `run`. Invariant: a mistake is one sentence on stderr, never a traceback; only what the 2019
script printed goes to stdout.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from conjure.core.quoting import shell_words
from conjure.core.text import error_text
from conjure.errors import ConjureError, UsageError, out_of_memory, spell_in_python
from conjure.installation import install_command

_LANGUAGE_MODEL_HALF = ("torch", "numpy", "safetensors", "tokenizers", "huggingface_hub")
# What the flags of 2019 are called in conjure.
_FLAGS = {
    **{name: name for name in ("block_size", "learning_rate", "repetition_penalty", "seed", "temperature")},
    **{
        name: name
        for name in ("top_k", "top_p", "warmup_steps", "weight_decay", "max_grad_norm", "num_samples")
    },
    "batch_size": "per_gpu_train_batch_size",
    "epochs": "num_train_epochs",
    "max_new_tokens": "length",
    "max_steps": "max_steps",
    "model": "model_name_or_path",
    "output": "output_dir",
    "stop": "stop_token",
}
_LARGEST_SEED = 2**32 - 1  # numpy's, which they seeded too


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are conjure's errors."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            UsageError: Always.
        """
        raise UsageError(message, fix=f"python -m {self.prog} --help")


def run(program: str, script: Callable[[Sequence[str]], int], arguments: Sequence[str] | None = None) -> int:
    """Run a script to its end and give its exit status.

    Args:
        program: The module that it is.
        script: Takes the arguments, gives the exit status.
        arguments: Without the program's name; None takes this process's.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for letters that the locale does not have
    arguments = arguments if arguments is not None else sys.argv[1:]
    try:
        status = script(arguments)
        sys.stdout.flush()
    except ConjureError as error:
        return _report(error, program, arguments)
    except ModuleNotFoundError as error:
        if error.name not in _LANGUAGE_MODEL_HALF:
            raise
        missing = UsageError(f"{error.name} is not installed", fix=install_command("lm"))
        return _report(missing, program, arguments)
    except (MemoryError, RuntimeError) as error:
        told = out_of_memory(error)
        if told is None:
            raise
        return _report(told, program, arguments)
    except KeyboardInterrupt:
        say("Stopped.")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted; the rest must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = error.filename if error.filename else "the output cannot be written"
        return _report(ConjureError(f"{where}: {error_text(error)}"), program, arguments)
    return status


def _report(error: ConjureError, program: str, arguments: Sequence[str]) -> int:
    told = error.with_option_names(_spell)
    say(f"error: {told.message}")
    fix = told.fix
    if fix is not None and fix.startswith("-"):  # of an option that is given twice, the later value counts
        fix = f"{shell_words('python', '-m', program, *arguments)} {fix}"
    for label, advice in (("hint", told.hint), ("try", fix)):
        if advice:
            say(f"  {label}: {advice}")
    return error.exit_status


def _spell(name: str, values: tuple[object, ...]) -> str:
    """An option as a flag of 2019; one that the scripts do not have is told as Python has it."""
    if name not in _FLAGS:
        return spell_in_python(name, values)
    flag = f"--{_FLAGS[name]}"
    return " ".join(f"{flag} {shell_words(str(value))}" for value in values) if values else flag


def say(text: str) -> None:
    """Say something beside the result, on stderr."""
    print(text, file=sys.stderr, flush=True)


def check_model_type(model_type: str) -> None:
    """Refuse the architectures conjure does not run.

    Raises:
        UsageError: It is not ``gpt2``, in whatever case.
    """
    if model_type.lower() != "gpt2":
        raise UsageError(
            f"--model_type is {model_type!r}; conjure runs GPT-2 models",
            hint="--model_type=gpt2, with a GPT-2 model as --model_name_or_path",
        )


def check_seed(seed: int) -> None:
    """Refuse a seed the 2019 scripts could not use either.

    Raises:
        UsageError: It is not from 0 to 4294967295.
    """
    if not 0 <= seed <= _LARGEST_SEED:
        raise UsageError(f"--seed must be an integer from 0 to {_LARGEST_SEED}, not {seed}")
