"""Pages and pieces of pages from templates.

Main entries: `page`, `piece`. Invariant: whatever comes from a run is escaped; control characters, which no
page may hold, show as their pictures.
"""

import hashlib
import os
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from conjure.core.text import plural, to_iso, valid_utf8
from conjure.core.times import age, local_time
from conjure.core.units import format_duration, format_number, format_size
from conjure.web.site import Site

_STATIC = Path(str(files("conjure.web") / "static"))
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")


def page(request: Request, template: str, *, status_code: int = 200, **values: Any) -> HTMLResponse:
    """A whole page."""
    site: Site = request.app.state.site
    text = render(
        template,
        static=f"/static/{assets_version()}",
        allow_actions=site.allow_actions,
        path=request.url.path,
        home=site.home.root,
        **values,
    )
    return HTMLResponse(text, status_code)


def render(template: str, **values: Any) -> str:
    """A template filled in."""
    return _environment().get_template(template).render(**values)


def piece(template: str, macro: str, *arguments: Any) -> str:
    """A piece of a page: what a macro of a template makes."""
    return str(getattr(_environment().get_template(template).module, macro)(*arguments))


@cache
def assets() -> dict[str, Path]:
    """The scripts and styles there are, by name."""
    found = sorted(path for path in _STATIC.rglob("*") if path.is_file())
    return {str(path.relative_to(_STATIC)): path for path in found}


@cache
def assets_version() -> str:
    """A name for what scripts and styles hold now, so that browsers may keep them for ever."""
    digest = hashlib.sha256()
    for name, path in assets().items():
        digest.update(name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def shown(text: object) -> str:
    """Text as a page may hold it."""
    return _CONTROL.sub(_picture, valid_utf8(str(text)).encode("utf-8", "replace").decode())


def without_escapes(text: str) -> str:
    """Terminal output as plain text: colours and cursor moves are left out, of a bar the last state stays."""
    return shown(_ESCAPE_SEQUENCE.sub("", text.rstrip("\r").rpartition("\r")[2]))


def address(path: str) -> str:
    """A path as part of an address; names that are not UTF-8 survive."""
    return quote(os.fsencode(path), safe="/")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("conjure.web"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,  # a table has hundreds of pieces, each of which would look at its file
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {
        "address": address,
        "age": age,
        "duration": format_duration,
        "iso": to_iso,
        "moment": local_time,
        "number": format_number,
        "plain": without_escapes,
        "plural": plural,
        "size": format_size,
    }
    return environment


def _finalize(value: object) -> object:
    return value if isinstance(value, Markup) or not isinstance(value, str) else shown(value)


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    return "\u2421" if code == 0x7F else chr(0x2400 + code)
