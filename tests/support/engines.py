"""Engines read through their sessions, as the tests of their numbers need it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from conjure.lm.generation.engines.base import Engine, Session
from conjure.lm.generation.engines.native_weights import Format, NativeWeights
from conjure.lm.models.decoder import Decoder


def native_weights(model: Decoder, format: Format = "int8") -> NativeWeights:
    """A model in memory, laid out for the native engine."""
    weights = {name: weight.detach().float().numpy() for name, weight in model.named_parameters()}
    return NativeWeights.make(model.config, format, lambda name: [weights[name]])


def logits_of(engine: Engine, ids: Tensor, pad: Tensor | None = None, prompt: int | None = None) -> Tensor:
    """A prompt and then one token at a time, each time the logits of what follows, (R, T - prompt + 1, V).

    Args:
        engine: What to read with.
        ids: int64, (R, T).
        pad: How many tokens on the left of each row are not the row's, int64, (R,).
        prompt: Columns read at once; None means all.
    """
    pad = pad if pad is not None else torch.zeros(len(ids), dtype=torch.int64)
    prompt = prompt if prompt is not None else ids.shape[1]
    session = engine.session()
    prompts = [row[first:prompt].tolist() for row, first in zip(ids, pad.tolist(), strict=True)]
    rows = session.add(prompts, [ids.shape[1] - first for first in pad.tolist()])
    first = read_whole(session, rows)
    return torch.stack(
        [first, *(step(session, rows, column.tolist()) for column in ids[:, prompt:].unbind(1))], 1
    )


def read_whole(session: Session, rows: Sequence[int], piece: int = 1000) -> Tensor:
    """The logits after all that rows were given, in their order, (R, V)."""
    found: dict[int, Tensor] = {}
    while waiting := [row for row in rows if row not in found]:
        ready, logits = session.step(waiting, piece)
        found.update(zip(ready, torch.from_numpy(logits.copy()), strict=True))
    return torch.stack([found[row] for row in rows])


def step(session: Session, rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """One more token for each row; the logits of the next, (R, V)."""
    for row, token in zip(rows, tokens, strict=True):
        session.append(row, token)
    ready, logits = session.step(rows)
    assert ready == list(rows)
    return torch.from_numpy(logits.copy())
