"""What uv says when it fails, as one sentence."""

import sys

import pytest

from conjure.errors import BuildError
from conjure.installation import pip_install
from conjure.runs.environments.uv import explain, uv_program
from conjure.runs.maintenance import doctor


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            [
                "Using Python 3.11 environment at: x",
                "error: No solution found when resolving dependencies",
                "  cause: Because nope was not found in the package registry and you require nope, we can",
                "         conclude that your requirements are unsatisfiable.",
            ],
            "No solution found when resolving dependencies: Because nope was not found in the package"
            " registry and you require nope, we can conclude that your requirements are unsatisfiable.",
        ),
        (
            [
                "  × No solution found when resolving dependencies:",
                "  ╰─▶ Because nope was not found and you require nope, we can conclude that your",
                "      requirements are unsatisfiable.",
                "",
                "      hint: try something with uv",
            ],
            "No solution found when resolving dependencies: Because nope was not found and you require"
            " nope, we can conclude that your requirements are unsatisfiable.",
        ),
        (
            [
                "error: Failed to parse: `a b c`",
                "  cause: Expected one of `@`, found `b`",
                "  a b c",
                "    ^",
            ],
            "Failed to parse: `a b c`: Expected one of `@`, found `b` a b c",
        ),
        (
            [
                "error: Failed to build `brew==0.1.4`",
                "  cause: The build backend returned an error",
                "  cause: Call to `build_wheel` failed (exit status: 1)",
                "",
                "         [stderr]",
                "         Traceback (most recent call last):",
                '           File "<string>", line 14, in <module>',
                "         FileNotFoundError: No such file: 'requirements.txt'",
                "",
                "hint: this is no fault of uv",
            ],
            "Failed to build `brew==0.1.4`: The build backend returned an error: Call to `build_wheel` failed"
            " (exit status: 1): FileNotFoundError: No such file: 'requirements.txt'",
        ),
        (["something odd"], "something odd"),
        ([], "uv printed no message"),
    ],
)
def test_explain(lines: list[str], sentence: str) -> None:
    assert explain(lines) == sentence


@pytest.fixture
def without_package(monkeypatch, tmp_path):
    """As where conjure was installed without its extra; a folder that is all of PATH."""
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    uv_program.cache_clear()
    yield tmp_path
    uv_program.cache_clear()


def test_a_uv_on_path_does_where_the_package_is_not_installed(without_package):
    program = without_package / "uv"
    program.touch(0o755)
    assert uv_program() == str(program)


def test_without_any_the_command_that_installs_it_is_named(without_package):
    with pytest.raises(BuildError, match=r"^uv is not installed; ") as caught:
        uv_program()
    assert caught.value.fix == doctor._uv().fix == pip_install("uv")
