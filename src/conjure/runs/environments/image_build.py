"""Adding packages to an image for a run: they are installed in a container, which becomes an image then.

The container is the run's (`containers`), so a build that is cut off leaves none. It is started without
variables, and each step is given its own: no proxy and no password is in the image. Wheels, certificates and
requirements files of this machine are mounted where nothing is kept. Debian packages come first, so that the
Python packages can be built with them.

Main entries: `LayerRequest`, `build_layer`. Invariant: the image below is not changed.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conjure.core.home import Home
from conjure.core.text import plural
from conjure.errors import BuildError
from conjure.runs.environments.container_engine import run_engine
from conjure.runs.environments.containers import (
    BindMount,
    Container,
    container_name,
    proxies_in,
    remove_container,
    run_in_container,
    start_container,
)
from conjure.runs.environments.environment_locks import building, mark_in_use
from conjure.runs.environments.image_layers import Layer, find_layer, keep_layer
from conjure.runs.environments.images import Image, find_image
from conjure.runs.environments.local_packages import as_lines, replace_path
from conjure.runs.environments.pip_config import pip_variables
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import EnvironmentChoice

_FILES = Path("/dev/conjure-build")  # in memory: what is mounted there leaves nothing in the image

_FIND_APT = "command -v apt-get; true"
# apt would fetch as a user of its own, which there is not in every container, and none is needed there.
_APT = "apt-get -q -o APT::Sandbox::User=root -o Acquire::Languages=none"
_INSTALL = (
    f'{_APT} update && {_APT} install --yes --no-install-recommends -- "$@"'
    " && apt-get clean && rm -rf /var/lib/apt/lists/*"
)
_APT_VARIABLES = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
_APT_MARKS = ("E: ", "Error: ", "dpkg: error ")

_FIND_PYTHON = (
    'for python in python python3; do "$python" -m pip --version > /dev/null 2>&1'
    ' && echo "$python" && exit; done; true'
)
_PIP_VARIABLES = {
    "PIP_BREAK_SYSTEM_PACKAGES": "1",  # there is no other use of the system's Python in there
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_NO_INPUT": "1",
    "PIP_PROGRESS_BAR": "off",
    "PIP_ROOT_USER_ACTION": "ignore",
}
_PIP_MARKS = ("ERROR: ",)
_MOST_ERRORS = 3  # of a tool, that are told in its sentence


@dataclass(slots=True)
class _MountedFiles:
    """Files and folders of this machine that a build reads, at places of their own in the container."""

    bound: list[BindMount] = field(default_factory=list)

    def place(self, word: str) -> str:
        """What a program in the container is to read for a path; anything else as it is."""
        scheme = "file://" * word.startswith("file://")
        path = Path(word.removeprefix(scheme))
        if not path.is_absolute() or not path.exists():
            return word
        # The pages of an index name files beside it.
        shown = path.parent if scheme and path.parent.name else path
        target = _FILES / str(len(self.bound)) / shown.name
        self.bound.append(BindMount(shown, target, read_only=True))
        return f"{scheme}{target / path.relative_to(shown)}"


@dataclass(frozen=True, slots=True)
class LayerRequest:
    """What a run asks to be added to an image.

    Attributes:
        number: The run.
        base: The image to add to.
        choice: What to add.
        variables: The caller's environment: proxies and settings of pip count.
        report: Gets each line of progress.
        digest: What the run gets, in one word; see `layer_digest`.
    """

    home: Home
    number: int
    base: Image
    choice: EnvironmentChoice
    variables: Mapping[str, str]
    report: Callable[[str], None]
    digest: str

    @property
    def container(self) -> str:
        """Name of the container that it is built in."""
        return container_name(self.home, self.number)

    @property
    def proxies(self) -> dict[str, str]:
        """The caller's variables that name proxies."""
        return proxies_in(self.variables)


def build_layer(request: LayerRequest) -> Layer:
    """The image with the packages that a run asks for: built if need be, else the one that is there.

    It counts as in use, and `prune` leaves it, until this process ends.

    Raises:
        BuildError: It cannot be built; the message has the tool's words.
    """
    home, digest = request.home, request.digest
    mark_in_use(home, digest)
    layer = find_layer(home, digest)
    if layer is not None:
        return layer
    with building(home, digest, request.report):
        layer = find_layer(home, digest)  # somebody may have built it while we waited
        if layer is None:
            layer = _build(request)
            keep_layer(home, layer)
        return layer


def _build(request: LayerRequest) -> Layer:
    """Where it is not built to its end, the container is removed with the run's."""
    home, choice = request.home, request.choice
    counts = [(choice.apt, "Debian package"), (choice.pip, "Python package")]
    told = " and ".join(plural(len(names), what) for names, what in counts if names)
    request.report(f"adding {told or 'the requirements'} to {choice.image}")
    files, packages, resolved = _MountedFiles(), {}, ()
    prefix = f".{request.digest}.new-"
    with tempfile.TemporaryDirectory(
        dir=home.environments, prefix=prefix, ignore_cleanup_errors=True
    ) as folder:
        wanted = _pip_arguments(choice, files, Path(folder))
        settings = pip_variables(Path(sys.executable), request.variables, files.place) if wanted else {}
        container = Container(request.container, request.base.digest, tuple(files.bound), {}, for_build=True)
        start_container(container, RunFolder.of(home, request.number).container)
        if choice.apt:
            _install_debian_packages(request)
        if wanted:
            packages, resolved = _install_python_packages(request, wanted, {**request.proxies, **settings})
        image = _commit(request)
    remove_container(home, request.number)
    added_bytes = max(image.size_bytes - request.base.size_bytes, 0)
    return Layer(request.digest, image, packages, added_bytes, resolved)


def _install_debian_packages(request: LayerRequest) -> None:
    if not run_in_container(request.container, ["/bin/sh", "-c", _FIND_APT]).strip():
        raise BuildError(
            "the image has no apt-get: Debian packages can only be added to images of Debian or Ubuntu"
        )
    run_in_container(
        request.container,
        ["/bin/sh", "-c", _INSTALL, "sh", *request.choice.apt],
        variables={**request.proxies, **_APT_VARIABLES},
        report=request.report,
        explain=_explanation("apt-get", _APT_MARKS),
    )


def _pip_arguments(choice: EnvironmentChoice, files: _MountedFiles, folder: Path) -> list[str]:
    """What pip is to install; `files` gets what it reads of this machine, and `folder` the requirements."""
    options = []
    for name, lines in (
        ("requirements.txt", (choice.requirements or "").splitlines()),
        ("packages.txt", as_lines(choice.pip)),
    ):
        if lines:
            file = folder / name
            file.write_text("".join(f"{replace_path(line, files.place)}\n" for line in lines))
            options += ["--requirement", files.place(str(file))]
    if choice.constraints:
        file = folder / "constraints.txt"
        file.write_text("\n".join(choice.constraints))
        options += ["--constraint", files.place(str(file))]
    return options if choice.adds_python_packages else []


def _install_python_packages(
    request: LayerRequest, wanted: Sequence[str], variables: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The versions of all Python packages afterwards, and the names of those that were added or changed."""
    python = run_in_container(request.container, ["/bin/sh", "-c", _FIND_PYTHON]).strip()
    if not python:
        raise BuildError(
            "the image has no pip to add Python packages with: add the Debian package python3-pip, or use an"
            " image that has pip"
        )
    pip, explain = [python, "-m", "pip"], _explanation("pip", _PIP_MARKS)
    before = _installed(request, pip)
    run_in_container(
        request.container,
        [*pip, "install", *wanted],
        variables={**variables, **_PIP_VARIABLES},
        report=request.report,
        explain=explain,
    )
    after = _installed(request, pip)
    return after, tuple(name for name, version in after.items() if before.get(name) != version)


def _installed(request: LayerRequest, pip: Sequence[str]) -> dict[str, str]:
    """The versions of all Python packages."""
    listed = run_in_container(
        request.container,
        [*pip, "list", "--format=json"],
        variables=_PIP_VARIABLES,
        explain=_explanation("pip", _PIP_MARKS),
    )
    return {package["name"]: package["version"] for package in json.loads(listed)}


def _explanation(tool: str, marks: tuple[str, ...]) -> Callable[[Sequence[str]], str]:
    """What says in one sentence what a tool's lines say that begin with these marks."""

    def explain(lines: Sequence[str]) -> str:
        errors = list(dict.fromkeys(_errors(lines, marks)))[:_MOST_ERRORS]
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed no message")
        return f"{tool} failed in the image: {'; '.join(errors) or last}"

    return explain


def _errors(lines: Sequence[str], marks: tuple[str, ...]) -> Iterator[str]:
    for line in lines:
        if line.startswith(marks):
            yield line.partition(": ")[2].strip().rstrip(":")


def _commit(request: LayerRequest) -> Image:
    """Make an image of the container as it is now."""
    # The engine lists it under the home's name. The program that kept the container is not in it.
    repository = container_name(request.home, request.number).rpartition("-")[0]
    name = f"localhost/{repository}:{request.digest}"
    changes = ["--change=ENTRYPOINT []", "--change=CMD []"]
    run_engine(["commit", *changes, request.container, name])
    image = find_image(name)
    if image is None:
        raise BuildError("the image with the packages was removed while it was being built")
    return image
