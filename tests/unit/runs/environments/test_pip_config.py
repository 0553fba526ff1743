"""pip's settings, told to uv."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conjure.runs.environments import pip_config
from conjure.runs.environments.pip_config import (
    UvSettings,
    parse_config_list,
    pip_variables,
    settings_digest,
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


def test_formats_of_packages(tmp_path: Path) -> None:
    python = _with_pip(tmp_path, "global.only-binary=':all:'\nglobal.no-binary='numpy,torch'\n")
    settings = uv_settings(python, {"PATH": "/usr/bin:/bin"})
    of_source = ("--no-binary", "numpy", "--no-binary", "torch")
    assert settings.install_options == ("--only-binary", ":all:", *of_source)
    settings = uv_settings(python, {"PATH": "/usr/bin:/bin", "UV_NO_BUILD_PACKAGE": "numpy"})
    assert settings.install_options == of_source


class TestDigest:
    @pytest.fixture
    def digest(self, home, tmp_path: Path) -> Callable[..., str | None]:
        """The digest of settings that are given in variables alone."""
        home.create()
        nothing = {"PATH": "", "HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
        python, prefix = Path(sys.executable), Path(sys.prefix)
        return lambda **given: settings_digest(home, python, prefix, {**nothing, **given})

    def test_what_says_nothing_of_packages_is_left_out(self, digest) -> None:
        assert digest() is None
        assert digest(PIP_TIMEOUT="7", PIP_CERT="/x", UV_CACHE_DIR="/y", PIP_NO_INPUT="1") is None

    def test_what_decides_about_packages_counts(self, digest, tmp_path: Path) -> None:
        (tmp_path / "c.txt").write_text("herb==1.0")
        given = [
            {"PIP_PRE": "1"},
            {"PIP_INDEX_URL": "https://host/a"},
            {"PIP_INDEX_URL": "https://host/b"},
            {"PIP_ONLY_BINARY": ":all:"},
            {"UV_EXCLUDE_NEWER": "2026-01-01"},
            {"PIP_CONSTRAINT": str(tmp_path / "c.txt")},
            {"UV_CONSTRAINT": "https://host/c.txt"},
        ]
        assert len({digest(**each) for each in given} - {None}) == len(given)

    def test_credentials_do_not(self, digest) -> None:
        digests = {digest(PIP_INDEX_URL=f"https://{user}host/a") for user in ("", "u:p@", "u:other@")}
        assert len(digests) == 1

    def test_constraints_count_by_their_content(self, digest, tmp_path: Path) -> None:
        found = []
        for name, text in (("a.txt", "x==1"), ("b.txt", "x==1"), ("b.txt", "x==2")):
            (tmp_path / name).write_text(text)
            found.append(digest(PIP_CONSTRAINT=str(tmp_path / name)))
        assert found[0] == found[1] != found[2]

    def test_pip_is_asked_again_only_when_something_changed(
        self, digest, tmp_path: Path, monkeypatch
    ) -> None:
        asked, read = [], pip_config._read_options
        monkeypatch.setattr(pip_config, "_read_options", lambda *given: asked.append(1) or read(*given))
        config, found = tmp_path / "own.conf", []
        for text in ("", "[global]\npre = true\n"):
            config.write_text(text)
            found += [digest(PIP_CONFIG_FILE=str(config)) for _ in range(2)]
        assert (len(asked), len(set(found))) == (2, 2)


def test_real_pip_is_asked_whatever_modules_are_in_the_current_folder(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "pip.conf").write_text("[install]\nfind-links =\n    /a\n    /b\n[global]\ntimeout = 7\n")
    variables = {"PATH": "", "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PIP_NO_INDEX": "true"}
    for name in ("pip", "logging", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("import os\nos._exit(0)\n")
    monkeypatch.chdir(tmp_path)
    variables["PYTHONPATH"] = "."
    settings = uv_settings(Path(sys.executable), variables)
    assert (settings.variables["UV_FIND_LINKS"], settings.variables["UV_HTTP_TIMEOUT"]) == ("/a,/b", "7")
    assert settings.install_options == ("--no-index",)


def test_no_pip_of_a_relative_folder_is_asked(tmp_path: Path, monkeypatch) -> None:
    python = _with_pip(tmp_path, "")
    python.write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pip").write_text("#!/bin/sh\n: > asked\n")
    (tmp_path / "pip").chmod(0o755)
    assert "UV_DEFAULT_INDEX" in uv_settings(python, {"PATH": ".", "PIP_INDEX_URL": "https://x"}).variables
    assert not (tmp_path / "asked").exists()


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
