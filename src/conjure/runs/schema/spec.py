"""What a run is asked to be: one frozen description, built the same way by the CLI and the Python client.

Main entry: `RunSpec`. Invariant: a `RunSpec` that exists is valid; every fault is found when it is made, and
all of them are reported at once. What is stored of it (`to_dict`) never holds a secret.
"""

import posixpath
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from conjure.core.config import PYTHON_VERSION
from conjure.core.files import expand_user
from conjure.core.secrets import STARS, Redaction
from conjure.core.units import LARGEST_NUMBER, LONGEST_S
from conjure.errors import UsageError, option
from conjure.runs.schema.argv import fill_in
from conjure.runs.schema.stop_conditions import parse_stop_condition

_VARIABLES = "variables."  # begins the name of a variable that is withheld
_PARAM_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_COLON = re.compile(r"(?<!\\):")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMAGE = re.compile(r"[A-Za-z0-9][^\s\x00-\x1f]*")
# As apt-get takes it: NAME[:ARCHITECTURE][=VERSION|/RELEASE]. A hyphen at the end would remove the package.
_DEBIAN_PACKAGE = re.compile(
    r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](:[a-z0-9-]+)?(=[A-Za-z0-9.+~:-]+|/[A-Za-z0-9][A-Za-z0-9._-]*)?"
)
# NAME[EXTRAS], and a version, address or marker; the stars are for what is kept of a secret.
_PYTHON_PACKAGE = re.compile(r"[\w*][\w.*-]*\s*(\[[\w\s,.-]*\])?\s*([<>=!~@;(].*)?")
_SOME_IMAGE = "docker.io/library/debian:12"
LABEL_LIMIT = 80
INTERRUPTED, FAILED = "interrupted", "failed"
COMMAND = "command"  # the kind of a run whose command is the user's own
MOST_RETRIES = 1000
MOST_PROCESSES = 1024  # of one command, on each machine
MOST_NODES = 1024
_MOST_PARTS = 1_000_000  # more cores or GPUs than any machine has


@dataclass(frozen=True, slots=True)
class Mount:
    """A resource to be put into the working folder before the command starts.

    Attributes:
        resource: ``runs/N/…``, ``uploads/NAME/…``, a link's name, or a local file (``./file``, ``/file``).
        target: Where, relative to the working folder, in POSIX form.
        read_only: Link it read-only instead of making a private writable copy.
    """

    resource: str
    target: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> "Mount":
        r"""The mount written as ``RESOURCE[:PATH][:ro]``; a colon in a name is written as ``\:``.

        Raises:
            UsageError: It does not have that form; the message says how.
        """
        parts = [part.replace("\\:", ":") for part in _COLON.split(text)]
        read_only = len(parts) > 1 and parts[-1] == "ro"
        resource, *target = parts[:-1] if read_only else parts
        if len(target) > 1:
            raise UsageError(
                f"mount {text!r} has too many colons: write RESOURCE[:PATH][:ro]"
                " (a colon in a name is written as \\:)"
            )
        if not resource.strip("/"):
            raise UsageError(f"mount {text!r} has no resource: write RESOURCE[:PATH][:ro]")
        named = target[0] if target else posixpath.basename(resource.rstrip("/"))
        return cls(resource, _target(text, named), read_only)

    @classmethod
    def of(cls, resource: str, path: str) -> "Mount":
        """The mount of a resource at ``PATH[:ro]``, colons in the resource's name and all."""
        escaped = resource.replace(":", "\\:")
        return cls.parse(f"{escaped}:{path}")

    @property
    def is_local_file(self) -> bool:
        """Whether the resource is a path on this machine rather than something conjure keeps."""
        return self.resource.startswith(("./", "../", "/", "~/"))

    def absolute(self) -> "Mount":
        """The same mount, whichever folder is the current one."""
        if not self.is_local_file:
            return self
        return replace(self, resource=str(expand_user(self.resource).absolute()))

    def to_dict(self) -> dict[str, Any]:
        """The mount as plain JSON values."""
        return asdict(self)


def _target(mount: str, path: str) -> str:
    normal = posixpath.normpath(path) if path else ""
    if normal.startswith("/"):
        raise UsageError(
            f"mount {mount!r}: {path!r} is an absolute path; a mount's path is relative to the working folder"
        )
    if normal in {"", "."} or normal == ".." or normal.startswith("../") or "\0" in normal:
        raise UsageError(
            f"mount {mount!r}: {path!r} is not a path inside the working folder",
            hint=option("mounts", "runs/2:data"),
        )
    return normal


@dataclass(frozen=True, slots=True)
class CodeChoice:
    """Which code a run starts from; at most one of the alternatives is set, none means the folder as it is.

    Attributes:
        commit: A commit of the folder's repository, exactly.
        committed: HEAD only, without uncommitted changes and untracked files.
        git_url: Another repository to take instead of the folder.
        git_ref: Branch, tag or commit of `git_url` (its default branch if None).
        run: A run whose snapshot is used again.
        none: No code at all: an empty working folder.
    """

    commit: str | None = None
    committed: bool = False
    git_url: str | None = None
    git_ref: str | None = None
    run: int | None = None
    none: bool = False

    def faults(self) -> list[str]:
        """What contradicts what, in words."""
        chosen = {
            "commit": self.commit is not None,
            "committed": self.committed,
            "git_url": self.git_url is not None,
        }
        named = [option(name) for name, given in chosen.items() if given]
        found = [f"{' and '.join(named)} cannot be combined"] if len(named) > 1 else []
        if self.git_ref is not None and self.git_url is None:
            found.append(
                f"{option('git_ref')} needs {option('git_url')}"
                f" (use {option('commit')} for commits of the current repository)"
            )
        for name, value in (
            ("commit", self.commit),
            ("git_url", self.git_url),
            ("git_ref", self.git_ref),
        ):
            if value is not None and (not value or value.startswith("-")):
                found.append(f"{option(name, value)} is not a valid git reference")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The choice as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class EnvironmentChoice:
    """The Python environment a run asks for.

    Attributes:
        base: ``current``: the python that comes first on PATH; ``none``: a clean one.
        python: Version for a clean one, such as ``3.12``.
        pip: Requirements to add, one each.
        requirements: Content of requirements files to add, or None.
        image: Container image whose environment it is, in place of one of this machine's.
        image_digest: What the image is to be exactly, whatever its name means now.
        apt: Debian packages to add to the image.
        constraints: Versions that added packages must have, if they are needed at all: ``numpy==2.1.0``.
    """

    base: str = "current"
    python: str | None = None
    pip: tuple[str, ...] = ()
    requirements: str | None = None
    image: str | None = None
    image_digest: str | None = None
    apt: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()

    @property
    def adds_python_packages(self) -> bool:
        """Whether any Python package is to be added."""
        return bool(self.pip) or bool((self.requirements or "").strip())

    @property
    def adds_packages(self) -> bool:
        """Whether anything is to be added to what there is."""
        return bool(self.apt) or self.adds_python_packages

    def faults(self) -> list[str]:
        """What is wrong, in words."""
        found = []
        if self.base not in {"current", "none"}:
            found.append(f"{option('base', self.base)} must be current or none")
        if self.python is not None and not PYTHON_VERSION.fullmatch(self.python):
            found.append(f"{option('python', self.python)} is not a version, such as 3.12")
        found += [
            f"{option('pip', name)} is not a package"
            for name in self.pip
            if not name.strip() or name.startswith("-")
        ]
        return found + self._apt_faults() + self._image_faults()

    def _apt_faults(self) -> list[str]:
        found = [
            f"{option('apt', name)} is not the name of a Debian package, such as tree or g++=4:12.2.0-3"
            for name in self.apt
            if not _DEBIAN_PACKAGE.fullmatch(name)
        ]
        if self.apt and self.image is None:
            needed = f"{option('apt')} needs {option('image')}, as in {option('image', _SOME_IMAGE)}"
            found.append(f"{needed}: packages are added to an image, never to this machine")
        return found

    def _image_faults(self) -> list[str]:
        if self.image is None:
            return []
        given = {"base": self.base != "current", "python": self.python is not None}
        found = [
            f"{option('image')} and {option(name)} cannot be combined: the image has its own environment"
            for name, is_given in given.items()
            if is_given
        ]
        found += [
            f"{option('pip', name)} is not a package, such as tqdm or numpy==2.1.0"
            for name in self.pip
            if not name.startswith("-") and not _is_python_package(name)
        ]
        if not _IMAGE.fullmatch(self.image):
            found.append(f"{option('image', self.image)} is not the name of an image")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The choice as plain JSON values."""
        lists = {name: list(getattr(self, name)) for name in ("pip", "apt", "constraints")}
        return {**asdict(self), **lists}


def _is_python_package(text: str) -> bool:
    """Whether it has the form of a requirement, an address or a path, or is nothing at all."""
    text = text.strip()
    return not text or text.startswith("/") or "://" in text or _PYTHON_PACKAGE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class ComputeRequest:
    """What a run says it needs; a run that says nothing starts at once.

    Attributes:
        cpus: Processor cores, fractions allowed.
        gpus: Whole GPUs.
        memory_bytes: Main memory.
    """

    cpus: float | None = None
    gpus: int | None = None
    memory_bytes: int | None = None

    @property
    def asks(self) -> bool:
        """Whether anything is asked for at all."""
        return self.cpus is not None or self.gpus is not None or self.memory_bytes is not None

    def faults(self) -> list[str]:
        """What is wrong, in words."""
        needs = {
            "cpus": (self.cpus, _MOST_PARTS),
            "gpus": (self.gpus, _MOST_PARTS),
            "memory": (self.memory_bytes, LARGEST_NUMBER),
        }
        return [
            f"{option(name)} must be above 0 and below {limit:g}; {need:g} is not"
            for name, (need, limit) in needs.items()
            if need is not None and not 0 < need < limit
        ]

    def to_dict(self) -> dict[str, Any]:
        """The needs as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A run as it was asked for.

    Attributes:
        command: One word: a shell line. Several: the program and its arguments, passed exactly.
        folder: The folder whose code is taken; the command starts in the same sub-folder of its repository.
        kind: What sort of work it is: ``command``, or a recipe's name such as ``finetune``.
        code: Which code, where not simply the folder's.
        environment: The Python environment.
        variables: Environment variables to set.
        mounts: Resources to put into the working folder.
        resources: What the run needs of the machine.
        timeout_s: Seconds the command may run before it is stopped, or None.
        stop_conditions: Any of these ends the run (grammar: `stop_conditions`).
        output: Globs of new files to keep; none means all.
        no_output: Globs of new files not to keep.
        description: Free text.
        labels: Names to find it by.
        project: What it belongs to; None for the default, which is chosen when it is submitted.
        params: ``:NAME:`` in the command is replaced by the value.
        idempotent: Reuse an equal run that completed.
        sandbox: Hide the machine from the command, but for what it needs.
        network: Let a sandboxed command reach the network.
        after: Runs that have to complete before this one starts; those whose files it mounts among them.
        retry: How many more attempts there may be.
        retry_on: What is followed by another attempt: `INTERRUPTED`, or also the command's own failure,
            `FAILED`.
        checkpoint: Globs of files of an attempt that the next one is given.
        distributed: How many processes carry out the command together, each told its rank; None for one that
            is told nothing.
        nodes: How many nodes of the executor carry it out, with so many processes each; one if None.
        on: The executor that it is carried out on, by its name in the user's settings; this machine if None.
        withheld: Of a spec as it is stored, what it does not hold because it was secret, as in ``command``
            and ``variables.API_KEY``; None for a spec that holds everything.
    """

    command: tuple[str, ...]
    folder: Path
    kind: str = COMMAND
    code: CodeChoice = field(default_factory=CodeChoice)
    environment: EnvironmentChoice = field(default_factory=EnvironmentChoice)
    variables: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    resources: ComputeRequest = field(default_factory=ComputeRequest)
    timeout_s: float | None = None
    stop_conditions: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    no_output: tuple[str, ...] = ()
    description: str = ""
    labels: tuple[str, ...] = ()
    project: str | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    idempotent: bool = False
    sandbox: bool = False
    network: bool = False
    after: tuple[int, ...] = ()
    retry: int = 0
    retry_on: str = INTERRUPTED
    checkpoint: tuple[str, ...] = ()
    distributed: int | None = None
    nodes: int | None = None
    on: str | None = None
    withheld: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Find every fault and report them together.

        Raises:
            UsageError: Anything is wrong.
        """
        faults = (
            self._command_faults()
            + self.code.faults()
            + self.environment.faults()
            + self.resources.faults()
            + self._mount_faults()
            + self._name_faults()
            + self._stop_faults()
            + self._retry_faults()
            + [f"{option('network')} needs {option('sandbox')}"] * (self.network and not self.sandbox)
            + self._container_faults()
            + self._distributed_faults()
        )
        if faults:
            raise UsageError("; ".join(faults))

    def _command_faults(self) -> list[str]:
        if not self.command or not self.command[0].strip():
            return ['the command is empty: write it after the options, as in `conjure run "echo hello"`']
        return ["the command contains a NUL byte"] * any("\0" in word for word in self.command)

    def _mount_faults(self) -> list[str]:
        found, taken = [], set()
        for target in sorted(mount.target for mount in self.mounts):
            ancestors = {str(parent) for parent in Path(target).parents} | {target}
            found += [f"two mounts have the same path, {target!r}" for _ in ancestors & taken]
            taken.add(target)
        return found

    def _name_faults(self) -> list[str]:
        found = [label_fault(label) for label in self.labels]
        found += [] if self.project is None else [project_fault(self.project)]
        found += [
            f"{option('params')} {name!r} is not a name (letters, digits, _ . -)"
            for name in self.params
            if not _PARAM_NAME.fullmatch(name)
        ]
        found += [
            f"{option('env')} {name!r} is not a variable's name"
            for name, value in self.variables.items()
            if not _VARIABLE_NAME.fullmatch(name) or "\0" in value
        ]
        return [fault for fault in found if fault]

    def _container_faults(self) -> list[str]:
        if self.environment.image is None:
            return []
        image, sandbox, gpus = option("image"), option("sandbox"), option("gpus")
        return [
            *[f"{image} and {sandbox} cannot be combined: a container is not a sandbox"] * self.sandbox,
            *[f"{image} and {gpus} cannot be combined: containers have no access to GPUs"]
            * (self.resources.gpus is not None),
        ]

    def _distributed_faults(self) -> list[str]:
        found = self._nodes_faults()
        if self.distributed is None:
            return found
        if not 0 < self.distributed <= MOST_PROCESSES:
            found.append(f"{option('distributed', self.distributed)} must be between 1 and {MOST_PROCESSES}")
        for name, is_given in (("sandbox", self.sandbox), ("image", self.environment.image is not None)):
            if is_given:
                found.append(f"{option('distributed')} and {option(name)} cannot be combined")
        return found

    def _nodes_faults(self) -> list[str]:
        if self.nodes is None:
            return []
        if not 0 < self.nodes <= MOST_NODES:
            return [f"{option('nodes', self.nodes)} must be between 1 and {MOST_NODES}"]
        needs = (
            f"{option('nodes', self.nodes)} needs {option('distributed', 'N')}: the processes on each node"
        )
        return [needs] * (self.distributed is None)

    @property
    def node_count(self) -> int:
        """How many nodes carry out the command."""
        return self.nodes if self.nodes is not None else 1

    def _stop_faults(self) -> list[str]:
        found = []
        if self.timeout_s is not None and not 0 < self.timeout_s <= LONGEST_S:
            given = f"{self.timeout_s:g} seconds"
            found.append(f"a timeout must be above 0 and at most 100 years; {given} is not")
        for text in self.stop_conditions:
            try:
                parse_stop_condition(text)
            except UsageError as error:
                found.append(error.unspelled.message)
        return found

    def _retry_faults(self) -> list[str]:
        found = []
        if not 0 <= self.retry <= MOST_RETRIES:
            found.append(f"{option('retry', self.retry)} must be between 0 and {MOST_RETRIES}")
        if self.retry_on not in (INTERRUPTED, FAILED):
            found.append(f"{option('retry_on', self.retry_on)} must be {INTERRUPTED} or {FAILED}")
        elif self.retry_on == FAILED and not self.retry:
            found.append(f"{option('retry_on')} needs {option('retry')}")
        return found

    @property
    def command_text(self) -> str:
        """The command as one line for people: the shell line itself, or the arguments quoted."""
        return self.command[0] if len(self.command) == 1 else shlex.join(self.command)

    @property
    def filled_command(self) -> tuple[str, ...]:
        """The command with the values of the params in it, as it is executed."""
        return fill_in(self.command, self.params)

    def stored(self) -> "RunSpec":
        """The same spec as it may be written down: nothing secret in it."""
        return self if self.withheld is not None else _without_secrets(self)

    def known_globs(self) -> "RunSpec":
        """The spec without patterns of outputs that are not known any more: nothing is dropped for them."""
        unknown = self.withheld or ()
        kept = [glob for glob in self.no_output if "no_output" not in unknown or STARS not in glob]
        return replace(self, output=() if "output" in unknown else self.output, no_output=tuple(kept))

    def to_dict(self, *, secrets: bool = False) -> dict[str, Any]:
        """The spec as plain JSON values; to be stored only without `secrets`."""
        safe = self if secrets else self.stored()
        return {
            "command": list(safe.command),
            "folder": str(safe.folder),
            "kind": safe.kind,
            "code": safe.code.to_dict(),
            "environment": safe.environment.to_dict(),
            "variables": dict(safe.variables),
            "mounts": [mount.to_dict() for mount in safe.mounts],
            "resources": safe.resources.to_dict(),
            "timeout_s": safe.timeout_s,
            "stop_conditions": list(safe.stop_conditions),
            "output": list(safe.output),
            "no_output": list(safe.no_output),
            "description": safe.description,
            "labels": list(safe.labels),
            "project": safe.project,
            "params": dict(safe.params),
            "idempotent": safe.idempotent,
            "sandbox": safe.sandbox,
            "network": safe.network,
            "after": list(safe.after),
            "retry": safe.retry,
            "retry_on": safe.retry_on,
            "checkpoint": list(safe.checkpoint),
            "distributed": safe.distributed,
            "nodes": safe.nodes,
            "on": safe.on,
            "withheld": None if safe.withheld is None else list(safe.withheld),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "RunSpec":
        """The spec that `to_dict` wrote; unknown keys (of a later version) are passed over."""
        environment = dict(stored.get("environment", {}))
        environment |= {name: tuple(environment.get(name, ())) for name in ("pip", "apt", "constraints")}
        lists = ("command", "stop_conditions", "output", "no_output", "labels", "after", "checkpoint")
        plain = (
            "kind",
            "timeout_s",
            "description",
            "project",
            "variables",
            "params",
            "idempotent",
            "sandbox",
            "network",
            "retry",
            "retry_on",
            "distributed",
            "nodes",
            "on",
        )
        withheld = stored["withheld"] if "withheld" in stored else _starred(stored)
        return cls(
            withheld=None if withheld is None else tuple(withheld),
            folder=Path(stored["folder"]),
            code=_known(CodeChoice, stored.get("code", {})),
            environment=_known(EnvironmentChoice, environment),
            mounts=tuple(_known(Mount, mount) for mount in stored.get("mounts", ())),
            resources=_known(ComputeRequest, stored.get("resources", {})),
            **{name: tuple(stored.get(name, ())) for name in lists},
            **{name: stored[name] for name in plain if name in stored},
        )


def _without_secrets(spec: RunSpec) -> RunSpec:
    redaction = Redaction()
    filled = Redaction()
    filled.command(spec.filled_command)  # `curl -u me::word:` makes a secret of any param
    placed = {name for name, value in spec.params.items() if value in filled.found}
    redaction.found |= {spec.params[name] for name in placed}
    code, environment = spec.code, spec.environment
    redacted = replace(
        spec,
        # A mount's name is stored with the mount; it is no secret among the words of the command.
        command=redaction.command(spec.command, known={mount.target for mount in spec.mounts}),
        code=replace(code, git_url=_optional(redaction.text, code.git_url)),
        environment=replace(
            environment,
            pip=tuple(map(redaction.text, environment.pip)),
            requirements=_optional(redaction.text, environment.requirements),
        ),
        variables={name: redaction.value(name, value) for name, value in spec.variables.items()},
        params={
            name: STARS if name in placed else redaction.value(name, value)
            for name, value in spec.params.items()
        },
        output=tuple(map(redaction.glob, spec.output)),
        no_output=tuple(map(redaction.glob, spec.no_output)),
        checkpoint=tuple(map(redaction.glob, spec.checkpoint)),
        description=redaction.text(spec.description),
        labels=tuple(map(redaction.text, spec.labels)),
        project=_optional(redaction.text, spec.project),
    )
    spread = _spread(redacted, redaction)
    return replace(spread, withheld=tuple(_withheld(spec, spread)))


def _spread(spec: RunSpec, redaction: Redaction) -> RunSpec:
    """Cover what was found in one part in all the others too."""
    cover = redaction.spread
    return replace(
        spec,
        command=tuple(map(cover, spec.command)),
        environment=replace(spec.environment, pip=tuple(map(cover, spec.environment.pip))),
        variables={name: cover(value) for name, value in spec.variables.items()},
        params={name: cover(value) for name, value in spec.params.items()},
        output=tuple(map(cover, spec.output)),
        no_output=tuple(map(cover, spec.no_output)),
        checkpoint=tuple(map(cover, spec.checkpoint)),
        description=cover(spec.description),
        labels=tuple(cover(label)[:LABEL_LIMIT] for label in spec.labels),
        project=_optional(lambda name: cover(name)[:LABEL_LIMIT], spec.project),
    )


def split_withheld(withheld: Iterable[str]) -> tuple[list[str], list[str]]:
    """What a stored spec does not hold: the names of its variables, and the other parts."""
    parts = list(withheld)
    names = [part.removeprefix(_VARIABLES) for part in parts if part.startswith(_VARIABLES)]
    return names, [part for part in parts if not part.startswith(_VARIABLES)]


def part_in_words(part: str) -> str:
    """A part of a spec as it is written on the command line."""
    kind, _, name = part.partition(".")
    if kind == "params":
        return f"{option('params')} {name}"
    plain = {"command": "its command", "output": option("output"), "no_output": option("no_output")}
    return plain.get(part) or {"pip": option("pip"), "requirements": option("pip_req")}.get(name, part)


def _withheld(given: RunSpec, stored: RunSpec) -> Iterator[str]:
    """What of a spec its stored form does not hold, but for texts that change nothing in a run."""
    for part in ("variables", "params"):
        before, after = getattr(given, part), getattr(stored, part)
        yield from (f"{part}.{name}" for name in before if before[name] != after[name])
    if given.code.git_url != stored.code.git_url:
        yield "code.git_url"
    for part in ("pip", "requirements"):
        if getattr(given.environment, part) != getattr(stored.environment, part):
            yield f"environment.{part}"
    yield from (
        part
        for part in ("command", "output", "no_output", "checkpoint")
        if getattr(given, part) != getattr(stored, part)
    )


def _starred(stored: Mapping[str, Any]) -> list[str]:
    """What a spec of conjure 0.1.0 does not hold, which did not say so: what has stars in it."""
    found = [
        f"{part}.{name}"
        for part in ("variables", "params")
        for name, value in stored.get(part, {}).items()
        if STARS in value
    ]
    environment = stored.get("environment", {})
    texts = {
        "command": stored.get("command", ()),
        "environment.pip": environment.get("pip", ()),
        "environment.requirements": (environment.get("requirements") or "",),
    }
    return found + [part for part, values in texts.items() if any(STARS in value for value in values)]


def _optional(redact: Callable[[str], str], text: str | None) -> str | None:
    return None if text is None else redact(text)


def _known(kind: Any, stored: Mapping[str, Any]) -> Any:
    return kind(**{name: value for name, value in stored.items() if name in kind.__dataclass_fields__})


def label_fault(label: str) -> str | None:
    """What is wrong with a label, or None."""
    return _name_fault("label", label)


def project_fault(project: str) -> str | None:
    """What is wrong with a project's name, or None."""
    return _name_fault("project", project)


def _name_fault(what: str, name: str) -> str | None:
    if not name.strip() or name != name.strip() or len(name) > LABEL_LIMIT or not name.isprintable():
        return (
            f"{what} {name!r} is not a name: 1 to {LABEL_LIMIT} printable characters, no space at either end"
        )
    return None


def parse_assignment(field: str, text: str) -> tuple[str, str]:
    """Name and value of ``NAME=VALUE``; only the first ``=`` divides.

    Args:
        field: The option that it is given with.
        text: What is given.

    Raises:
        UsageError: There is no ``=``.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{option(field)} {text!r} has no value: write {option(field)} {text}=VALUE")
    return name, value


def current_folder() -> Path:
    """The folder that this process is in.

    Raises:
        UsageError: It has been removed.
    """
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise UsageError("the current folder no longer exists", hint="cd to another one") from error
