"""What is to be written, and how freely: values that are checked before anything is loaded.

Main entries: `GenerationRequest`, `SamplingSettings`. Invariant: one that exists has every value within its
bounds; nothing here needs torch.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from conjure.lm.bounds import Bound, ValueFault, refuse_faults

Overflow = Literal["slide", "error"]

LARGEST_SEED = 2**64 - 1
_DRAWN_SEEDS = 2**32  # a seed we draw is short enough to type again
_MOST_TOKENS, _MOST_SAMPLES = 10_000_000, 1_000_000  # more would take days, or a slip of the keyboard


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How freely to choose; the defaults are those of `conjure generate`.

    Attributes:
        temperature: Logits are divided by it: below 1 bolder, above 1 wilder; 0 always takes the likeliest.
        top_k: Only this many of the likeliest tokens remain, of equal ones those with the lower id; 0 is off.
        top_p: Only the likeliest tokens that together reach this probability remain; 1 is off.
        min_p: Only tokens at least this share as likely as the likeliest remain; 0 is off.
        repetition_penalty: Above 1 makes every token already in the row, prompt included, less likely: a
            positive logit is divided by it, a negative one multiplied. 1 is off.
        no_repeat_ngram: No sequence of this many tokens comes twice in a row, prompt included; 0 is off.
    """

    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "temperature": Bound(0),
        "top_k": Bound(0, whole=True),
        "top_p": Bound(0, 1, above=True),
        "min_p": Bound(0, 1),
        "repetition_penalty": Bound(0, above=True),
        "no_repeat_ngram": Bound(0, whole=True),
    }

    def __post_init__(self) -> None:
        """Refuse every value out of bounds, in one error."""
        refuse_faults(self.faults())

    @property
    def looks_back(self) -> bool:
        """Whether the choice depends on what the row says already."""
        return self.repetition_penalty != 1.0 or self.no_repeat_ngram > 0

    @property
    def takes_likeliest(self) -> bool:
        """Whether the choice is always the largest logit, whatever the row says already."""
        return self.temperature == 0 and not self.looks_back

    def faults(self) -> Iterator[ValueFault]:
        """What is wrong with each value out of bounds."""
        for name, bound in self.BOUNDS.items():
            value = getattr(self, name)
            if not bound.allows(value):
                yield bound.fault(name, value)


def draw_seed() -> int:
    """A fresh seed, different each time; global random state is neither used nor touched."""
    return random.SystemRandom().randrange(_DRAWN_SEEDS)


class EncodedPrompt(NamedTuple):
    """A prompt that is already in tokens, such as a conversation by its chat template.

    Attributes:
        text: What to show for it.
        ids: Its tokens, BOS included where the model wants it; at least one.
    """

    text: str
    ids: Sequence[int]


Prompt = str | EncodedPrompt


def prompt_text(prompt: Prompt) -> str:
    """What to show for a prompt."""
    return prompt if isinstance(prompt, str) else prompt.text


@dataclass(frozen=True, kw_only=True)
class GenerationRequest(SamplingSettings):
    """Everything that decides what is written, checked once; see `SamplingSettings` for the rest.

    Attributes:
        prompts: Texts to go on from, encoded exactly, or tokens; an empty text means the start of a document.
        max_new_tokens: Tokens to write per sample, the end-of-text token included.
        num_samples: Samples per prompt.
        stop: A sample ends before the first occurrence of any of these.
        seed: With the sample's index (0 … num_samples - 1 for each prompt) all there is to its randomness.
        on_overflow: When a prompt and its text do not fit the model's context: ``slide`` or ``error``.
    """

    prompts: Sequence[Prompt] = ("",)
    max_new_tokens: int = 70
    num_samples: int = 1
    stop: Sequence[str] = ()
    seed: int = field(default_factory=draw_seed)
    on_overflow: Overflow = "slide"

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **SamplingSettings.BOUNDS,
        "max_new_tokens": Bound(1, _MOST_TOKENS, whole=True),
        "num_samples": Bound(1, _MOST_SAMPLES, whole=True),
        "seed": Bound(0, LARGEST_SEED, whole=True),
    }

    def faults(self) -> Iterator[ValueFault]:
        """What is wrong with each value that cannot be."""
        yield from super().faults()
        for name, kinds in (("prompts", (str, EncodedPrompt)), ("stop", (str,))):
            texts = getattr(self, name)
            if isinstance(texts, str | EncodedPrompt) or not all(isinstance(text, kinds) for text in texts):
                yield ValueFault(name, f"must be a list of strings, not {texts!r}")
        if not self.prompts:
            words = "is empty; at least one is needed, and an empty text means the start of a document"
            yield ValueFault("prompts", words)
        if any(text == "" for text in self.stop):
            words = "contains an empty string, which would stop every sample before its first character"
            yield ValueFault("stop", words)
        if self.on_overflow not in ("slide", "error"):
            yield ValueFault("on_overflow", f"must be 'slide' or 'error', not {self.on_overflow!r}")
