import pytest

from conjure.errors import UsageError
from conjure.runs.database.base import ResourceClaim
from conjure.runs.host.capacity import Capacity
from conjure.runs.host.gpus import gpu_count, gpus_named
from conjure.runs.scheduling.scheduler import allocate, refuse_impossible, shortage, startable
from conjure.runs.schema.spec import ComputeRequest

MACHINE = Capacity(cpus=4, gpu_ids=(0, 1), memory_bytes=100)


def run(number, needs, *, started=False, gpu_ids=(), host="here", in_queue=False):
    return ResourceClaim(number, needs, host, started=started, gpu_ids=gpu_ids, in_queue=in_queue)


def queued(number, **needs):
    return run(number, ComputeRequest(**needs), in_queue=True)


def ready(*claims):
    return startable(claims, "here", lambda _: MACHINE)


def room(number, *active):
    return allocate(number, active, MACHINE)


def test_a_run_alone_starts():
    assert room(1, run(1, ComputeRequest(cpus=4))) == ()


def test_it_waits_for_what_is_taken():
    taken = run(1, ComputeRequest(cpus=3), started=True)
    assert room(2, taken, run(2, ComputeRequest(cpus=2))) is None
    assert room(2, taken, run(2, ComputeRequest(cpus=1))) == ()
    assert room(2, taken, run(2, ComputeRequest(cpus=0.5))) == ()


def test_memory_is_counted_too():
    taken = run(1, ComputeRequest(memory_bytes=60), started=True)
    assert room(2, taken, run(2, ComputeRequest(memory_bytes=41))) is None
    assert room(2, taken, run(2, ComputeRequest(memory_bytes=40))) == ()


def test_it_gets_gpus_that_nobody_has():
    assert room(1, run(1, ComputeRequest(gpus=2))) == (0, 1)
    taken = run(1, ComputeRequest(gpus=1), started=True, gpu_ids=(0,))
    assert room(2, taken, run(2, ComputeRequest(gpus=1))) == (1,)
    assert room(2, taken, run(2, ComputeRequest(gpus=2))) is None


def test_it_never_goes_before_an_earlier_run_that_it_would_delay():
    started = run(1, ComputeRequest(cpus=1), started=True)
    big = run(2, ComputeRequest(cpus=4))
    assert room(3, started, big, run(3, ComputeRequest(cpus=1))) is None
    assert room(2, started, big, run(3, ComputeRequest(cpus=1))) is None
    # But it may pass one that waits for something else.
    waits_for_gpus = run(2, ComputeRequest(gpus=2))
    has_gpu = run(1, ComputeRequest(gpus=1), started=True, gpu_ids=(0,))
    assert room(3, has_gpu, waits_for_gpus, run(3, ComputeRequest(cpus=1))) == ()
    assert room(3, has_gpu, waits_for_gpus, run(3, ComputeRequest(gpus=1))) is None


def test_later_runs_and_runs_that_ask_for_nothing_do_not_count():
    later = run(3, ComputeRequest(cpus=4))
    modest = run(1, ComputeRequest(), started=True)
    assert room(2, modest, run(2, ComputeRequest(cpus=4)), later) == ()


def test_another_machines_runs_do_not_count():
    assert (
        room(2, run(1, ComputeRequest(cpus=4), started=True, host="there"), run(2, ComputeRequest(cpus=4)))
        == ()
    )


def test_all_that_fit_beside_one_another_may_start():
    assert ready(queued(1, cpus=2), queued(2, cpus=2), queued(3, cpus=1)) == [1, 2]
    assert ready(run(1, ComputeRequest(cpus=3), started=True), queued(2, cpus=1), queued(3, cpus=1)) == [2]


def test_what_waits_is_started_in_its_order_and_large_requests_are_not_passed():
    running = run(1, ComputeRequest(cpus=1), started=True)
    assert ready(running, queued(2, cpus=4), queued(3, cpus=1), queued(4, gpus=1)) == [4]
    assert ready(queued(5, cpus=1), queued(3, cpus=4), queued(4, cpus=1)) == [3]


def test_only_what_is_in_this_machines_queue_is_started_from_it():
    carried = run(1, ComputeRequest(cpus=1))  # by a supervisor of 0.1, which waits by itself
    assert ready(carried, queued(2, cpus=3), queued(3, cpus=1)) == [2]
    there = ResourceClaim(1, ComputeRequest(cpus=4), "there", in_queue=True)
    assert ready(there, queued(2, cpus=4)) == [2]


def test_each_submitter_sees_its_own_gpus():
    one = Capacity(cpus=4, gpu_ids=(1,), memory_bytes=100)
    taken = run(1, ComputeRequest(gpus=1), started=True, gpu_ids=(1,))
    claims = [taken, queued(2, gpus=1), queued(3, cpus=1)]
    assert startable(claims, "here", lambda number: one if number == 2 else MACHINE) == [3]


def test_what_a_run_waits_for_in_words():
    running = run(1, ComputeRequest(cpus=3, gpus=1, memory_bytes=40), started=True, gpu_ids=(0,))
    claims = [running, queued(2, cpus=4), queued(3, cpus=1), queued(4, cpus=1.5, gpus=2, memory_bytes=90)]
    assert shortage(2, claims, MACHINE) == "4 cores (1 of 4 free)"
    assert shortage(3, claims, MACHINE) == "1 core (1 of 4 free), behind 1 run"
    assert shortage(4, claims, MACHINE) == (
        "1.5 cores (1 of 4 free), 2 GPUs (1 of 2 free), 90 B of memory (60 B free), behind 2 runs"
    )
    assert shortage(9, claims, MACHINE) == ""


def test_what_can_never_be_is_refused_at_once():
    refuse_impossible(ComputeRequest(4, 2, 100), MACHINE)
    refuse_impossible(ComputeRequest(), MACHINE)
    with pytest.raises(UsageError) as caught:
        refuse_impossible(ComputeRequest(5, 3, 10**9), MACHINE)
    assert str(caught.value) == (
        "cpus=5: this machine has 4; gpus=3: this machine has 2; memory 1.0 GB: this machine has 100 B"
    )


def test_this_machine_has_something():
    found = Capacity.of_this_machine()
    assert found.cpus >= 1
    assert found.memory_bytes > 1 << 20


def test_gpus_are_counted_by_their_devices(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert gpu_count(tmp_path) == 3


def test_a_list_of_gpus():
    assert gpus_named("0, 2,GPU-abc,") == (0, 2)
    assert gpus_named("") == ()


def test_a_run_that_waits_for_another_delays_nobody():
    blocked = ResourceClaim(2, ComputeRequest(cpus=4), "here", in_queue=True, after=(1,))
    assert ready(blocked, queued(3, cpus=4)) == [3]
    assert shortage(2, [blocked], MACHINE) == "run 1"
    assert shortage(3, [blocked, queued(3, cpus=4)], MACHINE) == "4 cores (4 of 4 free)"


def test_a_run_that_asked_for_nothing_starts_once_the_others_have_completed():
    assert ready(queued(3)) == [3]
    assert ready(ResourceClaim(3, ComputeRequest(), "here", in_queue=True, after=(1, 2))) == []
