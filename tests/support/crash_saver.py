"""Save checkpoints over each other, get killed on the way, and report what is left (run as a program).

    python crash_saver.py FOLDER

Both ways of putting a folder in another's place are tried: by exchanging them, and by renaming twice. Two
models of different shapes take turns. First a child kills itself at its first file operation, the next at its
second, and so on until one comes through; then children are killed from outside at random moments. After each
death the folder must hold one whole checkpoint: weights, config and record of the same model.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from conjure.core import files
from conjure.lm.checkpoints.pretrained import load_checkpoint, save_checkpoint
from support.models import tiny_model, tiny_tokenizer

MODELS = {name: tiny_model(seed=layers, n_layer=layers) for name, layers in (("two", 2), ("three", 3))}
RANDOM_KILLS = 40


def save(folder: Path, name: str) -> None:
    save_checkpoint(folder, MODELS[name], tiny_tokenizer(), training={"model": name}, card=name)


def found(folder: Path) -> str:
    """Which model is there; fails unless it is whole."""
    model, _ = load_checkpoint(folder)
    name = json.loads((folder / "training.json").read_text())["model"]
    assert (folder / "README.md").read_text() == name
    expected = MODELS[name].state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[key]) for key, weight in model.state_dict().items())
    return name


def die_at_operation(number: int) -> None:
    """Have this process killed when Python does its `number`-th file operation from now."""
    seen = 0

    def watch(event: str, _: object) -> None:
        nonlocal seen
        if event.startswith(("open", "os.", "shutil.", "tempfile.", "ctypes.")):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def child(folder: Path, name: str, *, deadly_operation: int | None = None) -> int:
    """Start a process that saves once, or for ever when it is to be killed from outside; returns its id."""
    process = os.fork()
    if process == 0:
        try:
            if deadly_operation is not None:
                die_at_operation(deadly_operation)
                save(folder, name)
                os._exit(0)
            while True:
                save(folder, "two")
                save(folder, "three")
        finally:
            os._exit(1)
    return process


def survived(process: int) -> bool:
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the saving child failed by itself"
    return not os.WIFSIGNALED(status)


def report(folder: Path) -> dict[str, object]:
    """Save and get killed in a folder; what came of it."""
    save(folder, "two")
    outcomes = {"two": 0, "three": 0}
    operation, alive, there = 0, False, "two"
    while not alive:
        operation += 1
        alive = survived(child(folder, {"two": "three", "three": "two"}[there], deadly_operation=operation))
        there = found(folder)
        outcomes[there] += 1
    for _ in range(RANDOM_KILLS):
        process = child(folder, "two")
        time.sleep(random.uniform(0.0, 0.05))
        os.kill(process, signal.SIGKILL)
        survived(process)
        outcomes[found(folder)] += 1
    save(folder, "two")
    left = sorted(path.name for path in folder.parent.iterdir())
    return {"operations": operation, "outcomes": outcomes, "left": left}


def main() -> None:
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    reports = {"exchange": report(root / "exchange" / "model")}
    files._exchange = lambda *_: False
    reports["renames"] = report(root / "renames" / "model")
    print(json.dumps(reports))


if __name__ == "__main__":
    main()
