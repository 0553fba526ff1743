"""The state of an interrupted training, on disk."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conjure.errors import CheckpointError
from conjure.lm.checkpoints.tensor_layout import stored_names
from conjure.lm.training.lora import add_lora
from conjure.lm.training.state import load_training_facts, load_training_state, save_training_state
from conjure.lm.training.trainer import Trainer
from support.training import losses, tiny_trainer


def before_0_2(name: str, trainer: Trainer) -> str:
    """A tensor's name in states of versions that knew GPT-2 only."""
    for ours in dict(trainer.model.named_parameters()):
        if name.endswith(f".{ours}"):
            return name.removesuffix(ours) + stored_names(trainer.model.config, ours)[0]
    raise AssertionError(name)


def test_what_an_earlier_version_saved_goes_on_to_the_same_losses(tmp_path: Path):
    unbroken = losses(tiny_trainer())
    trainer = tiny_trainer()
    for event in trainer.run():
        if getattr(event, "step", 0) == 4:
            trainer.stop()
    state = trainer.state()
    renamed = {before_0_2(name, trainer): tensor for name, tensor in state.tensors.items()}
    assert "master.h.0.attn.c_attn.weight" in renamed
    assert "optimizer.0.exp_avg.wte.weight" in renamed
    save_training_state(tmp_path / "state", replace(state, tensors=renamed), {})
    again = tiny_trainer()
    again.restore(load_training_state(tmp_path / "state"))
    rest = losses(again)
    assert rest
    assert rest == unbroken[-len(rest) :]


def test_so_does_that_of_lora(tmp_path: Path):
    trainer = tiny_trainer()
    model = add_lora(trainer.model, 4, seed=0)
    tensors = {
        "master.h.1.mlp.c_fc.lora_a": torch.ones(1),
        "optimizer.0.step.h.1.mlp.c_fc.lora_b": torch.ones(1),
    }
    save_training_state(tmp_path / "state", replace(trainer.state(), tensors=tensors), {})
    names = {name.partition("blocks.")[2] for name in load_training_state(tmp_path / "state").tensors}
    assert names == {"1.mlp.up.lora_a", "1.mlp.up.lora_b"}
    assert all(f"blocks.{name}" in dict(model.named_parameters()) for name in names)


def test_a_state_that_cannot_be_saved_says_why_in_few_words(tmp_path: Path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "out.training"
    with pytest.raises(CheckpointError) as refused:
        save_training_state(folder, tiny_trainer().state(), {})
    assert str(refused.value) == f"the training state could not be saved to {folder}: File exists"


def test_a_state_between_two_renames_when_the_machine_stopped_is_found(tmp_path: Path):
    folder = tmp_path / "out.training"
    save_training_state(folder, tiny_trainer().state(), {"seed": 7})
    folder.rename(tmp_path / ".out.training.old")
    assert load_training_facts(folder)["seed"] == 7
    assert folder.is_dir()


@pytest.mark.parametrize("damaged", ["progress.json", "state.safetensors"])
def test_a_damaged_state_is_told(tmp_path: Path, damaged: str):
    folder = tmp_path / "out.training"
    save_training_state(folder, tiny_trainer().state(), {})
    (folder / damaged).write_text("{")
    with pytest.raises(CheckpointError, match=r"the training state in .*out\.training is damaged: "):
        load_training_state(folder)
