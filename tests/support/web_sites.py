"""The pages of a home on a real server, and a client that is logged in."""

import json
import struct
from contextlib import ExitStack, contextmanager

from conjure.core.home import Home
from conjure.http.api_keys import ApiKeys
from conjure.http.server import Shutdown, listen
from conjure.web.app import create_app
from conjure.web.routes.playground import LazyPlayground
from conjure.web.session import Session
from conjure.web.site import Site
from support.http_servers import Client, running


class Visitor(Client):
    """Sends the cookie that the token was exchanged for; `leaving` is called before its server ends."""

    cookie = ""

    def __init__(self, port, session):
        super().__init__(port)
        self.session = session
        self.leaving = ExitStack()

    def log_in(self):
        answer = self.get(f"/?token={self.session.token}")
        assert answer.status == 303
        self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return self

    def request(self, method, path, body=None, headers=None, *, host=None):
        with_cookie = {"Cookie": self.cookie} if self.cookie else {}
        return super().request(method, path, body, {**with_cookie, **(headers or {})}, host=host)

    def page(self, path):
        """A page's text; it must be one."""
        answer = self.get(path)
        assert answer.status == 200, answer.content
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        return answer.content.decode()

    def curves(self, query):
        """What is drawn of some runs; all must be ready."""
        answer = self.get(f"/curves.bin?{query}")
        assert answer.status == 200, answer.content
        drawn, waiting = unpack_curves(answer.content)
        assert waiting == []
        return drawn


def unpack_curves(data):
    """Of each run its curve as the page gets it; and the runs that are to be asked for again."""
    length = int.from_bytes(data[:4], "little")
    told, at = json.loads(data[4 : 4 + length]), 4 + length
    drawn = {}
    for curve in told["runs"]:
        drawn[curve.pop("run")] = curve
        count, is_smooth = curve.pop("drawn"), curve.pop("smooth")
        for name, length in (("x", count), ("y", count), ("smooth", count * is_smooth)):
            curve[name] = struct.unpack_from(f"<{length}d", data, at)
            at += 8 * length
    assert at == len(data)
    return drawn, told["waiting"]


@contextmanager
def visiting(root, *, allow_actions=False, keys=None, logged_in=True):
    """A visitor of the pages of the home in `root`."""
    bound = listen("127.0.0.1", 0, has_key=False)
    session = Session(bound.getsockname()[1], None if keys is None else ApiKeys(keys))
    playground = LazyPlayground()
    app = create_app(Site(Home(root), allow_actions=allow_actions), session, playground)
    try:
        with running(app, Shutdown(playground.drain, playground.abort), bound=bound) as client:
            visitor = Visitor(client.port, session)
            with visitor.leaving:
                yield visitor.log_in() if logged_in else visitor
    finally:
        playground.end()
