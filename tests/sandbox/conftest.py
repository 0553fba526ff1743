"""What tests of sandboxed runs share: a user's home made for the test, with the project in it."""

import pytest


@pytest.fixture(autouse=True)
def user_home(tmp_path, monkeypatch):
    """A user's home with something private in it."""
    folder = tmp_path / "user"
    (folder / ".ssh").mkdir(parents=True)
    (folder / ".ssh" / "id_test").write_text("private key\n")
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def folder(user_home, monkeypatch):
    """The current folder: a project in the user's home."""
    folder = user_home / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def printed(client):
    """Runs a command in the sandbox to its end, and gives what it printed."""

    def _printed(command, **options):
        run = client.run(command, sandbox=True, **options).wait()
        return "\n".join(run.logs())

    return _printed
