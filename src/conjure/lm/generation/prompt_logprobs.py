"""What a model thinks of every token of a prompt, exactly: in float32, by a plain forward pass.

Main entries: `ExactModel`, `PromptLogprobs`. Invariant: what a prompt gets depends on the prompts it was
given with alone, and is worked out in pieces of at most `PIECE` tokens, so that a server can do other work
between two of them.

Unlike `conjure.lm.generation.score`, nothing is put before a prompt: its first token has no log-probability.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from conjure.errors import ModelError
from conjure.lm.checkpoints.pretrained import load_model
from conjure.lm.generation.engines.torch_engine import evaluating
from conjure.lm.models.base import CausalLM

PIECE = 128  # tokens in one forward pass


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
    following: Tensor = field(default_factory=lambda: torch.empty(0))


class ExactModel:
    """A model in float32, for log-probabilities of prompts.

    Attributes:
        network: The model.
    """

    def __init__(self, folder: Path) -> None:
        self.network = load_model(folder)

    def score(self, prompts: Sequence[Sequence[int]], top: int) -> "PromptLogprobs":
        """The work of scoring prompts; see `PromptLogprobs`."""
        return PromptLogprobs(self.network, prompts, top)


class PromptLogprobs:
    """Scores prompts piece by piece.

    Args:
        model: In float32.
        prompts: Ids, none empty, each at most the model's context long.
        top: How many of the likeliest tokens to tell of each place.
    """

    def __init__(self, model: CausalLM, prompts: Sequence[Sequence[int]], top: int) -> None:
        self._model, self._prompts, self._top = model, prompts, top
        self.scored = [ScoredPrompt() for _ in prompts]

    def pieces(self) -> Iterator[None]:
        """Do one piece of the work for each item; `scored` is complete after the last.

        Raises:
            ModelError: The model's logits are not numbers.
        """
        long = [number for number, ids in enumerate(self._prompts) if len(ids) > PIECE]
        for group in _groups(self._prompts):
            self._score_together(group)
            yield
        for number in long:
            yield from self._score_alone(number)

    def _score_together(self, numbers: list[int]) -> None:
        rows = [self._prompts[number] for number in numbers]
        ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.int64)  # (B, T); filled at the right
        for row, prompt in zip(ids, rows, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        with evaluating(self._model):
            hidden = self._model(ids)  # (B, T, C)
            for number, row in zip(numbers, hidden, strict=True):
                self._take(number, 0, row[: len(self._prompts[number])])

    def _score_alone(self, number: int) -> Iterator[None]:
        ids = torch.tensor([self._prompts[number]], dtype=torch.int64)
        cache = self._model.new_cache(1, ids.shape[1])
        for start in range(0, ids.shape[1], PIECE):
            with evaluating(self._model):
                hidden = self._model(ids[:, start : start + PIECE], cache=cache)
                self._take(number, start, hidden[0])
            yield

    def _take(self, number: int, start: int, hidden: Tensor) -> None:
        """Take in the hidden states, (T, C), of the tokens from `start` on."""
        prompt, scored = self._prompts[number], self.scored[number]
        logits = self._model.head(hidden).float()  # (T, V)
        logsumexp = logits.logsumexp(1, keepdim=True)
        if not all(map(math.isfinite, logsumexp.flatten().tolist())):
            raise ModelError("the model's logits are not numbers (NaN or infinity): its weights are damaged")
        if start + len(hidden) == len(prompt):
            scored.following = logits[-1].clone()
        targets = torch.tensor(prompt[start + 1 : start + len(hidden) + 1], dtype=torch.int64)
        logits, logsumexp = logits[: len(targets)], logsumexp[: len(targets)]
        chosen = logits.gather(1, targets[:, None])
        scored.logprobs += (chosen - logsumexp).flatten().tolist()
        scored.ranks += (logits >= chosen).sum(1).tolist()
        if self._top:
            values, ids = logits.topk(self._top, dim=1)
            likeliest = (values - logsumexp).tolist()
            scored.top += [[*zip(*each, strict=True)] for each in zip(ids.tolist(), likeliest, strict=True)]
        else:
            scored.top += [[] for _ in targets]


def _groups(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Numbers of short prompts that are read together: alike in length, at most `PIECE` columns in all."""
    order = sorted((len(ids), number) for number, ids in enumerate(prompts) if len(ids) <= PIECE)
    group: list[int] = []
    for length, number in order:
        if group and (len(group) + 1) * length > PIECE:
            yield group
            group = []
        group.append(number)
    if group:
        yield group
