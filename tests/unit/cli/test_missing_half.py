"""The run half alone: what the other half's commands say then."""

import subprocess
import sys

import pytest

WITHOUT = (
    "import sys; sys.modules[{!r}] = None; from conjure.cli.main import _run; "
    "sys.exit(_run(['score', 'a text']))"
)


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["numpy", "tokenizers"])
def test_a_missing_extra_is_named_with_what_to_type(missing):
    done = subprocess.run([sys.executable, "-c", WITHOUT.format(missing)], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{missing} is not installed" in done.stderr
    assert "pip install 'conjure[lm]'" in done.stderr
