"""pip's settings, told to uv."""

import sys
from pathlib import Path

from conjure.runs.environments.pip_config import (
    UvSettings,
    parse_config_list,
    pip_variables,
    uv_settings,
)

_LISTING = """\
:env:.find-links='/from/env'
:env:.cert='/certificates.pem'
global.cert='/other.pem'
global.extra-index-url='https://a/simple\\nhttps://b/simple'
global.find-links='/from/file'
global.index-url='https://mirror/simple'
global.timeout='30'
global.trusted-host='a b:8080'
install.constraint='/constraints.txt'
install.no-index='yes'
download.pre='true'
freeze.timeout='10'
nonsense
"""


def test_the_value_that_counts() -> None:
    options = parse_config_list(_LISTING)
    assert options == {
        "cert": "/certificates.pem",
        "constraint": "/constraints.txt",
        "extra-index-url": "https://a/simple\nhttps://b/simple",
        "find-links": "/from/env",
        "index-url": "https://mirror/simple",
        "no-index": "yes",
        "timeout": "30",
        "trusted-host": "a b:8080",
    }


def _with_pip(tmp_path: Path, listing: str) -> Path:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n[ \"$*\" = '-m pip config list' ] && cat <<'END'\n{listing}END\n")
    python.chmod(0o755)
    return python


def test_translation(tmp_path: Path) -> None:
    variables = {
        "SSL_CERT_FILE": "/certificates.pem",
        "UV_CONSTRAINT": "/constraints.txt",
        "UV_DEFAULT_INDEX": "https://mirror/simple",
        "UV_FIND_LINKS": "/from/env",
        "UV_HTTP_TIMEOUT": "30",
        "UV_INDEX": "https://a/simple https://b/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_INSECURE_HOST": "a b:8080",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "1",
    }
    found = uv_settings(_with_pip(tmp_path, _LISTING), {"PATH": "/usr/bin:/bin"})
    assert found == UvSettings(variables, ("--no-index",))


def test_lists_and_what_is_set_for_uv_itself(tmp_path: Path) -> None:
    python = _with_pip(tmp_path, "global.find-links='/a /b'\nglobal.pre='1'\nglobal.retries='2'\n")
    settings = uv_settings(python, {"PATH": "/usr/bin:/bin", "UV_PRERELEASE": "disallow"})
    found = settings.variables
    assert (found["UV_FIND_LINKS"], found["UV_PRERELEASE"], found["UV_HTTP_RETRIES"]) == (
        "/a,/b",
        "disallow",
        "2",
    )
    assert settings.install_options == ()


def test_real_pip_is_asked(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("[install]\nfind-links =\n    /a\n    /b\n[global]\ntimeout = 7\n")
    variables = {"PATH": "", "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PIP_NO_INDEX": "true"}
    settings = uv_settings(Path(sys.executable), variables)
    assert (settings.variables["UV_FIND_LINKS"], settings.variables["UV_HTTP_TIMEOUT"]) == ("/a,/b", "7")
    assert settings.install_options == ("--no-index",)


def test_no_pip_anywhere_leaves_the_variables(tmp_path: Path, monkeypatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    variables = {"PATH": str(tmp_path), "PIP_INDEX_URL": "https://x/simple", "PIP_NO_INDEX": ""}
    settings = uv_settings(python, variables)
    assert settings.variables["UV_DEFAULT_INDEX"] == "https://x/simple"
    assert settings.install_options == ()


def test_what_another_pip_is_told_is_where_packages_come_from(tmp_path: Path) -> None:
    listing = _LISTING + "global.user='yes'\nglobal.target='/elsewhere'\n"
    python = _with_pip(tmp_path, listing)
    found = pip_variables(python, {"PATH": "/usr/bin:/bin"}, lambda word: word.replace("/from", "/mounted"))
    assert found == {
        "PIP_CERT": "/certificates.pem",
        "PIP_CONSTRAINT": "/constraints.txt",
        "PIP_EXTRA_INDEX_URL": "https://a/simple https://b/simple",
        "PIP_FIND_LINKS": "/mounted/env",
        "PIP_INDEX_URL": "https://mirror/simple",
        "PIP_NO_INDEX": "yes",
        "PIP_TIMEOUT": "30",
        "PIP_TRUSTED_HOST": "a b:8080",
    }
