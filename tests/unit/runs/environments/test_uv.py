"""What uv says when it fails, as one sentence."""

import pytest

from conjure.runs.environments.uv import explain


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
