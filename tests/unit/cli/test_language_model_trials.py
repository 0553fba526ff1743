"""Which options of a recorded command a sweep can have as parameters, and which of a run its trials take."""

import re

import click
import pytest

from conjure.cli.commands import finetune, generate, score
from conjure.cli.recorded_run_options import RECORDING
from conjure.cli.run_options import run_options
from conjure.cli.sweeps.language_model_trials import _NOT_SWEPT, _OF_NO_TRIAL, _OF_OTHERS
from conjure.recipes.options import FinetuneOptions, GenerateOptions, ScoreOptions
from conjure.runs.schema.spec import RunSpec
from support.pages import DOCS

COMMANDS = [(finetune, FinetuneOptions), (generate, GenerateOptions), (score, ScoreOptions)]
PROMPTS = {"prompt", "prompt_option"}


@pytest.mark.parametrize(("module", "options"), COMMANDS)
def test_what_can_be_swept_is_in_the_command_alone(module, options):
    """What is also read elsewhere, or is not written into the command, would be the first trial's for all."""
    taken = [each for each in module.command.params if not isinstance(each, click.Option) or not each.is_flag]
    swept = {each.name for each in taken if each.expose_value} - set(_NOT_SWEPT) - set(_OF_NO_TRIAL)
    assert swept - PROMPTS <= options.__annotations__.keys()
    assert not swept & (RunSpec.__dataclass_fields__.keys() | set(RECORDING))


def test_the_page_on_sweeps_lists_the_options_of_a_run_that_such_trials_take():
    @click.command
    @run_options
    def carrier(**_):
        pass

    taken = {
        option.opts[0]
        for option in carrier.params
        if isinstance(option, click.Option) and not option.hidden and option.name not in _OF_OTHERS
    }
    sentence = re.search(r"these apply to such trials: (.*?)\. ", (DOCS / "sweeps.md").read_text(), re.DOTALL)
    assert sentence is not None
    assert set(re.findall(r"`(-[\w-]+)`", sentence[1])) == taken
