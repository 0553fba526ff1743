"""The run half alone: what the other half's commands say then."""

import subprocess
import sys

import pytest

from conjure.installation import install_command

WITHOUT = (
    "import sys; sys.modules[{!r}] = None; from conjure.cli.main import _run; "
    "sys.exit(_run(['{}', 'a text']))"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [("numpy", "score", "generate"), ("tokenizers", "score", "generate"), ("numpy", "finetune", "lm")],
)
def test_a_missing_extra_is_named_with_what_to_type(missing, command, extra):
    script = WITHOUT.format(missing, command)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{missing} is not installed" in done.stderr
    assert f"  try: {install_command(extra)}\n" in done.stderr
