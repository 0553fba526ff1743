"""What an attempt left here is removed only while another machine has the run."""

from conjure.runs.host.process import this_process
from conjure.runs.maintenance.pruning import _InRunFolders, _prune_left_over
from conjure.runs.schema.process_facts import Owner
from support.casting import add_run

ELSEWHERE = Owner("another machine", "boot", 7, "then")


def test_what_a_later_attempt_left_here_meanwhile_is_not_removed(member, shared_store):
    number = add_run(shared_store, on="gpu").number

    def prune():
        return _prune_left_over(member, shared_store, {number}, _InRunFolders(), [])[0]

    shared_store.begin_attempt(number, this_process(member))
    assert prune() == 0
    shared_store.begin_attempt(number, ELSEWHERE)
    assert prune() == 1
    assert not (member.runs / str(number)).exists()
