"""Scoring of token ids that no text has to spell.

Main entry: `score_ids`.
"""

import numpy as np

from conjure.lm.generation.score import Scorer, Windows, score_documents


def score_ids(
    scorer: Scorer,
    ids: list[int],
    *,
    start_id: int,
    context: int | None = None,
    stride: int | None = None,
) -> np.ndarray:
    """Log-probability of each id of one document, by the road that texts take."""
    windows = Windows.of(scorer, context, stride)
    (score,) = score_documents(scorer, _Spelled(ids, start_id), [""], windows)
    return np.array(score.token_logprobs, np.float32)


class _Spelled:
    """Stands in for a tokenizer: every text is the same ids."""

    def __init__(self, ids: list[int], start_id: int) -> None:
        self.start_id = start_id
        self._ids = ids

    def encode_batch(self, texts: list[str], *, allow_special: bool) -> list[list[int]]:
        assert not allow_special
        return [self._ids for _ in texts]
