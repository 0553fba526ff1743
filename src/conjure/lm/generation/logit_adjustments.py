"""What an API's request may do to logits before a token is chosen: biases, penalties, tokens not yet allowed.

Main entries: `LogitSettings`, `adjusted`. Invariant: a row's logits become what its own settings and its own
tokens say; where settings say nothing they are left as they are, and never changed in place.

The order is that of vLLM: tokens that may not come yet, then `logit_bias`, then the penalties; repetition
penalty, temperature and the rest follow in `conjure.lm.generation.sampling`.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conjure.lm.bounds import Bound, ValueFault
from conjure.lm.generation.request import SamplingSettings


@dataclass(frozen=True, kw_only=True)
class LogitSettings(SamplingSettings):
    """How freely to choose, by the names and defaults of OpenAI's API; see `SamplingSettings` for the rest.

    Attributes:
        presence_penalty: Taken from the logit of every token that was generated already.
        frequency_penalty: Taken from it once for each time.
        logit_bias: Pairs of a token id and what is added to its logit.
        min_tokens: So many tokens are generated before one may end the text.
    """

    top_k: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **SamplingSettings.BOUNDS,
        "temperature": Bound(0, 2),
        "repetition_penalty": Bound(0.01, 100),
        "presence_penalty": Bound(-2, 2),
        "frequency_penalty": Bound(-2, 2),
        "min_tokens": Bound(0, whole=True),
    }
    BIAS: ClassVar[Bound] = Bound(-100, 100)

    @property
    def takes_likeliest(self) -> bool:
        """Whether the choice is always the largest logit, whatever the row says already."""
        return super().takes_likeliest and not self.adjusts

    @property
    def adjusts(self) -> bool:
        """Whether `adjusted` changes anything, ever."""
        penalises = self.presence_penalty != 0 or self.frequency_penalty != 0
        return penalises or bool(self.logit_bias) or self.min_tokens > 0

    def faults(self) -> Iterator[ValueFault]:
        """What is wrong with each value out of bounds."""
        yield from super().faults()
        for token_id, bias in self.logit_bias:
            if not self.BIAS.allows(bias):
                yield ValueFault("logit_bias", f"of {token_id} must be {self.BIAS}, not {bias!r}")
                return


def adjusted(
    logits: np.ndarray, generated: Collection[int], settings: LogitSettings, ends: Iterable[int]
) -> np.ndarray:
    """One row's logits, (V,), after its settings.

    Args:
        logits: Of the next token, float32.
        generated: The tokens that were generated so far, without the prompt.
        settings: The row's.
        ends: Ids that end the text.
    """
    if not settings.adjusts:
        return logits
    logits = logits.copy()
    if len(generated) < settings.min_tokens:
        logits[list(ends)] = -math.inf
    for token_id, bias in settings.logit_bias:
        logits[token_id] += bias
    if generated and (settings.presence_penalty or settings.frequency_penalty):
        counts = Counter(generated)
        ids = np.fromiter(counts.keys(), np.int64, len(counts))
        times = np.fromiter(counts.values(), np.float32, len(counts))
        logits[ids] -= settings.presence_penalty + settings.frequency_penalty * times
    return logits
