"""The training loop's promises: equal gradients however cut, equal losses however interrupted."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from conjure.errors import TrainingError
from conjure.lm.nn.dropout import Dropout
from conjure.lm.nn.loss import IGNORE
from conjure.lm.text.split import TokenStream
from conjure.lm.training import trainer as module
from conjure.lm.training.distributed.process_group import ProcessGroup
from conjure.lm.training.events import Evaluated, Finished, SavePoint, StepDone
from conjure.lm.training.master_weights import MasterOptimizer, adamw
from conjure.lm.training.packing import Blocks
from conjure.lm.training.trainer import Trainer, TrainSettings
from support.models import tiny_model
from support.training import losses, tiny_trainer, token_blocks


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_accumulated_micro_batches_equal_one_large_batch(micro_batch):
    whole = losses(tiny_trainer(batch_size=8, micro_batch=8))
    parts = losses(tiny_trainer(batch_size=8, micro_batch=micro_batch))
    assert len(whole) == len(parts) > 5
    for one, other in zip(whole, parts, strict=True):
        assert one[:2] == other[:2]
        assert other[2] == pytest.approx(one[2], rel=2e-6)


@pytest.mark.parametrize("mask_records", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_equal_seeds_give_equal_losses_and_another_does_not(dtype, mask_records):
    settings = {"dropout": 0.2, "dtype": dtype, "mask_records": mask_records}
    one = losses(tiny_trainer(**settings, seed=3))
    assert losses(tiny_trainer(**settings, seed=3)) == one
    assert losses(tiny_trainer(**settings, seed=4)) != one


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stopped_after", [1, 6, 7, 11])  # within and at the ends of epochs of 7 steps
def test_resumed_equals_unbroken_bit_for_bit(dtype, stopped_after):
    settings = {"dropout": 0.1, "dtype": dtype, "eval_every": 3, "patience": 0}
    unbroken = losses(tiny_trainer(**settings))
    first = tiny_trainer(**settings)
    before = []
    for event in first.run():
        if isinstance(event, StepDone | Evaluated):
            before.append((type(event).__name__, event.step, event.loss))
        if isinstance(event, StepDone) and event.step == stopped_after:
            first.stop()
    state = first.state()
    tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
    # Another model's weights, to show that everything comes from the state.
    second = tiny_trainer(model_seed=9, **settings)
    second.restore(type(state)(state.progress, tensors))
    assert before + losses(second) == unbroken


def test_training_learns():
    events = list(tiny_trainer(epochs=6).run())
    held_out = [event.loss for event in events if isinstance(event, Evaluated)]
    assert held_out[-1] < 0.8 * held_out[0]


def test_every_target_counts_once_an_epoch():
    steps = [event for event in tiny_trainer(tokens=150, epochs=1).run() if isinstance(event, StepDone)]
    assert sum(step.targets for step in steps) == 149


def test_a_fraction_of_an_epoch_is_a_fraction_of_its_steps():
    assert tiny_trainer(tokens=321, epochs=0.5).total_steps == 5
    assert tiny_trainer(tokens=321, epochs=1.5).total_steps == 15
    assert tiny_trainer(tokens=321, epochs=9, max_steps=2).total_steps == 2


def test_patience_ends_a_run_that_no_longer_gains():
    trainer = tiny_trainer(learning_rate=0.5, epochs=50, eval_every=1, patience=2)
    events = list(trainer.run())
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    assert events[-1] == Finished(trainer.progress.step, "early_stop")
    assert trainer.progress.step < trainer.total_steps
    assert [event.improved for event in evaluated[-2:]] == [False, False]
    best = min(evaluated, key=lambda event: event.loss)
    assert (trainer.progress.best_loss, trainer.progress.best_step) == (best.loss, best.step)


def test_a_run_that_made_all_its_steps_has_not_stopped_early():
    settings = {
        "learning_rate": 0.5,
        "eval_every": 1,
        "patience": 2,
        "schedule": "constant",
        "warmup_ratio": 0.0,
    }
    stopped = tiny_trainer(**settings, epochs=50)
    assert list(stopped.run())[-1].reason == "early_stop"
    limited = {**settings, "epochs": 50, "max_steps": stopped.progress.step}
    complete = tiny_trainer(**limited)
    assert list(complete.run())[-1] == Finished(stopped.progress.step, "completed")
    again = tiny_trainer(**limited)
    again.restore(complete.state())
    assert list(again.run()) == [Finished(stopped.progress.step, "completed")]


@pytest.mark.slow
def test_without_patience_or_held_out_text_it_runs_to_the_end():
    for settings in ({"patience": 0, "learning_rate": 0.5, "eval_every": 1}, {"held_out": None}):
        trainer = tiny_trainer(**settings)
        assert list(trainer.run())[-1] == Finished(trainer.total_steps, "completed")


def test_without_held_out_text_nothing_is_measured():
    events = list(tiny_trainer(held_out=None, max_steps=2, eval_every=1).run())
    assert [type(event) for event in events] == [StepDone, StepDone, Finished]


def test_an_equal_loss_is_no_gain():
    events = list(tiny_trainer(learning_rate=0.0, eval_every=1, patience=2).run())
    assert [event.improved for event in events if isinstance(event, Evaluated)] == [True, False, False]
    assert events[-1] == Finished(2, "early_stop")


@pytest.mark.parametrize("eval_blocks", [2, 256])
def test_the_held_out_loss_is_the_mean_over_all_targets_that_are_read(eval_blocks):
    trainer = tiny_trainer(micro_batch=3, eval_blocks=eval_blocks)
    batch = trainer.held_out.batch(range(min(eval_blocks, len(trainer.held_out))))
    with torch.no_grad():
        logits = trainer.model.head(trainer.model(batch.ids)).flatten(0, 1)
    expected = functional.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORE)
    assert trainer.eval_loss() == pytest.approx(expected.item(), rel=1e-5)


def test_dropout_is_of_training_alone():
    settings = {"eval_every": 1, "max_steps": 1}
    dropped = tiny_trainer(dropout=0.5, **settings)
    before, step, after = losses(dropped)
    plain_before, plain_step, _ = losses(tiny_trainer(**settings))
    assert before == plain_before
    assert step[2] != pytest.approx(plain_step[2], rel=1e-3)
    again = tiny_trainer(**settings)
    again.restore(dropped.state())
    assert again.eval_loss() == pytest.approx(after[2], rel=1e-6)


def test_the_rate_rises_over_a_share_of_all_steps():
    schedule = tiny_trainer(warmup_ratio=0.5).schedule
    assert (schedule.total_steps, schedule.warmup_steps) == (14, 7)


def test_processes_compare_their_weights_at_first_and_from_time_to_time(monkeypatch):
    compared = []

    class Comparing(ProcessGroup):
        def check_weights(self, weights, step):
            assert weights
            compared.append(step)

    monkeypatch.setattr(module, "_COMPARE_EVERY", 4)
    list(tiny_trainer(group=Comparing()).run())
    assert compared == [0, 4, 8, 12]


def test_a_step_takes_the_time_from_its_beginning_to_its_end(monkeypatch):
    times = iter([10.0, 10.5, 20.0, 22.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    events = tiny_trainer(max_steps=2, held_out=None).run()
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [(step.step, step.seconds) for step in steps] == [(1, 0.5), (2, 2.0)]


def test_evaluations_and_save_points_come_when_due():
    events = list(tiny_trainer(eval_every=4, save_every=5, patience=0).run())
    assert [event.step for event in events if isinstance(event, Evaluated)] == [0, 4, 8, 12, 14]
    assert [event.step for event in events if isinstance(event, SavePoint)] == [5, 10]


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        (torch.float32, "use a lower learning_rate"),
        (torch.bfloat16, "use a lower learning_rate, or precision='float32'"),
    ],
)
def test_a_loss_that_explodes_stops_it_with_advice(dtype, advice):
    trainer = tiny_trainer(learning_rate=1e30, max_grad_norm=0.0, dtype=dtype)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) .* at step 2;") as caught:
        list(trainer.run())
    assert caught.value.hint == advice


@pytest.mark.slow
def test_bfloat16_follows_float32():
    settings = {"epochs": 6, "learning_rate": 3e-3, "patience": 0}
    exact, rounded = losses(tiny_trainer(**settings)), losses(tiny_trainer(dtype=torch.bfloat16, **settings))
    for one, other in zip(exact, rounded, strict=True):
        assert other[2] == pytest.approx(one[2], rel=0.02)


def test_masters_keep_what_bfloat16_rounds_away():
    trainer = tiny_trainer(dtype=torch.bfloat16)
    exact = tiny_trainer().model.embedding.weight.detach().clone()
    assert torch.equal(trainer.full_precision_model().embedding.weight, exact)
    assert torch.equal(trainer.model.embedding.weight, exact.bfloat16())
    list(trainer.run())
    masters, rounded = trainer.full_precision_model().embedding.weight, trainer.model.embedding.weight
    assert not torch.equal(rounded.float(), masters)
    assert ((rounded - masters).abs() <= masters.abs() / 128).all()


def test_rounding_and_dropout_draw_other_random_numbers():
    trainer = tiny_trainer(dtype=torch.bfloat16)
    copies = trainer.optimizer._copies(trainer._rounding_key(3))
    dropout = Dropout()
    dropout.reseed(trainer.settings.seed, 3, 0)
    drawn = {int(dropout._bits.random_raw()) for _ in range(100)}
    assert not drawn & {copy.key for copy in copies.values()}


@pytest.mark.parametrize(("max_norm", "share"), [(0.0, 1.0), (1e9, 1.0), (0.5, 0.1)])
def test_clipping_scales_the_next_step_and_no_other(max_norm, share):
    def weights_after(gradient, *, clipped):
        model = tiny_model()
        optimizer = MasterOptimizer(model, adamw(1e-2, 0.0))
        for scale in (gradient, 1.0):
            optimizer.set_gradients([torch.full_like(each, scale) for each in optimizer.trained])
            if clipped and scale == gradient:
                assert optimizer.clip(max_norm) == pytest.approx(5.0)
            optimizer.step(1.0, (1, 2))
        return torch.cat([each.detach().flatten() for each in optimizer.trained])

    size = sum(each.numel() for each in tiny_model().parameters())
    gradient = 5.0 / math.sqrt(size)  # of norm 5
    clipped, scaled = weights_after(gradient, clipped=True), weights_after(gradient * share, clipped=False)
    torch.testing.assert_close(clipped, scaled, rtol=1e-5, atol=1e-6)


def test_gradients_too_small_to_need_clipping_stay_as_they_are():
    def weights_after(*, clipped):
        model = tiny_model()
        optimizer = MasterOptimizer(model, adamw(1e-2, 0.0))
        size = sum(each.numel() for each in optimizer.trained)
        optimizer.set_gradients([torch.full_like(each, 5e-7 / math.sqrt(size)) for each in optimizer.trained])
        if clipped:
            assert optimizer.clip(1.0) == pytest.approx(5e-7)
        optimizer.step(1.0, (1, 2))
        return torch.cat([each.detach().flatten() for each in optimizer.trained])

    assert torch.equal(weights_after(clipped=True), weights_after(clipped=False))


def first_loss_of_two_records(*, mask_records: bool) -> tuple[float, float]:
    """The first step's loss on one block of two records, and that of each record read by itself."""
    stream = TokenStream(
        np.array([3, 9, 1, 7, 5, 2, 8, 4, 6]), np.array([0, 5]), np.array([5, 9]), False, np.array([0, 1])
    )
    model = tiny_model(0, 0.5, embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0)
    torch.nn.init.zeros_(
        model.position_embedding.weight
    )  # a record says the same wherever it stands in the block
    pieces = [(stream.ids[:5], stream.ids[1:6]), (stream.ids[5:8], stream.ids[6:9])]
    with torch.no_grad():
        alone = [
            functional.cross_entropy(
                model.head(model(torch.from_numpy(ids)[None])[0]), torch.from_numpy(targets), reduction="sum"
            )
            for ids, targets in pieces
        ]
    settings = TrainSettings(epochs=1, batch_size=1, micro_batch=1, mask_records=mask_records)
    trainer = Trainer(model, Blocks(stream, 8), None, settings, adamw(1e-3, 0.0), torch.float32)
    first = next(event for event in trainer.run() if isinstance(event, StepDone))
    return first.loss, float(sum(alone)) / 8


def test_masked_records_learn_from_their_own_record_only():
    masked, alone = first_loss_of_two_records(mask_records=True)
    assert masked == pytest.approx(alone, rel=1e-5)
    unmasked, _ = first_loss_of_two_records(mask_records=False)
    assert unmasked != pytest.approx(alone, rel=1e-3)


class Crowded:
    """Has memory for so many blocks at a time, like a GPU that others use too."""

    def __init__(self, trainer, room):
        self._loss, self._room, self.sizes = trainer._loss, room, []

    def __call__(self, batch, divisor):
        self.sizes.append(len(batch.ids))
        if len(batch.ids) > self._room:
            self._loss(batch, divisor).backward()  # where it runs out, some gradients are made
            raise torch.OutOfMemoryError("CUDA out of memory.\nMore about it.")
        return self._loss(batch, divisor)


def test_memory_that_runs_out_on_the_way_halves_the_micro_batch_to_the_same_losses(monkeypatch):
    trainer = tiny_trainer(batch_size=8, micro_batch=8)
    crowded = Crowded(trainer, room=2)
    monkeypatch.setattr(trainer, "_loss", crowded)
    for one, other in zip(losses(trainer), losses(tiny_trainer(batch_size=8, micro_batch=8)), strict=True):
        assert one[2] == pytest.approx(other[2], rel=2e-6)
    assert crowded.sizes[:3] == [8, 4, 2]
    assert trainer.settings.micro_batch == 2
    assert set(crowded.sizes[2:]) <= {1, 2}


def test_a_single_block_that_does_not_fit_ends_training_in_one_sentence(monkeypatch):
    trainer = tiny_trainer(batch_size=2, micro_batch=2)
    monkeypatch.setattr(trainer, "_loss", Crowded(trainer, room=0))
    with pytest.raises(TrainingError) as caught:
        losses(trainer)
    assert str(caught.value) == "one block of tokens does not fit in memory: CUDA out of memory."
    assert "block_size" in caught.value.hint


class Pair(ProcessGroup):
    """One of two processes, which does the work of both."""

    size = 2

    def share(self, count):
        return range(count)


@pytest.mark.parametrize(
    ("micro_batch", "words", "advice"),
    [
        (4, "4 blocks of tokens do not", "grad_accumulation"),
        (1, "one block of tokens does not", "block_size"),
    ],
)
def test_processes_that_share_a_step_do_not_halve_it_by_themselves(monkeypatch, micro_batch, words, advice):
    trainer = tiny_trainer(micro_batch=micro_batch, held_out=None, group=Pair())
    monkeypatch.setattr(trainer, "_loss", Crowded(trainer, room=0))
    with pytest.raises(TrainingError) as caught:
        losses(trainer)
    assert str(caught.value) == f"{words} fit in memory: CUDA out of memory."
    assert advice in caught.value.hint


def test_layers_are_compiled_where_that_is_asked_for(monkeypatch):
    """What the compiler makes of them is in a test below."""
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    tiny_trainer()
    assert compiled == []
    model = tiny_model()
    Trainer(model, token_blocks(60), None, TrainSettings(), adamw(1e-3, 0.0), compiled=True)
    assert compiled == list(model.blocks)


@pytest.mark.large  # the compiler takes most of a minute
@pytest.mark.filterwarnings("ignore")  # those of the compiler itself
def test_layers_can_be_compiled_to_the_same_gradients():
    """In float64, where the paths that only a CPU has are not taken, as they are not on a GPU."""

    def gradients(*, compiled):
        model = tiny_model(0, 0.3).double().train()
        if compiled:
            for block in model.blocks:
                block.compile()
        model(torch.arange(24).view(2, 12)).square().mean().backward()
        return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}

    for (name, one), (other_name, other) in zip(
        gradients(compiled=True).items(), gradients(compiled=False).items(), strict=True
    ):
        assert name == other_name
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
