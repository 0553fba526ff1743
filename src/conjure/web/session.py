"""The token of the page's address, and the cookie that takes its place.

Main entry: `Session`. Invariant: no route is reached without the token, the cookie it is exchanged for, or an
API key; the cookie is not the token, and a page's address has the token only until it is exchanged.
"""

import hmac
import secrets
from urllib.parse import parse_qsl, urlencode

from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from conjure.http.api_keys import ApiKeys
from conjure.http.headers import header_values

_TOKEN = "token"  # noqa: S105 - the name of the parameter


class Session:
    """Who may see the pages of one server.

    Attributes:
        token: What the address that is printed has.

    Args:
        port: The server's; cookies are shared by all servers of a host name, so the cookie's name has it.
        keys: API keys that open the pages as well.
    """

    def __init__(self, port: int, keys: ApiKeys | None = None) -> None:
        self.token = secrets.token_urlsafe(24)
        self._cookie_name = f"conjure_{port}"
        self._cookie = secrets.token_urlsafe(32)
        self._keys = keys

    def is_known(self, scope: Scope) -> bool:
        """Whether a request has the cookie, or a key in its header."""
        if self._keys is not None and self._keys.accept(scope):
            return True
        found = [each for header in header_values(scope, b"cookie") for each in self._cookies_in(header)]
        return any(hmac.compare_digest(each.encode(), self._cookie.encode()) for each in found)

    def login(self, scope: Scope) -> Response | None:
        """For a request with the token or a key in its address: the address without it, and the cookie."""
        if scope["method"] not in ("GET", "HEAD"):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == _TOKEN]
        if len(given) != 1 or not self._opens(given[0]):
            return None
        rest = urlencode([pair for pair in query if pair[0] != _TOKEN])
        path = scope["raw_path"].decode("latin-1") if "raw_path" in scope else scope["path"]
        path = f"/{path.lstrip('/')}"  # two slashes would be another host
        answer = _leading_to(f"{path}?{rest}" if rest else path, scope)
        answer.set_cookie(self._cookie_name, self._cookie, httponly=True, samesite="strict", path="/")
        return answer

    def _opens(self, given: str) -> bool:
        is_token = hmac.compare_digest(given.encode(), self.token.encode())
        as_header = {"headers": [(b"authorization", f"Bearer {given}".encode("utf-8", "replace"))]}
        return is_token or (self._keys is not None and self._keys.accept(as_header))

    def _cookies_in(self, header: str) -> list[str]:
        """Our cookie's values in a header, whatever else other programs of this host have put there."""
        pairs = [each.partition("=") for each in header.split(";")]
        return [value.strip() for name, _, value in pairs if name.strip() == self._cookie_name]


def _leading_to(address: str, scope: Scope) -> Response:
    """Sends the browser on to an address of ours.

    A redirect still counts as sent by the page that it began on, such as the file that `conjure web` opens,
    and goes without a strict cookie: then a page of our own sends the browser on.
    """
    if header_values(scope, b"sec-fetch-site") == ["cross-site"]:
        return Response(headers={"Refresh": f"0; url={address}"}, media_type="text/html")
    return RedirectResponse(address, 303)
