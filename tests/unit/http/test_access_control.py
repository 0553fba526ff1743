"""Who may ask: section by section of what browsers and strangers send, against a real server."""

import pytest
from starlette.routing import Route

from conjure.errors import UsageError
from conjure.http.access_control import AccessRules, check_access
from conjure.http.api_keys import ApiKeys, load_api_keys
from conjure.http.application import application
from conjure.http.errors import HttpError, JsonResponse
from support.http_servers import running

KEY = "0123456789abcdef-key"


async def _hello(request):
    return JsonResponse({"path": request.url.path})


_ROUTES = [Route("/health", _hello), Route("/v1/things", _hello, methods=["GET", "POST"])]


@pytest.fixture(scope="module")
def client():
    with running(application(_ROUTES, AccessRules(allowed_hosts=["models.example.org"]))) as client:
        yield client


@pytest.fixture(scope="module")
def keyed():
    rules = AccessRules(authenticated=ApiKeys([KEY, f"{KEY}-2"]).accept, open_paths=["/health"])
    with running(application(_ROUTES, rules)) as client:
        yield client


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "models.example.org"])
def test_own_names_are_served(client, name):
    assert client.get("/health", host=f"{name}:{client.port}").status == 200


def test_an_allowed_host_needs_no_port(client):
    assert client.get("/health", host="models.example.org").status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:{port}",
        "localhost",
        "127.0.0.1",
        "localhost:1",
        "localhost.:{port}",
        "localhost.evil:{port}",
        "user@localhost:{port}",
        "127.0.0.1:{port}@evil.example",
        "10.0.0.1:{port}",
        "[::ffff:127.0.0.1]:{port}",
        "",
    ],
)
def test_foreign_hosts_are_refused(client, host):
    answer = client.get("/health", host=host.format(port=client.port))
    assert answer.status == 403
    assert answer.error["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    ("address", "host"),
    [("::ffff:192.168.1.5", "192.168.1.5"), ("192.168.1.5", "192.168.1.5"), ("2001:db8::1", "[2001:db8::1]")],
)
def test_the_address_of_a_connection_is_an_own_name(address, host):
    scope = {"server": (address, 8000), "path": "/", "method": "GET", "headers": []}
    check_access({**scope, "headers": [(b"host", f"{host}:8000".encode())]}, AccessRules())
    with pytest.raises(HttpError, match="is not served here"):
        check_access({**scope, "headers": [(b"host", b"192.168.1.6:8000")]}, AccessRules())


def test_requests_without_a_host_with_two_or_for_another_address(client):
    own = f"Host: 127.0.0.1:{client.port}\r\n"
    missing = client.raw(b"GET /health HTTP/1.0\r\n\r\n")
    two = client.raw(f"GET /health HTTP/1.1\r\n{own}Host: evil\r\nConnection: close\r\n\r\n".encode())
    absolute = client.raw(f"GET http://evil/health HTTP/1.1\r\n{own}Connection: close\r\n\r\n".encode())
    assert missing.split()[1] == b"403"
    assert two.split()[1] == b"400"
    assert absolute.split()[1] == b"400"
    assert all(b'"error"' in answer for answer in (missing, two, absolute))


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost.evil:{port}", "http://localhost:1", "file://", "http://[",
     "http://localhost:{port}.evil", "http://evil@127.0.0.1:{port}", "http://127.0.0.1:{port}/"],
)  # fmt: skip
def test_other_sites_change_and_read_nothing(client, origin):
    headers = {"Origin": origin.format(port=client.port)}
    refused = client.post("/v1/things", {}, headers)
    assert (refused.status, refused.error["code"]) == (403, "cross_site")
    for method in ("GET", "POST", "OPTIONS"):
        answer = client.request(method, "/v1/things", headers=headers)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_the_own_origin_may(client):
    origin = {"Origin": f"http://127.0.0.1:{client.port}", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/v1/things", {}, origin).status == 200


def test_a_page_that_a_proxy_serves_by_https_may(client):
    origin = {"Origin": "https://models.example.org"}
    assert client.post("/v1/things", {}, origin, host="models.example.org").status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_browser_says_is_of_another_site_is_refused(client, site):
    assert client.post("/v1/things", {}, {"Sec-Fetch-Site": site}).status == 403


def test_a_link_on_another_site_opens_a_page_but_a_script_there_reads_nothing(client):
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    script = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/v1/things", link).status == 200
    assert client.get("/v1/things", script).status == 403


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "path",
    ["/v1/things", "/v1/things/", "//v1/things", "/v1%2fthings", "/v1/../v1/things", "/health/",
     "/health/../v1/things", "/health%2f", "/HEALTH", "/nothing"],
)  # fmt: skip
def test_only_health_is_open_without_a_key(keyed, method, path):
    assert keyed.request(method, path).status == 401


def test_a_key_opens(keyed):
    assert keyed.get("/health").status == 200
    for key in (KEY, f"{KEY}-2"):
        assert keyed.get("/v1/things", {"Authorization": f"Bearer {key}"}).status == 200


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY,
     f"Bearer {KEY} {KEY}", "Bearer caf\xe9"],
)  # fmt: skip
def test_anything_else_does_not(keyed, authorization):
    answer = keyed.get("/v1/things", {"Authorization": authorization})
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert KEY.encode() not in answer.content


def test_keys_are_read_from_a_file_or_a_variable(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(f"# mine\n{KEY}\n\n{KEY}-2\n")
    scope = {"headers": [(b"authorization", f"Bearer {KEY}".encode())]}
    assert load_api_keys(None) is None
    keys = load_api_keys(file)
    assert keys is not None
    assert keys.accept(scope)
    assert KEY not in repr(vars(keys))
    monkeypatch.setenv("CONJURE_API_KEY", KEY)
    from_variable = load_api_keys(None)
    assert from_variable is not None
    assert from_variable.accept(scope)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "contains no key"),
        ("short\n", "16 or more"),
        ("with a space in the key\n", "key 1"),
        (None, "cannot be read"),
    ],
)
def test_unusable_key_files_are_refused_without_showing_a_key(tmp_path, content, words):
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=words) as caught:
        load_api_keys(file)
    assert not content or content.strip() not in str(caught.value)
