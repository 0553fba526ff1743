import pytest
import torch

from conjure.lm.nn.attention import causal_attention


def plain_attention(query, key, value, weight_mask=None, dropout=0.0):
    """The definition: the whole score matrix, masked, softmaxed, multiplied."""
    T, D = query.shape[2:]
    scores = query @ key.transpose(2, 3) / D**0.5
    weights = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1)
    if weight_mask is not None:
        weights = weights * weight_mask / (1 - dropout)
    return weights @ value


def random_inputs(T, *, B=2, H=3, D=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (B, H, T, D)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(3)]


# One strip, a strip exactly full, one token over, several strips with a short last one.
@pytest.mark.parametrize("T", [1, 5, 256, 257, 600])
@pytest.mark.parametrize("dropped", [False, True])
def test_value_and_gradients_equal_the_definition(T, dropped):
    ours, reference = random_inputs(T), random_inputs(T)
    mask = (torch.rand(2, 3, T, T, generator=torch.Generator().manual_seed(1)) > 0.25).double()
    dropout = 0.25 if dropped else 0.0
    mask = mask if dropped else None
    mixed = causal_attention(*ours, mask=mask, dropout=dropout)
    expected = plain_attention(*reference, mask, dropout)
    upstream = torch.randn(mixed.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mixed.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(mixed, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-10)


def test_a_token_sees_nothing_after_it():
    query, key, value = random_inputs(300)
    changed = value.detach().clone()
    changed[:, :, 270:] += 1.0
    before, after = causal_attention(query, key, value), causal_attention(query, key, changed)
    assert torch.equal(before[:, :, :270], after[:, :, :270])
    assert not torch.equal(before[:, :, 270:], after[:, :, 270:])
