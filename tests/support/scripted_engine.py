"""An engine without a model, for tests of everything around the model."""

import torch

from conjure.lm.text.tokenizer import Tokenizer


class ScriptedEngine:
    """Says its scripts and ends, whatever it reads: prompt number n gets script n, from the first again.

    Attributes:
        rows_per_step: How many rows were computed in each step so far.
    """

    context_length = 1000
    bytes_per_token = 1

    def __init__(self, tokenizer: Tokenizer, *scripts: list[int]) -> None:
        self._scripts = [[*script, tokenizer.end_of_text_id] for script in scripts]
        self._vocab_size = tokenizer.vocab_size
        self.length = 0
        self.rows_per_step: list[int] = []

    def prefill(self, ids: torch.Tensor, _pad: torch.Tensor, capacity: int) -> torch.Tensor:
        self.length, self._capacity, self._written = ids.shape[1], capacity, 0
        self._rows = list(range(len(ids)))
        return self._logits()

    def step(self, _ids: torch.Tensor) -> torch.Tensor:
        self.length += 1
        self._written += 1
        assert self.length <= self._capacity, "more was read than there was room made for"
        return self._logits()

    def select(self, rows: torch.Tensor) -> None:
        self._rows = [self._rows[row] for row in rows]

    def summarise(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return logits.logsumexp(1, keepdim=True), logits.argmax(1)

    def _logits(self) -> torch.Tensor:
        self.rows_per_step.append(len(self._rows))
        logits = torch.zeros(len(self._rows), self._vocab_size)
        for position, row in enumerate(self._rows):
            script = self._scripts[row % len(self._scripts)]
            logits[position, script[min(self._written, len(script) - 1)]] = 100.0
        return logits
