"""A run in a container ends, is stopped, logs, measures and saves as any other."""

import pytest

from conjure.runs.schema.status import EndReason, RunStatus
from support.casting import nap, wait_until
from support.containers import SMALL


def both(client, command, **options):
    """The same run without and with a container."""
    runs = [client.run(command, **options), client.run(command, image=SMALL, **options)]
    return [run.wait() for run in runs]


def ending(run):
    found = run.record.ending
    return found.reason, found.exit_code, found.signal


@pytest.mark.parametrize(
    "command",
    [
        "true",
        "exit 3",
        "exit 125",
        "kill -TERM $$",
        "kill -KILL $$",
        ["kill-no-such-program", "word"],
        ["./no-such-file", "word"],
        ["./plain.txt", "word"],
        ["./bad-interpreter", "word"],
        ["/", "word"],
    ],
)
def test_it_ends_as_without(client, folder, command):
    (folder / "plain.txt").write_text("x")
    (folder / "bad-interpreter").write_text("#!/no/such/program\n")
    (folder / "bad-interpreter").chmod(0o755)
    without, contained = both(client, command)
    assert ending(contained) == ending(without)


def test_a_program_that_is_not_in_the_image_is_named(client):
    run = client.run(["no-such-program", "word"], image=SMALL).wait()
    assert any("no-such-program: not found" in line for line in run.logs())


def test_outputs_and_log_are_as_without(client, folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "code.sh").write_text(
        "echo out; echo err >&2; cat; pwd > where.txt; mkdir -p a/b; echo made > a/b/made.txt\n"
        "ln -s b/made.txt a/link; echo :word: > param.txt; echo $GIVEN > given.txt\n"
    )
    options = {"folder": "sub", "env": {"GIVEN": "two\nlines"}, "no_output": ["where.txt"]}
    without, contained = both(client, ["sh", "code.sh"], **options)
    assert contained.record.outputs == without.record.outputs
    assert sorted(contained.logs()) == sorted(without.logs()) == ["err", "out"]
    outputs = client.home.run_folder(contained.number) / "outputs"
    assert (outputs / "a" / "link").read_text() == "made\n"
    assert (outputs / "given.txt").read_text() == "two lines\n"


def test_params_replace_their_names(client):
    run = client.run(["echo", "lr is :lr:"], params={"lr": "0.1"}, image=SMALL).wait()
    assert list(run.logs()) == ["lr is 0.1"]


def test_much_output_comes_whole(client):
    run = client.run("seq 200000", image=SMALL).wait()
    assert list(run.logs()) == [str(number) for number in range(1, 200001)]


def test_metrics_are_as_without(client, folder, python_image):
    image, python = python_image
    (folder / "code.py").write_text(
        "from conjure import log_metric\n"
        "import helper\n"
        "for step in range(3): log_metric('loss', helper.half / (step + 1))\n"
    )
    (folder / "src").mkdir()
    (folder / "src" / "helper.py").write_text("half = 0.5\n")
    run = client.run([python, "code.py"], image=image, stop_conditions=["loss > 1"]).wait(check=True)
    assert [point.value for point in run.metrics("loss")] == [0.5, 0.25, 0.5 / 3]
    assert run.metrics().keys() == {"loss"}


def test_a_stop_condition_stops_it(client):
    line = '{"name": "loss", "step": 1, "value": 9.0, "time": 1}'
    command = f"echo '{line}' >> $CONJURE_METRICS_FILE; sleep {nap(630)}"
    run = client.run(command, image=SMALL, stop_conditions=["loss > 8"]).wait()
    assert run.end_reason is EndReason.STOP_CONDITION


def test_mounts_can_be_read_and_private_copies_written(client, folder):
    (folder / "local.txt").write_text("local\n")
    client.run("mkdir d; echo of run 1 > d/made.txt").wait(check=True)
    mounts = ["./local.txt:a.txt", "./local.txt:b.txt:ro", "runs/1/d:c", "runs/1/d:e:ro"]
    command = (
        "cat a.txt b.txt c/made.txt e/made.txt && echo more >> a.txt && echo more >> c/made.txt;"
        " echo more >> b.txt; echo more >> e/made.txt; true"
    )
    run = client.run(command, mounts=mounts, image=SMALL).wait()
    assert [line for line in run.logs() if "Read-only" not in line] == [
        "local",
        "local",
        "of run 1",
        "of run 1",
    ]
    assert (folder / "local.txt").read_text() == "local\n"
    assert (client.home.run_folder(1) / "outputs" / "d" / "made.txt").read_text() == "of run 1\n"


@pytest.mark.parametrize("how", ["stop", "timeout"])
def test_a_stop_gives_the_command_time_to_save(client, how):
    options = {"timeout": "3s"} if how == "timeout" else {}
    # The command and a child of it save; the shell that leads them ends at once.
    saver = (
        "trap 'sleep 0.2; echo saving; echo saved >> saved.txt; exit 0' TERM; echo ready;"
        " while :; do sleep 0.05; done"
    )
    command = ["sh", "-c", f"sh -c \"{saver}\" & trap 'exit 5' TERM; while :; do sleep 0.05; done"]
    runs = [client.run(command, image=image, **options) for image in (None, SMALL)]
    for run in runs:
        if how == "stop":
            wait_until(lambda run=run: "ready" in list(run.logs()), "the command is ready")
            run.stop()
        run.wait()
        assert (client.home.run_folder(run.number) / "outputs" / "saved.txt").read_text() == "saved\n"
    assert ending(runs[1]) == ending(runs[0])
    assert runs[1].end_reason is (EndReason.TIMEOUT if how == "timeout" else EndReason.STOP_REQUESTED)


def test_what_a_command_leaves_running_is_asked_to_end_and_can_save(client):
    saver = (
        "trap 'sleep 0.2; echo saving; echo saved > saved.txt; exit 0' TERM; touch ready;"
        " while :; do sleep 0.05; done"
    )
    command = f'setsid sh -c "{saver}" & while [ ! -e ready ]; do sleep 0.05; done; exit 4'
    for run in both(client, command):
        assert ending(run) == (EndReason.NONZERO_EXIT, 4, None)
        assert "saving" in list(run.logs())
        assert (client.home.run_folder(run.number) / "outputs" / "saved.txt").read_text() == "saved\n"


def test_a_command_without_a_handler_is_stopped_by_its_signal(client):
    runs = [client.run(["sleep", nap(631)], image=image) for image in (None, SMALL)]
    for run in runs:
        wait_until(lambda run=run: run.status is RunStatus.RUNNING, "the command runs")
    endings = [ending(run.stop()) for run in runs]
    assert endings[0] == endings[1] == (EndReason.STOP_REQUESTED, None, 15)


def test_a_kill_ends_it_at_once(client):
    run = client.run(["sleep", nap(632)], image=SMALL)
    wait_until(lambda: run.status is RunStatus.RUNNING, "the command runs")
    assert ending(run.kill()) == (EndReason.KILL_REQUESTED, None, 9)
