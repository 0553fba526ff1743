import pytest
import torch

from conjure.lm.nn import linear as matmul
from conjure.lm.nn.linear import linear


@pytest.fixture(params=[False, True], ids=["mkl", "onednn"])
def library(request, monkeypatch):
    """Both libraries, whatever processor this is."""
    monkeypatch.setattr(matmul, "_prefers_onednn", lambda: request.param)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("shape", [(40, 24), (3, 20, 24), (31, 24), (1, 24)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_value_and_gradients_are_those_of_the_plain_product(shape, with_bias):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    tensors = [draw(*shape), draw(17, 24), *([draw(17)] if with_bias else [])]
    ours = [tensor.clone().requires_grad_() for tensor in tensors]
    exact = [tensor.double().requires_grad_() for tensor in tensors]
    result = linear(*ours)
    expected = exact[0] @ exact[1].T + (exact[2] if with_bias else 0)
    upstream = draw(*result.shape)
    result.backward(upstream)
    expected.backward(upstream.double())
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("library")
def test_only_the_gradients_asked_for_are_made():
    left, right = torch.randn(64, 8, requires_grad=True), torch.randn(5, 8)
    linear(left, right).sum().backward()
    assert left.grad is not None
    assert right.grad is None
