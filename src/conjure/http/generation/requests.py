"""A request for text as the service takes it, and what it tells while it is served.

Main entries: `GenerationJob`, `Event`. Invariant: every value is checked before a job is made, and prompts
are token ids of the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from conjure.lm.generation.logit_adjustments import LogitSettings

FinishReason = Literal["stop", "length"]
_LOWEST = -9999.0  # JSON has no infinity


def finite_logprob(logprob: float) -> float:
    """A log-probability that JSON can carry."""
    return max(logprob, _LOWEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationJob:
    """What to write.

    Attributes:
        prompts: Token ids, at least one each.
        settings: How to choose tokens.
        samples: How many texts for each prompt.
        max_tokens: The most tokens of each text; 0 only scores the prompts.
        seed: With a text's index all there is to its randomness.
        stop: A text ends before the first of these.
        stop_token_ids: A text ends with any of these tokens.
        ignore_eos: Whether the model's end of text ends no text.
        top_logprobs: How many of the likeliest tokens to tell of each generated one; None tells nothing.
        prompt_logprobs: Likewise of each token of the prompts.
    """

    prompts: Sequence[Sequence[int]]
    settings: LogitSettings = field(default_factory=LogitSettings)
    samples: int = 1
    max_tokens: int = 16
    seed: int = 0
    stop: Sequence[str] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    top_logprobs: int | None = None
    prompt_logprobs: int | None = None

    @property
    def computes(self) -> bool:
        """Whether there is anything to compute at all: an echo alone is known already."""
        return self.max_tokens > 0 or self.prompt_logprobs is not None

    @property
    def from_exact(self) -> bool:
        """Whether the generated tokens come from the same exact pass as the prompts' log-probabilities.

        It has their logits anyway, and evaluation programs ask for one token that they do not look at.
        """
        return self.prompt_logprobs is not None and self.max_tokens <= 1

    @property
    def texts_written(self) -> int:
        """How many texts it has the model write."""
        return 0 if self.max_tokens == 0 or self.from_exact else len(self.prompts) * self.samples

    @property
    def slots(self) -> int:
        """How many slots it takes: one for each text that is written, and one for scoring."""
        return self.texts_written + (self.prompt_logprobs is not None)

    def frees_slot(self, event: "Event") -> bool:
        """Whether something ends with `event` that took a slot."""
        if isinstance(event, PromptScored):
            return event.prompt == len(self.prompts) - 1  # they are scored in their order
        return isinstance(event, TokenWritten) and event.finish_reason is not None and not self.from_exact


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token and how likely it was.

    Attributes:
        token_id: The token.
        logprob: Under the model's own distribution, before any setting changed it, nats.
        top: The likeliest tokens in its place, (id, log-probability), the likeliest first.
        rank: For a prompt's token, how many were at least as likely.
    """

    token_id: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class PromptScored:
    """A prompt's log-probabilities are known; its first token has none.

    Attributes:
        prompt: The prompt's number.
        tokens: One entry for each token but the first.
    """

    prompt: int
    tokens: Sequence[TokenLogprob]


@dataclass(frozen=True, slots=True)
class TokenWritten:
    """A text has one more token.

    Attributes:
        prompt: The prompt's number.
        sample: The text's number among those of the prompt.
        token: The token.
        text: Characters that are now sure to be part of the text, perhaps none.
        finish_reason: Why the text ends here; None where it goes on.
        stop_reason: The stop string or the id of `stop_token_ids` that ended it.
    """

    prompt: int
    sample: int
    token: TokenLogprob
    text: str
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The job has left the queue."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The job cannot go on.

    Attributes:
        error: Why.
    """

    error: Exception


Event = Started | PromptScored | TokenWritten | Failed
