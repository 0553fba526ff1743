"""Log-probabilities of many texts, by a model in torch.

Main entries: `load_torch_scorer`, `load_torch_positions`, `TorchScorer`. Invariant: it computes in the
model's own number format, which is float32 where figures are to be exact; logarithms are float32 in any case.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from conjure.lm.checkpoints.pretrained import load_model
from conjure.lm.generation.engines.torch_all_logits import TorchPositions
from conjure.lm.generation.engines.torch_engine import eval_mode
from conjure.lm.generation.score import ScoredRow
from conjure.lm.hardware import keep_freed_memory
from conjure.lm.models.base import CausalLM
from conjure.lm.nn.centred_head import scoring_head
from conjure.lm.nn.loss import IGNORE, token_logprobs

# Per forward pass. On a CPU enough for full matrix products: more would only be more new memory to clear.
_TOGETHER, _TOGETHER_ON_GPU = 1024, 16_384


def load_torch_scorer(folder: Path, precision: str = "float32") -> "TorchScorer":
    """A checkpoint's model on the CPU, in float32 or bfloat16."""
    return TorchScorer(load_model(folder, getattr(torch, precision)))


def load_torch_positions(folder: Path) -> TorchPositions:
    """What reads every position of a text, in float32 on the CPU."""
    return TorchPositions(load_model(folder))


class TorchScorer:
    """Log-probabilities of tokens; see `Scorer`.

    Args:
        model: The model, whose weights stay as they are.
    """

    def __init__(self, model: CausalLM) -> None:
        self._model, self._weight = model, model.head_weight
        self._head, self._state = scoring_head(self._weight), _state(self._weight)
        keep_freed_memory()

    def fits(self, model: CausalLM) -> bool:
        """Whether it scores with this model as it is: of a head in 16 bits it has a copy."""
        weight = model.head_weight
        same = model is self._model and weight is self._weight
        return same and not weight.is_inference() and _state(weight) == self._state

    @property
    def context_length(self) -> int:
        """Most tokens of a row."""
        return self._model.context_length

    @property
    def tokens_together(self) -> int:
        """How many tokens one call should read."""
        return _TOGETHER if self._model.device.type == "cpu" else _TOGETHER_ON_GPU

    def score(self, rows: Sequence[ScoredRow]) -> list[np.ndarray]:
        """One forward pass over all rows; see `Scorer.score`."""
        width = max(row.length for row in rows)
        # Right padding is never looked back at.
        ids = torch.zeros(len(rows), width + 1, dtype=torch.int64)  # (B, T + 1)
        targets = torch.full((len(rows), width), IGNORE)  # (B, T)
        for number, row in enumerate(rows):
            ids[number, : row.length + 1] = torch.from_numpy(row.ids)
            targets[number, row.first : row.length] = ids[number, row.first + 1 : row.length + 1]
        ids, targets = ids.to(self._model.device), targets.to(self._model.device)
        with eval_mode(self._model):
            hidden = self._model(ids[:, :-1])  # (B, T, C)
            scored = targets != IGNORE
            logprobs = token_logprobs(hidden[scored], self._head, targets[scored])
            parts = logprobs.cpu().split([row.length - row.first for row in rows])
            return [part.numpy() for part in parts]


def _state(weight: torch.Tensor) -> tuple[int, int]:
    """Where a weight lies and how often it changed, which tensors of inference mode do not count."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version
