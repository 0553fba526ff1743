"""Choosing tokens as ``run_generation.py`` did, over a model that remembers what it has read.

Main entry: `sample`. The order is temperature, repetition penalty, top-k, top-p, one multinomial draw for
all rows. Invariant: with equal logits and an equal generator the tokens are those of the 2019 loop, which
read the whole text again for every token (tests/parity/test_compat_generation.py).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from conjure.errors import ModelError, UsageError
from conjure.lm.generation.engines.base import Engine, Session
from conjure.lm.generation.sampling import penalise_repetition


@dataclass(frozen=True, kw_only=True)
class OldSampling:
    """The options of ``run_generation.py`` that decide what is written.

    Attributes:
        length: New tokens; below 0 as many as `within` gives.
        num_samples: Rows, drawn together.
        temperature: 0 takes the likeliest token; a negative one samples as 1 does, as in 2019.
        top_k: Tokens less likely than the k-th go, its equals stay; 0 or less is off.
        top_p: Tokens after the one that crosses this probability go; 0 or less is off.
        repetition_penalty: Above 1 makes tokens already in the row less likely.
    """

    length: int
    num_samples: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float

    def __post_init__(self) -> None:
        """Refuse, at once, what could only crash later."""
        faults = list(self._faults())
        if faults:
            raise UsageError("; ".join(faults))

    def within(self, context_length: int) -> "OldSampling":
        """With a `length` of at most the context; one below 0 means a whole context."""
        clipped = self.length if 0 <= self.length <= context_length else context_length
        return replace(self, length=clipped)

    def _faults(self) -> Iterator[str]:
        if self.num_samples < 1:
            yield f"--num_samples must be at least 1, not {self.num_samples}"
        if not (self.repetition_penalty > 0 and math.isfinite(self.repetition_penalty)):
            yield f"--repetition_penalty must be a number above 0, not {self.repetition_penalty}"
        for name in ("temperature", "top_p"):
            if not math.isfinite(getattr(self, name)):
                yield f"--{name} must be a number, not {getattr(self, name)}"


@torch.inference_mode()
def sample(
    engine: Engine,
    prompt: list[int],
    settings: OldSampling,
    generator: torch.Generator,
    on_token: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """Write `num_samples` rows that go on from one prompt.

    Args:
        engine: What runs the model.
        prompt: Token ids, at least one.
        settings: How to choose.
        generator: Where the randomness comes from; on the model's device.
        on_token: Called whenever every row has one more token.

    Returns:
        The new token ids of each row.

    Raises:
        ModelError: The model's logits are not numbers.
    """
    if settings.length == 0:
        return [[] for _ in range(settings.num_samples)]
    session, device = engine.session(), generator.device
    written: list[list[int]] = [[] for _ in range(settings.num_samples)]
    rows, logits = _read(session, engine.context_length, [prompt] * settings.num_samples, settings.length)
    while True:
        history = [prompt + row for row in written]
        chosen = sample_tokens(torch.from_numpy(logits).to(device), history, settings, generator).tolist()
        for row, token in zip(written, chosen, strict=True):
            row.append(token)
        on_token()
        left = settings.length - len(written[0])
        if not left:
            return written
        if session.room(rows[0]):
            for row, token in zip(rows, chosen, strict=True):
                session.append(row, token)
            _, logits = session.step(rows)
        else:
            session.drop(rows)
            rows, logits = _read(session, engine.context_length, [prompt + row for row in written], left)


def _read(
    session: Session, context: int, history: list[list[int]], new_tokens: int
) -> tuple[list[int], np.ndarray]:
    """Read rows afresh, only their last half context where they do not fit: their numbers, logits (R, V)."""
    if len(history[0]) > context:
        history = [row[-max(1, context // 2) :] for row in history]
    capacity = min(context, len(history[0]) + new_tokens - 1)
    once = all(row == history[0] for row in history)  # at first all rows are the prompt
    rows = session.add(history[:1] if once else history, [capacity] * (1 if once else len(history)))
    ready, logits = [], np.empty(0)
    while not ready:
        ready, logits = session.step(rows, context)
    if once:
        rows += session.fork(rows[0], len(history) - 1)
        logits = logits.repeat(len(history), axis=0)
    return rows, logits


def sample_tokens(
    logits: Tensor, history: list[list[int]], settings: OldSampling, generator: torch.Generator
) -> Tensor:
    """The next token of each row, int64, (R,).

    Args:
        logits: Of the next token, float32, (R, V).
        history: The rows so far, prompt included.
        settings: How to choose.
        generator: Gives one multinomial draw for all rows; not used at temperature 0.

    Raises:
        ModelError: The logits are not numbers.
    """
    if settings.temperature > 0:
        logits = logits / settings.temperature
    if not logits.isfinite().all():
        raise ModelError(
            "the logits are NaN or infinite: the model's weights are damaged, or --temperature"
            f" {settings.temperature} is too small"
        )
    if settings.repetition_penalty != 1.0:
        penalised = penalise_repetition(logits.cpu().numpy(), history, settings.repetition_penalty)
        logits = torch.from_numpy(penalised).to(logits.device)
    logits = keep_top_p(keep_top_k(logits, settings.top_k), settings.top_p)
    if settings.temperature == 0:
        return logits.argmax(1)
    return torch.multinomial(logits.softmax(1), num_samples=1, generator=generator).squeeze(1)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Logits (R, V) with -inf below the k-th largest of each row; all equal to it stay."""
    if top_k <= 0:
        return logits
    least = logits.topk(min(top_k, logits.shape[1]), dim=1).values[:, -1:]  # (R, 1)
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Logits (R, V) with -inf after the token at which the sum of probabilities passes `top_p`.

    In float32 like the script's, so that the same token is the last one in.
    """
    if top_p <= 0.0:
        return logits
    ordered, order = logits.sort(dim=1, descending=True)
    beyond = ordered.softmax(1).cumsum(1) > top_p
    outside = torch.zeros_like(beyond)
    outside[:, 1:] = beyond[:, :-1]
    return logits.masked_fill(torch.zeros_like(outside).scatter(1, order, outside), -math.inf)
