"""`conjure chat`: a conversation with a model.

Main entry: `command`. Invariant: stdout holds the answers and nothing else.
"""

from datetime import date
from typing import Any

import click

from conjure.cli.sampling_options import (
    adapter_option,
    chat_date_option,
    precision_option,
    sampling_options,
    seed_option,
)
from conjure.core.text import today
from conjure.lm.generation.request import GenerationRequest


@click.command()
@click.option(
    "--model",
    default="smollm2",
    show_default=True,
    help="Chat model: a name, folder, run or Hugging Face model.",
)
@click.option(
    "--length",
    "max_new_tokens",
    type=int,
    default=512,
    show_default=True,
    help="Maximum number of tokens per answer.",
)
@sampling_options
@seed_option
@precision_option
@chat_date_option
@adapter_option
def command(
    *,
    model: str,
    adapter: str | None,
    precision: str,
    chat_date: date | None,
    **settings: Any,
) -> int:
    """Chat with a model: type a message, read the answer.

    The model sees the whole conversation; when it exceeds the context, the oldest messages are left out.
    /reset starts a new conversation, ^C stops an answer, ^D exits. Several lines pasted at once are one
    message. If standard input is not a terminal, each of its lines is a message, and ^C or an error ends the
    chat.
    """
    request = GenerationRequest(**{name: value for name, value in settings.items() if value is not None})
    # Imports numpy and tokenizers, which neither --help nor a mistake needs.
    from conjure.cli.language_model import chat as implementation

    day = chat_date if chat_date is not None else today()
    return implementation.chat(request, model=model, adapter=adapter, precision=precision, day=day)
