"""The application behind `conjure web`: routes, who may see them, and errors as pages.

Main entry: `create_app`. Invariant: whatever the route, nobody passes who has neither cookie nor token; the
scripts and styles, which tell nothing, are the one exception.
"""

from collections.abc import Collection

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conjure.core.home_selection import with_home
from conjure.errors import ConjureError, NotFoundError
from conjure.http.access_control import AccessRules
from conjure.http.application import application
from conjure.http.errors import HttpError, error_response, to_http_error
from conjure.http.headers import with_missing
from conjure.web.actions import act
from conjure.web.rendering import assets, assets_version, page
from conjure.web.routes import compare, curves, files, lineage, log, overview, playground, run, runs, sweeps
from conjure.web.routes.playground import LazyPlayground
from conjure.web.session import Session
from conjure.web.site import Site

_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_KEPT_FOR_EVER = "public, max-age=31536000, immutable"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}
_ANSWERS = (".json", ".bin", ".csv", ".svg")


class _RunNumber(Convertor[int]):
    """The number of a run in an address: no more digits than a database takes."""

    regex = "[1-9][0-9]{0,17}"

    def convert(self, value: str) -> int:
        """The number."""
        return int(value)

    def to_string(self, value: int) -> str:
        """As it stands in an address."""
        return str(value)


register_url_convertor("run", _RunNumber())
_ROUTES = [
    Route("/", overview.show),
    Route("/overview.json", overview.live),
    Route("/runs", runs.table),
    Route("/runs.json", runs.changes),
    Route("/runs/{number:run}", run.show),
    Route("/runs/{number:run}/live.json", run.live),
    Route("/runs/{number:run}/code", run.code),
    Route("/runs/{number:run}/log", log.show),
    Route("/runs/{number:run}/log.json", log.window),
    Route("/runs/{number:run}/log/search.json", log.find),
    Route("/runs/{number:run}/log.txt", log.download),
    Route("/runs/{number:run}/curve.svg", curves.small),
    Route("/runs/{number:run}/files", files.browse),
    Route("/runs/{number:run}/files/{path:path}", files.browse),
    Route("/runs/{number:run}/raw/{path:path}", files.raw),
    Route("/runs/{number:run}/lineage", lineage.of_run),
    Route("/runs/{number:run}/report", files.report),
    Route("/runs/{number:run}/report/page", files.report_frame),
    Route("/compare", compare.show),
    Route("/sweeps", sweeps.table),
    Route("/sweeps/{number:run}", sweeps.show),
    Route("/sweeps/{number:run}/live.json", sweeps.live),
    Route("/lineage", lineage.of_home),
    Route("/curves.bin", curves.curves),
    Route("/metrics.csv", curves.as_csv),
    Route("/curves.svg", curves.as_svg),
    Route("/actions", act, methods=["POST"]),
    Route("/playground", playground.show),
    Route("/playground/generate", playground.generate, methods=["POST"]),
    Route("/playground/score", playground.score, methods=["POST"]),
]


def create_app(
    site: Site, session: Session, lazy_playground: LazyPlayground, *, allowed_hosts: Collection[str] = ()
) -> ASGIApp:
    """The application.

    Args:
        site: What the pages show.
        session: Who may see them.
        lazy_playground: Generates text, once somebody asks.
        allowed_hosts: Host names it answers to beside this machine's own.
    """
    inner = Starlette(
        routes=[*_ROUTES, Route("/static/{version}/{name:path}", _static)],
        exception_handlers={
            ConjureError: _error_page,
            HttpError: _error_page,
            HTTPException: _error_page,
            Exception: _error_page,
        },
    )
    inner.router.redirect_slashes = False  # a redirect would leave the checked path
    inner.state.site = site
    inner.state.playground = lazy_playground
    return application([Mount("", app=_Gate(inner, session))], AccessRules(allowed_hosts))


class _Gate:
    """Lets in who is known, exchanges the token for a cookie, and adds the policy that every page has."""

    def __init__(self, inner: Starlette, session: Session) -> None:
        self._inner, self._session = inner, session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        answer = self._session.login(scope)
        if answer is None and not scope["path"].startswith("/static/") and not self._session.is_known(scope):
            answer = _refusal(scope, self._inner)
        if answer is not None:
            await answer(scope, receive, _with_policy(send))
            return
        await self._inner(scope, receive, _with_policy(send))


def _with_policy(send: Send) -> Send:
    async def send_with_policy(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {
                **message,
                "headers": with_missing(message.get("headers", ()), [(b"content-security-policy", _POLICY)]),
            }
        await send(message)

    return send_with_policy


def _refusal(scope: Scope, app: Starlette) -> Response:
    words = "this page needs its token"
    hint = "open the address that `conjure web` printed in the terminal; it has the token"
    if scope["path"].endswith(_ANSWERS) or scope["method"] != "GET":
        return error_response(HttpError(401, f"{words}: {hint}", code="no_token"))
    request = Request({**scope, "app": app})
    fix = with_home("conjure web")
    return page(request, "error.html", status_code=401, words=words, hint=hint, fix=fix, nav=False)


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    path = assets().get(name)
    if path is None or path.suffix not in _TYPES:
        raise NotFoundError(f"there is no file {name!r}")
    current = request.path_params["version"] == assets_version()
    return FileResponse(
        path,
        media_type=_TYPES[path.suffix],
        headers={"Cache-Control": _KEPT_FOR_EVER if current else "no-store"},
    )


async def _error_page(request: Request, error: Exception) -> Response:
    told = to_http_error(error)
    words, hint = str(told), None
    if isinstance(error, HTTPException):
        words = {
            404: f"there is no page {request.url.path}",
            405: f"{request.method} is not allowed here",
        }.get(told.status, words)
    if isinstance(error, ConjureError):
        words, hint = str(error), error.hint
    if request.url.path.endswith(_ANSWERS) or request.method not in ("GET", "HEAD"):
        plain = HttpError(told.status, words, code=told.code, param=told.param, headers=told.headers)
        return error_response(plain)
    fix = with_home(getattr(error, "fix", None) or "") or None
    return page(request, "error.html", status_code=told.status, words=words, hint=hint, fix=fix, nav=True)
