"""What a model thinks of every token of a prompt, exactly: in float32, by a plain forward pass.

Main entry: `PromptLogprobs`. Invariant: what a prompt gets depends on the prompts it was given with alone,
and is worked out piece by piece, so that a server can do other work between two of them.

Unlike `conjure.lm.generation.score`, nothing is put before a prompt: its first token has no log-probability.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from conjure.lm.generation.engines.all_logits import PositionReader, ReadPiece
from conjure.lm.generation.sampling import no_numbers
from conjure.lm.native.logits import largest, logit_summary


@dataclass(slots=True)
class ScoredPrompt:
    """A prompt's log-probabilities, nats.

    Attributes:
        logprobs: Of each token but the first, given those before it.
        top: For each of these places the likeliest tokens, (id, log-probability), the likeliest first.
        ranks: For each, how many tokens were at least as likely, itself counted.
        following: Logits of the token after the prompt, float32, (V,).
    """

    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    following: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))


class PromptLogprobs:
    """Scores prompts piece by piece.

    Args:
        reader: The model, in float32.
        prompts: Ids, none empty, each at most the model's context long.
        top: How many of the likeliest tokens to tell of each place.
    """

    def __init__(self, reader: PositionReader, prompts: Sequence[Sequence[int]], top: int) -> None:
        self._reader, self._prompts, self._top = reader, prompts, top
        self.scored = [ScoredPrompt() for _ in prompts]

    def pieces(self) -> Iterator[None]:
        """Do one piece of the work for each item; `scored` is complete after the last.

        Raises:
            ModelError: The model's logits are not numbers.
        """
        for pieces in self._reader.read(self._prompts):
            for piece in pieces:
                self._take(piece)
            yield

    def _take(self, piece: ReadPiece) -> None:
        prompt, scored, logits = self._prompts[piece.text], self.scored[piece.text], piece.logits
        logsumexp, _ = logit_summary(logits)
        if not np.isfinite(logsumexp).all():
            raise no_numbers()
        end = piece.start + len(logits)
        if end == len(prompt):
            scored.following = logits[-1].copy()
        targets = np.array(prompt[piece.start + 1 : end + 1], dtype=np.int64)
        logits, logsumexp = logits[: len(targets)], logsumexp[: len(targets), None]
        chosen = np.take_along_axis(logits, targets[:, None], 1)
        scored.logprobs += (chosen - logsumexp)[:, 0].tolist()
        scored.ranks += (logits >= chosen).sum(1).tolist()
        scored.top += self._likeliest(logits, logsumexp) if self._top else [[] for _ in targets]

    def _likeliest(self, logits: np.ndarray, logsumexp: np.ndarray) -> list[list[tuple[int, float]]]:
        if not len(logits):
            return []
        ids = largest(logits, self._top)  # (T, top); ascending
        values = np.take_along_axis(logits, ids, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        ids, logprobs = (np.take_along_axis(each, order, 1) for each in (ids, values - logsumexp))
        return [[*zip(*each, strict=True)] for each in zip(ids.tolist(), logprobs.tolist(), strict=True)]
