"""A text token by token with its log-probabilities: coloured on a terminal, a table elsewhere.

Main entry: `show_tokens`. Invariant: the table has one line per token and loses nothing; the coloured text
shows whole characters, so tokens that make up one character share its colour.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import click

from conjure.cli.render import on_terminal, visible
from conjure.lm.text.tokenizer import IncrementalDecoder, Tokenizer

# From this many nats of surprise on, this background (xterm's 256 colours, cool to hot).
_HEAT = ((0.0, 194), (1.0, 230), (2.0, 223), (4.0, 216), (6.0, 209), (9.0, 203))
_INK = 16  # black, readable on all of them


def show_tokens(
    tokenizer: Tokenizer, token_ids: Sequence[int], logprobs: Sequence[float], *, continues: bool
) -> None:
    """Print each token with its log-probability, to stdout.

    Args:
        tokenizer: Whose ids these are.
        token_ids: The tokens.
        logprobs: Of each, nats.
        continues: Whether the tokens go on from others, so that a space before them is one.
    """
    if on_terminal():
        decoder = IncrementalDecoder(tokenizer, continues=continues)
        click.echo("".join(_coloured(decoder, token_ids, logprobs)))
        click.echo(_legend())
    else:
        click.echo("position\ttoken_id\tlogprob\ttoken")
        for position, (token_id, logprob) in enumerate(zip(token_ids, logprobs, strict=True)):
            token = tokenizer.decode_bytes([token_id]).decode("utf-8", errors="backslashreplace")
            click.echo(f"{position}\t{token_id}\t{logprob:.6f}\t{json.dumps(token, ensure_ascii=False)}")


def _coloured(
    decoder: IncrementalDecoder, token_ids: Sequence[int], logprobs: Sequence[float]
) -> Iterator[str]:
    surprise = 0.0
    for token_id, logprob in zip(token_ids, logprobs, strict=True):
        surprise -= logprob
        text = decoder.feed(token_id)
        if text:
            yield _heated(text, surprise)
            surprise = 0.0
    yield _heated(decoder.flush(), surprise)


def _heated(text: str, surprise: float) -> str:
    """`text` on the background its surprise deserves; line ends stay outside, where they colour nothing."""
    colour = next(code for least, code in reversed(_HEAT) if surprise >= least)
    lines = visible(text).split("\n")
    return "\n".join(click.style(line, fg=_INK, bg=colour) if line else "" for line in lines)


def _legend() -> str:
    bounds = zip_longest(_HEAT, _HEAT[1:])
    labels = (
        (f"{here[0]:.0f}–{after[0]:.0f}" if after else f"{here[0]:.0f} or more", here[1])
        for here, after in bounds
    )
    steps = " ".join(click.style(f" {label} ", fg=_INK, bg=colour) for label, colour in labels)
    return f"{click.style('-log p in nats:', dim=True)} {steps}"
