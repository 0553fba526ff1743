"""Building HTML and SVG out of parts, so that no text can pass for markup.

Main entry: `element`. Invariant: whatever is not `Markup` is escaped, in content and in attributes.
"""

import html
import re
from collections.abc import Iterable

_VOID = frozenset({"meta", "br"})
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | None | Iterable["Child"]


def element(tag: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """An element with its content.

    Args:
        tag: Its name.
        *children: Texts, elements, lists of them; None is nothing.
        **attributes: Underscores become hyphens, one at the end goes (``class_``); None leaves one out.
    """
    pairs = "".join(
        f' {attribute.rstrip("_").replace("_", "-")}="{_text(_number(value))}"'
        for attribute, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{pairs}>")
    return Markup(f"<{tag}{pairs}>{join(children)}</{tag}>")


def join(children: Iterable[Child]) -> Markup:
    """Parts one after another."""
    return Markup("".join(map(_rendered, children)))


def _rendered(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str):
        return _text(child)
    return join(child)


def _text(text: str) -> str:
    """Escaped; control characters, which no page may hold, show as their pictures."""
    return html.escape(_CONTROL.sub(_picture, text.encode("utf-8", "replace").decode("utf-8")))


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    return "\u2421" if code == 0x7F else chr(0x2400 + code)


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
