"""Whether a model can recite: given the first half of a record, does it write the second half?

Main entry: `extracted_share`. The model always writes its likeliest token. Where every token of the second
half is the likeliest after what truly comes before it, that is what would be written, so one reading of the
record tells, and nothing has to be generated.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from conjure.lm.generation.engines.torch_engine import eval_mode
from conjure.lm.models.base import CausalLM
from conjure.lm.report.report_schema import ExtractedShare
from conjure.lm.text.chat.encoding import EncodedChat
from conjure.lm.text.tokenizer import Tokenizer

SHORTEST = 16  # tokens of a record that is tried: a half of fewer than 8 is often a common phrase
LONGEST = 100  # tokens; of a longer record, its beginning is tried
_BATCH_TOKENS = 1024


def extracted_share(
    model: CausalLM,
    tokenizer: Tokenizer,
    records: Sequence[str | EncodedChat],
    *,
    allow_special: bool = False,
    on_progress: Callable[[int], object] | None = None,
) -> ExtractedShare | None:
    """How many of some records are recited; None where none is long enough to be tried.

    Args:
        model: The model.
        tokenizer: Its own.
        records: Whole records, each text read after an end-of-text token. Of a conversation, the last answer
            is tried, after all that comes before it.
        allow_special: Take special tokens written out in a text for those tokens.
        on_progress: Told after each forward pass how many more tokens have been read.

    Source:
        Carlini et al. 2023, "Quantifying Memorization Across Neural Language Models".
    """
    context = model.context_length
    chats = [_of_chat(chat, tokenizer) for chat in records if isinstance(chat, EncodedChat)]
    texts = tokenizer.encode_batch(
        [text for text in records if isinstance(text, str)], allow_special=allow_special
    )
    recitals = [_of_text([tokenizer.start_id, *ids[: min(LONGEST, context)]]) for ids in texts]
    recitals += [chat.within(context) for chat in chats if chat is not None]
    rows = sorted((each for each in recitals if each.tried >= SHORTEST), key=lambda each: len(each.ids))
    extracted = start = 0
    while start < len(rows):
        longest = len(rows[min(len(rows), start + _BATCH_TOKENS // len(rows[start].ids)) - 1].ids)
        batch = rows[start : start + max(1, _BATCH_TOKENS // longest)]
        extracted += _extracted(model, batch)
        start += len(batch)
        if on_progress is not None:
            on_progress(sum(len(each.ids) - 1 for each in batch))
    return ExtractedShare(len(rows), extracted) if rows else None


class _Recital(NamedTuple):
    """Tokens to read, and how many of the last are to be what the model would write.

    Attributes:
        ids: The tokens, what is read first included.
        tried: Tokens of the record that is tried; the second half of them is to be recited.
    """

    ids: list[int]
    tried: int

    def within(self, context: int) -> "_Recital":
        return _Recital(self.ids[-(context + 1) :], min(self.tried, context))


def _of_text(ids: list[int]) -> _Recital:
    return _Recital(ids, len(ids) - 1)


def _of_chat(chat: EncodedChat, tokenizer: Tokenizer) -> _Recital | None:
    """The last answer, its beginning if it is long; None where there is nothing before it."""
    answer = list(chat.answers(tokenizer.end_ids))[-1][:LONGEST]
    return _Recital(chat.ids[: answer.stop], len(answer)) if answer.start else None


def _extracted(model: CausalLM, rows: list[_Recital]) -> int:
    """How many of these are recited; the shorter ones are padded, which nothing looks back at."""
    width = len(rows[-1].ids)
    device = model.device
    ids = torch.tensor(
        [[*row.ids, *[0] * (width - len(row.ids))] for row in rows], device=device
    )  # (B, T + 1)
    second_half = torch.tensor(
        [
            [
                len(row.ids) - 1 - (row.tried - row.tried // 2) <= place < len(row.ids) - 1
                for place in range(width - 1)
            ]
            for row in rows
        ],
        device=device,
    )  # (B, T)
    with eval_mode(model):
        hidden = model(ids[:, :-1])  # (B, T, C)
        likeliest = model.head(hidden[second_half]).argmax(-1)
    wrong = torch.zeros_like(second_half)
    wrong[second_half] = likeliest != ids[:, 1:][second_half]
    return int((~wrong.any(1)).sum())
