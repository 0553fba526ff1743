"""The compiled passes and the attention of a training step beside torch's, at the sizes of GPT-2 124M.

``.venv/bin/python benchmarks/passes.py`` prints a Markdown table of milliseconds: medians, in bfloat16.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from conjure.lm.hardware import keep_freed_memory
from conjure.lm.native import kernels
from conjure.lm.native.library import VARIABLE
from conjure.lm.nn.attention import causal_attention
from conjure.lm.nn.dropout import Dropout
from conjure.lm.nn.loss import _turn_into_grad

_TIMES = 25
_ATTENTION = ((16, 5, 512, 64), (2, 12, 1024, 64))  # of sprite, and of GPT-2


def milliseconds(work: Callable[[], object]) -> float:
    """The median of several times, after five that do not count."""
    taken = []
    for _ in range(_TIMES + 5):
        started = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken[5:])


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape).to(torch.bfloat16)


def elementwise() -> Iterator[tuple[str, float, float]]:
    """What it is, torch's time, ours."""
    x, grad = numbers(2048, 3072), numbers(2048, 3072)
    backward = torch.ops.aten.gelu_backward
    yield (
        "GELU of 2,048 × 3,072",
        milliseconds(lambda: functional.gelu(x, approximate="tanh")),
        milliseconds(lambda: kernels.gelu(x)),
    )
    yield (
        "its derivative",
        milliseconds(lambda: backward(grad, x, approximate="tanh")),
        milliseconds(lambda: kernels.gelu_backward(x, grad)),
    )
    dropout, like = Dropout(), numbers(2, 1024, 768)
    yield "a dropout mask of 2 × 1,024 × 768", *both(lambda: dropout.mask(like.shape, 0.1, like))
    logits, targets = numbers(2048, 50_304)[:, :50_257], torch.randint(50_257, (2048,))
    yield (
        "loss and slope of 2,048 × 50,257 logits",
        *both(lambda: _turn_into_grad(logits, targets, 2048.0)),
    )


def both(work: Callable[[], object]) -> tuple[float, float]:
    """The time without the library, and with it."""
    with patch.dict("os.environ", {VARIABLE: "off"}):
        without = milliseconds(work)
    return without, milliseconds(work)


def attention() -> Iterator[tuple[str, float, float]]:
    """Forward, and forward with backward, of torch's flash attention and of strips."""
    for B, H, T, D in _ATTENTION:
        inputs = [part.detach().requires_grad_() for part in numbers(B, T, 3, H, D).permute(2, 0, 3, 1, 4)]
        upstream = numbers(B, H, T, D)

        def flash(inputs: list[Tensor] = inputs) -> Tensor:
            return functional.scaled_dot_product_attention(*inputs, is_causal=True)

        def query_blocks(inputs: list[Tensor] = inputs) -> Tensor:
            return causal_attention(*inputs)

        def whole(mix: Callable[[], Tensor], inputs: list[Tensor] = inputs, up: Tensor = upstream) -> float:
            return milliseconds(lambda: torch.autograd.grad(mix(), inputs, up))

        name = f"attention of {B} × {H} × {T} × {D}"
        yield name, milliseconds(flash), milliseconds(query_blocks)
        yield f"{name}, with its backward pass", whole(flash), whole(query_blocks)


def main() -> None:
    keep_freed_memory()
    print("| | torch | conjure |\n|---|--:|--:|")
    for rows in (elementwise(), attention()):
        for name, theirs, ours in rows:
            print(f"| {name} | {theirs:.1f} | {ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
