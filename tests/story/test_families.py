"""Every family from its checkpoint folder to a tuned model: generate, fine-tune, score, report."""

import json
import math
from pathlib import Path

import pytest
import torch

import conjure
from conjure.lm.generation.engine_loading import load_engine
from support.families import CONTEXT, FAMILIES, reference
from support.models import tiny_tokenizer
from support.texts import ONE_LINERS
from support.tuning import OPTIONS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory):
    """The folder of a tiny random checkpoint of a family, with a tokenizer."""
    made: dict[str, Path] = {}

    def checkpoint(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("family") / "base"
            reference(name, std=0.1).save_pretrained(made[name])
            tiny_tokenizer().save(made[name], context_length=CONTEXT)
        return made[name]

    return checkpoint


@pytest.fixture
def jokes(tmp_path: Path) -> Path:
    path = tmp_path / "jokes.txt"
    path.write_text("\n".join(ONE_LINERS[:40]) + "\n", encoding="utf-8")
    return path


def tune(jokes: Path, model: Path, output: Path, **options):
    settings = {**OPTIONS, "split": "lines", "max_steps": 8, "eval_every": 4, **options}
    return conjure.finetune(jokes, model=model, output=output, **settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_generate_finetune_score_and_report(checkpoints, jokes: Path, tmp_path: Path, name: str):
    base = checkpoints(name)
    result = tune(jokes, base, tmp_path / "tuned", mask_records=True)
    assert result.loss_before is not None
    assert result.loss_after is not None
    assert result.loss_after < result.loss_before
    report = json.loads((result.checkpoint / "report.json").read_text())
    assert report["verdict"]
    tuned = conjure.load(result.checkpoint)
    assert json.loads((result.checkpoint / "config.json").read_text())["model_type"] == tuned.config.family
    assert tuned.generate("My dog", max_new_tokens=200, num_samples=2, seed=1)  # beyond the context
    assert math.isfinite(tuned.score("My dog ate the clock.").total)


@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize("name", FAMILIES)
def test_lora_changes_every_matrix_of_the_blocks_and_no_embedding(
    checkpoints, jokes: Path, tmp_path: Path, name: str
):
    base = checkpoints(name)
    result = tune(jokes, base, tmp_path / "tuned", lora=4, freeze=1, learning_rate=3e-2)
    before, after = (conjure.load(folder).model for folder in (base, result.checkpoint))
    changed = {
        each
        for each, weight in before.named_parameters()
        if not torch.equal(weight, after.get_parameter(each))
    }
    later = [f"blocks.{layer}" for layer in range(1, before.n_layer)]
    matrices = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    assert changed == {f"{block}.{matrix}.weight" for block in later for matrix in matrices}


@pytest.mark.parametrize("name", FAMILIES)
def test_text_comes_from_the_native_engine_and_in_bfloat16_from_torch(checkpoints, name: str):
    for precision in ("auto", "int8", "bfloat16"):
        loaded = load_engine(checkpoints(name), precision=precision)
        assert ("native" in loaded.precision) == (precision != "bfloat16")
