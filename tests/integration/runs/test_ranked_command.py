"""Commands of several processes: each is told its rank, and they end together."""

import os
import re
import signal
import sys

import pytest

from conjure.runs.distributed import ranked_command
from conjure.runs.distributed.ranked_command import start_ranked
from conjure.runs.executors.command import Exit, Job, NotStartedError, Ranks
from conjure.runs.host import hang_detector
from conjure.runs.host.process import find_process
from conjure.runs.schema.spec import RunSpec
from conjure.runs.schema.status import EndReason, RunStatus
from conjure.runs.telemetry.logs import STDERR, STDOUT
from support.casting import is_running, nap, wait_until
from support.executions import read_to_end, supervising

FOR_EVER = f"exec sleep {nap(87111)}"


@pytest.fixture
def start(tmp_path):
    """Starts shell lines as a supervisor would, in so many processes."""
    with supervising() as begin:

        def _start(line, count=2, **options):
            job = Job(("bash", "-c", line), tmp_path, dict(os.environ), ranks=Ranks(count, **options))
            return begin(start_ranked, job)

        yield _start


def pids(execution, count):
    """The processes by rank, once each has written its pid."""
    found = {}
    while len(found) < count:
        for _, data in execution.read(0.1):
            found |= {int(line[1]): int(line[4:]) for line in data.decode().splitlines()}
    return found


def test_each_process_is_told_its_place_and_its_lines_begin_with_it(start):
    line = "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT; printf err >&2"
    execution = start(line, 3)
    written = read_to_end(execution)
    lines = sorted(written[STDOUT].decode().splitlines())
    [port] = {line.split()[-1] for line in lines}
    assert lines == [f"[{rank}] {rank} {rank} 3 3 127.0.0.1 {port}" for rank in range(3)]
    assert int(port) > 1024
    assert sorted(written[STDERR].splitlines()) == [b"[0] err", b"[1] err", b"[2] err"]
    assert execution.exit == Exit(code=0)


def test_nothing_that_is_printed_is_lost_or_labelled_where_no_label_is_wanted(start):
    expected = b"".join(b"%d\n" % number for number in range(1, 50_001))
    labelled = read_to_end(start("seq 50000"))[STDOUT].splitlines(keepends=True)
    for rank in (0, 1):
        own = [line[4:] for line in labelled if line.startswith(b"[%d] " % rank)]
        assert b"".join(own) == expected
    plain = read_to_end(start('[ "$RANK" = 1 ] || seq 50000', labelled=False))
    assert plain[STDOUT] == expected


@pytest.mark.parametrize(
    ("pieces", "labelled"),
    [
        ((b"a\r", b"\nb\n"), b"[0] a\r\n[0] b\n"),
        ((b"a\r", b"b\r", b"\n", b"c\n"), b"[0] a\r[0] b\r\n[0] c\n"),
        ((b"a\n", b"\n"), b"[0] a\n[0] \n"),
        ((b"x" * 60_000, b"x" * 10_000 + b"\n", b"y\n"), b"[0] " + b"x" * 70_000 + b"\n[0] y\n"),
    ],
)
def test_a_line_is_labelled_once_however_it_comes(pieces, labelled):
    label = ranked_command._LineLabel(b"[0] ")
    assert b"".join(map(label.take, pieces)) + label.rest() == labelled


def test_the_first_that_fails_ends_the_others_and_its_exit_counts(start):
    execution = start(f'[ "$RANK" = 1 ] && exit 5; {FOR_EVER}', 3)
    read_to_end(execution)
    assert execution.exit == Exit(
        code=5, message="rank 1 of 3 failed with exit status 5; the other processes were ended"
    )
    assert not is_running(nap(87111))


def test_one_that_is_done_leaves_the_others_their_time(start):
    execution = start('[ "$RANK" = 0 ] || { sleep 0.3; echo late; }')
    assert read_to_end(execution)[STDOUT] == b"[1] late\n"
    assert execution.exit == Exit(code=0)


def test_a_killed_process_ends_the_others_even_if_they_ignore_it(start, monkeypatch):
    monkeypatch.setattr(ranked_command, "_GRACE_S", 0.2)
    execution = start(f"trap '' TERM; echo $$; sleep {nap(87111)}")
    os.kill(pids(execution, 2)[1], signal.SIGKILL)
    read_to_end(execution)
    message = "rank 1 of 2 was ended by SIGKILL; the other process was ended"
    assert execution.exit == Exit(signal=signal.SIGKILL, message=message)
    wait_until(lambda: not is_running(nap(87111)), "the end of all")


def test_a_process_that_is_stopped_ends_all(start, monkeypatch):
    monkeypatch.setattr(hang_detector, "_STOPPED_S", 0.2)
    execution = start(f"echo $$; {FOR_EVER}")
    os.kill(pids(execution, 2)[0], signal.SIGSTOP)
    read_to_end(execution)
    message = "rank 0 of 2 hangs: it was stopped by a signal; the other process was ended"
    assert execution.exit == Exit(signal=signal.SIGKILL, message=message)
    assert not is_running(nap(87111))


def test_processes_that_are_all_stopped_are_only_paused(start, monkeypatch, tmp_path):
    monkeypatch.setattr(hang_detector, "_STOPPED_S", 1e-6)
    monkeypatch.setattr(ranked_command, "_LOOK_EVERY_S", 0.0)
    execution = start("echo $$; while [ ! -e go ]; do sleep 0.02; done")
    found = pids(execution, 2).values()
    # Both are stopped before anybody looks.
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(find_process(pid).is_stopped for pid in found), "the pause")
    for _ in range(5):
        execution.read(0.05)
    assert execution.exit is None
    (tmp_path / "go").touch()
    for pid in found:
        os.kill(pid, signal.SIGCONT)
    read_to_end(execution)
    assert execution.exit == Exit(code=0)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("sleep", r"it has done nothing for \S+ while others wait"),
        ("compute", "it has been computing much longer than in earlier steps while others wait"),
    ],
)
def test_a_process_that_hangs_in_a_step_ends_the_training(how, words, tmp_path, monkeypatch):
    monkeypatch.setattr(hang_detector, "_WAITED_S", 0.5)
    command = (sys.executable, "-m", "support.hanging_rank", how)
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    job = Job(command, tmp_path, variables, ranks=Ranks(2, labelled=False))
    with supervising() as begin:
        execution = begin(start_ranked, job)
        written = read_to_end(execution)
    assert execution.exit is not None, written
    assert execution.exit.signal == signal.SIGKILL, written
    message = f"rank 1 of 2 hangs: {words}; the other process was ended"
    assert re.fullmatch(message, execution.exit.message), written


def test_asked_to_end_each_takes_its_own_time(start):
    line = "trap 'sleep $RANK; echo bye; exit $((3 + RANK))' TERM; echo $$; while :; do sleep 0.05; done"
    execution = start(line)
    pids(execution, 2)
    execution.terminate()
    written = read_to_end(execution)
    assert sorted(written[STDOUT].splitlines()) == [b"[0] bye", b"[1] bye"]
    assert execution.exit == Exit(code=3)


def test_when_all_are_asked_to_end_and_one_fails_the_others_have_a_moment(start, monkeypatch):
    monkeypatch.setattr(ranked_command, "_STOPPING_S", 0.2)
    execution = start(
        f'[ "$RANK" = 1 ] || trap "" TERM; echo "[$RANK] $$"; sleep {nap(87111)}', labelled=False
    )
    pids(execution, 2)
    execution.terminate()
    read_to_end(execution)
    assert execution.exit == Exit(signal=signal.SIGTERM)
    assert not is_running(nap(87111))


def test_rank_0_of_a_command_of_conjures_own_is_given_its_port(start, tmp_path):
    (tmp_path / "say.py").write_text(
        "import os, socket, sys\n"
        "given = os.environ.get('CONJURE_LISTEN_FD')\n"
        "port = socket.socket(fileno=int(given)).getsockname()[1] if given else 0\n"
        # At once: pieces of lines of two processes would mix where Python does not buffer them.
        "sys.stdout.write(f\"{os.environ['RANK']} {port == int(os.environ['MASTER_PORT'])}\\n\")\n"
    )
    execution = start("exec python say.py", labelled=False)
    assert sorted(read_to_end(execution)[STDOUT].splitlines()) == [b"0 True", b"1 False"]
    assert execution.exit == Exit(code=0)


def test_no_such_program_leaves_nobody(tmp_path):
    job = Job(("no-such-program",), tmp_path, dict(os.environ), ranks=Ranks(2))
    with pytest.raises(NotStartedError, match="no-such-program: command not found"):
        start_ranked(job, lambda _: False)


def test_a_run_of_two_processes(client):
    run = client.run(
        'echo rank $RANK of $WORLD_SIZE with $OMP_NUM_THREADS; [ "$RANK" = 0 ] && sleep 600; exit 4',
        distributed=2,
        cpus=1,
        env={"OMP_NUM_THREADS": "3"},
    )
    record = run.wait().record
    assert record.ending.reason is EndReason.NONZERO_EXIT
    assert record.ending.exit_code == 4
    assert record.ending.message == "rank 1 of 2 failed with exit status 4; the other process was ended"
    assert sorted(run.logs()) == ["[0] rank 0 of 2 with 3", "[1] rank 1 of 2 with 3"]
    assert RunSpec.from_dict(record.spec.to_dict()).distributed == 2


def test_a_run_of_a_script_ends_when_one_of_its_processes_is_killed(client):
    script = (
        "import os, signal, time; os.kill(os.getpid(), signal.SIGKILL if os.environ['RANK'] == '1' else 0)"
    )
    run = client.run(f'python -c "{script}; time.sleep(600)"', distributed=2, cpus=1)
    record = run.wait().record
    assert (record.status, record.ending.signal) == (RunStatus.FAILED, signal.SIGKILL)
    assert record.ending.message == "rank 1 of 2 was ended by SIGKILL; the other process was ended"
