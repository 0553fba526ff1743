"""Environments, built by the real uv from wheels made on the spot."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.errors import BuildError
from conjure.runs.environments import environment_build, environment_locks, interpreter, uv
from conjure.runs.environments.environment_build import Environment, build
from conjure.runs.environments.interpreter import find_current
from conjure.runs.environments.uv import uv_program
from conjure.runs.schema.spec import EnvironmentChoice
from support.wheels import make_wheel

_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels, and uv's cache beside it."""
    folder = tmp_path_factory.mktemp("shop")
    make_wheel(folder, "brew", "1.0", requires=["herb>=1"], commands={"brew": "brew:main"})
    for version in ("1.0", "2.0"):
        make_wheel(folder, "herb", version, commands={"herb": "herb:main"})
    return folder


@pytest.fixture(scope="session")
def base(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that has herb 1.0."""
    folder = tmp_path_factory.mktemp("base") / "venv"
    run = [uv_program(), "--no-config", "-q"]
    subprocess.run([*run, "venv", "--python", sys.executable, str(folder)], check=True)
    install = ["pip", "install", "--offline", "--no-index", "--find-links", str(shop), "herb==1.0"]
    subprocess.run([*run, *install, "--python", str(folder / "bin/python")], check=True)
    # Says what pip would, in a hundredth of the time; test_pip_configuration.py asks a real one.
    pip = folder / "bin/pip"
    pip.write_text(f"#!/bin/sh\nprintf '%s\\n' \"global.no-index='1'\" \"global.find-links='{shop}'\"\n")
    pip.chmod(0o755)
    return folder


@pytest.fixture
def variables(shop: Path, base: Path, tmp_path: Path) -> dict[str, str]:
    """What a shell with `base` activated has; only pip knows where the wheels are."""
    return {
        "PATH": f"{base / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "UV_CACHE_DIR": str(shop / "cache"),
    }


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").create()


def make(home: Home, variables: Mapping[str, str], **choice: object) -> tuple[Environment, list[str]]:
    """The environment, and the lines that were reported."""
    reported: list[str] = []
    choice = EnvironmentChoice(**choice)
    return build(home, choice, reported.append, variables=variables, folder=home.root), reported


def run(built: Environment, variables: Mapping[str, str], *command: str) -> str:
    active = built.activate(variables)
    return subprocess.run(command, env=active, check=True, capture_output=True, text=True).stdout.strip()


class TestCurrent:
    def test_is_the_python_on_path_with_all_its_packages(self, home: Home, variables, base: Path) -> None:
        built, reported = make(home, variables)
        assert (built.python, built.packages, built.prefix) == (base / "bin/python", {"herb": "1.0"}, None)
        assert built.activate(variables) == variables
        assert reported == []

    def test_is_asked_again_only_when_it_changed(
        self, home: Home, variables, base: Path, tmp_path: Path
    ) -> None:
        log = tmp_path / "asked"
        # Runs whenever Python starts; the folder may be read twice, as lib and as lib64.
        hook = base / f"lib/python{_VERSION}/site-packages/hook.pth"
        ask = f"open({str(log)!r}, 'a').write('x'), print('noise')"
        hook.write_text(f"import sys; hasattr(sys, 'asked') or (setattr(sys, 'asked', 1), {ask})\n")
        try:
            first = find_current(home, variables, tmp_path)
            assert find_current(home, variables, tmp_path) == first
            assert log.read_text() == "x"
            os.utime(hook.parent)  # as when a package comes or goes
            assert find_current(home, variables, tmp_path) == first
            assert log.read_text() == "xx"
        finally:
            hook.unlink()

    def test_pyenv_wrapper(self, home: Home, variables, base: Path, tmp_path: Path) -> None:
        shim = tmp_path / "pyenv/shims/python"
        shim.parent.mkdir(parents=True)
        shim.write_text(f'#!/bin/sh\n# pyenv\nexec {base}/bin/python "$@"\n')
        shim.chmod(0o755)
        variables = variables | {"PATH": f"{shim.parent}:/usr/bin:/bin"}
        found = find_current(home, variables, tmp_path)
        assert (found.found, found.executable) == (shim, base / "bin/python")
        shim.write_text(f'#!/bin/sh\n# pyenv\nexec {sys.executable} "$@"\n')
        assert find_current(home, variables, tmp_path).executable == Path(sys.executable)

    def test_no_python(self, home: Home) -> None:
        with pytest.raises(BuildError, match="there is no python on PATH"):
            make(home, {"PATH": "/nonexistent"})

    def test_broken_python(self, home: Home, tmp_path: Path) -> None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/python").write_text("#!/bin/sh\necho 'no such version' >&2\nexit 3\n")
        (tmp_path / "bin/python").chmod(0o755)
        with pytest.raises(BuildError, match="bin/python does not work: no such version"):
            make(home, {"PATH": f"{tmp_path / 'bin'}"})

    def test_python_too_old_for_the_question(self, home: Home, tmp_path: Path) -> None:
        words = '  File "<string>", line 27\n    def f() -> list:\n            ^\nSyntaxError: invalid syntax'
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/python").write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{words}\nEND\nexit 1\n")
        (tmp_path / "bin/python").chmod(0o755)
        with pytest.raises(BuildError, match="bin/python does not work: SyntaxError: invalid syntax"):
            make(home, {"PATH": f"{tmp_path / 'bin'}:/bin:/usr/bin"})

    def test_python_that_does_not_answer(self, home: Home, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(interpreter, "_TIMEOUT_S", 0.5)
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/python").write_text("#!/bin/sh\nexec /bin/sleep 1000\n")
        (tmp_path / "bin/python").chmod(0o755)
        with pytest.raises(BuildError, match=r"bin/python does not work: it did not answer within 0\.5s"):
            make(home, {"PATH": f"{tmp_path / 'bin'}"})


class TestLayer:
    def test_adds_to_the_base_and_takes_what_satisfies(self, home: Home, variables, base: Path) -> None:
        built, reported = make(home, variables, pip=("brew",))
        assert built.packages == {"brew": "1.0", "herb": "1.0"}  # herb 2.0 is to be had, and not needed
        assert any("+ brew==1.0" in line for line in reported)
        assert not any("herb" in line for line in reported)
        assert run(built, variables, "python", "-c", "import brew, herb; print(herb.__file__)").startswith(
            str(base)
        )
        assert run(built, variables, "brew") == "brew 1.0"
        assert run(built, variables, "python", "-m", "brew") == ""
        assert (built.prefix / "requirements.lock").read_text() == "brew==1.0\n"

    def test_replaces_what_does_not_satisfy_in_the_layer_only(
        self, home: Home, variables, base: Path
    ) -> None:
        built, _ = make(home, variables, pip=("herb>=2",))
        assert built.packages == {"herb": "2.0"}
        assert run(built, variables, "python", "-c", "import herb; print(herb.VERSION)") == "2.0"
        names = "from importlib.metadata import version; print(version('herb'))"
        assert run(built, variables, "python", "-c", names) == "2.0"
        assert subprocess.check_output([base / "bin/herb"], text=True) == "herb 1.0\n"

    def test_the_bases_commands_see_the_layer(self, home: Home, variables, base: Path) -> None:
        script = base / "bin/show"
        script.write_text(f"#!{base}/bin/python\nimport brew; print('sees', brew.VERSION)\n")
        script.chmod(0o755)
        try:
            assert run(make(home, variables, pip=("brew",))[0], variables, "show") == "sees 1.0"
        finally:
            script.unlink()

    def test_what_the_base_has_by_reference_counts(
        self, home: Home, variables, base: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "editable").mkdir()
        (tmp_path / "editable/mine.py").write_text("")
        pointer = base / f"lib/python{_VERSION}/site-packages/mine.pth"
        pointer.write_text(str(tmp_path / "editable"))
        try:
            run(make(home, variables, pip=("brew",))[0], variables, "python", "-c", "import mine")
        finally:
            pointer.unlink()

    def test_requirements(self, home: Home, variables) -> None:
        built, _ = make(home, variables, requirements="# ours\nbrew==1.0\n", pip=("herb==2.0",))
        assert built.packages == {"brew": "1.0", "herb": "2.0"}

    def test_what_is_asked_for_is_on_no_command_line(self, home: Home, variables, monkeypatch) -> None:
        commands = []

        def watched(arguments: list[str], **rest: object) -> None:
            commands.append(arguments)
            uv.run_uv(arguments, **rest)

        monkeypatch.setattr(environment_build, "run_uv", watched)
        asked = ("brew ; python_version >= '3.5'", "herb")
        assert make(home, variables, base="none", pip=asked)[0].packages == {"brew": "1.0", "herb": "2.0"}
        assert not any("brew" in word or "herb" in word for command in commands for word in command)

    @pytest.mark.parametrize("package", [" -r /etc/hosts", "#brew", "brew\n-r /etc/hosts"])
    def test_what_is_no_package(self, home: Home, variables, package: str) -> None:
        with pytest.raises(BuildError, match="is not a package"):
            make(home, variables, pip=(package,))

    def test_versions_can_be_fixed_for_what_is_added(self, home: Home, variables) -> None:
        for asked in ({"pip": ("brew",)}, {"requirements": "brew\n"}):
            free, _ = make(home, variables, base="none", **asked)
            fixed, _ = make(home, variables, base="none", constraints=("herb==1.0", "unknown==3"), **asked)
            assert free.packages == {"brew": "1.0", "herb": "2.0"}
            assert fixed.packages == {"brew": "1.0", "herb": "1.0"}
            assert free.digest != fixed.digest

    def test_one_that_has_these_versions_anyway_is_used(self, home: Home, variables) -> None:
        free, _ = make(home, variables, base="none", pip=("brew",))
        same = make(home, variables, base="none", pip=("brew",), constraints=("brew==1.0", "Herb==2.0"))
        assert same == (free, [])

    def test_constraints_count_by_their_content_and_wherever_they_are(self, home: Home, variables) -> None:
        variables = variables | {"UV_CONSTRAINT": "versions.txt"}  # relative to where the command starts
        found = []
        for version in ("1.0", "2.0"):
            (home.root / "versions.txt").write_text(f"herb=={version}\n")
            found.append(make(home, variables, base="none", pip=("brew",))[0].packages["herb"])
        assert found == ["1.0", "2.0"]

    def test_what_was_resolved_is_told_from_the_base_and_from_files(
        self, home: Home, variables, shop: Path
    ) -> None:
        assert make(home, variables, pip=("brew",))[0].resolved == ("brew",)
        assert make(home, variables, pip=("brew",))[0].resolved == ("brew",)  # as it was written down
        wheel = next(shop.glob("brew-*.whl"))
        assert make(home, variables, base="none", pip=(str(wheel),))[0].resolved == ("herb",)

    def test_changed_base_makes_another(self, home: Home, variables, base: Path) -> None:
        first, _ = make(home, variables, pip=("brew",))
        added = base / f"lib/python{_VERSION}/site-packages/extra-3.dist-info"
        added.mkdir()
        (added / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 3\n")
        try:
            second, _ = make(home, variables, pip=("brew",))
            assert second.digest != first.digest
            assert second.packages["extra"] == "3"
        finally:
            (added / "METADATA").unlink()
            added.rmdir()

    def test_other_version_is_refused(self, home: Home, variables) -> None:
        with pytest.raises(
            BuildError, match=r"python is 3\..* here, and python='3\.2' was requested"
        ) as caught:
            make(home, variables, python="3.2")
        assert caught.value.hint == "base='none' builds a clean environment of that version"
        assert make(home, variables, python=_VERSION)[0].packages == {"herb": "1.0"}


class TestClean:
    def test_has_only_what_was_asked_for(self, home: Home, variables) -> None:
        built, _ = make(home, variables, base="none", pip=("brew",), python=_VERSION)
        assert built.packages == {"brew": "1.0", "herb": "2.0"}
        paths = run(built, variables, "python", "-c", "import sys; print(sys.prefix, *sys.path)")
        assert str(built.prefix) in paths
        assert "base" not in paths.replace(str(built.prefix), "")

    def test_empty(self, home: Home, variables) -> None:
        assert make(home, variables, base="none")[0].packages == {}

    @pytest.mark.parametrize("version", [None, _VERSION])
    def test_needs_no_python_on_path(self, home: Home, variables, version: str | None) -> None:
        variables = variables | {"PATH": "/nonexistent"}
        built, _ = make(home, variables, base="none", python=version)
        assert built.packages == {}
        prefix = run(built, variables, str(built.python), "-c", "import sys; print(sys.prefix)")
        assert prefix == str(built.prefix)
        with pytest.raises(BuildError, match=r"there is no Python 3\.99 on this machine$"):
            make(home, variables, base="none", python="3.99")

    def test_version_that_is_not_here(self, home: Home, variables) -> None:
        with pytest.raises(BuildError, match=r"there is no Python 3\.99 on this machine"):
            make(home, variables, base="none", python="3.99")


class TestReuse:
    def test_equal_wishes_share_one(self, home: Home, variables) -> None:
        first, _ = make(home, variables, pip=("brew", "herb"))
        second, reported = make(home, variables, pip=(" herb", "brew"))
        assert (second, reported) == (first, [])

    def test_edited_one_is_built_again(self, home: Home, variables) -> None:
        first, _ = make(home, variables, pip=("brew",))
        module = next(first.prefix.glob("lib/python*/site-packages/brew.py"))
        times = module.stat()
        module.write_text(module.read_text().replace("VERSION = '1.0'", "VERSION = '6.6'"))
        os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))  # covers its traces
        second, reported = make(home, variables, pip=("brew",))
        assert "the environment was changed after it was built; rebuilding it" in reported
        assert run(second, variables, "brew") == "brew 1.0"

    def test_edited_one_that_another_run_uses_stays_and_one_is_built_beside_it(
        self, home: Home, variables
    ) -> None:
        first, _ = make(home, variables, pip=("brew",))
        module = next(first.prefix.glob("lib/python*/site-packages/brew.py"))
        with (home.environments / "locks" / f"{first.digest}.use").open("a") as others:
            fcntl.flock(others, fcntl.LOCK_SH)
            module.write_text("VERSION = 'edited'")
            second, _ = make(home, variables, pip=("brew",))
            assert (second.digest, second.prefix == first.prefix) == (first.digest, False)
            assert module.read_text() == "VERSION = 'edited'"
            assert make(home, variables, pip=("brew",)) == (second, [])
            assert run(second, variables, "brew") == "brew 1.0"
        next(second.prefix.glob("lib/python*/site-packages/brew.py")).write_text("VERSION = 'edited'")
        third, _ = make(home, variables, pip=("brew",))
        assert third.prefix == first.prefix
        assert run(third, variables, "brew") == "brew 1.0"

    def test_any_edit_is_noticed(self, home: Home, variables) -> None:
        built, _ = make(home, variables, base="none", pip=("brew",))
        site = next(built.prefix.glob("lib/python*/site-packages"))
        edits = [
            lambda: (site / "brew.py").unlink(),
            lambda: (site / "sitecustomize.py").write_text("raise SystemExit('poisoned')"),
            lambda: next((site / "__pycache__").glob("brew.*.pyc")).write_bytes(b"poisoned"),
            lambda: (built.bin / "brew").write_text("#!/bin/sh\nexit 1\n"),
        ]
        for edit in edits:
            edit()
            again, _ = make(home, variables, base="none", pip=("brew",))
            assert run(again, variables, "brew") == "brew 1.0"

    def test_caches_written_by_a_run_cost_no_rebuild_and_are_not_trusted(self, home: Home, variables) -> None:
        built, _ = make(home, variables, pip=("brew",))
        run(built, variables, "python", "-O", "-c", "import brew")
        (optimised,) = built.prefix.rglob("brew.*.opt-1.pyc")
        optimised.write_bytes(b"poisoned")
        assert make(home, variables, pip=("brew",)) == (built, [])
        assert not optimised.exists()

    def test_nothing_is_shared_with_the_cache(self, home: Home, variables) -> None:
        built, _ = make(home, variables, pip=("brew",))
        assert {path.stat().st_nlink for path in built.prefix.rglob("*.py")} == {1}

    def test_two_at_once_build_one(self, home: Home, variables) -> None:
        script = (
            "import os, sys; from pathlib import Path\n"
            "from conjure.core.home import Home\n"
            "from conjure.runs.environments.environment_build import build\n"
            "from conjure.runs.schema.spec import EnvironmentChoice\n"
            "build(Home(Path(sys.argv[1])), EnvironmentChoice(base='none', pip=('brew',)), print)\n"
        )
        command = [sys.executable, "-c", script, str(home.root)]
        pipe = subprocess.PIPE
        builders = [subprocess.Popen(command, env=variables, stdout=pipe, text=True) for _ in range(2)]
        lines = [builder.communicate()[0] for builder in builders]
        assert [builder.returncode for builder in builders] == [0, 0]
        assert sum("+ brew==1.0" in line for line in lines) == 1

    def test_cut_off_build_is_no_environment(self, home: Home, variables) -> None:
        built, _ = make(home, variables, base="none", pip=("brew",))
        (built.prefix / "environment.json").unlink()  # written last
        again, reported = make(home, variables, base="none", pip=("brew",))
        assert again == built
        assert any("brew" in line for line in reported)


def test_a_process_that_used_an_environment_ends_without_a_warning(home: Home, variables) -> None:
    script = (
        "import sys; from pathlib import Path; from conjure.core.home import Home; "
        "from conjure.runs.environments import environment_build as built, environment_locks as locks; "
        "from conjure.runs.schema.spec import EnvironmentChoice; "
        "choice = EnvironmentChoice(base='none', pip=('herb',)); "
        "home = Home(Path(sys.argv[1])); "
        "print((home, built.build(home, choice, print).digest) in locks._in_use)"
    )
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", script, str(home.root)]
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    assert (done.stdout.splitlines()[-1], done.stderr) == ("True", "")


class TestFailures:
    def test_unknown_package_in_the_resolvers_words(self, home: Home, variables) -> None:
        with pytest.raises(BuildError) as caught:
            make(home, variables, pip=("no-such-package-at-all",))
        assert str(caught.value).startswith("the environment could not be built: No solution found")
        assert "no-such-package-at-all was not found" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_conflict(self, home: Home, variables) -> None:
        with pytest.raises(BuildError, match=r"herb"):
            make(home, variables, pip=("brew", "herb<1"))

    def test_nothing_is_left_behind(self, home: Home, variables) -> None:
        with pytest.raises(BuildError):
            make(home, variables, pip=("no-such-package-at-all",))
        assert {path.name for path in home.environments.iterdir()} == {"interpreters", "locks"}

    def test_line_that_is_no_requirement(self, home: Home, variables) -> None:
        with pytest.raises(BuildError, match="a b c"):
            make(home, variables, requirements="a b c\n")


class TestPrune:
    def test_frees_what_nobody_needs_or_uses(self, home: Home, variables) -> None:
        needed, _ = make(home, variables, base="none")
        idle, _ = make(home, variables, pip=("brew",))
        used, _ = make(home, variables, pip=("herb==2.0",))
        (home.environments / f".{idle.digest}.new-x").mkdir()
        for unused in (idle, needed):  # as when the process that used it has ended
            os.close(environment_locks._in_use.pop((home, unused.digest)))
        assert environment_build.prune(home, {needed.digest}) == [idle.prefix]
        left = {path.name for path in home.environments.iterdir()} - {"interpreters", "locks"}
        assert left == {needed.digest, used.digest}
