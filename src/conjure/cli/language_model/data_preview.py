"""What `conjure data preview` does: counts records and tokens, and shows the first as a model sees them.

Main entries: `preview`, `records_line`. Invariant: no weights are loaded, and torch is not imported.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import click

from conjure.cli.language_model.progress import bytes_progress
from conjure.cli.render import on_terminal, remark
from conjure.core.quoting import DIRECTION_MARKS, printable
from conjure.core.text import plural
from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.lm.text.chat.encoding import ANSWER, EncodedChat, conversation_encoder
from conjure.lm.text.read_options import ReadOptions
from conjure.lm.text.records import RecordSet, read_records
from conjure.lm.text.split import DEFAULT_DEDUP, Split, hold_out
from conjure.lm.text.token_cache import DataFacts, Histogram, TokenisedText, describe, find_groups, tokenise
from conjure.lm.text.tokenizer import IncrementalDecoder, Tokenizer
from conjure.recipes.resource_lookup import data_path, model_lookup

_SHOWN_TOKENS = 80  # of a record; a novel would fill the screen
_SHOWN_CHAT_TOKENS = 400  # of a conversation: its answers come last
_BAR_WIDTH = 40

# What would move the cursor, ring the bell, turn the direction or hide a line end is shown as its picture.
_VISIBLE = {
    **{code: chr(0x2400 + code) for code in range(0x20)},
    **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)},
    **{code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *map(ord, DIRECTION_MARKS))},
    0x7F: "␡",
    0x0A: "⏎",
}


def preview(
    files: tuple[str, ...],
    *,
    column: str | None,
    split: str | None,
    layout: ReadOptions,
    special_tokens: str,
    model: str,
    count: int,
    as_json: bool,
) -> None:
    """Print what is in the files.

    Args:
        files: Files, folders and resources.
        column: Of tables.
        split: How text files are cut into records.
        layout: How the files are written.
        special_tokens: Whether a special token written in a text is a ``token`` or ``text``.
        model: Whose vocabulary to use.
        count: Records to show.
        as_json: Print JSON.
    """
    names = [data_path(name) for name in files]
    records = read_records(names, column=column, split=split, layout=layout)
    tokenizer = Tokenizer.from_folder(resolve_model(model, lookups=[model_lookup]).folder)
    chat = conversation_encoder(records.chat_formats, tokenizer, model=model)
    for guess in _guesses(records):
        remark(guess)
    with bytes_progress("Turning text into tokens") as progress:
        text = tokenise(
            records, tokenizer, allow_special=special_tokens == "token", chat=chat, progress=progress
        )
    with bytes_progress("Comparing records") as progress:
        groups = find_groups([records], refused=[text.refused], progress=progress)
    facts, parts = describe(records, text, groups), hold_out(text, groups=groups, dedup=DEFAULT_DEDUP)
    for fact in (*facts.remarks, *([parts.remark] if parts.remark is not None else ())):
        remark(fact)
    shown = min(count, facts.records)
    if as_json:
        first = [_record_as_json(text, index, tokenizer) for index in range(shown)]
        vocabulary = {"model": model, "vocab_size": tokenizer.vocab_size}
        result = {**vocabulary, **facts.to_dict(), "holdout": _holdout_as_json(parts), "first_records": first}
        click.echo(json.dumps(result, indent=2))
        return
    for label, value in _facts(facts, parts, f"{model}, {tokenizer.vocab_size:,} tokens").items():
        click.echo(f"{label:<11} {value}")
    click.echo("\nTokens per record:")
    click.echo("\n".join(_bars(facts.lengths.histogram)))
    if shown:
        what = "record, as the model sees it" if shown == 1 else f"{shown} records, as the model sees them"
        click.echo(f"\nThe first {what}:")
        if text.kinds is not None:
            click.echo(_style_legend())
    for index in range(shown):
        click.echo(_record_as_text(text, index, tokenizer))


def records_line(data: DataFacts) -> str:
    """How many records there are, and how many of them say the same."""
    line = plural(data.records, "record")
    if data.groups < data.records:
        line += f", {data.distinct:,} distinct; largest group {data.largest_group:,}"
    return line


def _guesses(records: RecordSet) -> Iterator[str]:
    """What was chosen without being told, a line for each column and each format of conversations."""
    for format_ in sorted(records.chat_formats):
        names = [source.name for source in records.sources if source.chat == format_]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield (
            f"{names[0]}{more}: conversations ({format_}); only the answers are trained on "
            "(use --column NAME to read plain text)"
        )
    columns: dict[str, list[str]] = {}
    for source in records.sources:
        if source.guessed and source.column is not None:
            columns.setdefault(source.column, []).append(source.name)
    for column, names in columns.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield (
            f"reading column {column!r} of {names[0]}{more}, the only one with text "
            "(use --column NAME for another)"
        )


def _facts(facts: DataFacts, parts: Split, vocabulary: str) -> dict[str, str]:
    lengths = facts.lengths
    rows = {
        "records": records_line(facts),
        "tokens": f"{facts.tokens:,} (vocabulary of {vocabulary})",
        **_answers(parts),
        "bytes": f"{facts.size_bytes:,} ({facts.size_bytes / facts.tokens:.2f} per token)",
        "lengths": f"{lengths.shortest:,} to {lengths.longest:,} tokens per record; "
        f"mean {lengths.mean:,.1f}, median {lengths.median:,.0f}, 90th percentile {lengths.p90:,.0f}",
        "held out": _held_out(parts),
    }
    if parts.dropped:
        count = plural(parts.dropped, "record")
        rows["duplicates"] = f"{count} not trained on (to train on all: finetune --dedup keep)"
    if facts.bad_row_count:
        rows["left out"] = printable("; ".join(facts.bad_rows))
    return rows


def _answers(parts: Split) -> dict[str, str]:
    count, tokens = parts.train.answer_tokens, len(parts.train)
    return {} if count is None else {"answers": f"{count:,} tokens to train on ({count / tokens:.0%})"}


def _held_out(parts: Split) -> str:
    if parts.heldout is None or parts.reason is not None:
        return str(parts.reason)
    more = f" ({parts.excluded:,} more left out: duplicates of training records)" if parts.excluded else ""
    return f"{parts.heldout.records:,} records, {len(parts.heldout):,} tokens (for evaluation){more}"


def _bars(histogram: Histogram) -> Iterator[str]:
    """The histogram as rows of text, longest bar `_BAR_WIDTH` wide."""
    width, counts = histogram.width, histogram.counts
    most = max(counts)
    first = next(index for index, count in enumerate(counts) if count)
    labels = [
        str(index + 1) if width == 1 else f"{index * width + 1:,}–{(index + 1) * width:,}"
        for index in range(len(counts))
    ]
    if histogram.open_ended:
        labels[-1] = f"{(len(counts) - 1) * width + 1:,} or more"
    margin = max(map(len, labels[first:]))
    for label, count in list(zip(labels, counts, strict=True))[first:]:
        bar = "█" * round(_BAR_WIDTH * count / most) or ("▏" if count else "")
        yield f"  {label:>{margin}}  {count:>{len(f'{most:,}')},}  {bar}".rstrip()


def _style_legend() -> str:
    """What colours mean; without colours, answers stand in brackets."""
    if not on_terminal():
        return "⟦answers (trained on)⟧"
    return f"{click.style('answers (trained on)', fg='green')}; {click.style('control tokens', fg='cyan')}"


def _conversation_as_text(chat: EncodedChat, tokenizer: Tokenizer) -> str:
    """A conversation with its answers marked, control tokens in place."""
    by_id = {id_: _visible(token) for token, id_ in tokenizer.special_tokens.items()}
    ids, kinds = chat.ids[:_SHOWN_CHAT_TOKENS], chat.kinds
    pairs = [(kinds[place] == ANSWER, id_) for place, id_ in enumerate(ids)]
    content = []
    for learned, group in groupby(pairs, key=itemgetter(0)):
        decoder = IncrementalDecoder(tokenizer, continues=True)
        parts = [(id_ in by_id, by_id.get(id_) or decoder.feed(id_)) for _, id_ in group]
        text = "".join(
            click.style("".join(text for _, text in same), fg="green" if learned else "cyan")
            if special
            else click.style(_plain(same, tokenizer), fg="green" if learned else None)
            for special, same in groupby(parts, key=itemgetter(0))
        )
        content.append(f"⟦{text}⟧" if learned and not on_terminal() else text)
    hidden = len(chat.ids) - len(ids)
    return "".join(content) + (click.style(f" … {hidden:,} more tokens", dim=True) if hidden else "")


def _record_as_text(text: TokenisedText, index: int, tokenizer: Tokenizer) -> str:
    ids = text.record(index)
    chat = text.conversation(index)
    if chat is not None:
        number = click.style(f"{index + 1:>3} {len(ids):>6,} tokens ", dim=True)
        return f"{number} {_conversation_as_text(chat, tokenizer)}"
    separator = _visible(tokenizer.end_of_text) if text.end_of_text else ""
    shown = ids[: min(_SHOWN_TOKENS, len(ids) - bool(separator))]
    hidden = len(ids) - bool(separator) - len(shown)
    more = click.style(f" … {hidden:,} more tokens … ", dim=True) if hidden else ""
    decoder = IncrementalDecoder(tokenizer)  # the cut may be in the middle of a character
    by_id = {id_: _visible(token) for token, id_ in tokenizer.special_tokens.items()}
    parts = [(id_ in by_id, by_id.get(id_) or decoder.feed(id_)) for id_ in shown.tolist()]
    content = "".join(
        click.style("".join(text for _, text in group), fg="cyan") if special else _plain(group, tokenizer)
        for special, group in groupby(parts, key=itemgetter(0))
    )
    number = click.style(f"{index + 1:>3} {len(ids):>6,} tokens ", dim=True)
    return f"{number} {content}{more}{click.style(separator, fg='cyan')}"


def _plain(parts: Iterable[tuple[bool, str]], tokenizer: Tokenizer) -> str:
    """Text, with a backslash before what is written like a special token and is none."""
    text = _visible("".join(part for _, part in parts))
    for token in map(_visible, tokenizer.special_tokens):
        text = text.replace(token, f"\\{token}")
    return text


def _visible(text: str) -> str:
    """Text of a record, or the name of a token: both may be from a stranger."""
    return text.translate(_VISIBLE)


def _record_as_json(text: TokenisedText, index: int, tokenizer: Tokenizer) -> dict[str, Any]:
    ids = text.record(index).tolist()
    shown = {"tokens": len(ids), "token_ids": ids, "text": tokenizer.decode(ids)}
    chat = text.conversation(index)
    return shown if chat is None else {**shown, "learned": [kind == ANSWER for kind in chat.kinds]}


def _holdout_as_json(parts: Split) -> dict[str, Any]:
    held_out = parts.heldout
    return {
        "method": parts.method,
        "reason": parts.reason,
        "remark": parts.remark,
        "train_records": parts.train.records,
        "train_tokens": len(parts.train),
        "train_dropped": parts.dropped,
        "heldout_records": held_out.records if held_out is not None else 0,
        "heldout_tokens": len(held_out) if held_out is not None else 0,
        "heldout_groups": held_out.groups if held_out is not None else 0,
        "excluded_shared": parts.excluded,
    }
