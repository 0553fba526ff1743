"""Whose a run is: a process, a machine's queue or an executor, at home alone or in a team."""

import pytest

from conjure.runs.schema.process_facts import Owner, machine_name


def test_a_machine_has_a_name_for_each_home_of_a_team():
    assert machine_name("m1", "") == "m1"
    assert len({machine_name("m1", member) for member in ("", "ada@gpu-2", "bob@gpu-2")}) == 3


@pytest.mark.parametrize(
    ("owner", "is_queue", "is_executor"),
    [
        (Owner("m1", "boot", 4711, "77"), False, False),
        (Owner.queue("m1", "boot"), True, False),
        (Owner.of_executor("gpus"), False, True),
        (Owner.queue_of_executor("gpus"), True, False),
    ],
)
def test_a_process_a_queue_and_an_executor_are_told_apart(owner, is_queue, is_executor):
    assert (owner.is_queue, owner.is_executor) == (is_queue, is_executor)


def test_a_queue_is_not_its_machine_for_0_1_0_and_is_for_this_version():
    """0.1.0 closes runs of its own machine that have no supervisor, and compares `host_id` for that."""
    queue = Owner.queue("m1", "boot")
    assert queue.host_id != "m1"
    assert (queue.machine, queue.host, queue.boot_id) == ("m1", "m1", "boot")


def test_the_queue_of_an_executor_is_that_of_no_machine():
    executor = Owner.of_executor("gpus")
    assert Owner.queue_of_executor("gpus").machine == executor.host_id
    assert executor.host_id != Owner.of_executor("other").host_id


@pytest.mark.parametrize(
    "make", [lambda name: Owner(name, "boot", 5, "77"), lambda name: Owner.queue(name, "boot")]
)
def test_a_member_s_home_is_on_a_machine(make):
    owner = make(machine_name("m1", "ada@gpu-2/home"))
    assert (owner.host, owner.member) == ("m1", "ada@gpu-2")
    assert owner.machine == machine_name("m1", "ada@gpu-2/home")
    assert make("m1").member == ""


def test_what_people_call_a_machine_makes_no_other_process():
    assert Owner("m1", "boot", 5, "77", "gpu-2") == Owner("m1", "boot", 5, "77")
