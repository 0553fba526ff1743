"""The results as people read them: tables in Markdown, and a plot.

Main entry: `write_report`. Invariants: every figure stands beside the physical limit of its kind, measured in
the same run; the figures are on the disk before anything is drawn.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from machine import kind
from results import MEASURES

TITLES = {
    "train": "Training, batch 2 × 1024",
    "train_short": "Training, batch 2 × 128",
    "decode_1": "Decoding, 1 stream",
    "decode_16": "Decoding, 16 at once",
    "decode_64": "Decoding, 64 at once",
    "prefill": "Reading a prompt of 900",
    "score": "Scoring records",
    "cold_start": "Cold start to the first token",
}
_OURS, _VARIANT, _PEER, _LIMIT = "#5b3fd6", "#a99cf0", "#9aa0a6", "#d1495b"


def write_report(results: Mapping[str, Any], folder: Path) -> None:
    """Write results-KIND.json and results-KIND.md, print the tables, then draw results-KIND.svg.

    Args:
        results: As `results.summarise` gives them.
        folder: Made if need be.

    Raises:
        SystemExit: The plot could not be drawn; all else is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"results-{kind(results['machine'])}"
    (folder / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    text = "\n".join(lines(results)) + "\n"
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"Written to {folder}: {name}.md, {name}.json", flush=True)
    try:
        plot(results, folder / f"{name}.svg")
    except Exception as error:
        raise SystemExit(f"{name}.svg could not be drawn: {type(error).__name__}: {error}") from error
    print(f"Written to {folder}: {name}.svg")


def lines(results: Mapping[str, Any]) -> Iterator[str]:
    """The whole document, line by line."""
    settings, machine = results["settings"], results["machine"]
    yield "# Measured side by side"
    yield ""
    yield f"<!-- Made by `{settings['command']}`; do not edit. -->"
    yield ""
    yield (
        f"GPT-2 of {settings['parameters'] / 1e6:.0f}M parameters on {machine['processor']},"
        f" {_counted(machine['cores'], 'core')}, {machine['date']}: the median of"
        f" {_counted(settings['rounds'], 'round')}, every contender in a process of its own with"
        f" {_counted(settings['threads'], 'thread')}. How, and what to make of it: [README.md](README.md)."
    )
    yield ""
    if settings["quick"]:
        yield "**A quick run**: one round of less work, with fewer peers. Its figures are rough."
        yield ""
    yield f"![Every contender and the physical limit, by measure](results-{kind(machine)}.svg)"
    yield ""
    yield from _summary(results)
    for measure in MEASURES:
        if measure in results:
            yield from _section(measure, results[measure])
    yield from _left_out(results)
    yield from _machine(results)


def _left_out(results: Mapping[str, Any]) -> Iterator[str]:
    reasons: dict[str, str] = {}
    for measure in MEASURES:
        reasons |= results.get(measure, {}).get("left_out", {})
    if reasons:
        yield "## Left out"
        yield ""
        for name, why in reasons.items():
            yield f"- {name}: {why}"
        yield ""


def _summary(results: Mapping[str, Any]) -> Iterator[str]:
    yield "| | conjure | best peer | ahead by | physical limit | share of it |"
    yield "|---|--:|--:|--:|--:|--:|"
    for measure in MEASURES:
        if measure not in results:
            continue
        found = results[measure]
        best = found["best_peer"]
        peer = f"{_figure(found['peers'][best])} ({best})" if best else "–"
        ratio = f"**{found['ratio_to_best_peer']:.2f}×**" if best else "–"
        limit = _figure(found["limit"]) if found["limit"] else "–"
        share = f"{found['share_of_limit']:.0%}" if found["limit"] else "–"
        title = f"{TITLES[measure]}, {found['unit']}"
        yield f"| {title} | **{_figure(found['ours'])}** | {peer} | {ratio} | {limit} | {share} |"
    yield ""


def _section(measure: str, found: Mapping[str, Any]) -> Iterator[str]:
    details = found["details"]
    extra = [name for name in ("warm_up_s", "loss", "nats") if any(name in one for one in details.values())]
    heads = {"warm_up_s": "warm-up, s", "loss": "loss", "nats": "nats/token"}
    empty, titles = " |" * len(extra), "".join(f" {heads[name]} |" for name in extra)
    yield f"## {TITLES[measure]}"
    yield ""
    yield f"| | {found['unit']} | rounds | of conjure's | peak memory |{titles}"
    yield f"|---|--:|--:|--:|--:|{'--:|' * len(extra)}"
    for name, value in _ranking(found):
        if name not in details:
            yield f"| *limit: {name}* | *{_figure(value)}* | | {value / found['ours']:.2f} | |{empty}"
            continue
        one = details[name]
        rounds = f"{_figure(min(one['rounds']))} to {_figure(max(one['rounds']))}"
        facts = "".join(f" {_figure(one[e]) if e in one else ''} |" for e in extra)
        memory = f"{one['peak_bytes'] / 1e9:.2f} GB"
        yield f"| {name} | {_figure(value)} | {rounds} | {value / found['ours']:.2f} | {memory} |{facts}"
    yield ""
    if found.get("first_step_s"):
        yield f"`conjure finetune` ends its first step {found['first_step_s']:.1f} s after the command."
        yield ""
    if found.get("without"):
        yield from _gains(found)


def _ranking(found: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Everybody's figure, the best first, the limit among them."""
    headline = next(
        name for name in found["details"] if name not in found["peers"] and name not in found["variants"]
    )
    everybody = {headline: found["ours"], **found["variants"], **found["peers"]}
    if found["limit"]:
        everybody[found["limit_is"]] = found["limit"]
    return sorted(everybody.items(), key=lambda item: item[1], reverse=not found["lower_is_better"])


def _gains(found: Mapping[str, Any]) -> Iterator[str]:
    yield "What the gains are worth: conjure with one of them taken out, and plain torch in its place."
    yield ""
    yield "| without | tokens/s | slower by |"
    yield "|---|--:|--:|"
    for name, value in sorted(found["without"].items(), key=lambda item: item[1]):
        yield f"| {name} | {_figure(value)} | {found['ours'] / value - 1:+.0%} |"
    yield ""


def _machine(results: Mapping[str, Any]) -> Iterator[str]:
    machine, ceilings, settings = results["machine"], results["ceilings"], results["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    yield "## Machine"
    yield ""
    yield f"- {machine['processor']}, {_counted(machine['cores'], 'core')}; {', '.join(machine['features'])}"
    yield f"- GPU: {machine['gpu'] or 'none'}"
    gibibytes = machine["memory_bytes"] / 2**30
    yield f"- {gibibytes:.0f} GiB of memory; {machine['system']}; Python {machine['python']}"
    yield f"- conjure {machine['conjure']}; peers: {versions}"
    threads = _counted(settings["threads"], "thread")
    yield f"- Memory read at {ceilings['memory_bandwidth'] / 1e9:.1f} GB/s by {threads}"
    for measured, what in (("rate", "Products"), ("matrix", "Square matrix products through torch")):
        rates = ", ".join(
            f"{name} {ceilings[f'{measured}_{name}'] / 1e12:.2f}" for name in ("float32", "bfloat16", "int8")
        )
        yield f"- {what}, in 10¹² operations a second: {rates}"
    yield (
        f"- Load before the first measurement: {machine['load_average']:.2f}; text: {settings['data']},"
        f" vocabulary of {settings['vocabulary']:,} tokens; {settings['scored_records']:,} records scored"
    )


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Bars for every contender, a panel for every measure, the limit as a line."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    measures = [measure for measure in MEASURES if measure in results]
    heights = [len(_bars(results[measure])) + 1.2 for measure in measures]
    with mpl.rc_context({"svg.hashsalt": "conjure", "font.size": 8}):
        figure, panels = pyplot.subplots(
            len(measures),
            1,
            figsize=(8, 0.21 * sum(heights)),
            height_ratios=heights,
            squeeze=False,
            layout="constrained",
        )
        for panel, measure in zip(panels[:, 0], measures, strict=True):
            _panel(panel, measure, results[measure])
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _bars(found: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    def colour(name: str) -> str:
        return _PEER if name in found["peers"] else _VARIANT if name in found["variants"] else _OURS

    return [(name, value, colour(name)) for name, value in _ranking(found) if name != found["limit_is"]]


def _panel(panel: Any, measure: str, found: Mapping[str, Any]) -> None:
    bars = _bars(found)[::-1]
    names, values, colours = zip(*bars, strict=True)
    drawn = panel.barh(names, values, color=colours, height=0.75)
    panel.bar_label(drawn, [_figure(value) for value in values], padding=3)
    end = max(values)
    if found["limit"]:
        end = max(end, found["limit"])
        panel.axvline(found["limit"], color=_LIMIT, linestyle="--", linewidth=1)
    better = ", less is better" if found["lower_is_better"] else ""
    limit = f", physical limit {_figure(found['limit'])} (dashed)" if found["limit"] else ""
    panel.set_title(f"{TITLES[measure]}: {found['unit']}{better}{limit}", loc="left", fontsize=9)
    panel.set_xlim(0, 1.12 * end)
    panel.set_xticks([])
    for side in ("top", "right", "bottom"):
        panel.spines[side].set_visible(False)
