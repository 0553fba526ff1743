"""The optimizer gives torch's updates, and loads no compiler."""

import math
import subprocess
import sys

import pytest
import torch

from conjure.lm.native import optimizer
from conjure.lm.native.library import INSTRUCTIONS, VARIABLE
from conjure.lm.native.optimizer import RoundedCopy
from conjure.lm.training import adamw as module
from conjure.lm.training.adamw import AdamW, round_weights
from support.native import native_status


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 4), (4,), (1,))]


def groups(of: list[torch.nn.Parameter]) -> list[dict]:
    return [{"params": of[:1], "weight_decay": 0.1}, {"params": of[1:], "weight_decay": 0.0}]


@pytest.fixture(params=["off", *INSTRUCTIONS])
def _instructions(request, monkeypatch):
    if request.param == "off":
        monkeypatch.setenv(VARIABLE, "off")
    else:
        native_status(request.param, monkeypatch)


@pytest.mark.usefixtures("_instructions")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_updates_are_those_of_torch(dtype):
    own, theirs = parameters(), parameters()
    copies = {each: RoundedCopy(torch.zeros_like(each, dtype=torch.bfloat16), 7) for each in own}
    mine = AdamW(groups(own), 1e-2)
    reference = torch.optim.AdamW(groups(theirs), lr=1e-2, betas=(0.9, 0.999), fused=True)
    generator = torch.Generator().manual_seed(4)
    for step in range(5):
        gradients = {each: torch.randn(each.shape, generator=generator).to(dtype) for each in own}
        if step == 2:
            del gradients[own[2]]  # one without a gradient stays as it is
        for ours, other in zip(own, theirs, strict=True):
            other.grad = gradients[ours].float() * 0.25 if ours in gradients else None
        for each in (mine, reference):
            each.param_groups[0]["lr"] = 1e-2 / (step + 1)
        mine.step(gradients, 0.25, copies)
        reference.step()
    for ours, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-6, atol=1e-7)
        assert mine.state[ours].keys() == reference.state[other].keys()
        for key, value in mine.state[ours].items():
            torch.testing.assert_close(value, reference.state[other][key], rtol=2e-6, atol=1e-9)


def test_without_the_library_they_are_those_of_torch_bit_for_bit(monkeypatch):
    monkeypatch.setenv(VARIABLE, "off")
    own, theirs = parameters(), parameters()
    reference = torch.optim.AdamW(groups(theirs), lr=1e-2, betas=(0.9, 0.999), fused=True)
    mine = AdamW(groups(own), 1e-2)
    for _ in range(3):
        gradients = {each: torch.ones_like(each) for each in own}
        for each in theirs:
            each.grad = torch.ones_like(each)
        mine.step(gradients)
        reference.step()
    assert all(torch.equal(one, other) for one, other in zip(own, theirs, strict=True))


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_a_float32_model_is_updated_by_the_library_alone(name, monkeypatch):
    """Which is what makes it fast; the weights do not tell, for they are the same."""

    def refuse(*_, **__):
        raise AssertionError("torch was asked")

    native_status(name, monkeypatch)
    monkeypatch.setattr(module, "adamw", refuse)
    own = parameters()
    AdamW(groups(own), 1e-2).step({each: torch.ones_like(each) for each in own})


@pytest.mark.usefixtures("_instructions")
def test_a_step_rounds_as_resuming_does():
    """Also where one parameter is not laid out as the library needs it."""
    own = [*parameters(), torch.nn.Parameter(torch.randn(6, 5).t())]
    copies = {
        each: RoundedCopy(torch.zeros_like(each, dtype=torch.bfloat16), 7 + number)
        for number, each in enumerate(own)
    }
    AdamW(groups(own), 1e-2).step({each: torch.ones_like(each) for each in own}, copies=copies)
    again = {each: RoundedCopy(torch.zeros_like(copy.weight), copy.key) for each, copy in copies.items()}
    round_weights(again)
    for each, copy in copies.items():
        assert torch.equal(copy.weight, again[each].weight)
        assert ((copy.weight.double() - each).abs() <= each.abs() / 128).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_the_number_of_threads_changes_no_bit(name, dtype, monkeypatch):
    native_status(name, monkeypatch)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(optimizer, "usable_cores", lambda threads=threads: threads)
        generator = torch.Generator().manual_seed(5)
        weights = [torch.randn(size, generator=generator) for size in (1, 513, 3 * 2**15 + 7)]
        gradients = {each: torch.randn(each.shape, generator=generator).to(dtype) for each in weights}
        norm = optimizer.gradient_norm(list(gradients.values()))
        AdamW([{"params": weights, "weight_decay": 0.1}], 1e-2).step(gradients, 1.0 / norm)
        results.append((norm, *weights))
    (norm, *weights), *others = results
    assert norm == pytest.approx(
        math.sqrt(sum(float(each.double().square().sum()) for each in gradients.values()))
    )
    for other_norm, *other_weights in others:
        assert other_norm == norm
        assert all(torch.equal(one, other) for one, other in zip(weights, other_weights, strict=True))


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_weights_are_rounded_up_or_down_at_random_to_the_right_mean(name, monkeypatch):
    native_status(name, monkeypatch)
    weights = torch.full((1 << 16,), 1.0 + 0.3 / 128)  # between 1 and the next number, 1 + 1 / 128
    weights[1::2] *= -1.0
    rounded = torch.empty_like(weights, dtype=torch.bfloat16)
    round_weights({weights: RoundedCopy(rounded, 7)})
    up = rounded.double().abs() > 1.0
    assert set(rounded.abs().tolist()) == {1.0, 1.0 + 1 / 128}
    for half in (up[::2], up[1::2], up[: 1 << 15], up[1 << 15 :]):
        assert half.double().mean().item() == pytest.approx(0.3, abs=0.01)
    again, other = torch.empty_like(rounded), torch.empty_like(rounded)
    round_weights({weights: RoundedCopy(again, 7)})
    round_weights({weights: RoundedCopy(other, 8)})
    assert torch.equal(again, rounded)
    changed = (other != rounded).double().mean().item()
    assert changed == pytest.approx(2 * 0.3 * 0.7, abs=0.01)  # of independent ones


def test_numbers_that_bfloat16_has_stay_what_they_are():
    weights = torch.tensor([0.0, -0.0, 1.0, -3.5, torch.inf, -torch.inf, torch.nan])
    rounded = torch.empty_like(weights, dtype=torch.bfloat16)
    round_weights({weights: RoundedCopy(rounded, 7)})
    assert torch.equal(rounded[:-1], weights[:-1].bfloat16())
    assert rounded[-1].isnan()


@pytest.mark.slow
def test_a_training_loads_no_compiler():
    script = (
        "import sys\n"
        "from support.training import tiny_trainer\n"
        "events = list(tiny_trainer().run())\n"
        "assert len(events) > 3\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd="tests", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or "torch._dynamo was imported"
