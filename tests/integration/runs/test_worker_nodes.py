"""Commands of several nodes: what happens on one ends the processes on the others."""

import contextlib
import os
import signal
import socket
import sys
from functools import partial

import pytest

from conjure.runs.distributed import connection, node_coordinator
from conjure.runs.distributed.connection import Connection, accept
from conjure.runs.distributed.node_coordinator import NodeLostError, WorkerNodes
from conjure.runs.distributed.ranked_command import start_ranked
from conjure.runs.distributed.worker_ranks import Leader, execute_worker_ranks
from conjure.runs.executors.command import Exit, Job, NotStartedError, Ranks
from conjure.runs.host import hang_detector
from conjure.runs.host.process import descendants, find_process, kill_descendants, send_signal
from conjure.runs.telemetry.logs import STDERR, STDOUT
from support.casting import is_running, nap, wait_until
from support.executions import read_to_end, supervising

FOR_EVER = f"exec sleep {nap(87112)}"


class Cluster:
    """The first node is this process; the others are children of it."""

    def __init__(self, folder):
        self.folder = folder
        self.pids = []
        self.worker_nodes = None

    def job(self, line, node=0, nodes=2, address="127.0.0.1", **options):
        ranks = Ranks(1, node=node, nodes=nodes, address=address, **options)
        return Job(("bash", "-c", line), self.folder, dict(os.environ), ranks=ranks)

    def invite(self, nodes=2, **options):
        self.worker_nodes = WorkerNodes(nodes, 1, **options)
        return self.worker_nodes.invitation

    def join(self, node, act):
        """Have another node join, and do something."""
        invitation = self.worker_nodes.invitation
        pid = os.fork()
        if pid:
            self.pids.append(pid)
            return pid
        with contextlib.suppress(BaseException):
            joined = accept(invitation)
            joined.send("hello", token=invitation.token, node=node, host=f"host-{node}")
            leader = Leader(joined)
            act(leader)
            leader.part()
        os._exit(0)

    def start(self, line, nodes=2, **options):
        """Have all nodes carry out a command; it is what the first one's supervisor watches."""
        self.invite(nodes)

        def execute(leader, node):
            leader.send("ready")
            port = leader.wait_for_start()
            if port is not None:
                job = self.job(line, node, nodes, leader.address, **options)
                try:
                    execute_worker_ranks(job, port, lambda _: False, leader)
                    leader.send("ended")
                finally:
                    kill_descendants()

        for node in range(1, nodes):
            self.join(node, partial(execute, node=node))
        self.worker_nodes.wait()
        job = self.job(line, 0, nodes, self.worker_nodes.own_address, **options)
        return self.begin(partial(start_ranked, worker_nodes=self.worker_nodes), job)


@pytest.fixture
def cluster(tmp_path):
    with supervising() as begin:
        cluster = Cluster(tmp_path)
        cluster.begin = begin
        yield cluster
        if cluster.worker_nodes is not None:
            cluster.worker_nodes.close()
        for pid in cluster.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def test_each_process_is_told_its_place_among_those_of_all_nodes(cluster):
    line = "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $NODE_RANK $MASTER_PORT; printf err >&2"
    execution = cluster.start(line, 3)
    assert cluster.worker_nodes.hosts == ["host-1", "host-2"]
    written = read_to_end(execution)
    lines = sorted(written[STDOUT].decode().splitlines())
    [port] = {line.split()[-1] for line in lines}
    assert lines == [f"[{rank}] {rank} 0 3 1 {rank} {port}" for rank in range(3)]
    assert sorted(written[STDERR].splitlines()) == [b"[0] err", b"[1] err", b"[2] err"]
    assert execution.exit == Exit(code=0)


def test_a_process_that_fails_on_another_node_ends_all(cluster):
    execution = cluster.start(f'[ "$RANK" = 1 ] && exit 5; {FOR_EVER}')
    read_to_end(execution)
    message = "rank 1 of 2 failed with exit status 5; the other process was ended"
    assert execution.exit == Exit(code=5, message=message)
    wait_until(lambda: not is_running(nap(87112)), "the end of all")


def test_a_process_that_fails_on_the_first_node_ends_those_of_others(cluster):
    execution = cluster.start(f'[ "$RANK" = 0 ] && exit 6; {FOR_EVER}')
    read_to_end(execution)
    assert execution.exit.code == 6
    assert not is_running(nap(87112))


def test_a_node_that_is_lost_ends_all(cluster):
    execution = cluster.start(f"echo ready; {FOR_EVER}")
    read_lines(execution, 2)
    lost = [cluster.pids[0], *(process.pid for process in descendants(cluster.pids[0]))]
    for pid in lost:
        os.kill(pid, signal.SIGKILL)
    read_to_end(execution)
    message = "node 2 of 2 (host-1) was lost; the other processes were ended"
    assert execution.exit == Exit(signal=signal.SIGKILL, message=message, is_lost=True)
    assert not is_running(nap(87112))


def test_a_node_that_is_lost_is_the_cause_of_what_follows_from_it(cluster):
    execution = cluster.start("trap 'exit 7' USR1; echo $$; while :; do sleep 0.05; done")
    pids = {int(line[1]): int(line[4:]) for line in read_lines(execution, 2)}
    for process in (find_process(cluster.pids[0]), *descendants(cluster.pids[0])):
        send_signal(process, signal.SIGKILL)
    os.kill(pids[0], signal.SIGUSR1)  # as a process that loses its connection to the other would exit
    for pid in (cluster.pids[0], pids[0]):
        wait_until(lambda pid=pid: find_process(pid).is_zombie, "the end of both")
    read_to_end(execution)
    message = "node 2 of 2 (host-1) was lost; the other processes were ended"
    assert execution.exit == Exit(signal=signal.SIGKILL, message=message, is_lost=True)


def test_what_other_nodes_started_ends_with_the_first_one(cluster):
    execution = cluster.start(f'[ "$RANK" = 0 ] || {FOR_EVER}; sleep 600')
    wait_until(lambda: is_running(nap(87112)), "the start")
    cluster.worker_nodes.close()
    wait_until(lambda: not is_running(nap(87112)), "the end of all")
    execution.kill()
    read_to_end(execution)


def test_a_stop_and_a_kill_reach_all_nodes(cluster):
    execution = cluster.start("trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    read_lines(execution, 2)
    execution.terminate()
    assert sorted(read_to_end(execution)[STDOUT].splitlines()) == [b"[0] asked", b"[1] asked"]
    assert execution.exit.code == 3
    cluster.worker_nodes.close()
    execution = cluster.start(f"trap '' TERM; echo ready; sleep {nap(87112)}")
    read_lines(execution, 2)
    execution.kill()
    read_to_end(execution)
    assert execution.exit.signal == signal.SIGKILL
    assert not is_running(nap(87112))


def test_a_process_that_is_stopped_on_another_node_ends_all(cluster, monkeypatch):
    monkeypatch.setattr(hang_detector, "_STOPPED_S", 0.2)
    execution = cluster.start(f"echo $$; {FOR_EVER}")
    pids = {int(line[1]): int(line[4:]) for line in read_lines(execution, 2)}
    os.kill(pids[1], signal.SIGSTOP)
    read_to_end(execution)
    message = "rank 1 of 2 hangs: it was stopped by a signal; the other process was ended"
    assert execution.exit == Exit(signal=signal.SIGKILL, message=message)
    assert not is_running(nap(87112))


@pytest.mark.parametrize("how", ["sleep", "compute"])
def test_a_process_of_a_training_that_hangs_on_another_node_ends_it(how, cluster, monkeypatch):
    monkeypatch.setattr(hang_detector, "_WAITED_S", 0.5)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    line = f"exec {sys.executable} -m support.hanging_rank {how}"
    execution = cluster.start(line, labelled=False)
    written = read_to_end(execution)
    assert execution.exit.message.startswith("rank 1 of 2 hangs: it has "), written


def test_a_command_that_cannot_be_started_on_another_node_ends_all(cluster):
    cluster.invite()

    def refuse(leader):
        leader.send("ready")
        leader.wait_for_start()
        leader.send("not started", message="no space", exit_code=125)

    cluster.join(1, refuse)
    cluster.worker_nodes.wait()
    job = cluster.job(FOR_EVER, address=cluster.worker_nodes.own_address)
    execution = cluster.begin(partial(start_ranked, worker_nodes=cluster.worker_nodes), job)
    read_to_end(execution)
    assert execution.exit == Exit(code=125, message="node 2 of 2 (host-1): no space")


def test_a_node_that_cannot_get_ready_says_why(cluster):
    cluster.invite()
    cluster.join(1, lambda leader: leader.send("not started", message="no such package", exit_code=125))
    with pytest.raises(NotStartedError, match=r"^node 2 of 2 \(host-1\): no such package$"):
        cluster.worker_nodes.wait()


def test_a_node_that_is_lost_before_it_is_ready_is_told(cluster):
    cluster.invite()
    cluster.join(1, lambda _: os._exit(1))
    with pytest.raises(NodeLostError, match=r"^node 2 of 2 \(host-1\) was lost$"):
        cluster.worker_nodes.wait()


def test_a_node_that_does_not_join_is_not_waited_for_for_ever(cluster):
    invitation = cluster.invite(3, join_within_s=2.0)
    cluster.join(1, lambda leader: leader.wait_for_start())
    with pytest.raises(NodeLostError, match=rf"^node 3 of 3 did not join within 2\.0s: .*{invitation.port}"):
        cluster.worker_nodes.wait()


def test_a_stop_of_another_nodes_job_is_passed_on(cluster):
    cluster.invite()

    def pass_on(leader):
        leader.told_to_end = True
        leader.send("ready")
        leader.wait_for_start()

    cluster.join(1, pass_on)
    cluster.worker_nodes.wait()
    wait_until(lambda: cluster.worker_nodes.read() or cluster.worker_nodes.told_to_end, "the word")


def test_who_does_not_know_the_token_is_sent_away(cluster, monkeypatch):
    monkeypatch.setattr(node_coordinator, "_HELLO_WITHIN_S", 0.0)
    invitation = cluster.invite(join_within_s=2.0)
    strangers = []
    for said in (
        *(b"", b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"node": 1, "host": "h", "token": "wrong"}\n'),
        b'{"node": Infinity, "host": "h", "token": "wrong"}\n',
        b'{"node": 1, "host": "h", "token": "\\ud800"}\n',
    ):
        strangers.append(socket.create_connection(("127.0.0.1", invitation.port)))
        strangers[-1].sendall(said)
    with pytest.raises(NodeLostError, match="did not join"):
        cluster.worker_nodes.wait()
    for stranger in strangers:
        stranger.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
        stranger.close()


def test_own_addresses_are_those_that_others_can_use():
    assert not any(address.startswith("127.") for address in connection.own_addresses())


def test_messages_arrive_whole_however_they_come():
    here, there = socket.socketpair()
    receiver = Connection.__new__(Connection)
    receiver._socket, receiver._begun, receiver.is_lost = here, b"", False
    for piece in (b'{"kind": "a"}\n{"ki', b'nd": "b"}\n'):
        there.sendall(piece)
        assert [each["kind"] for each in receiver.receive()] == ["a" if b"a" in piece else "b"]
    assert receiver.receive() == []
    there.sendall(b'{"kind": "last"}\n')
    there.close()
    assert [each["kind"] for each in receiver.receive()] == ["last"]
    assert receiver.is_lost  # which is seen at once
    assert receiver.receive() == []
    assert receiver.has_ended()
    here.close()


@pytest.mark.parametrize("said", [b"[" * 50_000, b"1" * 50_000, b"{"])
def test_who_says_what_cannot_be_read_is_lost(said):
    here, there = socket.socketpair()
    receiver = Connection.__new__(Connection)
    receiver._socket, receiver._begun, receiver.is_lost = here, b"", False
    there.sendall(said + b"\n")
    assert receiver.receive() == []
    assert receiver.is_lost
    here.close()
    there.close()


def read_lines(execution, count):
    """The first lines of a command's standard output."""
    found = b""
    while found.count(b"\n") < count:
        found += b"".join(data for stream, data in execution.read(0.1) if stream == STDOUT)
    return found.decode().splitlines()
