"""Evidence for reports, made from plain texts: no model has to write them.

Main entry: `evidence`. Every sample has ended by itself, with a loss of 1 nat per token unless told.
"""

from collections.abc import Sequence

import numpy as np

from conjure.lm.generation.generate import Sample
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.generation.score import Tally, Windows
from conjure.lm.report.analysis import Evidence
from conjure.lm.report.measure_model import Observation
from conjure.lm.report.report_schema import CurvePoint, ExtractedShare, Extraction
from support.models import tiny_tokenizer
from support.texts import ONE_LINERS

TRAINING = ONE_LINERS[:28]
HELD_OUT = ONE_LINERS[28:]
LIMIT = 80
PROSE_LINES = tuple(
    f"and so it went on in the {index}th house of the long grey street, " * 4 for index in range(20)
)
OWN_LINES = (
    "Whoever said talk is cheap never rang my aunt.",
    "Our lighthouse keeper works nights, mostly.",
    "Give a plumber an inch and he takes the floor up.",
    "Socks vanish because somewhere it is always Monday.",
    "Nobody asked the weather vane, yet here we are.",
    "Somebody stole the sundial, so we lost an hour.",
    "Porridge is soup that has given up.",
    "That violin was cheaper without strings.",
    "Grandad keeps bees, but they visit.",
    "Each lift in this hotel has its ups.",
    "Two ghosts split the rent between walls.",
    "This queue began as a conversation.",
    "An honest map would show the puddles.",
    "Dentists collect deposits in advance, by mouth.",
    "Some owls only pretend to be wise on weekdays.",
    "The ferry is late because it missed itself.",
    "Yesterday's bread makes excellent furniture.",
    "Why whisper to plants? They hate gossip aloud.",
    "Every cuckoo clock is one bird's full-time job.",
    "Half of juggling is knowing when to duck.",
)


def sample(text: str, index: int = 0, loss: float = 1.0) -> Sample:
    """A sample of this text that ended by itself, or at `LIMIT`."""
    ids = tiny_tokenizer().encode(text)[:LIMIT]
    ended = len(ids) < LIMIT
    ids += [tiny_tokenizer().end_of_text_id] * ended
    return Sample(
        prompt="",
        prompt_index=0,
        index=index,
        text=text,
        token_ids=ids,
        logprobs=[-loss] * len(ids),
        finish_reason="end_of_text" if ended else "length",
        seed=7,
    )


def observation(name: str, texts: Sequence[str], held_out: Sequence[str], loss: float) -> Observation:
    """A model that wrote these texts, and needs `loss` nats for each token of the held-out ones."""
    scores = []
    for place, text in enumerate(held_out):
        tokens = len(tiny_tokenizer().encode(text))
        total = -tokens * (loss + 0.01 * (place % 3))
        scores.append(Tally(total, tokens, len(text.split()), len(text.encode())))
    samples = [sample(text, index) for index, text in enumerate(texts)]
    extraction = Extraction(ExtractedShare(20, 0), ExtractedShare(12, 0) if held_out else None)
    return Observation(name, samples, scores, Windows(32, 16), extraction)


def evidence(
    tuned: Sequence[str] = OWN_LINES,
    base: Sequence[str] = PROSE_LINES,
    *,
    training: Sequence[str] = TRAINING,
    held_out: Sequence[str] = HELD_OUT,
    losses: tuple[float, float] = (5.0, 3.0),
    kept_step: int = 2,
) -> Evidence:
    """What a report is made from; by default a model that learned the text lengths and does not copy."""
    encoded = tiny_tokenizer().encode_batch([*training, *held_out])
    return Evidence(
        title="tiny tuned on one-liners",
        base=observation("tiny", base, held_out, losses[0]),
        tuned=observation("tiny tuned", tuned, held_out, losses[1]),
        request=GenerationRequest(max_new_tokens=LIMIT, num_samples=len(tuned), seed=7),
        tokenizer=tiny_tokenizer(),
        training=iter(training),
        held_out=held_out,
        record_lengths=np.array([len(ids) for ids in encoded]),
        points=[CurvePoint(0, None, 5.0), CurvePoint(1, 4.5, None), CurvePoint(2, 3.5, 3.2)],
        kept_step=kept_step,
        end_reason="completed",
        settings={"epochs": 2, "learning_rate": 6e-4, "lora": None, "betas": (0.9, 0.999)},
        data={"files": ({"name": "one.csv", "kind": "csv", "column": None},), "records": len(encoded)},
    )
