"""One text while it is being written: its tokens, its stop strings, its end.

Main entries: `GeneratedSequence`, `OutputDecoder`. Invariant: what a sequence makes of the tokens it is given
depends on its job alone.
"""

from collections.abc import Collection, Sequence

from conjure.http.generation.requests import FinishReason, GenerationJob, TokenLogprob, TokenWritten
from conjure.lm.generation.sampling import random_stream
from conjure.lm.generation.stop_strings import StopMatcher
from conjure.lm.text.tokenizer import IncrementalDecoder, Tokenizer


class OutputDecoder:
    """Turns the tokens of a generated text into its characters; special tokens have none there.

    Args:
        tokenizer: The model's own.
        prompt: What the text goes on from.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._silent = tokenizer.end_ids | frozenset(tokenizer.special_tokens.values())
        self._decoder = IncrementalDecoder(tokenizer, continues=list(prompt) != [tokenizer.start_id])

    def feed(self, token_id: int) -> str:
        """The characters that a token completes, perhaps none."""
        return "" if token_id in self._silent else self._decoder.feed(token_id)

    def flush(self) -> str:
        """What is left of a character that never became whole, as U+FFFD."""
        return self._decoder.flush()


class GeneratedSequence:
    """One text of a job.

    Attributes:
        job: What it is written for.
        prompt: The prompt's number in the job.
        sample: Its own number among the texts of that prompt.
        stream: Its randomness.
        token_ids: The tokens chosen so far.
        ends: Ids that may end it.
        finished: Whether it has ended.
    """

    def __init__(self, job: GenerationJob, prompt: int, sample: int, tokenizer: Tokenizer) -> None:
        self.job, self.prompt, self.sample = job, prompt, sample
        self.stream = random_stream(job.seed, sample)
        self.token_ids: list[int] = []
        self.finished = False
        own_ends: Collection[int] = () if job.ignore_eos else tokenizer.end_ids
        self.ends = job.stop_token_ids.union(own_ends)
        self._decoder = OutputDecoder(tokenizer, job.prompts[prompt])
        self._matcher = StopMatcher(job.stop)

    @property
    def capacity(self) -> int:
        """Tokens that it reads at most: the last one that is written is never read."""
        return len(self.job.prompts[self.prompt]) + self.job.max_tokens - 1

    @property
    def length(self) -> int:
        """Tokens of its prompt and those chosen so far."""
        return len(self.job.prompts[self.prompt]) + len(self.token_ids)

    def take(self, token: TokenLogprob) -> TokenWritten:
        """Add the token just chosen, and end the sequence if that ends it."""
        token_id, job = token.token_id, self.job
        self.token_ids.append(token_id)
        reason: FinishReason | None = None
        stop_reason: str | int | None = None
        text = ""
        if token_id in self.ends:
            reason = "stop"
            stop_reason = token_id if token_id in job.stop_token_ids else None
        else:
            text = self._matched(token_id)
            if len(self.token_ids) == job.max_tokens:
                reason = "length"
        if reason is not None:
            text += self._matcher.feed(self._decoder.flush()) + self._matcher.flush()
        if self._matcher.stopped:
            reason, stop_reason = "stop", self._matcher.found
        self.finished = reason is not None
        return TokenWritten(self.prompt, self.sample, token, text, reason, stop_reason)

    def _matched(self, token_id: int) -> str:
        """Characters that are now sure, after stop strings."""
        text = self._decoder.feed(token_id)
        if len(self.token_ids) <= self.job.settings.min_tokens:
            return text  # too early to stop
        return self._matcher.feed(text)
