"""The plan's estimates, held against what a training process really takes."""

import itertools
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conjure.errors import TrainingError
from conjure.lm.hardware import fast_dtype
from conjure.lm.models.registry import build, read_model_config
from conjure.lm.training import plan, preparation
from conjure.lm.training.lora import add_lora
from conjure.lm.training.plan import (
    automatic_block_size,
    automatic_learning_rate,
    fits,
    fitting_block_size,
    fitting_micro_batch,
    further_gradients,
    memory_bytes,
    operations_per_token,
    shared_micro_batch,
)
from conjure.lm.training.preparation import prepare
from conjure.lm.training.request import FinetuneRequest
from support.models import tiny_model
from support.tuning import OPTIONS, tuning_inputs

SHAPES = {
    "wide vocabulary": ({"n_embd": 128, "n_layer": 2, "n_head": 2, "vocab_size": 30_000}, 8, 128),
    "dropout on attention": (
        {"n_embd": 64, "n_layer": 2, "n_head": 8, "vocab_size": 500, "attn_pdrop": 0.1},
        2,
        1024,
    ),
    "long": ({"n_embd": 128, "n_layer": 4, "n_head": 8, "vocab_size": 500}, 2, 1024),
    "deep": ({"n_embd": 256, "n_layer": 4, "n_head": 4, "vocab_size": 2_000}, 8, 256),
}
# Two steps of training (the optimizer has its state from the first one on), and how much memory they added to
# what importing everything takes.
SCRIPT = r"""
import json, re, sys
from pathlib import Path
import torch
from conjure.lm.text.split import TokenStream
from conjure.lm.models.decoder import Decoder
from conjure.lm.models.registry import read_model_config
from conjure.lm.training.master_weights import adamw
from conjure.lm.training.packing import Blocks
from conjure.lm.training.trainer import Trainer, TrainSettings
import numpy as np
def memory(name):
    return 1024 * int(re.search(name + r":\s+(\d+)", Path("/proc/self/status").read_text())[1])
shape, rows, block, dtype, mask_records = json.loads(sys.argv[1])
(torch.ones(64, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)).sum()
before = memory("VmRSS")
model = Decoder(read_model_config(shape)).initialise(0)
count = 2 * rows * block
ids = np.random.default_rng(0).integers(0, shape["vocab_size"], count)
stream = TokenStream(ids, np.array([0]), np.array([count]), end_of_text=False, labels=np.array([0]))
settings = TrainSettings(batch_size=rows, micro_batch=rows, max_steps=2, mask_records=mask_records)
trainer = Trainer(model, Blocks(stream, block), None, settings, adamw(1e-4, 0.0), getattr(torch, dtype))
del model
list(trainer.run())
print(memory("VmHWM") - before)
"""


IN_BFLOAT16 = pytest.param(
    "bfloat16",
    marks=pytest.mark.skipif(
        fast_dtype(torch.device("cpu")) is not torch.bfloat16,
        reason="this processor multiplies bfloat16 so slowly that conjure does not train in it",
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", IN_BFLOAT16])
@pytest.mark.parametrize(
    ("name", "mask_records"),
    [("wide vocabulary", False), ("deep", True), ("dropout on attention", False), ("long", True)],
)
def test_memory_is_about_what_a_process_takes(name, mask_records, dtype):
    shape, rows, block = SHAPES[name]
    model = build(read_model_config(shape))
    estimate = memory_bytes(model, model.config.parameter_count, rows, block, getattr(torch, dtype))
    arguments = [sys.executable, "-c", SCRIPT, json.dumps([shape, rows, block, dtype, mask_records])]
    taken = int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
    assert 0.6 * taken < estimate < 1.5 * taken


@pytest.mark.parametrize("lora", [False, True])
class TestAutomaticLearningRates:
    def test_all_of_them_can_be_asked_for(self, lora):
        for power in range(13):
            rate = automatic_learning_rate(10**power, lora=lora)
            FinetuneRequest(data=["text.txt"], output="tuned", learning_rate=rate)

    def test_they_fall_without_a_jump(self, lora):
        sizes = [int(10 ** (power / 50)) for power in range(100, 600)]
        rates = [automatic_learning_rate(size, lora=lora) for size in sizes]
        ratios = [after / before for before, after in itertools.pairwise(rates)]
        assert max(ratios) <= 1
        assert min(ratios) > 0.88  # a step of a size, 4.7%, and two digits of a rate

    def test_they_rise_slowly_below_what_was_measured(self, lora):
        at_10m, at_260k = (automatic_learning_rate(size, lora=lora) for size in (10**7, 260_000))
        assert at_260k / at_10m == pytest.approx(3, rel=0.05)

    def test_that_of_0_1_falls_alike_everywhere(self, lora):
        rates = [automatic_learning_rate(10**power, lora=lora, as_in_0_1=True) for power in (6, 7, 8)]
        assert rates[0] / rates[1] == pytest.approx(rates[1] / rates[2], rel=0.05)


def test_the_rates_are_those_that_were_measured():
    sprite, smollm2 = 10_100_000, 134_515_008
    assert [automatic_learning_rate(size) for size in (sprite, smollm2)] == [1e-3, 9.7e-5]
    assert [automatic_learning_rate(size, lora=True) for size in (sprite, smollm2)] == [5e-3, 9.8e-4]


class TestAutomaticBlockSizes:
    @pytest.mark.parametrize(
        ("p90", "context", "size"),
        [(7, 8192, 128), (100, 8192, 512), (100, 256, 256), (255, 8192, 1024), (100_000, 131_072, 1024)],
    )
    def test_they_hold_a_few_records_and_a_novel_is_many_blocks(self, p90, context, size):
        assert automatic_block_size(SimpleNamespace(lengths=SimpleNamespace(p90=p90)), context) == size

    @pytest.mark.parametrize(("most", "size"), [(2000, 1000), (999, 500), (500, 500), (200, 128), (1, 128)])
    def test_they_are_halved_until_they_fit_but_not_made_tiny(self, most, size):
        assert fitting_block_size(1000, lambda size: size <= most) == size

    def test_what_is_short_already_stays(self):
        assert fitting_block_size(30, lambda _: False) == 30


class TestBlocksThatDoNotFit:
    def test_the_longest_block_that_fits_is_named(self):
        model = tiny_model(context_length=131_072)
        trainable = sum(weight.numel() for weight in model.parameters())
        available = int(memory_bytes(model, trainable, 1, 4096, torch.float32) / 0.9) + 1
        with pytest.raises(TrainingError, match="training needs about") as refused:
            fitting_micro_batch(model, trainable, 1, 131_072, torch.float32, available)
        assert refused.value.hint.startswith("block_size=4096 fits; lora=8, freeze or a smaller model")
        assert fitting_micro_batch(model, trainable, 1, 4096, torch.float32, available) == 1

    def test_where_none_fits_it_is_said(self):
        with pytest.raises(TrainingError) as refused:
            fitting_micro_batch(tiny_model(), 1000, 1, 32, torch.float32, 1)
        assert refused.value.hint == "no block size fits: use lora=8, freeze or a smaller model"
        assert "in each process" not in str(refused.value)

    def test_processes_on_a_machine_share_its_memory(self):
        model = tiny_model()
        needed = memory_bytes(model, 1000, 1, 16, torch.float32, further_gradients=2)
        available = 2 * (int(needed / 0.9) + 1)
        asked = (model, 1000, 1, 16, torch.float32)
        assert fitting_micro_batch(*asked, available, blocks=2, processes=2) == 1
        with pytest.raises(TrainingError, match=r"training needs about .* in each process and"):
            fitting_micro_batch(*asked, available - 4, blocks=2, processes=2)
        with pytest.raises(TrainingError):  # of three blocks, two sums are held in a process
            fitting_micro_batch(*asked, available, blocks=3, processes=2)


class TestMemory:
    """What is counted, for a model of so few weights that each part shows."""

    @pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 12), (torch.bfloat16, 14)])
    def test_a_trained_weight_has_two_moments_and_its_gradient_in_each_format(self, dtype, size):
        none, some = (memory_bytes(tiny_model(), trained, 1, 8, dtype) for trained in (0, 1000))
        assert some - none == 1000 * size

    @pytest.mark.parametrize(("dtype", "weight", "head"), [(torch.float32, 4, 4), (torch.bfloat16, 6, 2)])
    def test_every_weight_is_there_and_the_head_has_a_gradient(self, dtype, weight, head):
        model = tiny_model()
        expected = weight * model.config.parameter_count + head * 16 * 300
        assert memory_bytes(model, 0, 0, 8, dtype) == 80_000_000 + expected

    @pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
    def test_a_token_takes_activations_and_so_many_logits_at_a_time(self, dtype, size):
        model = tiny_model()
        activations = model.activations_per_token(8) + 6 * 16
        needed = [memory_bytes(model, 0, blocks, 8, dtype) for blocks in (1, 2, 60_000, 60_001)]
        assert needed[1] - needed[0] == size * 8 * (activations + 300)
        assert needed[3] - needed[2] == size * 8 * activations

    def test_a_tenth_of_what_is_free_is_left(self):
        assert fits(90, 100)
        assert not fits(91, 100)


def test_operations_are_six_for_each_weight_and_token(tmp_path):
    data, model = tuning_inputs(tmp_path)
    options = {**OPTIONS, "max_steps": 3}
    request = FinetuneRequest(data=[data], model=model, output=tmp_path / "out", split="lines", **options)
    planned = prepare(request).plan
    assert planned.operations == 6 * planned.parameters * 3 * 4 * 16


class TestSharedSteps:
    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            # batch_size, accumulation, blocks of a step, and the micro-batch for 1, 2, 4, … processes
            ((8, 1, 8), {1: 2, 2: 2, 4: 2, 8: 1}),
            ((2, 4, 8), {1: 2, 2: 2, 4: 2, 8: 1}),
            ((6, 1, 6), {1: 1, 2: 1, 3: 1, 6: 1}),
            ((12, 1, 12), {1: 3, 2: 3, 3: 4, 4: 3, 6: 2}),
            ((2, 1, 2), {1: 1, 2: 1}),
            ((6, 2, 12), {1: 3, 2: 3, 3: 2, 4: 3, 6: 2}),
            ((8, 1, 5), {1: 1, 2: 1, 4: 1}),  # a text of five blocks
        ],
    )
    def test_up_to_four_processes_share_the_same_micro_batches_where_that_can_be(self, asked, expected):
        assert {each: shared_micro_batch(*asked, each) for each in expected} == expected

    def test_a_text_with_fewer_blocks_than_processes_is_refused(self):
        with pytest.raises(TrainingError, match="distributed is 4; the text has only 3 blocks"):
            shared_micro_batch(8, 1, 3, 4)

    def test_sums_of_pairs_and_what_is_exchanged_take_memory(self):
        held = {(1, 1, 1): 0, (4, 1, 1): 2, (4, 1, 2): 3, (4, 1, 4): 2, (8, 2, 1): 2, (7, 3, 2): 3}
        assert {each: further_gradients(*each) for each in held} == held
        model = tiny_model()
        several = memory_bytes(model, 1000, 1, 8, torch.float32, further_gradients=3)
        assert several - memory_bytes(model, 1000, 1, 8, torch.float32) == 3 * 4 * 1000


def test_the_rate_of_products_is_that_of_the_fastest_of_some(monkeypatch):
    times = iter([0, 9, 10, 12, 20, 21, 30, 35])  # they take 9, 2, 1 and 5 seconds
    monkeypatch.setattr(plan, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    rate = plan.matrix_rate(4, torch.float32, torch.device("cpu"))
    assert rate == 2 * 4 * 768 * 3072  # two operations for each product of two numbers


def test_the_products_that_are_timed_are_made():
    with FlopCounterMode(display=False) as made:
        plan.matrix_rate(4, torch.float32, torch.device("cpu"))
    assert made.get_total_flops() == 4 * 2 * 4 * 768 * 3072


def test_time_is_that_of_products_layers_and_updates(monkeypatch):
    monkeypatch.setattr(plan, "matrix_rate", lambda rows, *_: 1e9 * rows)
    model = build(read_model_config(SHAPES["deep"][0]))
    weights = model.config.parameter_count

    def seconds(**changed):
        work = {"tokens": 1e6, "tokens_per_pass": 256, "steps": 0, "passes_per_step": 1}
        work |= {"device": torch.device("cpu")} | changed
        return plan.expected_seconds(model, trainable=weights, dtype=torch.float32, **work)

    products = seconds()
    assert products == pytest.approx(6 * weights * 1e6 / (256e9 * 0.75))
    assert seconds(tokens_per_pass=64) == pytest.approx(4 * products)  # small products are slower
    assert seconds(tokens_per_pass=1 << 20) == pytest.approx(products / 4)
    assert seconds(steps=100, device=torch.device("cuda")) == products
    of_layers = 4 * 2e-3
    of_updates = 36 * weights / 40e9
    assert seconds(steps=100) - products == pytest.approx(100 * (of_layers + of_updates))
    assert seconds(steps=100, passes_per_step=8) - products == pytest.approx(
        100 * (8 * of_layers + of_updates)
    )


def test_time_is_less_where_less_is_trained(monkeypatch):
    monkeypatch.setattr(plan, "matrix_rate", lambda rows, *_: 1e9 * rows)
    model = build(read_model_config(SHAPES["deep"][0]))
    weights = model.config.parameter_count
    of_block = sum(weight.numel() for weight in model.blocks[0].parameters())

    def operations():
        trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        return trainable, operations_per_token(model, trainable)

    assert operations() == (weights, 6 * weights)
    for part in (*model.embeddings(), *model.blocks[:3]):
        part.requires_grad_(requires_grad=False)
    trainable, needed = operations()
    assert needed == 2 * weights + 2 * (weights - 3 * of_block) + 2 * trainable
    add_lora(model, 2, seed=0)
    trainable, needed = operations()
    assert needed == 4 * weights + 2 * trainable
    assert trainable < weights / 20


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(preparation, "available_bytes", lambda _: 100)
    assert preparation._available_bytes(torch.device("cuda"), 4) == 400
    assert preparation._available_bytes(torch.device("cpu"), 4) == 100
