"""What the Python client makes of its arguments, before a run gets a number."""

from pathlib import Path

import numpy as np
import pytest

import conjure
from conjure.errors import NotFoundError, UsageError
from conjure.python_api import Client, _spec, _words
from conjure.runs.database.sqlite import SqliteDatabase
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.run_folder import RunFolder
from conjure.runs.schema.spec import Mount
from support.casting import add_run


def test_one_text_is_as_good_as_a_list_of_one(home, folder):
    (folder / "requirements.txt").write_text("rich\n")
    (folder / "data.txt").touch()
    spec = _spec(
        home,
        ("true",),
        {
            "pip": "tqdm",
            "pip_req": "requirements.txt",
            "mounts": "./data.txt:d.txt",
            "labels": "sums",
            "stop_conditions": "loss > 9",
            "output": "*.pt",
            "no_output": "*.tmp",
            "retry": 1,
            "checkpoint": "state/",
            "after": 3,
        },
    )
    assert spec.environment.pip == ("tqdm",)
    assert "rich" in (spec.environment.requirements or "")
    assert spec.mounts == (Mount.parse("./data.txt:d.txt"),)
    assert (spec.labels, spec.stop_conditions) == (("sums",), ("loss > 9",))
    assert (spec.output, spec.no_output, spec.checkpoint) == (("*.pt",), ("*.tmp",), ("state/",))
    assert spec.after == (3,)


def test_code_and_requirements_can_be_in_the_home_folder(home, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    (folder / "requirements.txt").write_text("rich\n")
    (folder / "project").mkdir()
    spec = _spec(home, ("true",), {"folder": "~/project", "pip_req": "~/requirements.txt"})
    assert spec.folder == folder / "project"
    assert "rich" in (spec.environment.requirements or "")


def test_words_of_a_command_are_texts(home, folder):
    given = {
        "python train.py": ("python train.py",),
        Path("train.sh"): ("train.sh",),
        Path("my train.sh"): ("'my train.sh'",),  # one word is a line for the shell
        ("python", Path("train.py"), "--lr", 1e-3): ("python", "train.py", "--lr", "0.001"),
    }
    assert {command: _words(command) for command in given} == given


def test_a_path_to_mount_is_a_local_file(home, folder):
    for mounts, target in (({Path("./data.txt"): "d.txt"}, "d.txt"), ([Path("data.txt")], "data.txt")):
        (mount,) = _spec(home, ("true",), {"mounts": mounts}).mounts
        assert mount == Mount(str(folder / "data.txt"), target)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"memory": 8_000_000_000}, "'8000000000' is not a size: give a number with its unit"),
        ({"timeout": 90}, "'90' is not a duration: give a number with its unit"),
    ],
)
def test_an_amount_without_a_unit_is_refused(home, folder, given, said):
    with pytest.raises(UsageError, match=f"^{said}"):
        _spec(home, ("true",), given)


def test_a_sweep_s_time_limit_needs_a_unit_too(home, folder):
    with pytest.raises(UsageError, match="'90' is not a duration"):
        Client(home.root).sweep("true :x:", {"x": [1, 2]}, time_limit=90)


def test_the_model_that_is_set_is_the_client_s_too(home, folder, monkeypatch):
    assert Client(home.root)._set_model() == "sprite"
    home.create().config_file.write_text('model = "gpt2"\n')
    assert Client(home.root)._set_model() == "gpt2"
    monkeypatch.setenv("CONJURE_RUN", "3")
    assert Client(home.root)._set_model() == "sprite"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompt": "Hi", "prompt_file": "prompts.txt"}, "prompt and prompt_file cannot both be given"),
        ({"chat": True}, "chat needs a question, and the prompt is empty"),
    ],
)
def test_a_generation_that_cannot_be_gets_no_number(home, folder, given, said):
    (folder / "prompts.txt").write_text("One\n")
    client = Client(home.root)
    with pytest.raises(UsageError, match=said):
        client.generate(**given)
    assert client.runs() == []


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"learning_rate": [1e-3, -1.0]}, "learning_rate must be above 0 and at most 1, not -1.0"),
        (
            {"learning_rate": conjure.uniform(0.1, 2.0)},
            "must be above 0 and at most 1, not 2.0",
        ),
        ({"batch_size": conjure.uniform(4.0, 8.0)}, r"batch_size must be an integer, not '5\.\d+'"),
        ({"epochs": [1, "two"]}, "epochs must be a number, not 'two'"),
        ({"dedup": ["keep", "most"]}, "dedup is 'most'; allowed: keep, drop, weight"),
        ({"mask_records": [True, False]}, "mask_records is a flag and cannot be a parameter"),
        ({"header": [True, False]}, "header is a flag and cannot be a parameter"),
        ({"validation": ["a.txt", "b.txt"]}, "validation cannot be a parameter: its files are mounted once"),
        ({"adapter": ["runs/1/output.adapter"]}, "adapter cannot be a parameter: its files are mounted once"),
        ({"distributed": [1, 2]}, "distributed cannot be a parameter: all trials run in the same place"),
        ({"nodes": [1, 2]}, "nodes cannot be a parameter: all trials run in the same place"),
        ({"epoch": [1]}, "there is no option 'epoch'"),
    ],
)
def test_a_sweep_of_fine_tunes_that_cannot_be_gets_no_number(home, folder, space, said):
    (folder / "jokes.txt").write_text("A joke.\n")
    with pytest.raises(UsageError, match=said):
        Client(home.root).sweep_finetune("jokes.txt", space, trials=2, method="random")
    with open_store(home.create()) as store:
        assert store.sweeps() == []


@pytest.fixture
def run(home, tmp_path):
    """A run with a file among its outputs, and a link that points outside."""
    (tmp_path / "secret.txt").touch()
    with SqliteDatabase.open(home.create()) as store:
        number = add_run(store).number
    outputs = RunFolder.of(home, number).outputs
    outputs.mkdir()
    (outputs / "made.txt").write_text("made")
    (outputs / "away.txt").symlink_to(tmp_path / "secret.txt")
    return Client(home.root).get(number)


def test_what_a_copy_leaves_out_is_said(run, tmp_path):
    with pytest.warns(UserWarning, match=r"^left out: away\.txt is a link that points outside$") as said:
        copied = run.cp(folder=tmp_path / "copied")
    assert said[0].filename == __file__
    assert [path.name for path in copied.iterdir()] == ["made.txt"]


def test_a_number_may_be_numpy_s(run):
    client = Client(run.home.root)
    assert client.get(np.int64(run.number)) == run
    with pytest.raises(NotFoundError, match="sweep 7"):
        client.get_sweep(np.int64(7))
    for after in ([np.int64(3), 4], np.array([3, 4])):
        assert _spec(run.home, ("true",), {"after": after}).after == (3, 4)
    (number,) = _spec(run.home, ("true",), {"after": np.int64(3)}).after
    assert (number, type(number)) == (3, int)


@pytest.mark.parametrize("given", ["last", 1.0, None])
def test_what_is_no_number_is_refused(run, given):
    client = Client(run.home.root)
    for look in (client.get, client.get_sweep):
        with pytest.raises(UsageError, match=f"^number must be an integer, not {given!r}$"):
            look(given)
    with pytest.raises(UsageError, match=f"^after must be an integer, not {given!r}$"):
        _spec(run.home, ("true",), {"after": given})


def test_a_copy_in_the_home_folder_is_there(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run.cp("made.txt", "~/copied") == tmp_path / "copied/made.txt"
    assert (tmp_path / "copied/made.txt").read_text() == "made"
