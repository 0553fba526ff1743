import pytest
import torch

from conjure.lm.native import kernels
from conjure.lm.nn.dropout import Dropout


def dropping(*key):
    dropout = Dropout().train()
    dropout.reseed(*key)
    return dropout


def test_a_key_decides_every_mask():
    x = torch.ones(40, 50)
    first, again, other = dropping(1, 2), dropping(1, 2), dropping(1, 3)
    one, two = first(x, 0.5), first(x, 0.5)
    assert torch.equal(again(x, 0.5), one)
    assert torch.equal(again(x, 0.5), two)
    assert not torch.equal(one, two)
    assert not torch.equal(other(x, 0.5), one)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_it_drops_that_share_and_keeps_the_mean(p):
    y = dropping(0)(torch.ones(400, 500), p)
    assert abs((y == 0).double().mean() - p) < 0.005
    assert torch.allclose(y[y != 0], torch.tensor(1 / (1 - p)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # by the compiled pass, and by numpy
def test_a_mask_too_large_to_be_counted_at_once_is_drawn_in_pieces(monkeypatch, dtype):
    monkeypatch.setattr(kernels, "MOST_COUNTED", 1 << 15)
    mask = dropping(3).mask((3, 100, 700), 0.25, torch.empty(0, dtype=dtype))
    assert mask.shape == (3, 100, 700)
    assert abs((mask == 0).double().mean() - 0.25) < 0.005
    pieces = mask.view(-1).split(1 << 15)
    assert len({piece[:1000].numpy().tobytes() for piece in pieces}) == len(pieces)


def test_nothing_happens_when_not_training_or_at_zero():
    x = torch.randn(3, 4)
    assert Dropout().eval()(x, 0.5) is x
    assert dropping(0)(x, 0.0) is x


def test_adding_a_dropped_branch_has_the_gradient_of_the_plain_formula():
    residual = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    branch = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    mask = dropping(5).mask(branch.shape, 0.3, branch)
    total = dropping(5).add(residual, branch, 0.3)
    torch.testing.assert_close(total, residual + branch * mask / 0.7)
    upstream = torch.randn_like(total)
    total.backward(upstream)
    torch.testing.assert_close(residual.grad, upstream)
    torch.testing.assert_close(branch.grad, upstream * mask / 0.7)


def test_the_scale_is_not_rounded_to_bfloat16():
    x = torch.full((1000, 100), 3.0, dtype=torch.bfloat16)
    kept = dropping(0)(x, 0.1).double()
    kept = kept[kept != 0]
    # 3 / 0.9 = 3.3333 rounds to 3.328; with a scale rounded to 1.109 it would be 3.3125 or less
    assert torch.equal(kept, torch.full_like(kept, torch.tensor(3.0 / 0.9).bfloat16().double()))
