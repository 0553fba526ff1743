"""A command that was forked cannot be told from one that an interpreter was started for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.command_server import CommandServer
from support.process_facts import ENDS
from support.terminal import Started, environment

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_a_forked_command_finds_and_does_what_a_new_process_does(tmp_path, end):
    words = [end, "two words", "é"]
    variables = {**environment(), "GIVEN": "é\n", "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    new = subprocess.run(
        [sys.executable, "-m", "support.process_facts", *words],
        input="text é",
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
        env=variables,
    )
    forked = Started(*words, module="support.process_facts", folder=tmp_path, variables=variables)
    shown, told = forked.communicate("text é")
    assert forked.returncode == new.returncode
    facts, *more = new.stdout.splitlines()
    facts_of_forked, *more_of_forked = shown.splitlines()
    assert json.loads(facts_of_forked) == json.loads(facts)
    assert (more_of_forked, told.splitlines()[-1:]) == (more, new.stderr.splitlines()[-1:])


@pytest.mark.slow
def test_the_server_ends_though_a_command_still_runs_which_goes_on(tmp_path):
    server = CommandServer(environment())
    given, gift = os.pipe()
    with os.fdopen(given) as given, Path(os.devnull).open("w") as nowhere:
        command = server.start(
            "support.process_facts",
            ["number"],
            variables=environment(),
            folder=tmp_path,
            standard=(given, nowhere, nowhere),
        )
    server.close()
    os.close(gift)  # it has waited for the end of its input
    assert command.wait() == 66
