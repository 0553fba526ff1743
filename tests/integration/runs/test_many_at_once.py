"""Many commands at the same time: distinct numbers, every run ends, nobody sees a locked database."""

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from conjure.core.home import Home
from conjure.python_api import Client
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.host.process import with_variables
from conjure.runs.schema.status import RunStatus
from support.casting import add_run, wait_until
from support.terminal import CONJURE, environment


def shell(cwd, commands):
    """One shell that casts runs one after the other; what each printed."""
    printed = []
    for command in commands:
        done = subprocess.run(
            [CONJURE, "run", "-b", "--label", "many", command],
            cwd=cwd, env=environment(), capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        printed.append(done.stdout)
    return printed


@pytest.mark.parametrize(
    ("shells", "each"), [(4, 3), pytest.param(8, 25, marks=[pytest.mark.large, pytest.mark.timeout(1800)])]
)
def test_background_runs_from_several_shells(client, folder, shells, each):
    (folder / "code.py").write_text("print('here')\n")
    with ThreadPoolExecutor(shells) as pool:
        jobs = [
            pool.submit(shell, folder, [f"echo {place}-{turn} > out.txt" for turn in range(each)])
            for place in range(shells)
        ]
        printed = [text for job in jobs for text in job.result()]
    total = shells * each
    assert len({text.split("#")[1].split("…")[0] for text in printed}) == total
    runs = [run.wait() for run in client.runs(limit=None, labels=["many"])]
    assert sorted(run.number for run in runs) == list(range(1, total + 1))
    assert {run.status for run in runs} == {RunStatus.COMPLETE}
    made = {(run.home.run_folder(run.number) / "outputs" / "out.txt").read_text() for run in runs}
    assert made == {f"{place}-{turn}\n" for place in range(shells) for turn in range(each)}
    mark = f"CONJURE_HOME={client.home.root}".encode()
    wait_until(lambda: not with_variables([mark]), "the end of every process")


def test_a_new_home_is_opened_by_many_at_once(tmp_path):
    """The first command of all may be several: schema and journal mode are then set by one of them."""
    home = Home(tmp_path / "new")

    def open_and_ask(_turn):
        with SqliteDatabase.open(home) as store:
            return [add_run(store).number for _ in range(10)]

    with ThreadPoolExecutor(8) as pool:
        numbers = [number for given in pool.map(open_and_ask, range(8)) for number in given]
    assert sorted(numbers) == list(range(1, 81))


def test_a_writer_that_takes_its_time_is_waited_for(tmp_path):
    home = Home(tmp_path / "home")
    with SqliteDatabase.open(home) as busy, ThreadPoolExecutor(1) as pool:
        with busy._session.transaction():
            waiting = pool.submit(_ask, home)
            add = busy._session.query("SELECT 1")
            assert add
            pool_is_waiting = not waiting.done()
        assert pool_is_waiting
        assert waiting.result(timeout=60) == 1


def _ask(home):
    with SqliteDatabase.open(home) as store:
        return add_run(store).number


def test_clients_in_several_threads(home, folder):
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda turn: Client(home.root).run(f"echo {turn}").wait(), range(4)))
    assert sorted(run.number for run in runs) == [1, 2, 3, 4]
    assert {run.status for run in runs} == {RunStatus.COMPLETE}
