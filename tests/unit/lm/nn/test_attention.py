import pytest
import torch

from conjure.lm.nn.attention import causal_attention


def plain_attention(query, key, value, weight_mask=None, dropout=0.0, scale=None, window=None, visible=None):
    """The definition: the whole score matrix, masked, softmaxed, multiplied."""
    T, D = query.shape[2:]
    served = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(served, 1) for each in (key, value))
    scores = query @ key.transpose(2, 3) * (scale if scale is not None else D**-0.5)
    hidden = torch.ones(T, T).triu(1) + torch.ones(T, T).tril(-(window or T))
    hidden = hidden.bool() if visible is None else hidden.bool() | ~visible
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    if weight_mask is not None:
        weights = weights * weight_mask / (1 - dropout)
    return weights @ value


def random_inputs(T, *, B=2, H=3, K=None, D=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(B, heads, T, D) for heads in (H, K or H, K or H)]
    return [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]


def assert_equal_both_ways(mixed, inputs, expected, reference):
    """The same values, and from the same upstream gradient the same gradients of the inputs."""
    upstream = torch.randn(mixed.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mixed.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(mixed, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(inputs, reference, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-10)


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
    assert_equal_both_ways(mixed, ours, expected, reference)


@pytest.mark.parametrize("T", [5, 257, 600])
@pytest.mark.parametrize(("H", "K"), [(4, 1), (6, 2), (3, 3)])
@pytest.mark.parametrize("window", [None, 1, 3, 256, 300, 1000])
def test_shared_heads_and_windows_equal_the_definition(T, H, K, window):
    ours, reference = random_inputs(T, B=1, H=H, K=K, D=4), random_inputs(T, B=1, H=H, K=K, D=4)
    mask = (torch.rand(1, H, T, T, generator=torch.Generator().manual_seed(1)) > 0.25).double()
    mixed = causal_attention(*ours, scale=0.7, window=window, mask=mask, dropout=0.25)
    expected = plain_attention(*reference, mask, 0.25, scale=0.7, window=window)
    assert_equal_both_ways(mixed, ours, expected, reference)


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("rows", [1, 2])
def test_what_is_not_visible_is_not_seen(window, rows):
    ours, reference = random_inputs(600, H=4, K=2), random_inputs(600, H=4, K=2)
    records = torch.randint(0, 3, (rows, 600), generator=torch.Generator().manual_seed(3))
    visible = (records[:, :, None] == records[:, None, :])[:, None]
    mask = (torch.rand(2, 4, 600, 600, generator=torch.Generator().manual_seed(1)) > 0.25).double()
    mixed = causal_attention(*ours, window=window, visible=visible, mask=mask, dropout=0.25)
    expected = plain_attention(*reference, mask, 0.25, window=window, visible=visible)
    assert_equal_both_ways(mixed, ours, expected, reference)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_records_in_the_number_formats_that_have_a_compiled_pass(dtype):
    inputs = [each.detach().to(dtype) for each in random_inputs(600, H=4, K=2)]
    records = torch.arange(600) // 70
    visible = (records[:, None] == records)[None, None]
    mixed = causal_attention(*inputs, visible=visible)
    expected = plain_attention(*(each.double() for each in inputs), visible=visible)
    assert (mixed.double() - expected).abs().max() <= (1e-5 if dtype == torch.float32 else 3e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_windows_in_the_number_formats_that_have_a_compiled_pass(dtype):
    inputs = [each.detach().to(dtype) for each in random_inputs(600, H=4, K=2)]
    mixed = causal_attention(*inputs, window=100)
    expected = plain_attention(*(each.double() for each in inputs), window=100)
    assert (mixed.double() - expected).abs().max() <= (1e-5 if dtype == torch.float32 else 3e-2)


def test_a_token_sees_nothing_after_it():
    query, key, value = random_inputs(300)
    changed = value.detach().clone()
    changed[:, :, 270:] += 1.0
    before, after = causal_attention(query, key, value), causal_attention(query, key, changed)
    assert torch.equal(before[:, :, :270], after[:, :, :270])
    assert not torch.equal(before[:, :, 270:], after[:, :, 270:])
