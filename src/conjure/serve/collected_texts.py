"""The texts of a job, collected from its events until all have ended.

Main entry: `collect`. Invariant: nothing is left out: every token, with its log-probability, in its place.
"""

from collections.abc import AsyncIterable
from dataclasses import dataclass, field

from conjure.http.generation.requests import Event, GenerationJob, PromptScored, TokenLogprob, TokenWritten


@dataclass
class Text:
    """One text so far."""

    pieces: list[str] = field(default_factory=list)
    tokens: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    def add(self, written: TokenWritten) -> None:
        """Add a token."""
        self.pieces.append(written.text)
        self.tokens.append(written.token)
        self.finish_reason, self.stop_reason = written.finish_reason, written.stop_reason

    @property
    def mean_logprob(self) -> float:
        """What `best_of` goes by."""
        return sum(token.logprob for token in self.tokens) / max(1, len(self.tokens))


@dataclass
class CollectedTexts:
    """All that came of a job.

    Attributes:
        texts: By the numbers of prompt and sample.
        scored: Prompts' log-probabilities, by the number of the prompt.
        generated: Tokens of all texts.
    """

    texts: dict[tuple[int, int], Text]
    scored: dict[int, PromptScored] = field(default_factory=dict)
    generated: int = 0

    def best(self, prompt: int, count: int) -> list[Text]:
        """A prompt's texts in their order; the likeliest by token where there are more than asked for."""
        texts = [text for (number, _), text in self.texts.items() if number == prompt]
        return texts if len(texts) == count else sorted(texts, key=lambda text: -text.mean_logprob)[:count]


async def collect(job: GenerationJob, events: AsyncIterable[list[Event]]) -> CollectedTexts:
    """Wait until all texts of a job have ended, and all prompts are scored."""
    keys = [(prompt, sample) for prompt in range(len(job.prompts)) for sample in range(job.samples)]
    found = CollectedTexts({key: Text() for key in keys})
    writing = len(keys) if job.max_tokens else 0
    scoring = len(job.prompts) if job.prompt_logprobs is not None else 0
    if job.max_tokens == 0:
        for text in found.texts.values():
            text.finish_reason = "length"
    async for batch in events:
        for each in batch:
            if isinstance(each, PromptScored):
                found.scored[each.prompt] = each
            elif isinstance(each, TokenWritten):
                found.texts[each.prompt, each.sample].add(each)
                writing -= each.finish_reason is not None
                found.generated += 1
        if not writing and len(found.scored) == scoring:
            break
    return found
