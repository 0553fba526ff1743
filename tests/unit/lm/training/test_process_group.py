"""Several processes train to what one does, bit for bit.

Here they are threads with a connection of gloo between them, as processes have one; real processes are in
tests/integration/runs/test_distributed.py.
"""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
import torch
from torch.distributed import HashStore, ProcessGroupGloo, TCPStore

from conjure.errors import TrainingError, UsageError
from conjure.lm.training.distributed.process_group import ConnectedGroup, PeerLostError, ProcessGroup, join
from conjure.lm.training.events import Evaluated, StepDone
from support.training import tiny_trainer

CPU = torch.device("cpu")
PATIENCE = timedelta(seconds=60)
# 42 blocks: the last step of an epoch has 2 of them, so that some processes have nothing to do in it.
SETTINGS = {"tokens": 330, "batch_size": 8, "micro_batch": 2, "dropout": 0.1, "eval_every": 4, "patience": 0}


def connected(size, work):
    """What `work` comes to in each of so many connected processes."""
    store = HashStore()
    store.set_timeout(PATIENCE)
    all_connected = Barrier(size)  # who is done closes its connections: not before all have theirs

    def member(rank):
        options = ProcessGroupGloo._Options()
        options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        options._timeout = PATIENCE
        backend = ProcessGroupGloo(store, rank, size, options)
        all_connected.wait(PATIENCE.total_seconds())
        return work(ConnectedGroup(backend, store, rank, size, CPU))

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(member, range(size)))


def trained(group, state=None, stop_after=None, **settings):
    """All losses of a training in one process, and the state it ends with."""
    trainer = tiny_trainer(group=group, **{**SETTINGS, **settings})
    if state is not None:
        trainer.restore(state)
    losses = []
    for event in trainer.run():
        if isinstance(event, StepDone | Evaluated):
            losses.append((type(event).__name__, event.step, event.loss, getattr(event, "grad_norm", 0)))
        # One process is told to stop, as by a signal that reached it alone.
        if group.rank == group.size - 1 and isinstance(event, StepDone) and event.step == stop_after:
            trainer.stop()
    return losses, trainer.state()


def assert_equal_weights(one, other):
    assert one.progress == other.progress
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_weights_of_1_2_3_and_4_processes_are_equal_bit_for_bit(dtype):
    expected, alone = trained(ProcessGroup(), dtype=dtype)
    assert len(expected) > 12
    for size in (2, 3, 4):
        for losses, state in connected(size, lambda group: trained(group, dtype=dtype)):
            assert losses == expected
            assert_equal_weights(state, alone)


def test_a_training_stopped_in_one_process_goes_on_in_another_number_of_them():
    unbroken, end = trained(ProcessGroup())
    halves = connected(4, lambda group: trained(group, stop_after=5))
    [(first, state), *others] = halves
    assert first == unbroken[: len(first)]
    assert first[-1][1] == 5
    assert all(losses == first for losses, _ in others)
    for losses, resumed in connected(2, lambda group: trained(group, state)):
        assert first + losses == unbroken
        assert_equal_weights(resumed, end)


def test_weights_that_differ_end_training_in_one_sentence():
    def work(group):
        with pytest.raises(TrainingError, match="weights of rank 1 are not those of rank 0") as caught:
            trained(group, model_seed=group.rank)
        return str(caught.value)

    assert len(set(connected(2, work))) == 1


def test_processes_that_prepared_other_trainings_say_which_setting_differs():
    def work(group):
        if group.leads:
            group.agree({"data": "one", "seed": 1})
            return None
        assert group.settings_of_leader() == {"data": "one", "seed": 1}
        with pytest.raises(TrainingError, match="data is 'two' and 'one'"):
            group.agree({"data": "two", "seed": 1})
        return None

    connected(2, work)


def test_processes_that_would_compute_in_other_number_formats_are_told_which_they_can_share():
    def work(group):
        if group.leads:
            group.agree({"dtype": "bfloat16"})
            return
        with pytest.raises(TrainingError, match="dtype is 'float32' and 'bfloat16'") as caught:
            group.agree({"dtype": "float32"})
        assert caught.value.hint == "choose one that all nodes use: precision='float32'"

    connected(2, work)


def test_a_first_process_that_is_gone_before_settings_are_compared_is_told_in_one_sentence():
    leader = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    group = ConnectedGroup(None, TCPStore("127.0.0.1", leader.port, timeout=PATIENCE), 1, 2, CPU)
    del leader
    with pytest.raises(PeerLostError, match="connection to another process of the training is lost"):
        group.agree({"seed": 1})


def test_the_first_process_does_not_leave_before_the_others_know_that_it_may():
    told = []

    class ToldStore:
        """Takes down what a process tells the others."""

        def __init__(self, store):
            self._store = store

        def __getattr__(self, name):
            return getattr(self._store, name)

        def set(self, key, value):
            told.append(key)
            self._store.set(key, value)

    def work(group):
        group._store = ToldStore(group._store)
        group.finish()
        return list(told)

    of_first, _, _ = connected(3, work)
    assert sorted(of_first) == ["finished", "left1", "left2"]


def test_pieces_of_work_are_gathered_in_order_however_many_there_are():
    for count in (1, 2, 3, 7):
        results = connected(3, lambda group, count=count: group.gather(list(group.share(count)), count))
        assert results == [list(range(count))] * 3


def test_an_error_of_all_processes_is_told_by_one(monkeypatch):
    monkeypatch.setattr("conjure.lm.training.distributed.process_group._ENDED_WITHIN_S", 0.0)

    def work(group):
        try:
            with group.told_once():
                raise TrainingError("the loss became nan")
        except (TrainingError, SystemExit) as error:
            return type(error)

    assert sorted(map(str, connected(3, work))) == sorted(map(str, [TrainingError, SystemExit, SystemExit]))


def test_without_others_there_is_nobody_to_join(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert join(None, lambda: CPU).size == 1
    assert join(1, lambda: CPU).size == 1
    with pytest.raises(UsageError, match="distributed needs a run"):
        join(2, lambda: CPU)


def test_another_number_of_processes_than_asked_for_is_refused(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="distributed is 4, and 2 processes were started"):
        join(4, lambda: CPU)
