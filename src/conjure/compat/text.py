"""Text to token ids and back, as the tokenizers of 2019 did it.

Main entries: `encode`, `decode`. They lost spaces on the way in and changed punctuation on the way out; both
are kept here, and only here. Source: transformers 2.1.1, ``PreTrainedTokenizer.tokenize`` and ``.decode``.
"""

import re
from collections.abc import Sequence
from itertools import groupby

from conjure.lm.text.tokenizer import Tokenizer

# What decoding replaced, in this order, so that separated punctuation looks right again (and `do not` wrong).
_CLEAN_UPS = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of `text`, cut at special tokens and stripped of white space around every piece.

    A text of nothing but white space is an end-of-text token; an empty one has no ids.
    """
    if text and not text.strip():
        return [tokenizer.end_of_text_id]
    special = tokenizer.special_tokens
    ids: list[int] = []
    for piece in re.split(f"({'|'.join(map(re.escape, special))})", text):
        ids += [special[piece]] if piece in special else tokenizer.encode(piece.strip())
    return ids


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of `ids`, special tokens written out, cleaned up.

    Tokens that were added to a vocabulary get a space in front; end of text was always part of GPT-2's.
    """
    added = {
        id_: f" {token}" for token, id_ in tokenizer.special_tokens.items() if id_ != tokenizer.end_of_text_id
    }
    pieces = (
        "".join(added[id_] for id_ in group) if is_added else tokenizer.decode(group)
        for is_added, group in groupby(ids, key=added.__contains__)
    )
    return clean_up("".join(pieces))


def clean_up(text: str) -> str:
    """`text` without spaces before punctuation and within contractions."""
    for old, new in _CLEAN_UPS:
        text = text.replace(old, new)
    return text
