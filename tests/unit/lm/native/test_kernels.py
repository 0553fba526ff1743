"""The compiled passes of a training step, held against float64 definitions, by every instruction set."""

import pytest
import torch
from torch.nn import functional

from conjure.lm.native import kernels
from conjure.lm.native.library import INSTRUCTIONS, VARIABLE
from conjure.lm.nn.attention import causal_attention
from conjure.lm.nn.loss import IGNORE, linear_cross_entropy, token_logprobs
from support.native import native_status

# Largest error of a result of about 1: float32 arithmetic, and rounding to bfloat16 at the end.
BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 4e-3}
SIZES = [1, 31, 512, 513, 2000]  # less than a piece of work, whole ones, remainders

every_format = pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)


@pytest.fixture(params=INSTRUCTIONS, autouse=True)
def _instructions(request, monkeypatch):
    native_status(request.param, monkeypatch)


def numbers(*shape, dtype=torch.float32, scale=3.0, seed=0):
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def assert_near(result, expected, dtype):
    bound = BOUNDS[dtype]
    torch.testing.assert_close(result.double(), expected, rtol=bound, atol=bound)


@every_format
@pytest.mark.parametrize("size", SIZES)
def test_gelu_and_its_derivative(size, dtype):
    x, grad = numbers(size, dtype=dtype), numbers(size, dtype=dtype, scale=1.0, seed=1)
    exact = x.double().requires_grad_()
    expected = functional.gelu(exact, approximate="tanh")
    (derivative,) = torch.autograd.grad(expected, exact, grad.double())
    assert_near(kernels.gelu(x), expected.detach(), dtype)
    assert_near(kernels.gelu_backward(x, grad), derivative, dtype)


@every_format
def test_gelu_at_the_ends_of_the_line(dtype):
    x = torch.tensor([0.0, -0.0, 50.0, -50.0, 1e20, -1e20, torch.nan], dtype=dtype)
    result = kernels.gelu(x)
    assert result[:6].tolist() == pytest.approx([0.0, 0.0, 50.0, 0.0, x[4].item(), 0.0], abs=1e-15)
    assert result[6].isnan()


def test_gelu_of_a_tensor_that_is_not_contiguous():
    x = numbers(40, 30).t()
    assert torch.equal(kernels.gelu(x), kernels.gelu(x.contiguous()))
    assert torch.equal(kernels.gelu_backward(x, x), kernels.gelu_backward(x.contiguous(), x.contiguous()))


@every_format
@pytest.mark.parametrize("size", SIZES)
def test_a_mask_is_zeros_and_ones_and_its_key_decides_it(size, dtype):
    mask, again = (kernels.dropout_mask(torch.empty(size, dtype=dtype), 0.5, key=7) for _ in range(2))
    assert torch.equal(mask, again)
    assert set(mask.tolist()) <= {0.0, 1.0}
    if size > 100:
        assert not torch.equal(mask, kernels.dropout_mask(torch.empty(size, dtype=dtype), 0.5, key=8))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_mask_drops_that_share_everywhere(p):
    mask = kernels.dropout_mask(torch.empty(1 << 20), p, key=2**64 - 1)
    assert abs((mask == 0).double().mean() - p) < 0.003
    shares = (mask.view(64, -1) == 0).double().mean(1)
    assert (shares - p).abs().max() < 0.02


def test_masks_of_different_keys_and_neighbours_in_one_have_nothing_in_common():
    masks = torch.stack([kernels.dropout_mask(torch.empty(1 << 18), 0.5, key=key) for key in (0, 1, 1 << 32)])
    signs = 2 * masks.double() - 1
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (signs[one] * signs[other]).mean().abs() < 0.01
    for distance in (1, 2, 16, 32, 256, 512, 1024):
        assert (signs[0, distance:] * signs[0, :-distance]).mean().abs() < 0.01


def test_all_instruction_sets_make_the_same_mask(monkeypatch):
    mask = kernels.dropout_mask(torch.empty(5000), 0.3, key=123456789123456789)
    monkeypatch.setenv(VARIABLE, "portable")
    assert torch.equal(mask, kernels.dropout_mask(torch.empty(5000), 0.3, key=123456789123456789))


@every_format
@pytest.mark.parametrize(
    ("heads", "queries", "start", "keys"), [(2, 3, 0, 3), (1, 1, 0, 1), (3, 70, 64, 134)]
)
def test_causal_softmax(heads, queries, start, keys, dtype):
    scores = numbers(heads, queries, keys, dtype=dtype)
    future = torch.full((queries, keys), -torch.inf).triu(start + 1)
    expected = torch.softmax(scores.double() + future, -1)
    weights = kernels.causal_softmax(scores, start)
    assert weights is scores
    assert_near(weights, expected, dtype)
    assert (weights[:, future.isinf()] == 0).all()


@every_format
@pytest.mark.parametrize("vocab", [1, 17, 1000])
def test_cross_entropy_and_its_slope(vocab, dtype):
    padded = numbers(6, vocab + 3, dtype=dtype)
    logits, beyond = padded[:, :vocab], padded[:, vocab:].clone()
    targets = torch.tensor([0, vocab - 1, IGNORE, vocab // 2, 0, -1])
    factors = torch.tensor([1.0, 0.5, 1.0, 0.0, 2.0, 1.0])
    exact = logits.double().requires_grad_()
    wanted = torch.where(targets < 0, IGNORE, targets)
    expected = functional.cross_entropy(exact, wanted, ignore_index=IGNORE, reduction="none")
    (grad,) = torch.autograd.grad((expected * factors).sum(), exact)
    before = logits.clone()
    losses = kernels.cross_entropy(logits, targets)
    assert torch.equal(logits, before)  # without factors nothing is written
    assert_near(losses, expected.detach(), torch.float32)
    assert torch.equal(kernels.cross_entropy(logits, targets, factors), losses)
    assert_near(logits, grad, dtype)
    assert torch.equal(padded[:, vocab:], beyond)


def test_logits_that_are_no_numbers_give_no_number():
    logits = torch.tensor([[1.0, torch.nan, 2.0], [torch.inf, 0.0, 0.0], [3.0, 2.0, 1.0]])
    losses = kernels.cross_entropy(logits, torch.tensor([0, 1, 0]))
    assert losses.isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("targets", [[0, 3], [0], [0, 1, 2], [2**40, 0]])
def test_targets_outside_the_row_never_reach_the_library(targets):
    with pytest.raises(IndexError, match="there are to be 2 targets below 3"):
        kernels.cross_entropy(torch.zeros(2, 3), torch.tensor(targets))


def test_nothing_to_do_is_done():
    empty = torch.empty(0)
    assert kernels.gelu(empty).shape == (0,)
    assert kernels.cross_entropy(torch.empty(0, 5), torch.empty(0, dtype=torch.int64)).shape == (0,)


def test_no_result_depends_on_the_number_of_threads(monkeypatch):
    def results():
        logits, targets = numbers(9, 700), torch.arange(9)
        losses = kernels.cross_entropy(logits, targets, torch.ones(9))
        weights = kernels.causal_softmax(numbers(4, 50, 50), 0)
        mask = kernels.dropout_mask(torch.empty(3000), 0.3, key=5)
        return [kernels.gelu(numbers(3000)), losses, logits, weights, mask]

    many = results()
    monkeypatch.setattr(kernels, "usable_cores", lambda: 1)
    assert all(torch.equal(one, other) for one, other in zip(results(), many, strict=True))


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float16), torch.zeros(2, device="meta")],
    ids=["float64", "float16", "another device"],
)
def test_other_tensors_are_left_to_torch(tensor):
    assert not kernels.usable(tensor)


@pytest.mark.parametrize("weights", [None, torch.linspace(0.1, 1, 600)], ids=["alike", "weighted"])
@every_format
def test_both_engines_agree_on_a_training_step(dtype, weights, monkeypatch):
    def gradients():
        query, key, value = (
            numbers(2, 3, 300, 8, dtype=dtype, seed=seed).requires_grad_() for seed in range(3)
        )
        hidden = causal_attention(query, key, value).transpose(1, 2).reshape(600, 24)
        weight = numbers(101, 24, dtype=dtype, scale=0.5, seed=4).requires_grad_()
        targets = torch.arange(600) % 101
        loss = linear_cross_entropy(hidden, weight, targets, divisor=600.0, weights=weights)
        grads = torch.autograd.grad(loss, (query, key, value, weight))
        return [loss.detach(), token_logprobs(hidden.detach(), weight.detach(), targets), *grads]

    native = gradients()
    monkeypatch.setenv(VARIABLE, "off")
    for one, other in zip(native, gradients(), strict=True):
        largest = other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=0, atol=20 * BOUNDS[dtype] * largest)
