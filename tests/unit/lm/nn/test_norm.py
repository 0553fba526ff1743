import pytest
import torch

from conjure.lm.nn.norm import RMSNorm


def definition(x, weight, epsilon, offset):
    return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt() * (weight + offset)


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_value_and_gradients_are_the_definitions(dtype, tolerance, offset):
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(2, 5, 16, generator=generator)).to(dtype).requires_grad_()
    norm = RMSNorm(16, 0.01, offset).to(dtype)
    with torch.no_grad():
        norm.weight.add_(0.3 * torch.randn(16, generator=generator))
    upstream = torch.randn(2, 5, 16, generator=generator).to(dtype)
    norm(x).backward(upstream)
    exact_x, exact_weight = (each.detach().double().requires_grad_() for each in (x, norm.weight))
    expected = definition(exact_x, exact_weight, 0.01, offset)
    expected.backward(upstream.double())
    pairs = [(norm(x), expected), (x.grad, exact_x.grad), (norm.weight.grad, exact_weight.grad)]
    for ours, theirs in pairs:
        assert ours.dtype == dtype
        assert (ours.double() - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_untrained_it_only_scales():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(RMSNorm(8, 1e-6)(x), RMSNorm(8, 1e-6, offset=1.0)(x))


def test_a_frozen_weight_gets_no_gradient():
    norm = RMSNorm(8, 1e-6).requires_grad_(requires_grad=False)
    x = torch.ones(2, 8, requires_grad=True)
    norm(x).sum().backward()
    assert norm.weight.grad is None
    assert x.grad is not None
