"""Settings: which counts, where it came from, and files that are changed without losing anything."""

import tomllib

import pytest

from conjure.core.config import (
    ExecutorSettings,
    configured_project,
    find_project_file,
    heartbeat_interval_s,
    load_config,
    read_executors,
    repository_name,
    write_setting,
)
from conjure.core.home import Home
from conjure.errors import UsageError
from support.repositories import commit_all, run_git

COMMENTED = """# mine
model = "sprite"   # the small one

[run]
# two is enough
cpus = 2
pip = ["tqdm"]
"""


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").create()


@pytest.fixture
def project(tmp_path):
    """A folder in a repository."""
    folder = tmp_path / "project"
    (folder / ".git").mkdir(parents=True)
    (folder / "deep" / "er").mkdir(parents=True)
    return folder


def value(home, folder, key):
    config = load_config(home, folder)
    return config.values[key], config.origins[key]


def test_the_nearer_setting_counts_and_says_where_it_came_from(home, project, monkeypatch):
    monkeypatch.delenv("CONJURE_PRECISION", raising=False)
    assert value(home, project, "precision") == ("auto", "default")
    home.config_file.write_text('precision = "float32"\n')
    assert value(home, project, "precision") == ("float32", str(home.config_file))
    (project / "conjure.toml").write_text('precision = "bfloat16"\n')
    assert value(home, project / "deep" / "er", "precision") == ("bfloat16", str(project / "conjure.toml"))
    monkeypatch.setenv("CONJURE_PRECISION", "float32")
    assert value(home, project, "precision") == ("float32", "CONJURE_PRECISION")


def test_a_projects_file_is_looked_for_up_to_the_top_of_its_repository(project, tmp_path):
    (tmp_path / "conjure.toml").touch()
    assert find_project_file(project / "deep") is None
    assert find_project_file(tmp_path / "home") is None  # no repository: only the folder itself
    (project / "deep" / "conjure.toml").touch()
    assert find_project_file(project / "deep" / "er") == project / "deep" / "conjure.toml"
    assert find_project_file(project) is None


def test_a_repository_has_the_name_of_its_folder(project, tmp_path):
    assert repository_name(project / "deep" / "er") == "project"
    assert repository_name(tmp_path) is None


def test_a_linked_worktree_has_the_name_of_the_repository_it_belongs_to(project, tmp_path):
    run_git(project, "init", "-q")
    commit_all(project)
    run_git(project, "worktree", "add", "-q", str(tmp_path / "elsewhere"))
    assert repository_name(tmp_path / "elsewhere") == "project"
    (tmp_path / "module").mkdir()
    (tmp_path / "module" / ".git").write_text("gitdir: ../project/.git/modules/module\n")
    assert repository_name(tmp_path / "module") == "module"


def test_a_project_can_be_set(home, project):
    assert configured_project(home, project) is None
    (project / "conjure.toml").write_text('project = "jokes"\n')
    assert configured_project(home, project / "deep") == "jokes"


def test_what_is_set_in_a_table_is_given_as_it_is_used(home, project):
    home.config_file.write_text('[run]\ncpus = 2\npip = ["tqdm"]\nno-output = "*.tmp"\n')
    assert load_config(home, project).run_options() == {
        "cpus": 2.0,
        "pip": ("tqdm",),
        "no_output": ("*.tmp",),
    }


@pytest.mark.parametrize(
    ("users", "projects", "expected"),
    [
        (None, None, None),
        ("true", None, True),
        (None, "true", True),
        ("true", "false", True),
        ("false", "true", True),
        ("false", "false", False),
    ],
)
def test_a_project_can_turn_the_sandbox_on_but_not_off(home, project, users, projects, expected):
    for file, value in ((home.config_file, users), (project / "conjure.toml", projects)):
        if value is not None:
            file.write_text(f"sandbox = {value}\n")
    assert load_config(home, project).run_options().get("sandbox") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run.cpu = 2", "there is no setting 'run.cpu'; did you mean run.cpus or run.gpus?"),
        ("colour = 1", "there is no setting 'colour'; allowed: model, precision, native, sandbox,"),
        ("run = 3", "there is no setting 'run'; "),
        ("run.cpus = 0", "run.cpus cannot be 0; allowed: a number above 0"),
        ("run.cpus = true", "run.cpus cannot be True; allowed: a number above 0"),
        ("run.gpus = 1.5", "run.gpus cannot be 1.5; allowed: an integer above 0"),
        ("run.gpus = 0", "run.gpus cannot be 0; allowed: an integer above 0"),
        ("run.python = 'abc'", "run.python cannot be 'abc'; allowed: a version such as 3.12"),
        ("run.python = 3.12", "run.python cannot be 3.12; allowed: a version such as 3.12, as a string"),
        ("run.memory = 8", "run.memory cannot be 8; allowed: a size such as 8GB"),
        ("run.timeout = '90'", "run.timeout cannot be '90'; allowed: a time such as 90m"),
        ("run.pip = [1]", "run.pip cannot be [1]; allowed: a list of strings"),
        ("run.base = 'other'", "run.base cannot be 'other'; allowed: current, none"),
        ("sandbox = 1", "sandbox cannot be 1; allowed: true, false"),
        ("model = ''", "model cannot be ''; allowed: a string"),
    ],
)
def test_what_cannot_be_is_one_sentence_with_the_file(home, project, text, message):
    home.config_file.write_text(f"{text}\n")
    with pytest.raises(UsageError) as caught:
        load_config(home, project)
    assert str(caught.value).startswith(f"{home.config_file}: {message}")


def test_what_is_not_toml_is_one_sentence(home, project):
    for content in (b"model = sprite\n", b"\xff\xfe", b"a = " + b"[" * 100_000):
        home.config_file.write_bytes(content)
        with pytest.raises(UsageError, match=f"{home.config_file} is not a TOML file: "):
            load_config(home, project)
    home.config_file.unlink()
    home.config_file.mkdir()
    with pytest.raises(UsageError, match=f"{home.config_file} cannot be read: "):
        load_config(home, project)


def test_a_variable_with_a_wrong_value_is_named(home, project, monkeypatch):
    monkeypatch.setenv("CONJURE_NATIVE", "sse2")
    with pytest.raises(UsageError, match="the variable CONJURE_NATIVE: native cannot be 'sse2'; allowed: "):
        load_config(home, project)


@pytest.mark.parametrize(
    ("key", "values", "line"),
    [
        ("model", ("gpt2",), 'model = "gpt2"   # the small one'),
        ("run.cpus", ("4",), "cpus = 4.0"),
        ("run.pip", ("a", 'b "c"'), 'pip = ["a", "b \\"c\\""]'),
        ("run.memory", ("8GB",), 'memory = "8GB"'),
        ("precision", ("float32",), 'precision = "float32"'),
    ],
)
def test_a_value_is_set_and_all_else_stays(home, key, values, line):
    home.config_file.write_text(COMMENTED)
    write_setting(home.config_file, key, values)
    text = home.config_file.read_text()
    assert line in text.splitlines()
    assert "# mine" in text
    assert "# two is enough" in text
    others = [one for one in COMMENTED.splitlines() if not one.startswith(f"{key.rpartition('.')[2]} =")]
    assert [one for one in text.splitlines() if one in others] == others


def test_a_setting_in_a_file_that_is_not_there_yet_and_taken_out_again(home):
    write_setting(home.config_file, "run.gpus", ("1",))
    write_setting(home.config_file, "model", ("gpt2",))
    assert tomllib.loads(home.config_file.read_text()) == {"model": "gpt2", "run": {"gpus": 1}}
    write_setting(home.config_file, "run.gpus", None)
    write_setting(home.config_file, "run.cpus", None)  # it was not set
    assert tomllib.loads(home.config_file.read_text()) == {"model": "gpt2", "run": {}}


def test_a_file_that_cannot_be_changed_by_line_is_left_alone(home):
    for text in ("run = {cpus = 2}\n", 'run.cpus = 2\nmodel = "a"\n', '[run]\npip = [\n  "a",\n]\n'):
        home.config_file.write_text(text)
        with pytest.raises(UsageError) as caught:
            write_setting(home.config_file, "run.pip" if "pip" in text else "run.cpus", ("4",))
        assert str(caught.value) == f"{home.config_file} is written in a way that cannot be changed here"
        assert home.config_file.read_text() == text


def test_a_wrong_value_is_replaced_and_an_unknown_setting_taken_out(home, project):
    home.config_file.write_text("colour = 1\n\n[run]\ncpus = 0  # mine\ncpu = 2\npython = 3.12\n")
    write_setting(home.config_file, "run.cpus", ("2",))
    for key in ("run.cpu", "run.python", "colour"):
        write_setting(home.config_file, key, None)
    assert home.config_file.read_text() == "\n[run]\ncpus = 2.0  # mine\n"
    assert load_config(home, project).values["run.cpus"] == 2.0


def test_a_projects_file_is_mended_of_what_a_project_cannot_set(project):
    (project / "conjure.toml").write_text("[team]\nheartbeat = 1\n")
    write_setting(project / "conjure.toml", "team.heartbeat", None)
    assert tomllib.loads((project / "conjure.toml").read_text()) == {"team": {}}


def test_what_there_is_not_is_not_taken_out(home):
    home.config_file.write_text(RAY)
    for key in ("colour", "executors", "executors.gpu", "executors.gpu.kind"):
        with pytest.raises(UsageError, match=f"there is no setting '{key}'"):
            write_setting(home.config_file, key, None)
    assert home.config_file.read_text() == RAY


NOT_UTF8 = ("project", ("\udcff",))


def test_what_is_not_allowed_is_not_written(home):
    for key, values in (("run.cpu", ("1",)), ("run.cpus", ("none",)), ("run.cpus", ("1", "2")), NOT_UTF8):
        with pytest.raises(UsageError):
            write_setting(home.config_file, key, values)
    assert not home.config_file.exists()


RAY = '[executors.gpu]\nkind = "ray"\naddress = "http://head:8265/"\n'


def test_executors_are_defined_by_the_user(home, project):
    assert read_executors(home) == {}
    home.config_file.write_text('model = "sprite"\n' + RAY + 'token_file = "~/token"\n')
    executor = read_executors(home)["gpu"]
    assert (executor.kind, executor.address) == ("ray", "http://head:8265")
    assert executor.token_file is not None
    assert executor.token_file.is_absolute()
    assert load_config(home, project).values["model"] == "sprite"
    write_setting(home.config_file, "model", ("other",))
    assert set(read_executors(home)) == {"gpu"}


def test_a_slurm_cluster_is_described_by_options_of_sbatch(home):
    home.config_file.write_text('[executors.a]\nkind = "slurm"\n')
    assert read_executors(home)["a"] == ExecutorSettings("a", "slurm")
    given = 'partition = "gpu"\noptions = ["--account=lm"]\nsetup = "module load uv"\n'
    home.config_file.write_text(f'[executors.a]\nkind = "slurm"\n{given}')
    settings = ExecutorSettings("a", "slurm", "", None, "gpu", ("--account=lm",), "module load uv")
    assert read_executors(home) == {"a": settings}


def test_a_project_cannot_set_the_heartbeat(home, project):
    home.config_file.write_text("[team]\nheartbeat = 2\n")
    assert heartbeat_interval_s(home) == 2.0
    with pytest.raises(UsageError, match=r"team\.heartbeat, which a project cannot do"):
        write_setting(project / "conjure.toml", "team.heartbeat", ("1",))
    (project / "conjure.toml").write_text("[team]\nheartbeat = 1\n")
    assert heartbeat_interval_s(home) == 2.0
    with pytest.raises(UsageError, match=r"sets team\.heartbeat, which a project cannot do"):
        load_config(home, project)


def test_a_project_cannot_define_executors(home, project):
    (project / "conjure.toml").write_text(RAY)
    assert read_executors(home) == {}
    with pytest.raises(UsageError, match="defines executors, which a project cannot do") as caught:
        load_config(home, project)
    assert caught.value.hint == f"define them in {home.config_file}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("executors = 1", "executors must be tables"),
        ("[executors]\nlocal = {}", "'local' cannot be a name"),
        ('[executors."A b"]', "'A b' cannot be a name"),
        ('[executors.x]\nkind = "sge"', "kind cannot be 'sge'; allowed: ray, slurm"),
        ('[executors.x]\nkind = "ray"', "address must be one such as http://head:8265"),
        ('[executors.x]\nkind = "ray"\naddress = "file:///x"', "address must be one such as"),
        ('[executors.x]\nkind = "ray"\naddress = "http://me:word@head:1"', "without a password"),
        ('[executors.x]\nkind = "ray"\ntoken = "word"', "unknown key 'token'; allowed: kind, address"),
        ('[executors.x]\nkind = "slurm"\naddress = "http://x"', "unknown key 'address'; allowed: kind, part"),
        ('[executors.x]\nkind = "slurm"\npartition = 1', "partition and setup must be strings"),
        (
            '[executors.x]\nkind = "slurm"\noptions = "--time=1"',
            "options must be a list of sbatch's options",
        ),
        ('[executors.x]\nkind = "slurm"\noptions = ["x"]', "options must be a list of sbatch's options"),
    ],
)
def test_an_executor_that_is_not_defined_as_it_should_be_is_one_sentence(home, text, message):
    home.config_file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_executors(home)
