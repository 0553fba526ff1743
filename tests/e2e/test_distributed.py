"""`conjure finetune --distributed N` with real processes: equal losses, and an end when one of them dies."""

import os
import signal

from conjure.core.files import sha256_file
from conjure.python_api import Run
from conjure.runs.host.process import with_variables
from conjure.runs.schema.status import EndReason, RunStatus
from support.terminal import conjure
from support.tuning import OPTIONS, tuning_inputs

# Long enough that a process can be killed in the midst of it: 88 steps.
LONG = {**OPTIONS, "split": "lines", "epochs": 2, "save_every": 10, "block_size": 8, "dropout": 0.1}


def points(run):
    """All training and held-out losses of a run, and the weights it kept."""
    losses = [[(point.step, point.value) for point in run.metrics(name)] for name in ("loss", "eval_loss")]
    return (*losses, sha256_file(run.home.run_folder(run.number) / "outputs/output/model.safetensors"))


def test_a_killed_process_ends_the_run_which_resumes_with_more_processes_to_equal_losses(client, tmp_path):
    text, model = tuning_inputs(tmp_path)
    alone = client.finetune(text, model=model, distributed=1, run={"cpus": 1}, **LONG)
    killed = client.finetune(text, model=model, distributed=2, run={"cpus": 1}, **LONG)
    assert any(line.startswith("step 20: eval loss") for line in killed.logs(follow=True))  # a state is saved
    [second] = with_variables(
        [b"RANK=1", f"CONJURE_RUN={killed.number}".encode(), f"CONJURE_HOME={client.home.root}".encode()]
    )
    os.kill(second.pid, signal.SIGKILL)
    ending = killed.wait().record.ending
    assert (ending.reason, ending.signal) == (EndReason.SIGNALLED, signal.SIGKILL)
    assert ending.message == "rank 1 of 2 was ended by SIGKILL; the other process was ended"
    printed = list(killed.logs())
    assert sum(line.startswith("Machine  2 processes of 1 thread each") for line in printed) == 1
    assert not any(line.startswith("error") for line in printed)

    done = conjure("finetune", "--resume", f"runs/{killed.number}", "--distributed", "4")
    assert done.returncode == 0, done.stderr
    resumed = Run(client.home, killed.number + 1)
    assert alone.wait().status is RunStatus.COMPLETE
    expected, found = points(alone), points(resumed)
    for unbroken, rest in zip(expected[:2], found[:2], strict=True):
        assert rest
        assert rest == [point for point in unbroken if point[0] >= rest[0][0]]
    assert found[2] == expected[2]
