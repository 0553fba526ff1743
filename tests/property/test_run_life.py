"""The state machine, walked at random through the real store, databases lost on the way included."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from conjure.core.home import Home
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.schema.status import MOVES, PHASES, Ending, EndReason, IllegalMoveError, RunStatus
from support.casting import add_run

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # what is tested here is order, not disks
CODES = st.one_of(st.none(), st.integers(0, 255))
SIGNALS = st.one_of(st.none(), st.integers(1, 64))


class RunLives(RuleBasedStateMachine):
    """What the store says against a plain model of what must be."""

    runs = Bundle("runs")

    def __init__(self):
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(dir=IN_MEMORY)
        self.home = Home(Path(self._folder.name) / "home")
        self.store = SqliteDatabase.open(self.home)
        self.status: dict[int, RunStatus] = {}

    @rule(target=runs)
    def ask(self):
        number = add_run(self.store).number
        assert number not in self.status, "a number was given twice"
        self.status[number] = RunStatus.REQUESTED
        return number

    @rule(number=runs, wanted=st.sampled_from(PHASES))
    def move(self, number, wanted):
        if wanted in MOVES[self.status[number]]:
            self.store.move(number, wanted)
            self.status[number] = wanted
        else:
            self._must_refuse(lambda: self.store.move(number, wanted))

    @rule(number=runs, reason=st.sampled_from(EndReason), code=CODES, signal=SIGNALS)
    def end(self, number, reason, code, signal):
        try:
            ending = Ending(reason, code, signal)
        except IllegalMoveError:
            return
        if reason.status in MOVES[self.status[number]]:
            record = self.store.end_run(number, ending)
            self.status[number] = reason.status
            assert record.ending == ending
        else:
            self._must_refuse(lambda: self.store.end_run(number, ending))

    @rule()
    def open_again(self):
        self.store.close()
        self.store = SqliteDatabase.open(self.home)

    @rule()
    def lose_the_database(self):
        """What went on is taken up from its beginning; what had ended stays as it ended."""
        self.store.close()
        for path in self.home.root.glob("conjure.db*"):
            path.unlink()
        self.store = SqliteDatabase.open(self.home)
        for number, status in self.status.items():
            self.status[number] = status if status.is_final else RunStatus.REQUESTED

    @rule(number=consumes(runs))
    def forget(self, number):
        """No more moves for this one: its end must last."""

    @invariant()
    def the_store_agrees(self):
        assert {number: self.store.get(number).status for number in self.status} == self.status

    @invariant()
    def complete_means_exit_status_0(self):
        for number, status in self.status.items():
            if status is RunStatus.COMPLETE:
                ending = self.store.get(number).ending
                assert ending is not None
                assert (ending.exit_code, ending.signal) == (0, None)

    @staticmethod
    def _must_refuse(act):
        try:
            act()
        except IllegalMoveError:
            return
        raise AssertionError("an illegal move was made")

    def teardown(self):
        self.store.close()
        self._folder.cleanup()


TestRunLives = RunLives.TestCase
TestRunLives.settings = settings(max_examples=40, stateful_step_count=25)
