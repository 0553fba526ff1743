"""Low-rank adaptation: starts as the base, trains nothing else, and merges to what it was."""

from pathlib import Path

import pytest
import torch

from conjure.errors import UsageError
from conjure.lm.language_model import load
from conjure.lm.models.decoder import Decoder
from conjure.lm.text.records import read_records
from conjure.lm.text.split import hold_out
from conjure.lm.text.token_cache import tokenise
from conjure.lm.training.events import Evaluated, StepDone
from conjure.lm.training.lora import LoRALinear, add_lora, merge_lora
from conjure.lm.training.master_weights import adamw
from conjure.lm.training.packing import Blocks
from conjure.lm.training.trainer import Trainer, TrainSettings
from support.models import tiny_config, tiny_model
from support.oracle import random_ids
from support.training import losses, token_blocks
from support.tuning import OPTIONS, tuning_inputs

JOKES = Path(__file__).parents[4] / "examples" / "jokes" / "jokes.csv"
IDS = random_ids(tiny_config(), 3, 12)
LAYERS = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
MATRICES = [f"blocks.{block}.{layer}" for block in (0, 1) for layer in LAYERS]


def logits(model: Decoder) -> torch.Tensor:
    with torch.no_grad():
        return model.head(model(IDS))


def disturbed(rank: int = 4) -> Decoder:
    """An adapted model whose corrections are no longer zero."""
    model = add_lora(tiny_model(), rank, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("lora_b"):
                weight.normal_(0.0, 0.2, generator=generator)
    return model


def merged_model(model: Decoder) -> Decoder:
    plain = Decoder(model.config)
    plain.load_state_dict(merge_lora(model.state_dict()))
    return plain.eval()


def lora_trainer(*, rank: int = 4, dtype=torch.float32, dropout: float = 0.0, **settings) -> Trainer:
    config = dict.fromkeys(("embd_pdrop", "resid_pdrop"), dropout)
    return Trainer(
        add_lora(tiny_model(0, 0.1, **config), rank, seed=0),
        token_blocks(200),
        token_blocks(60, seed=1),
        TrainSettings(**{"epochs": 2, "batch_size": 4, "micro_batch": 4, **settings}),
        adamw(1e-2, 0.01),
        dtype,
    )


class TestModel:
    def test_untrained_it_is_its_base(self):
        assert torch.equal(logits(add_lora(tiny_model(), 4, seed=0)), logits(tiny_model()))

    @pytest.mark.parametrize("rank", [1, 4, 16])
    def test_merged_gives_the_logits_of_unmerged(self, rank):
        model = disturbed(rank)
        ours, plain = logits(model), logits(merged_model(model))
        assert not torch.allclose(ours, logits(tiny_model()), atol=1e-2), "nothing was disturbed"
        assert (ours - plain).abs().max() <= 1e-5 * plain.abs().max()

    @pytest.mark.parametrize(("rank", "scale"), [(1, 6.0), (4, 3.0), (9, 2.0), (16, 1.5)])
    def test_the_correction_is_b_a_scaled_by_six_over_the_root_of_the_rank(self, rank, scale):
        model, base = disturbed(rank), tiny_model()
        weights = merge_lora(model.state_dict())
        for name in MATRICES:
            down, up = model.get_parameter(f"{name}.lora_a"), model.get_parameter(f"{name}.lora_b")
            expected = base.get_parameter(f"{name}.weight") + scale * up @ down
            torch.testing.assert_close(weights[f"{name}.weight"], expected)
        assert set(weights) == set(base.state_dict())

    def test_every_linear_layer_of_the_blocks_has_one_and_nothing_else_is_trained(self):
        model = add_lora(tiny_model(tie_word_embeddings=False), 4, seed=0)
        adapted = [name for name, module in model.named_modules() if isinstance(module, LoRALinear)]
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        assert adapted == MATRICES
        assert trained == {f"{name}.lora_{part}" for name in MATRICES for part in "ab"}

    def test_shapes(self):
        model = add_lora(tiny_model(), 3, seed=0)
        shapes = {name: weight.shape for name, weight in model.named_parameters()}
        assert shapes["blocks.0.mlp.up.lora_a"] == (3, 16)
        assert shapes["blocks.0.mlp.up.lora_b"] == (64, 3)

    def test_blocks_before_the_first_are_left_alone(self):
        model = add_lora(tiny_model(), 4, seed=0, first_block=1)
        trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
        assert len(trained) == 8
        assert all(name.startswith("blocks.1.") for name in trained)

    def test_the_seed_decides_a(self):
        one, again, other = (add_lora(tiny_model(), 4, seed=seed).state_dict() for seed in (1, 1, 2))
        name = "blocks.0.attention.qkv.lora_a"
        assert torch.equal(one[name], again[name])
        assert not torch.equal(one[name], other[name])

    @pytest.mark.parametrize(
        ("rank", "first_block", "words", "fix"),
        [
            (17, 0, "lora is 17; the model's matrices have rank 16 at most", "lora=8"),
            (4, 2, "freeze is 2 and the model has 2 blocks: none is left for lora", "freeze=1"),
        ],
    )
    def test_what_cannot_be(self, rank, first_block, words, fix):
        with pytest.raises(UsageError, match=words) as refused:
            add_lora(tiny_model(), rank, seed=0, first_block=first_block)
        assert refused.value.fix == fix

    def test_without_corrections_merging_changes_nothing(self):
        weights = tiny_model().state_dict()
        assert merge_lora(weights) == weights


@pytest.mark.slow
class TestTraining:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_only_a_and_b_change(self, dtype):
        trainer = lora_trainer(dtype=dtype)
        before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
        list(trainer.run())
        after = trainer.model.state_dict()
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        assert changed == {f"{name}.lora_{part}" for name in MATRICES for part in "ab"}

    @pytest.mark.parametrize("micro_batch", [1, 2])
    def test_accumulated_micro_batches_equal_one_large_batch(self, micro_batch):
        whole = losses(lora_trainer(batch_size=8, micro_batch=8))
        parts = losses(lora_trainer(batch_size=8, micro_batch=micro_batch))
        for one, other in zip(whole, parts, strict=True):
            assert one[:2] == other[:2]
            assert other[2] == pytest.approx(one[2], rel=2e-6)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_resumed_equals_unbroken_bit_for_bit(self, dtype):
        settings = {"dropout": 0.1, "dtype": dtype, "eval_every": 3, "patience": 0}
        unbroken = losses(lora_trainer(**settings))
        first, before = lora_trainer(**settings), []
        for event in first.run():
            if isinstance(event, StepDone | Evaluated):
                before.append((type(event).__name__, event.step, event.loss))
            if isinstance(event, StepDone) and event.step == 6:
                first.stop()
        state = first.state()
        tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
        second = lora_trainer(**settings)
        second.restore(type(state)(state.progress, tensors))
        assert before + losses(second) == unbroken

    def test_the_full_precision_model_is_a_plain_one_and_the_same(self):
        trainer = lora_trainer()
        list(trainer.run())
        plain = trainer.full_precision_model()
        trainer.model.eval()
        assert not any(isinstance(module, LoRALinear) for module in plain.modules())
        torch.testing.assert_close(logits(plain), logits(trainer.model), rtol=1e-4, atol=1e-5)

    def test_it_learns(self):
        curve = losses(lora_trainer(epochs=10, patience=0))
        held_out = [loss for kind, _, loss in curve if kind == "Evaluated"]
        assert held_out[-1] < 0.95 * held_out[0]


class TestFinetune:
    @pytest.mark.slow
    @pytest.mark.usefixtures("short_reports")
    def test_a_plain_checkpoint_comes_out_and_the_embeddings_stay(self, tmp_path):
        from conjure.lm.training.finetune import finetune

        data, model = tuning_inputs(tmp_path)
        options = {**OPTIONS, "learning_rate": 1e-2, "split": "lines", "lora": 2}
        result = finetune(data, model=model, output=tmp_path / "tuned", **options)

        base, tuned = (load(folder).model.state_dict() for folder in (model, result.checkpoint))
        changed = {name for name in base if not torch.equal(base[name], tuned[name])}
        assert result.loss_before is not None
        assert result.loss_after is not None
        assert result.loss_after < result.loss_before
        assert changed == {f"{name}.weight" for name in MATRICES}
        assert result.plan.trainable == sum(2 * sum(base[f"{name}.weight"].shape) for name in MATRICES)

    def test_too_much_frozen_is_told_before_anything_is_trained(self, tmp_path):
        from conjure.lm.training.finetune import finetune

        data, model = tuning_inputs(tmp_path)
        with pytest.raises(UsageError, match="none is left for lora"):
            finetune(data, model=model, output=tmp_path / "tuned", lora=2, freeze=2, **OPTIONS)
        assert not (tmp_path / "tuned").exists()

    def test_a_rank_is_at_least_one(self, tmp_path):
        from conjure.lm.training.request import FinetuneRequest

        with pytest.raises(UsageError, match="lora must be at least 1, not 0"):
            FinetuneRequest(data=["x"], output=tmp_path, lora=0)


@pytest.mark.slow
def test_sprite_learns_jokes_through_corrections(tmp_path):
    text = tokenise(read_records([JOKES]), load("sprite").tokenizer)
    split = hold_out(text, 0.1)
    assert split.heldout is not None
    settings = TrainSettings(batch_size=4, micro_batch=4, max_steps=8, patience=0, eval_blocks=8)
    train, held_out = Blocks(split.train, 64), Blocks(split.heldout, 64)
    model = add_lora(load("sprite").model, 8, seed=0)
    curve = losses(Trainer(model, train, held_out, settings, adamw(5e-3, 0.01)))
    before, *_, after = [loss for kind, _, loss in curve if kind == "Evaluated"]
    assert after < before - 0.1


@pytest.mark.large
def test_a_whole_fine_tune_of_sprite_on_jokes_lowers_the_held_out_loss(tmp_path):
    from conjure.lm.training.finetune import finetune

    result = finetune(JOKES, model="sprite", output=tmp_path / "tuned", lora=8, epochs=2, sample_every=0)
    assert result.loss_before is not None
    assert result.loss_after is not None
    assert result.loss_after < result.loss_before - 0.1
