"""Language-model commands as runs: conjure itself is the command, its inputs are mounts.

Main entries: `conjure_command_spec`, `command_to_type`, `with_set_precision`. Invariant: a recorded command
reads nothing by a resource's name; every resource and every local file it was given is mounted, so that
lineage shows the chain and a rerun finds the same bytes.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from conjure.core.config import load_config
from conjure.core.files import expand_user
from conjure.core.home import Home
from conjure.core.quoting import shell_words
from conjure.errors import NotFoundError, UsageError
from conjure.metric_logging import inside_a_run
from conjure.recipes.options import NAMING_DATA, option_words
from conjure.recipes.resource_lookup import checkpoint_resource, is_resource
from conjure.runs.schema.spec import CodeChoice, ComputeRequest, Mount, RunSpec, current_folder

MODEL_MOUNT = "model"
UNRECORDED_INPUT = "text on standard input cannot be recorded"
_AUTO = "auto"
_TAKES_MOUNTS = ("finetune", "generate", "score")  # kinds of run whose inputs are mounts
_NAMING_FLAGS = tuple(f"--{name}=" for name in NAMING_DATA)


@dataclass
class InputMounts:
    """Collects what a command is given, and says under which name the run will find it.

    Attributes:
        mounts: What must be mounted.
    """

    home: Home
    mounts: list[Mount] = field(default_factory=list)

    def data(self, name: str) -> str:
        """A data file, by the name it has in the run; folders stay where they are.

        Raises:
            UsageError: It is standard input, which a run cannot be given.
            NotFoundError: There is no such file or folder.
        """
        if name == "-":
            raise UsageError(UNRECORDED_INPUT, hint="save it to a file")
        if is_resource(self.home, name):
            return self._mount(name, Path(name).name)
        path = expand_user(name).absolute()
        if not path.exists():
            raise NotFoundError(f"{name} does not exist")
        return self._mount(str(path), path.name) if path.is_file() else str(path)

    def model(self, name: str) -> str:
        """A model, by the name it has in the run; other names and local paths stay as they are."""
        if is_resource(self.home, name):
            return self._mount(checkpoint_resource(self.home, name), MODEL_MOUNT)
        path = expand_user(name)
        return str(path.absolute()) if path.is_dir() or path.is_file() else name

    def option_words(
        self, options: Mapping[str, object], placeholders: Mapping[str, str] | None = None
    ) -> list[str]:
        """Options as words of the command line, those that name data by the names it has in the run.

        Args:
            options: By their names in Python.
            placeholders: Options whose values are texts with ``:NAME:`` in them, for the run's params; they
                come last, in place of those in `options`.

        Raises:
            ConjureError: What an option names is not there.
        """
        swept = placeholders or {}
        given = {name: value for name, value in options.items() if name not in swept}
        plain = {name: value for name, value in given.items() if name not in NAMING_DATA}
        naming = {name: self.data(str(given[name])) for name in NAMING_DATA if given.get(name) is not None}
        return option_words({**plain, **naming, **swept})

    def _mount(self, source: str, target: str) -> str:
        taken = {mount.target for mount in self.mounts}
        number, free = 2, target
        while free in taken:
            free, number = f"{number}-{target}", number + 1
        self.mounts.append(Mount(source, free, read_only=True))
        return f"./{free}" if free.startswith("-") else free  # else it would be read as an option


def with_set_precision(home: Home, options: Mapping[str, object]) -> dict[str, object]:
    """The options with the number format that is set, if they leave it open: a rerun then has the same one.

    Args:
        options: By their names in Python; None is as good as not given.

    Raises:
        UsageError: A file or variable sets what is not allowed.
    """
    if options.get("precision") not in (None, _AUTO) or inside_a_run():
        return dict(options)
    precision = load_config(home, current_folder()).values["precision"]
    return dict(options) if precision == _AUTO else {**options, "precision": precision}


def path_with_own_python() -> str:
    """``PATH`` with the Python that this process runs on first: it may be in no folder of the user's own."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def conjure_command_spec(
    kind: str,
    arguments: Sequence[str],
    mounts: Sequence[Mount],
    *,
    description: str = "",
    labels: Sequence[str] = (),
    checkpoint: Sequence[str] = (),
) -> RunSpec:
    """The run of a conjure command, in an empty folder, with the Python that this process runs on.

    Args:
        kind: The verb: ``finetune``, ``generate``, ``score``.
        arguments: What follows it, by the names things have in the run.
        mounts: What the run needs.
        description: What it is for; by default the version of conjure, which is the run's code.
        labels: Names to find it by.
        checkpoint: Globs of files that another attempt is given.
    """
    return RunSpec(
        command=("conjure", kind, *arguments),
        folder=Path.cwd(),
        kind=kind,
        code=CodeChoice(none=True),
        mounts=tuple(mounts),
        variables={"PATH": path_with_own_python()},
        description=description if description else _own_version(),
        labels=tuple(labels),
        checkpoint=tuple(checkpoint),
    )


def command_to_type(spec: RunSpec) -> str:
    """The command of a run as a line to type, outside of the run.

    One of conjure's own names its inputs as they were given, and has ``--save`` in place of its file.
    """
    if spec.kind not in _TAKES_MOUNTS:
        return spec.command_text
    words = list(spec.command)
    ends_in_text = spec.kind == "generate" or "--text" in words
    end = words.index("--") if ends_in_text and "--" in words else len(words)
    inputs = {mount.target: mount.resource for mount in spec.mounts}
    inputs |= {f"./{target}": resource for target, resource in inputs.items()}
    given = [_as_given(word, inputs) for word in words[:end]]
    if spec.kind != "finetune":
        place = given.index("--output")
        given[place : place + 2] = ["--save"]
    return shell_words(*given, *words[end:])


def _as_given(word: str, inputs: Mapping[str, str]) -> str:
    """A word of a run's command, with what was given for the mount that it names."""
    flag = next(filter(word.startswith, _NAMING_FLAGS), "")
    name = word.removeprefix(flag)
    return f"{flag}{inputs.get(name, name)}"


def _own_version() -> str:
    from importlib.metadata import version  # milliseconds that only these runs need pay

    return f"conjure {version('conjure')}"


def placed(spec: RunSpec, on: str | None, resources: ComputeRequest) -> RunSpec:
    """The same run where it is wanted.

    Args:
        spec: As `conjure_command_spec` has it.
        on: An executor, whose nodes have a conjure of their own; this machine if None.
        resources: What it needs there.
    """
    variables = spec.variables
    if on is not None:
        variables = {name: value for name, value in variables.items() if name != "PATH"}
    return replace(spec, on=on, resources=resources, variables=variables)
