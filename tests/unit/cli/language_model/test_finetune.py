"""What is checked of a fine-tune before a run gets a number."""

from pathlib import Path

import pytest

from conjure.cli.language_model.finetune import refuse_unequal_shares
from conjure.errors import UsageError
from conjure.runs.schema.spec import RunSpec


def resumed(*words, distributed):
    command = ("conjure", "finetune", "jokes.txt", *words, f"--distributed={distributed}", "--resume")
    return RunSpec(command=command, folder=Path("/"), distributed=distributed)


def test_a_resumed_fine_tune_is_shared_equally():
    refuse_unequal_shares(resumed(distributed=8))
    refuse_unequal_shares(resumed("--batch-size=3", "--grad-accumulation=2", "--epochs=2.5", distributed=6))
    with pytest.raises(UsageError, match="distributed is 3; the 8 blocks of a step"):
        refuse_unequal_shares(resumed("--split=lines", "--seed=6", distributed=3))
    with pytest.raises(UsageError, match="distributed is 4; the 6 blocks of a step"):
        refuse_unequal_shares(resumed("--batch-size=3", "--grad-accumulation=2", distributed=4))
