"""Options that a command cannot honour are refused; none is dropped without a word."""

import pytest

from conjure.cli.main import _run


@pytest.fixture
def refused(capsys):
    """What is said of a command line that is wrong."""

    def run(*arguments):
        assert _run(list(arguments)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        return err.splitlines()[0].removeprefix("error: ")

    return run


def test_a_resumed_fine_tune_takes_no_other_options_of_training(refused):
    typed = ("--epochs", "60", "--lr", "1e-4", "--model", "gpt2", "--label", "best", "--distributed", "2")
    assert refused("finetune", "--resume", "runs/2", *typed) == (
        "--resume continues with the interrupted run's model and options; --model, --epochs, --lr cannot be"
        " given"
    )
