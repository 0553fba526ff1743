import errno
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from conjure.core.home import Home
from conjure.core.team_settings import TeamSettings, write_team
from conjure.errors import (
    ConjureError,
    ExecutorError,
    NotFoundError,
    SnapshotError,
    StoreError,
    UsageError,
)
from conjure.runs.code.code_store import reference
from conjure.runs.code.git import own_git
from conjure.runs.database.open_database import open_database
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.database.sweep_rows import TrialClaim, TrialRefusedError
from conjure.runs.environments import environment_build
from conjure.runs.executors.run_lock import RunLock
from conjure.runs.executors.supervisor_request import LOCAL
from conjure.runs.host.capacity import Capacity
from conjure.runs.lifecycle import submission
from conjure.runs.lifecycle.submission import (
    allocate_run,
    close_failed_submission,
    refuse_own_folder,
    refuse_unfit,
    request_of_this_process,
    spec_of_record,
    submit,
    with_cores,
)
from conjure.runs.objects.base import code
from conjure.runs.schema.record import CodeFacts, EnvironmentFacts, MountFacts, RunRecord
from conjure.runs.schema.spec import CodeChoice, ComputeRequest, EnvironmentChoice, Mount, RunSpec
from conjure.runs.schema.status import Ending, EndReason
from support.casting import add_run, finish
from support.memory_executor import MemoryExecutor
from support.repositories import check_out, make_repository, read_files

PACKAGES = {"tqdm": "4.66", "Some_Thing": "2.0", "numpy": "2.1"}


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def record(**spec):
    return RunRecord(
        7,
        RunSpec(**{"command": ("true",), "folder": Path("/code"), "idempotent": True, **spec}).stored(),
        code=CodeFacts("tree"),
        environment=EnvironmentFacts("digest", "python", PACKAGES),
        mounts=(MountFacts("best/x", "in", read_only=True, source="runs/2/x"),),
    )


def test_a_rerun_asks_for_the_recorded_code_and_mounts(home):
    spec = spec_of_record(record(code=CodeChoice(commit="abc"), mounts=(Mount("best/x", "in"),)))
    assert spec.code == CodeChoice(run=7)
    assert spec.mounts == (Mount("runs/2/x", "in", read_only=True),)
    assert not spec.idempotent


def test_a_run_without_code_stays_without(home):
    assert spec_of_record(record(code=CodeChoice(none=True))).code == CodeChoice(none=True)


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StoreError, "^the disk that contains .* is full"),
        (
            OSError(errno.EIO, "Input/output error", "a.py"),
            SnapshotError,
            "^the code cannot be recorded: Input/output error: a.py$",
        ),
    ],
)
def test_code_that_cannot_be_read_or_written_is_an_error_of_ours(home, monkeypatch, error, raised, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(submission.snapshot, "snapshot", fail)
    with SqliteDatabase.open(home) as store, pytest.raises(raised, match=words):
        submission.snapshot_code(home, store, 1, RunSpec(("true",), home.root))


def test_what_was_never_recorded_cannot_be_done_again(home):
    with pytest.raises(UsageError, match="its code was not recorded"):
        spec_of_record(replace(record(), code=None))


@pytest.mark.parametrize(
    "choice",
    [
        EnvironmentChoice(pip=("some-thing[extra]", "x @ file:///x"), constraints=("old==1",)),
        EnvironmentChoice(requirements="some-thing >= 1\n"),
    ],
)
def test_packages_are_asked_for_in_the_versions_that_they_had(choice):
    ran = record(environment=choice)
    assert ran.environment is not None
    had = replace(ran.environment, resolved=("Some_Thing", "numpy"))
    asked = spec_of_record(replace(ran, environment=had)).environment
    assert asked == replace(choice, constraints=("numpy==2.1", "some-thing==2.0"))


def test_an_environment_that_was_never_built_is_asked_for_as_before():
    choice = EnvironmentChoice(pip=("some-thing",))
    assert spec_of_record(replace(record(environment=choice), environment=None)).environment == choice


def test_where_nobody_knows_what_was_added_only_names_are_given_their_versions():
    pip = ("tqdm", "some-thing[extra]", "numpy>=2", "unknown", "x @ file:///x")
    for choice in (
        EnvironmentChoice(pip=pip),
        EnvironmentChoice(requirements="\n".join([*pip, "-i x", "#"])),
    ):
        asked = spec_of_record(record(environment=choice)).environment
        assert asked == replace(choice, constraints=("some-thing==2.0", "tqdm==4.66"))


@pytest.mark.parametrize(
    ("choice", "refused"),
    [
        (EnvironmentChoice(pip=("tqdm", "/home/packages/1f/mine-1.0-py3-none-any.whl[extra]")), True),
        (EnvironmentChoice(requirements="tqdm\n/home/packages/1f/mine-1.0-py3-none-any.whl  # ours\n"), True),
        (EnvironmentChoice(pip=("x @ https://h/x.whl", "git+https://h/x", "https://h/x.whl")), False),
        (EnvironmentChoice(requirements="# as mine.whl\n--find-links /shared/wheels\n\ntqdm\n"), False),
    ],
)
def test_packages_of_this_machine_are_refused_where_nodes_build_for_themselves(home, choice, refused):
    home.create()
    spec = RunSpec(command=("true",), folder=Path("/code"), on="gpu", environment=choice)
    submission._refuse_where(home, spec, is_local=False)  # nodes that share the home's disk
    write_team(home, TeamSettings("postgresql://h/d", "s3://b/p", "ada@x/1"))
    if not refused:
        submission._refuse_where(home, spec, is_local=False)
        return
    message = "on='gpu': mine-1.0-py3-none-any.whl is a package on this machine, and packages are not sent to"
    with pytest.raises(UsageError, match=message):
        submission._refuse_where(home, spec, is_local=False)


def test_secrets_are_taken_from_the_callers_variables(home, monkeypatch):
    monkeypatch.setenv("API_KEY", "found")
    spec = spec_of_record(record(variables={"API_KEY": "given", "DEPTH": "3"}))
    assert spec.variables == {"API_KEY": "found", "DEPTH": "3"}


def test_secrets_can_be_given_again(home):
    spec = spec_of_record(record(variables={"API_KEY": "given", "DEPTH": "3"}), {"API_KEY": "again"})
    assert (spec.variables, spec.withheld) == ({"API_KEY": "again", "DEPTH": "3"}, None)


def test_a_rerun_takes_no_other_variables(home):
    with pytest.raises(UsageError, match="env DEPTH: a rerun uses the recorded variables"):
        spec_of_record(record(variables={"DEPTH": "3"}), {"DEPTH": "4"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"variables": {"API_KEY": "x", "CREDS": "y"}}, "which are not stored: API_KEY, CREDS$"),
        ({"params": {"password": "x"}}, "has a secret in params password, and"),
        ({"command": ("x --password abc",)}, "has a secret in its command, and"),
        ({"output": ("a1B2c3D4e5F6g7H8*",)}, "has a secret in output, and"),
        ({"environment": EnvironmentChoice(pip=("x @ https://u:p@h/x",))}, "a secret in pip, and"),
    ],
)
def test_secrets_that_are_nowhere_are_named(home, given, message):
    with pytest.raises(UsageError, match=message):
        spec_of_record(record(**given))


def test_the_address_of_recorded_code_is_not_needed_again(home):
    assert spec_of_record(record(code=CodeChoice(git_url="https://u:p@h/x"))).code == CodeChoice(run=7)


@pytest.mark.parametrize(
    ("place", "refused"), [("", True), ("runs", True), ("runs/3", True), ("runs/3/work/x", False)]
)
def test_conjures_own_home_is_no_folder_to_run_in(home, place, refused):
    spec = RunSpec(command=("true",), folder=home.root / place)
    if refused:
        with pytest.raises(UsageError, match="is conjure's home folder"):
            refuse_own_folder(home, spec)
    else:
        refuse_own_folder(home, spec)
    refuse_own_folder(home, replace(spec, code=CodeChoice(run=1)))


def test_a_run_of_conjures_own_home_is_given_no_number(conjure_home):
    home = Home(conjure_home).create()
    with pytest.raises(UsageError, match="is conjure's home folder"):
        submit(home, RunSpec(command=("true",), folder=home.root), executor=MemoryExecutor())
    assert not home.runs.exists()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StoreError("the object store cannot be reached"), EndReason.SUBMISSION_FAILED),
        (SnapshotError("it cannot be read"), EndReason.CODE_FAILED),
        (TypeError("a bug"), EndReason.SUBMISSION_FAILED),
        (KeyboardInterrupt(), EndReason.KILL_REQUESTED),
    ],
)
def test_a_store_that_is_away_is_no_fault_of_the_code(store, error, reason):
    number = add_run(store).number
    close_failed_submission(store, number, error)
    assert store.get(number).ending.reason is reason


def test_several_nodes_need_an_executor_that_has_them(home):
    spec = RunSpec(command=("true",), folder=home.root.parent, distributed=1, nodes=2)
    words = r"^nodes=2 needs on='NAME': the executor whose nodes are meant$"
    for executor in (None, MemoryExecutor()):
        with pytest.raises(UsageError, match=words):
            submit(home, spec, executor=executor)


@pytest.mark.parametrize(
    ("processes", "is_local", "cpus"), [(2, True, 16), (3, True, 15), (32, True, 16), (4, False, 4)]
)
def test_processes_that_work_together_ask_for_cores(processes, is_local, cpus, monkeypatch):
    monkeypatch.setattr(Capacity, "of_this_machine", lambda: Capacity(16, (), 1))
    spec = record(distributed=processes).spec
    assert with_cores(spec, is_local=is_local).resources.cpus == cpus
    asked = replace(spec, resources=ComputeRequest(cpus=1))
    assert with_cores(asked, is_local=is_local) == asked
    alone = record().spec
    assert with_cores(alone, is_local=is_local) == alone


def test_work_of_the_language_models_elsewhere_names_no_file_of_this_machine(home, tmp_path):
    home.create()
    (tmp_path / "model").mkdir()
    asked = RunSpec(command=("--model", f"{tmp_path}/model", "/not/here"), folder=Path("/code"), on="gpu")
    finetune = replace(asked, kind="finetune")
    submission._refuse_where(home, finetune, is_local=False)  # nodes that share the home's disk
    write_team(home, TeamSettings("postgresql://h/d", "s3://b/p", "ada@x/1"))
    submission._refuse_where(home, asked, is_local=False)  # of a command nobody knows what its words mean
    with pytest.raises(UsageError, match=r"^on='gpu': .*/model is on this machine, but not on") as caught:
        submission._refuse_where(home, finetune, is_local=False)
    assert caught.value.fix == f"conjure upload {tmp_path}/model"


@pytest.fixture
def asked(folder):
    make_repository(folder, {"code.py": "print(1)\n"})
    return RunSpec(command=("true",), folder=folder)


def test_a_run_belongs_to_its_repository_and_a_rerun_to_what_the_first_one_did(conjure_home, asked):
    home, executor = Home(conjure_home), MemoryExecutor()
    assert submit(home, asked, executor=executor).record.project == "project"
    again = submit(home, replace(asked, code=CodeChoice(run=1)), executor=executor, rerun_of=1)
    assert again.record.project is None


def test_a_run_that_is_started_in_another_one_belongs_to_it(conjure_home, asked, monkeypatch, tmp_path):
    home, executor = Home(conjure_home), MemoryExecutor()
    around = submit(home, replace(asked, project="mine"), executor=executor).record
    monkeypatch.setenv("CONJURE_RUN", str(around.number))
    inner = submit(home, asked, executor=executor).record
    assert (inner.parent, inner.project) == (around.number, "mine")
    monkeypatch.setenv("CONJURE_HOME", str(tmp_path / "of the run around it"))
    other = submit(home, asked, executor=executor).record
    assert (other.parent, other.project) == (None, "project")


@pytest.mark.parametrize("on", [None, "gpu"])
def test_what_a_run_on_a_cluster_is_given_is_there_before_anybody_starts_it(
    team, conjure_home, asked, on, monkeypatch
):
    home, executor, dispatched = team.join(Home(conjure_home)), MemoryExecutor(), []
    monkeypatch.setattr(submission, "start_dispatcher", dispatched.append)
    sent = []

    def start(number, request):
        with team.files(home) as files:
            sent.extend(files.objects.names("code"))

    monkeypatch.setattr(executor, "start", start)
    record = submit(home, replace(asked, on=on), executor=executor).record
    assert sent == ([] if on is None else [code(record.code.tree)])
    assert dispatched == ([] if on is None else [home])


def test_a_rerun_in_an_image_has_the_image_that_there_was():
    ran = record(environment=EnvironmentChoice(image="debian:12"))
    had = EnvironmentFacts("with packages", "", base_image="sha256:1")
    assert spec_of_record(replace(ran, environment=had)).environment.image_digest == "sha256:1"
    never_built = replace(ran, environment=None)
    assert spec_of_record(never_built).environment == EnvironmentChoice(image="debian:12")


def test_what_no_executor_of_ones_own_can_do_is_refused(conjure_home, asked):
    """Several attempts, or runs that wait for others, are for this machine's queue and those of clusters."""
    home, executor = Home(conjure_home), MemoryExecutor()
    first = submit(home, asked, executor=executor).record.number
    for fields, name in (({"retry": 1}, "retry"), ({"after": (first,)}, "after")):
        refused = rf"^a run with {name} can only be executed on this machine$"
        with pytest.raises(UsageError, match=refused):
            submit(home, replace(asked, **fields), executor=executor)
        submission._refuse_where(home, replace(asked, on="gpu", **fields), is_local=False)
    assert list(executor.requests) == [first]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resources": ComputeRequest(cpus=10_000)}, "cpus=10000: this machine has"),
        ({"sandbox": True}, "bubblewrap is not installed"),
        ({"environment": EnvironmentChoice(image="debian:12")}, "neither podman nor docker is installed"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_before_there_is_a_number(
    conjure_home, asked, monkeypatch, tmp_path, fields, message
):
    monkeypatch.setenv("PATH", str(tmp_path))
    home, spec = Home(conjure_home), replace(asked, **fields)
    with pytest.raises(ConjureError, match=message):
        submit(home, spec)
    with pytest.raises(ConjureError, match=message):
        refuse_unfit(home, spec)
    assert not home.runs.exists()


def test_a_cluster_that_is_away_is_told_to_who_names_it_and_not_to_a_sweep(team, conjure_home, asked):
    """A sweep's next trial waits for it, as its runs do."""
    home = team.join(Home(conjure_home))
    home.config_file.write_text('[executors.gpu]\nkind = "ray"\naddress = "http://127.0.0.1:9"\n')
    spec = replace(asked, on="gpu")
    for refuse in (submit, refuse_unfit):
        with pytest.raises(ExecutorError, match="cannot be reached"):
            refuse(home, spec)
    with pytest.raises(NotFoundError, match="sweep 7"):
        submit(home, spec, trial=TrialClaim(7, 0, 1, {}))


def test_a_word_that_names_nothing_here_may_name_something_on_a_node(home, team):
    team.join(home)
    asked = RunSpec(command=("--data", "/not/here", "."), folder=Path("/code"), kind="finetune", on="gpu")
    submission._refuse_where(home, asked, is_local=False)


def test_a_repository_whose_name_cannot_be_a_projects_names_none(conjure_home, tmp_path):
    folder = tmp_path / "project "
    make_repository(folder, {"code.py": "print(1)\n"})
    spec = RunSpec(command=("true",), folder=folder)
    assert submit(Home(conjure_home), spec, executor=MemoryExecutor()).record.project is None


def test_a_run_may_follow_one_that_has_completed_and_none_that_failed(conjure_home, asked, queue):
    home = Home(conjure_home)
    with SqliteDatabase.open(home) as store:
        completed = finish(store, add_run(store).number, Ending(EndReason.COMPLETED, 0)).number
        failed = finish(store, add_run(store).number, Ending(EndReason.NONZERO_EXIT, 1)).number
    with pytest.raises(UsageError, match=f"^run {failed} failed, so a run after it would never start$"):
        submit(home, replace(asked, after=(completed, failed)), executor=Here())
    record = submit(home, replace(asked, after=(completed,)), executor=Here()).record
    assert not record.waits_in_queue
    assert queue.calls == []


def test_a_command_has_the_variables_of_who_asks_for_it_and_not_those_of_a_run_around_it(home, monkeypatch):
    monkeypatch.setenv("OF_THE_CALLER", "x")
    monkeypatch.setenv("CONJURE_RUN", "3")
    monkeypatch.setenv("CONJURE_METRICS_FILE", "/elsewhere")
    variables = request_of_this_process(home, record().spec, 0.0, LOCAL).variables
    assert (variables["OF_THE_CALLER"], variables["CONJURE_HOME"]) == ("x", str(home.root))
    assert variables.keys().isdisjoint({"CONJURE_RUN", "CONJURE_METRICS_FILE"})


# ---- handing over ------------------------------------------------------------------------------------------


class Here(MemoryExecutor):
    """As this machine is, but that no process is started."""

    name = LOCAL


@pytest.fixture
def queue(monkeypatch):
    """What is done with this machine's scheduler; whether there is one already is in `is_there`."""
    done = SimpleNamespace(calls=[], is_there=False)

    def start(_):
        done.calls.append("start")
        return not done.is_there

    monkeypatch.setattr(submission, "start_scheduler", start)
    monkeypatch.setattr(submission, "wake_scheduler", lambda _: done.calls.append("wake"))
    return done


def test_a_run_that_there_is_room_for_is_handed_over_at_once(conjure_home, asked, queue):
    home, executor = Home(conjure_home), Here()
    record = submit(home, asked, executor=executor).record
    assert list(executor.requests) == [record.number]
    assert not record.waits_in_queue
    assert queue.calls == []


@pytest.mark.parametrize(("is_there", "calls"), [(False, ["start"]), (True, ["start", "wake"])])
def test_a_run_that_has_to_wait_is_looked_at_by_a_scheduler_at_once(
    conjure_home, asked, queue, is_there, calls
):
    home, executor = Home(conjure_home), Here()
    first = submit(home, asked, executor=MemoryExecutor()).record.number
    queue.is_there = is_there
    record = submit(home, replace(asked, after=(first,)), executor=executor).record
    assert record.waits_in_queue
    assert executor.requests == {}
    assert queue.calls == calls
    assert is_free(home, record.number)


def is_free(home, number):
    """Whether nobody has a run."""
    with RunLock.possession(home.run_folder(number)) as nobody_has_it:
        return nobody_has_it


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_that_somebody_ended_while_it_was_submitted_leaves_nothing(
    conjure_home, asked, queue, interrupted
):
    home = Home(conjure_home)
    first = submit(home, asked, executor=MemoryExecutor()).record.number

    def end(number):
        with SqliteDatabase.open(home) as other:
            other.end_run(number, Ending(EndReason.KILL_REQUESTED, message="by somebody else"))
        if interrupted:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) if interrupted else nullcontext():
        submit(home, replace(asked, after=(first,)), executor=Here(), announce=end)
    with SqliteDatabase.open(home) as store:
        assert store.get(first + 1).ending.message == "by somebody else"
    assert not home.queued_request(first + 1).exists()
    assert queue.calls == []
    assert is_free(home, first + 1)


@pytest.mark.parametrize(
    "error", [TrialRefusedError("it was started already"), StoreError("the disk is full")]
)
def test_a_number_that_could_not_be_given_after_all_is_nobodys(home, store, monkeypatch, error):
    create = store.create_run

    def fail(*args, **options):
        create(*args, **options)
        raise error

    monkeypatch.setattr(store, "create_run", fail)
    with pytest.raises(type(error)):
        allocate_run(home, store, RunSpec(command=("true",), folder=Path("/code")), None)
    assert home.run_folder(1).exists() is isinstance(error, StoreError)  # of a trial there is no run
    assert is_free(home, 1)


def test_a_failure_that_cannot_be_written_down_is_told_all_the_same(store, monkeypatch):
    def fail(*_, **__):
        raise StoreError("the disk is full")

    number = add_run(store).number
    monkeypatch.setattr(store, "end_run", fail)
    close_failed_submission(store, number, SnapshotError("it cannot be read"))
    assert store.get(number).ending == Ending(EndReason.CODE_FAILED, message="it cannot be read")


# ---- code --------------------------------------------------------------------------------------------------


def kept_code(home):
    """What keeps code of runs from being pruned."""
    names = own_git(home.code_repository)("for-each-ref", "--format=%(refname)")
    return names.decode().split()


def test_a_run_keeps_the_code_that_it_has_of_another_one(conjure_home, asked):
    home, executor = Home(conjure_home), MemoryExecutor()
    first = submit(home, asked, executor=executor).record
    second = submit(home, replace(asked, code=CodeChoice(run=1)), executor=executor).record
    assert second.code == first.code
    assert kept_code(home) == [reference(1), reference(2)]


def test_a_run_without_code_has_none_to_give(conjure_home, asked):
    home = Home(conjure_home)
    without = submit(home, replace(asked, code=CodeChoice(none=True)), executor=MemoryExecutor()).record
    assert without.code == CodeFacts(tree="")
    with SqliteDatabase.open(home) as store:
        never_recorded = add_run(store).number
        for number in (without.number, never_recorded):
            with pytest.raises(UsageError, match=f"^run {number} has no recorded code$"):
                submission.snapshot_code(home, store, 9, replace(asked, code=CodeChoice(run=number)))


def test_code_of_a_run_that_another_machine_asked_for_is_brought_here(team, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(submission, "start_dispatcher", lambda _: None)
    theirs, ours = (team.join(Home(tmp_path / name)) for name in ("theirs", "ours"))
    sent = submit(theirs, replace(asked, on="gpu"), executor=MemoryExecutor()).record
    with open_database(ours) as store:
        taken = submission.snapshot_code(ours, store, 2, replace(asked, code=CodeChoice(run=sent.number)))
    check_out(ours, taken.tree, tmp_path / "there")
    assert read_files(tmp_path / "there") == {"code.py": "print(1)\n"}


def test_looking_for_an_equal_run_leaves_no_code_behind(conjure_home, asked, monkeypatch):
    built = SimpleNamespace(digest="digest", imports=())
    monkeypatch.setattr(environment_build, "build", lambda *_, **__: built)
    submit(Home(conjure_home), replace(asked, idempotent=True), executor=MemoryExecutor())
    assert kept_code(Home(conjure_home)) == [reference(1)]
