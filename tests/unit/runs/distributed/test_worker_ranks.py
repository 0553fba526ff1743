"""What a worker node hears of the supervisor on the first one."""

from conjure.runs.distributed.worker_ranks import Leader


class Spoken:
    """A connection at which all of this has been said."""

    is_lost = False

    def __init__(self, *messages):
        self._messages = list(messages)

    def receive(self):
        said, self._messages = self._messages, []
        return said


def test_what_comes_together_with_the_start_is_heard_after_it():
    leader = Leader(Spoken({"kind": "start", "port": 5}, {"kind": "terminate"}, {"kind": "kill"}))
    assert leader.wait_for_start() == 5
    assert [message["kind"] for message in leader.receive()] == ["terminate", "kill"]
    assert leader.receive() == []


def test_who_is_not_to_start_is_told_so():
    assert Leader(Spoken({"kind": "kill"})).wait_for_start() is None
