"""The page of the servers' figures: one table, a column for each server, the goals beside them.

Main entry: `lines`. Invariant: every figure of the table is from one run; what a server does not have is a
dash, and what did not come in time says so.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from serving_client import LIMIT_S, NEW, OTHERS, Figures
from serving_servers import SLOTS

Cell = Callable[["Result"], str]


@dataclass(frozen=True)
class Library:
    """What conjure does without a server.

    Attributes:
        speeds: Tokens per second, by texts at once: some times each.
        scored: Likewise of prompts whose log-probabilities are computed; empty where not measured.
    """

    speeds: Mapping[int, list[float]]
    scored: list[float]

    def and_again(self, other: "Library") -> "Library":
        """Both measurements as one."""
        speeds = {rows: values + other.speeds[rows] for rows, values in self.speeds.items()}
        return Library(speeds, self.scored + other.scored)


@dataclass(frozen=True)
class Result:
    """One server's figures; None is what it does not have.

    Attributes:
        figures: Of its texts.
        ready_s: From its command until it took requests, median.
        peak_bytes: The most memory it held, at last with 16 texts that filled the context.
        refused_s: Until it refused a request because its queue was full, median.
        scored: Prompt tokens per second, with their log-probabilities.
    """

    figures: Figures
    ready_s: float | None = None
    peak_bytes: int | None = None
    refused_s: float | None = None
    scored: float | None = None


def lines(
    results: Mapping[str, Result],
    left_out: Mapping[str, str],
    library: Library,
    machine: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Iterator[str]:
    """The whole page, line by line.

    Args:
        results: By the names of the servers, ours first.
        left_out: Why others have none.
        library: Measured before and after them.
        machine: As `machine.facts` gives it.
        settings: What was measured, and how.
    """
    yield "# Servers side by side"
    yield ""
    yield "<!-- Made by `make bench-serve`; do not edit. -->"
    yield ""
    yield from _introduction(machine, settings)
    yield ""
    if results:
        yield from _table(results, library)
        yield ""
        yield from _notes(next(iter(results.values())).figures)
    if left_out:
        yield ""
        yield "## Left out"
        yield ""
        yield from (f"- {name}: {why}" for name, why in left_out.items())
    yield ""
    yield "## Machine"
    yield ""
    yield from _machine(machine)


def _introduction(machine: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    model = settings["model"] or f"GPT-2 with {settings['parameters'] / 1e6:.0f}M parameters, random weights"
    if not settings["whole"]:
        yield "**Not a whole run**: some servers only, or a model or servers of the user's."
        yield ""
    if machine["load_average"] > machine["cores"] / 2:
        load = f"load {machine['load_average']:.1f}"
        yield f"**The machine did other work** ({load}): these figures say little. Measure again when idle."
        yield ""
    yield (
        f"{model}, on {machine['processor']} with {machine['cores']} cores, {machine['date']}."
        f" All of it was measured within {settings['seconds'] / 60:.0f} minutes, one server at a time, by one"
        f" client on the same machine, which asks for the same texts over HTTP. Run it again with"
        f" `make bench-serve`; how the figures are measured is described below."
    )


def _table(results: Mapping[str, Result], library: Library) -> Iterator[str]:
    yield f"| | goal for conjure | {' | '.join(results)} |"
    yield f"|---|--:|{'--:|' * len(results)}"
    for title, goal, cell in _rows(results, library):
        yield f"| {title} | {goal} | {' | '.join(cell(result) for result in results.values())} |"


def _rows(results: Mapping[str, Result], library: Library) -> Iterator[tuple[str, str, Cell]]:
    """Title, goal and cell of every row."""
    first = next(iter(results.values()))
    alone = {rows: statistics.median(values) for rows, values in library.speeds.items()}
    for rows, share, ahead in ((1, "≥ 95%", "≥ 1.4"), (16, "≥ 85%", "≥ 3")):
        title = "1 stream" if rows == 1 else f"{rows} streams"
        yield f"{title}, tokens/s", "", lambda one, rows=rows: _number(one.figures.speeds[rows])
        yield (
            f"share of the library's {_number(alone[rows])}",
            share,
            lambda one, rows=rows: f"{one.figures.speeds[rows] / alone[rows]:.0%}",
        )
        yield (
            "conjure is faster by",
            f"{ahead} × llama-server",
            lambda one, rows=rows: (
                _ratio(first.figures.speeds[rows], one.figures.speeds[rows]) if one is not first else ""
            ),
        )
    yield (
        "64 connections, tokens/s",
        "≥ 16 streams",
        lambda one: _number(one.figures.speeds[64]),
    )
    yield f"of these, without a text in {LIMIT_S:.0f} s", "0", lambda one: str(one.figures.failed)
    yield "first token, idle server, median", "≤ 25 ms", lambda one: _ms(one.figures.first_s)
    yield "first token, idle server, 99%", "≤ 50 ms", lambda one: _ms(one.figures.first_99_s)
    yield (
        f"first token among {OTHERS} other streams",
        "≤ 60 ms",
        lambda one: _ms(one.figures.first_among_others_s),
    )
    yield (
        "longest gap of a stream while a long prompt comes in",
        "≤ 50 ms",
        lambda one: _ms(one.figures.longest_gap_s),
    )
    yield "queue full: refused with 429 after", "≤ 5 ms", lambda one: _ms(one.refused_s)
    yield "ready after the command", "≤ 2.0 s", lambda one: _seconds(one.ready_s)
    yield f"peak memory, {SLOTS} texts of the whole context", "≤ 1.3 GB", lambda one: _gb(one.peak_bytes)
    if library.scored:
        scored = statistics.median(library.scored)
        yield "log-probabilities of prompts, tokens/s", "", lambda one: _number(one.scored)
        yield (
            f"share of the library's {_number(scored)}",
            "≥ 80%",
            lambda one: "–" if one.scored is None else f"{one.scored / scored:.0%}",
        )


def _notes(figures: Figures) -> Iterator[str]:
    yield (
        f"- Every request has a prompt of its own, of {figures.prompt_tokens} tokens, and asks for {NEW} new"
        " ones as a stream, sampled with temperature 1 and top-k 50. Its time includes the connection and"
        " reading the prompt. The figure for one stream is the median of nine texts, the one for 16 streams"
        " that of three times. The library generates the same texts, before and after the servers."
    )
    yield (
        f"- No measure takes longer than {LIMIT_S:.0f} seconds: the tokens up to then count, and “none” means"
        " that none came. A dash means that the server does not have this, or was not asked."
    )
    yield (
        f"- The first token on an idle server: 100 requests, one after the other. {OTHERS} other streams are"
        f" kept going while the first token among others, and the gaps while a prompt of"
        f" {figures.long_prompt_tokens} tokens comes in, are measured; the longest gap is the median of three"
        " such prompts."
    )
    yield (
        "- `conjure serve` has its default settings (int8, 64 slots). For the full queue it is started with"
        " `--slots 1 --queue 1`; the other servers let any number of requests wait. llama-server has int8"
        f" weights, too (q8_0), {SLOTS} slots of 1,024 tokens, and no prompt cache, because no two requests"
        " share a prompt. vLLM has 64 slots and a cache of 1 GiB; that it compiles the model when it is first"
        " started does not count."
    )
    yield (
        "- Log-probabilities of prompts: 300 texts, requested as lm-evaluation-harness does (`echo`,"
        " `logprobs`, one new token; eight texts in each request, four requests at once). conjure computes"
        " them in float32."
    )


def _machine(machine: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB of memory"
    yield f"- {machine['processor']}, {machine['cores']} cores; {', '.join(machine['features'])}"
    yield f"- {memory}; {machine['system']}; Python {machine['python']}"
    yield f"- conjure {machine['conjure']}; other programs: {versions}"
    yield f"- Load before the first measurement: {machine['load_average']:.2f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.1f} ×" if theirs else "–"


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if math.isinf(seconds):
        return "none"
    return f"{1000 * seconds:,.1f} ms" if seconds < 0.01 else f"{1000 * seconds:,.0f} ms"


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.1f} s"


def _gb(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e9:.2f} GB"
