"""The names that people's own code and scripts use: they stay, or warn for one version before they go."""

import importlib
import inspect
import subprocess
import sys

import pytest

import conjure


@pytest.mark.parametrize(
    "name", ["Client", "ConjureError", "LanguageModel", "finetune", "load", "log_metric"]
)
def test_a_public_name_of_0_1_is_still_there(name):
    assert name in conjure.__all__
    assert name in dir(conjure)
    assert callable(getattr(conjure, name))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("log_metric", ["name", "value", "step"]),
        ("load", ["name", "precision"]),
        ("finetune", ["data", "model", "output", "on_event"]),
        ("Client", ["home"]),
    ],
)
def test_its_parameters_are_still_called_the_same(name, parameters):
    assert set(parameters) <= inspect.signature(getattr(conjure, name)).parameters.keys()


@pytest.mark.parametrize(
    ("earlier", "name", "now"),
    [
        ("conjure.reporting", "log_metric", "conjure.metric_logging"),
        ("conjure.lm.report.facts", "report_from_json", "conjure.lm.report.report_schema"),
    ],
)
def test_a_module_by_its_earlier_name_warns(monkeypatch, earlier, name, now):
    monkeypatch.delitem(sys.modules, earlier, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{earlier} is now {now}") as warned:
        found = getattr(importlib.import_module(earlier), name)
    assert found is getattr(importlib.import_module(now), name)
    assert len(warned) == 1


@pytest.mark.parametrize("script", ["run_generation", "run_lm_finetuning"])
def test_a_script_of_2019_is_still_a_module(script):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"conjure.compat.{script}", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: conjure.compat.{script}")
    assert "--model_name_or_path" in done.stdout


@pytest.mark.parametrize("platform", ["win32", "darwin", "freebsd14"])
def test_another_platform_gets_a_sentence_and_no_traceback(platform):
    def done(script):
        script = f"import sys; sys.platform = {platform!r}; {script}"
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    sentence = f"conjure needs Linux (on Windows, WSL 2); this is {platform}\n"
    command = done("sys.argv = ['conjure', 'ps']; from conjure.__main__ import main; main()")
    assert (command.returncode, command.stdout, command.stderr) == (1, "", f"error: {sentence}")
    library = done("import conjure; conjure.load")
    assert library.stderr.endswith(f"ImportError: {sentence}")
