"""The files of a run: listed, shown where that is safe, and given out.

Main entries: `browse`, `raw`. Invariant: only what lies in the run's own folder is given out, and nothing
that a run made is ever a page of ours: pictures are sent as pictures, all else as files to be saved. Of a run
on another machine a file is fetched when it is asked for, and no other.
"""

import codecs
import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.types import Message, Receive, Scope, Send

from conjure.core.files import open_regular
from conjure.core.home import Home
from conjure.core.home_selection import with_home
from conjure.core.text import valid_utf8
from conjure.errors import ConjureError, NotFoundError
from conjure.recipes.report import REPORT_FILE
from conjure.runs.artifacts.listing import Listed, list_contents
from conjure.runs.artifacts.resource_paths import resolve
from conjure.runs.artifacts.team_transfer import bring_manifest
from conjure.runs.schema.run_folder import RunFolder
from conjure.web.rendering import page
from conjure.web.site import Site

REPORT_PAGE = "report.html"
_PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}
_TABLES = {".csv": ",", ".tsv": "\t"}
_PREVIEW_BYTES = 1 << 17
_PREVIEW_ROWS = 200
_SANDBOXED = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"


@dataclass(frozen=True, slots=True)
class Preview:
    """What is shown of a file.

    Attributes:
        kind: ``text``, ``table``, ``picture`` or ``none``.
        text: Its beginning, as text.
        rows: Its first rows, as a table.
        cut: Whether there is more.
    """

    kind: str
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    cut: bool = False


def browse(request: Request) -> Response:
    """A folder's list, or a file with what can be shown of it."""
    site, number, path = _asked(request)
    with site.store() as store:
        record = store.get(number)
        try:
            is_folder, listed = list_contents(site.home, store, _resource(number, path))
        except NotFoundError as error:
            if path:
                raise
            return page(
                request,
                "files.html",
                record=record,
                path_parts=[],
                entries=None,
                preview=None,
                name="",
                why=str(error),
                fix=with_home(error.fix or "") or None,
            )
        place = None if is_folder else resolve(site.home, _resource(number, path), store.lookup_link)
    parts = path.split("/") if path else []
    crumbs = [(valid_utf8(part), "/".join(parts[: index + 1])) for index, part in enumerate(parts)]
    return page(
        request,
        "files.html",
        record=record,
        path_parts=crumbs,
        entries=[_entry(path, each) for each in _folders_first(listed)] if place is None else None,
        preview=None if place is None else preview(place),
        name=path,
        size=None if place is None else place.stat().st_size,
    )


def raw(request: Request) -> Response:
    """A file's content."""
    site, number, path = _asked(request)
    place = _file(site, number, path)
    picture = _PICTURES.get(place.suffix.lower())
    if picture is not None:
        return _FixedSizeFile(place, media_type=picture, headers={"Content-Security-Policy": _SANDBOXED})
    return _FixedSizeFile(
        place,
        media_type="application/octet-stream",
        filename=valid_utf8(place.name),
        headers={"Content-Security-Policy": _SANDBOXED},
    )


class _FixedSizeFile(FileResponse):
    """A file of the size that it has when it is asked for: a run may go on writing to it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send no more of it than its Content-Length says."""
        left, ended = 0, False

        async def send_announced(message: Message) -> None:
            nonlocal left, ended
            if message["type"] == "http.response.start":
                left = int(Headers(raw=message["headers"])["content-length"])
            elif not ended:
                body = message.get("body", b"")[:left]
                left -= len(body)
                ended = left == 0 or not message.get("more_body", False)
                message = {**message, "body": body, "more_body": not ended}
            else:
                return
            await send(message)

        await super().__call__(scope, receive, send_announced)


def report(request: Request) -> Response:
    """The page that holds a fine-tune's report in a frame."""
    site, number = request.app.state.site, request.path_params["number"]
    with site.store() as store:
        record = store.get(number)
    _file(site, number, REPORT_PAGE)
    return page(request, "report.html", record=record, has_data=saved_file(site.home, number, REPORT_FILE))


def report_frame(request: Request) -> Response:
    """The report itself: without scripts, and in an origin of its own."""
    site, number = request.app.state.site, request.path_params["number"]
    with open_regular(_file(site, number, REPORT_PAGE)) as file:
        text = file.read().decode("utf-8", errors="replace")
    return HTMLResponse(text, headers={"Content-Security-Policy": _SANDBOXED})


def saved_file(home: Home, number: int, path: str) -> bool:
    """Whether a run saved such a file; of one on another machine, only the list of its files is fetched."""
    try:
        manifest = bring_manifest(home, number)
    except ConjureError:
        return False  # what cannot be reached now is not offered
    if manifest is None:
        return (RunFolder.of(home, number).outputs / path).is_file()
    return any(entry.path == path and entry.target is None for entry in manifest.entries)


def preview(path: Path) -> Preview:
    """What can be shown of a file without running any of it."""
    suffix = path.suffix.lower()
    if suffix in _PICTURES:
        return Preview("picture")
    try:
        with open_regular(path) as file:
            head = file.read(_PREVIEW_BYTES)
            cut = bool(file.read(1))
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except (OSError, UnicodeDecodeError):
        return Preview("none")
    if "\0" in text:
        return Preview("none")
    if suffix in _TABLES:
        rows = _rows(text, _TABLES[suffix])
        if rows:
            return Preview("table", rows=rows[:_PREVIEW_ROWS], cut=cut or len(rows) > _PREVIEW_ROWS)
    return Preview("text", text, cut=cut)


def _rows(text: str, delimiter: str) -> tuple[tuple[str, ...], ...] | None:
    """The rows that have anything in them; None where it is no table."""
    try:
        return tuple(tuple(row) for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row)
    except csv.Error:
        return None


def _asked(request: Request) -> tuple[Site, int, str]:
    """The site, the run, and the path as it was typed: names that are not UTF-8 survive."""
    number = request.path_params["number"]
    given = request.scope.get("raw_path", b"").partition(b"?")[0]
    _, _, rest = given.partition(f"/runs/{number}/".encode())
    path = os.fsdecode(unquote_to_bytes(rest.partition(b"/")[2]))
    return request.app.state.site, number, path.strip("/")


def _resource(number: int, path: str) -> str:
    return f"runs/{number}/{path}" if path else f"runs/{number}"


def _file(site: Site, number: int, path: str) -> Path:
    with site.store() as store:
        store.facts(number)
        place = resolve(site.home, _resource(number, path), store.lookup_link)
    if not place.is_file():
        raise NotFoundError(f"{_resource(number, path)} is not a file")
    return place


def _folders_first(listed: list[Listed]) -> list[Listed]:
    return sorted(listed, key=lambda each: (each.kind != "folder", each.name))


def _entry(path: str, listed: Listed) -> tuple[Listed, str]:
    return listed, f"{path}/{listed.name}" if path else listed.name
