"""Who sees the pages: every route behind one door."""

import pytest
from starlette.routing import Route

from conjure.web.app import _ROUTES
from support.web_homes import small_home
from support.web_sites import visiting

KEY = "0123456789abcdef-key"
PATHS = [
    route.path.replace("{number:run}", "1").replace("{path:path}", "scores.csv")
    for route in _ROUTES
    if isinstance(route, Route)
]


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    root = tmp_path_factory.mktemp("web") / "home"
    small_home(root)
    with visiting(root, keys=[KEY], logged_in=False) as visitor:
        yield visitor


@pytest.mark.parametrize("path", [*PATHS, "/nowhere", "//", "/runs/", "/%2e%2e/etc/passwd", "/static"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
def test_no_route_without_the_token(stranger, method, path):
    answer = stranger.request(method, path)
    assert answer.status == 401
    assert b"train.py" not in answer.content


def test_who_has_no_token_is_told_where_it_is(stranger):
    answer = stranger.get("/")
    assert "has the token" in answer.content.decode()
    assert "no-store" in answer.headers["Cache-Control"]


@pytest.mark.parametrize("token", ["", "x", "\u00e9", "a" * 9000])
def test_a_wrong_token_opens_nothing(stranger, token):
    assert stranger.get(f"/runs?token={token.encode().hex() if not token.isascii() else token}").status == 401


def test_the_token_is_exchanged_for_a_cookie_that_is_not_it(stranger):
    answer = stranger.get(f"/runs?q=a+b&token={stranger.session.token}")
    assert answer.status == 303
    assert answer.headers["Location"] == "/runs?q=a+b"
    cookie = answer.headers["Set-Cookie"]
    assert f"conjure_{stranger.port}=" in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert stranger.session.token not in cookie
    pair = cookie.partition(";")[0]
    assert stranger.get("/runs", {"Cookie": f"other=1; {pair}"}).status == 200
    assert stranger.get("/runs", {"Cookie": pair[:-1]}).status == 401


@pytest.mark.parametrize(
    "other",
    ["name=John Smith", 'prefs={"a":1}', "flag", "=", "", "a=b=c", 'quoted="a; b"', "\u00e9=\u00fc", "[x]=1"],
)
def test_cookies_of_other_programs_lock_nobody_out(stranger, other):
    answer = stranger.get(f"/?token={stranger.session.token}")
    pair = answer.headers["Set-Cookie"].partition(";")[0]
    for cookies in (f"{other}; {pair}", f"{pair}; {other}", f"{other};{pair};{other}"):
        assert stranger.get("/runs", {"Cookie": cookies.encode()}).status == 200
    assert stranger.get("/runs", {"Cookie": other.encode()}).status == 401


def test_a_page_of_another_site_leads_on_by_a_page_of_ours(stranger):
    """A browser leaves a strict cookie out of redirects that began elsewhere."""
    cross = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    answer = stranger.get(f"/runs?q=a+b&token={stranger.session.token}", cross)
    assert (answer.status, answer.headers["Refresh"]) == (200, "0; url=/runs?q=a+b")
    assert "SameSite=strict" in answer.headers["Set-Cookie"]
    assert stranger.session.token not in str(answer.headers)


def test_the_token_leads_to_no_other_host(stranger):
    answer = stranger.get(f"//evil.example/?token={stranger.session.token}")
    assert answer.headers["Location"] == "/evil.example/"


def test_a_key_opens_the_pages_too(stranger):
    assert stranger.get("/runs", {"Authorization": f"Bearer {KEY}"}).status == 200
    assert stranger.get("/runs", {"Authorization": "Bearer wrong"}).status == 401
    assert stranger.get(f"/runs?token={KEY}").status == 303


def test_styles_and_scripts_need_no_token(stranger):
    answer = stranger.get("/static/x/style.css")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/css")


@pytest.mark.parametrize(
    "path",
    [
        "/static/x/../app.py",
        "/static/x/%2e%2e/app.py",
        "/static/x/..%2fapp.py",
        "/static/x/..%5capp.py",
        "/static/x//etc/passwd",
        "/static/x/%00",
        "/static/x/",
        "/static/x/vendor",
    ],
)
def test_nothing_else_is_given_out_as_static(stranger, path):
    assert stranger.get(path).status in (401, 404)


class TestHeaders:
    def test_every_page_has_a_policy_without_inline(self, visitor):
        for path in ("/", "/runs", "/runs/1", "/nowhere"):
            headers = visitor.get(path).headers
            policy = headers["Content-Security-Policy"]
            assert "unsafe" not in policy
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["Cache-Control"] == "no-store"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert "Access-Control-Allow-Origin" not in headers

    def test_a_foreign_host_is_refused(self, visitor):
        assert visitor.get("/runs", host="evil.example").status == 403

    def test_another_site_is_refused(self, visitor):
        assert visitor.get("/runs.json", {"Sec-Fetch-Site": "cross-site"}).status == 403
        assert visitor.post("/actions", {}, {"Origin": "http://evil.example"}).status == 403
