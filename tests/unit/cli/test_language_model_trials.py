"""Which options of a recorded command can be parameters of a sweep."""

import click
import pytest

from conjure.cli.commands import finetune, generate, score
from conjure.cli.recorded_run_options import RECORDING
from conjure.cli.sweeps.language_model_trials import _NOT_SWEPT, _OF_NO_TRIAL
from conjure.recipes.options import FinetuneOptions, GenerateOptions, ScoreOptions
from conjure.runs.schema.spec import RunSpec

COMMANDS = [(finetune, FinetuneOptions), (generate, GenerateOptions), (score, ScoreOptions)]
PROMPTS = {"prompt", "prompt_option"}


@pytest.mark.parametrize(("module", "options"), COMMANDS)
def test_what_can_be_swept_is_in_the_command_alone(module, options):
    """What is also read elsewhere, or is not written into the command, would be the first trial's for all."""
    taken = [each for each in module.command.params if not isinstance(each, click.Option) or not each.is_flag]
    swept = {each.name for each in taken if each.expose_value} - set(_NOT_SWEPT) - set(_OF_NO_TRIAL)
    assert swept - PROMPTS <= options.__annotations__.keys()
    assert not swept & (RunSpec.__dataclass_fields__.keys() | set(RECORDING))
