"""The graph of what came from what, as a picture with links.

Main entry: `draw`. Layers by the longest way from a source, each ordered by the middle of its neighbours, so
that few lines cross. Invariant: every line leads from left to right.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from conjure.runs.inspect.lineage import Edge, RelationKind

WIDTH, HEIGHT = 208, 46
_GAP_X, _GAP_Y, _MARGIN = 72, 20, 8
_SWEEPS = 4


@dataclass(frozen=True, slots=True)
class Box:
    """One thing: its name, and where its box begins."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Line:
    """One use of one thing by another: an SVG path, how, and what is used as what."""

    path: str
    tie: RelationKind
    label: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """The picture."""

    width: float
    height: float
    boxes: Sequence[Box]
    lines: Sequence[Line]


def draw(edges: Iterable[Edge], also: Iterable[str] = ()) -> Drawing:
    """Lay out a graph.

    Args:
        edges: Uses; a thing never comes from itself.
        also: Things that are shown though nothing joins them.
    """
    joined = {(edge.source, edge.target, edge.tie): edge for edge in edges if edge.source != edge.target}
    names = dict.fromkeys([*also, *(name for edge in joined.values() for name in (edge.source, edge.target))])
    pairs = [(source, target) for source, target, _ in joined]
    layers = _ordered(_layers(names, pairs), pairs)
    tallest = max((len(layer) for layer in layers), default=1)
    boxes: dict[str, Box] = {}
    for column, layer in enumerate(layers):
        top = _MARGIN + (tallest - len(layer)) * (HEIGHT + _GAP_Y) / 2
        for row, name in enumerate(layer):
            boxes[name] = Box(name, _MARGIN + column * (WIDTH + _GAP_X), top + row * (HEIGHT + _GAP_Y))
    return Drawing(
        width=2 * _MARGIN + len(layers) * (WIDTH + _GAP_X) - _GAP_X * bool(layers),
        height=2 * _MARGIN + tallest * (HEIGHT + _GAP_Y) - _GAP_Y,
        boxes=list(boxes.values()),
        lines=[_line(boxes[edge.source], boxes[edge.target], edge) for edge in joined.values()],
    )


def _line(source: Box, target: Box, edge: Edge) -> Line:
    x1, y1 = source.x + WIDTH, source.y + HEIGHT / 2
    x2, y2 = target.x, target.y + HEIGHT / 2
    bend = max((x2 - x1) / 2, _GAP_X / 2)
    path = f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    labels = {
        RelationKind.MOUNT: f"{edge.resource} as {edge.place}",
        RelationKind.RERUN: "repeated by",
        RelationKind.STARTED: "started",
    }
    return Line(path, edge.tie, labels[edge.tie])


def _layers(names: Iterable[str], pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Things by their longest way from a source."""
    sources: dict[str, list[str]] = {name: [] for name in names}
    for source, target in pairs:
        sources[target].append(source)
    depth: dict[str, int] = {}
    for name in sources:
        _set_depth(name, sources, depth)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name in sources:
        layers[depth[name]].append(name)
    return layers


def _set_depth(name: str, sources: Mapping[str, Sequence[str]], depth: dict[str, int]) -> None:
    """Without recursion, for a chain of reruns may be long; one met again is not waited for."""
    waiting, open_ = [name], set()
    while waiting:
        current = waiting[-1]
        missing = [each for each in sources[current] if each not in depth and each not in open_]
        if missing and current not in depth:
            open_.add(current)
            waiting += missing
            continue
        depth.setdefault(current, 1 + max((depth.get(each, -1) for each in sources[current]), default=-1))
        waiting.pop()


def _ordered(layers: list[list[str]], pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    neighbours: dict[str, list[str]] = {}
    for source, target in pairs:
        neighbours.setdefault(source, []).append(target)
        neighbours.setdefault(target, []).append(source)
    place = {name: height for layer in layers for name, height in _heights(layer)}
    for sweep in range(_SWEEPS):
        order = layers if sweep % 2 == 0 else layers[::-1]
        for layer in order:
            middles = {name: fmean(place[each] for each in neighbours.get(name, [name])) for name in layer}
            layer.sort(key=middles.__getitem__)
            place.update(_heights(layer))
    return layers


def _heights(layer: Sequence[str]) -> Iterator[tuple[str, float]]:
    """The names of a layer, each with how far down it stands, from 0 to 1."""
    for row, name in enumerate(layer):
        yield name, row / max(len(layer) - 1, 1)
