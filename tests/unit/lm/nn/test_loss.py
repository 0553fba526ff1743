import pytest
import torch
from torch.nn import functional

from conjure.lm.nn import loss as loss_module
from conjure.lm.nn.loss import IGNORE, linear_cross_entropy, token_logprobs


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of a few rows, so that small inputs take several and an uneven last one."""
    monkeypatch.setattr(loss_module, "chunk_rows", lambda vocab_size, for_gradients=True: 5)


def inputs(rows=13, channels=6, vocab_size=17):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, channels, dtype=torch.float64, generator=generator)
    weight = torch.randn(vocab_size, channels, dtype=torch.float64, generator=generator)
    targets = torch.randint(vocab_size, (rows,), generator=generator)
    targets[[2, 5, rows - 1]] = IGNORE
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def reference(hidden, weight, targets, divisor):
    return (
        functional.cross_entropy(hidden @ weight.T, targets, reduction="sum", ignore_index=IGNORE) / divisor
    )


@pytest.mark.parametrize("upstream", [1.0, -2.5])
def test_value_and_gradients_equal_cross_entropy(upstream):
    ours, theirs = inputs(), inputs()
    loss = linear_cross_entropy(*ours, divisor=7.0)
    expected = reference(*theirs, 7.0)
    (upstream * loss).backward()
    (upstream * expected).backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours[0].grad, theirs[0].grad, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(ours[1].grad, theirs[1].grad, rtol=1e-10, atol=1e-14)


def test_weighted_targets_count_as_much_as_they_weigh():
    weights = torch.rand(13, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ours, (hidden, weight, targets) = inputs(), inputs()
    loss = linear_cross_entropy(*ours, divisor=7.0, weights=weights)
    losses = functional.cross_entropy(hidden @ weight.T, targets, reduction="none", ignore_index=IGNORE)
    expected = (losses * weights).sum() / 7.0
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours[0].grad, hidden.grad, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(ours[1].grad, weight.grad, rtol=1e-10, atol=1e-14)


def test_gradients_pass_gradcheck():
    hidden, weight, targets = inputs(rows=7, channels=3, vocab_size=5)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, divisor=3.0), (hidden, weight)
    )


def test_a_frozen_weight_gets_no_gradient():
    hidden, weight, targets = inputs()
    linear_cross_entropy(hidden, weight.detach(), targets, divisor=1.0).backward()
    other, _, _ = inputs()
    reference(other, weight.detach(), targets, 1.0).backward()
    torch.testing.assert_close(hidden.grad, other.grad, rtol=1e-10, atol=1e-14)


def test_nothing_but_ignored_targets_is_zero():
    hidden, weight, targets = inputs()
    loss = linear_cross_entropy(hidden, weight, torch.full_like(targets, IGNORE), divisor=1.0)
    loss.backward()
    assert loss.item() == 0.0
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_bfloat16_stays_close_to_float32():
    hidden, weight, targets = (
        tensor.detach().float() if tensor.is_floating_point() else tensor for tensor in inputs()
    )
    exact = reference(hidden, weight, targets, 10.0)
    rounded = linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), targets, divisor=10.0)
    assert rounded.dtype == torch.float32
    assert abs(rounded - exact) / exact < 0.01


def test_token_logprobs_are_those_of_log_softmax():
    hidden, weight, targets = (
        tensor.detach().float() if tensor.is_floating_point() else tensor for tensor in inputs()
    )
    logprobs = (hidden @ weight.T).log_softmax(-1)
    expected = logprobs.gather(1, targets.clamp(min=0)[:, None])[:, 0].masked_fill(targets == IGNORE, 0.0)
    torch.testing.assert_close(token_logprobs(hidden, weight, targets), expected, rtol=1e-6, atol=1e-6)
