"""Whether a model can recite: given the first half of a record, does it write the second half?

Main entry: `extracted_share`. The model always writes its likeliest token. Where every token of the second
half is the likeliest after what truly comes before it, that is what would be written, so one reading of the
record tells, and nothing has to be generated.
"""

from collections.abc import Callable, Sequence

import torch

from conjure.lm.generation.engines.torch_engine import evaluating
from conjure.lm.models.base import CausalLM
from conjure.lm.report.facts import ExtractedShare
from conjure.lm.text.tokenizer import Tokenizer

SHORTEST = 16  # tokens of a record that is tried: a half of fewer than 8 is often a common phrase
LONGEST = 100  # tokens; of a longer record, its beginning is tried
_BATCH_TOKENS = 1024


def extracted_share(
    model: CausalLM,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    on_progress: Callable[[int], object] | None = None,
) -> ExtractedShare | None:
    """How many of some records are recited; None where none is long enough to be tried.

    Args:
        model: The model.
        tokenizer: Its own.
        texts: Whole records, each read after an end-of-text token.
        on_progress: Told after each forward pass how many more tokens have been read.

    Source:
        Carlini et al. 2023, "Quantifying Memorization Across Neural Language Models".
    """
    context = min(LONGEST, model.context_length)
    rows = sorted(
        (ids[:context] for ids in tokenizer.encode_batch(list(texts)) if len(ids) >= SHORTEST), key=len
    )
    extracted = start = 0
    while start < len(rows):
        longest = len(rows[min(len(rows), start + _BATCH_TOKENS // len(rows[start])) - 1])
        batch = rows[start : start + max(1, _BATCH_TOKENS // longest)]
        extracted += _extracted(model, tokenizer.start_id, batch)
        start += len(batch)
        if on_progress is not None:
            on_progress(sum(map(len, batch)))
    return ExtractedShare(len(rows), extracted) if rows else None


def _extracted(model: CausalLM, start_id: int, rows: list[list[int]]) -> int:
    """How many of these are recited; the shorter ones are padded, which nothing looks back at."""
    width = len(rows[-1])
    device = model.device
    ids = torch.tensor(
        [[start_id, *row, *[0] * (width - len(row))] for row in rows], device=device
    )  # (B, T + 1)
    second_half = torch.tensor(
        [[len(row) // 2 <= place < len(row) for place in range(width)] for row in rows], device=device
    )  # (B, T)
    with evaluating(model):
        hidden = model(ids[:, :-1])  # (B, T, C)
        likeliest = model.head(hidden[second_half]).argmax(-1)
    wrong = torch.zeros_like(second_half)
    wrong[second_half] = likeliest != ids[:, 1:][second_half]
    return int((~wrong.any(1)).sum())
