"""`conjure finetune --distributed N` with real processes: equal losses, and an end when one of them dies."""

import os
import signal

import conjure
from conjure.core.files import sha256_file
from conjure.lm.training.state import load_training_facts
from conjure.python_api import Run
from conjure.runs.host.process import find_process, with_variables
from conjure.runs.schema.status import EndReason, RunStatus
from support.terminal import conjure as command_line
from support.tuning import OPTIONS, tuning_inputs

# Long enough that a process can be killed in the midst of it, however late we are: 114 steps.
LONG = {**OPTIONS, "split": "lines", "epochs": 3, "save_every": 10, "block_size": 8, "dropout": 0.1}


def points(run):
    """All training and held-out losses of a run, and the weights it kept."""
    losses = [[(point.step, point.value) for point in run.metrics(name)] for name in ("loss", "eval_loss")]
    return (*losses, sha256_file(run.home.run_folder(run.number) / "outputs/output/model.safetensors"))


def second_process(run):
    """Rank 1 of a run."""
    [found] = with_variables(
        [b"RANK=1", f"CONJURE_RUN={run.number}".encode(), f"CONJURE_HOME={run.home.root}".encode()]
    )
    return found


def test_a_killed_process_ends_the_run_which_resumes_with_more_processes_to_equal_losses(client, tmp_path):
    text, model = tuning_inputs(tmp_path)
    alone = client.finetune(text, model=model, distributed=1, run={"cpus": 1}, **LONG)
    killed = client.finetune(text, model=model, distributed=2, run={"cpus": 1}, **LONG)
    assert any(line.startswith("step 20: eval loss") for line in killed.logs(follow=True))  # a state is saved
    os.kill(second_process(killed).pid, signal.SIGKILL)
    ending = killed.wait().record.ending
    assert (ending.reason, ending.signal) == (EndReason.SIGNALLED, signal.SIGKILL)
    assert ending.message == "rank 1 of 2 was ended by SIGKILL; the other process was ended"
    printed = list(killed.logs())
    assert sum(line.startswith("Machine  2 processes of 1 thread each") for line in printed) == 1
    assert not any(line.startswith("error") for line in printed)

    done = command_line("finetune", "--resume", f"runs/{killed.number}", "--distributed", "4")
    assert done.returncode == 0, done.stderr
    resumed = Run(client.home, killed.number + 1)
    assert alone.wait().status is RunStatus.COMPLETE
    expected, found = points(alone), points(resumed)
    for unbroken, rest in zip(expected[:2], found[:2], strict=True):
        assert rest
        assert rest == [point for point in unbroken if point[0] >= rest[0][0]]
    assert found[2] == expected[2]


def test_a_stopped_process_ends_the_run_as_failed_and_what_was_saved_is_kept(client, tmp_path):
    text, model = tuning_inputs(tmp_path)
    stopped = client.finetune(text, model=model, distributed=2, run={"cpus": 1}, **LONG)
    assert any(line.startswith("step 20: eval loss") for line in stopped.logs(follow=True))
    second = second_process(stopped)
    os.kill(second.pid, signal.SIGSTOP)
    record = stopped.wait().record
    assert record.status is RunStatus.FAILED
    assert record.ending.message == (
        "rank 1 of 2 hangs: it was stopped by a signal; the other process was ended"
    )
    assert find_process(second.pid) is None
    outputs = client.home.run_folder(stopped.number) / "outputs"
    assert load_training_facts(outputs / "output.training")["history"]["train"][-1][0] >= 10
    assert conjure.load(outputs / "output").model.n_layer > 0


def test_a_process_that_is_asked_to_end_has_all_save_and_end_as_one_process_would(client, tmp_path):
    text, model = tuning_inputs(tmp_path)
    run = client.finetune(text, model=model, distributed=2, run={"cpus": 1}, **LONG | {"save_every": 0})
    assert any(line.startswith("step 10: eval loss") for line in run.logs(follow=True))
    os.kill(second_process(run).pid, signal.SIGTERM)
    record = run.wait().record
    assert (record.status, record.ending.exit_code) == (RunStatus.FAILED, 128 + signal.SIGTERM)
    assert (run.home.run_folder(run.number) / "outputs/output.training").is_dir()
