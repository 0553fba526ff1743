import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from conjure.errors import CheckpointError, NotFoundError, UsageError
from conjure.lm.checkpoints.describe import describe
from conjure.lm.checkpoints.model_resolver import ModelSource, models_here, resolve_model
from support.models import tiny_checkpoint


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the model ``mine`` in it."""
    monkeypatch.chdir(tmp_path)
    return tiny_checkpoint(tmp_path / "mine").parent


class TestFolders:
    @pytest.mark.parametrize("name", ["mine", "./mine", "mine/", "{}/mine", "../{name}/mine"])
    def test_every_way_to_name_one(self, here: Path, name: str) -> None:
        source = resolve_model(name.format(here, name=here.name))
        assert source.kind == "folder"
        assert source.folder.resolve() == here / "mine"

    def test_home(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(here))
        assert resolve_model("~/mine").folder == here / "mine"

    def test_a_path_object(self, here: Path) -> None:
        assert str(resolve_model(here / "mine")) == f"{here / 'mine'} (folder)"

    def test_a_link_to_a_folder(self, here: Path) -> None:
        (here / "latest").symlink_to("mine")
        assert resolve_model("latest").folder == Path("latest")

    @pytest.mark.parametrize(
        ("name", "error", "message"),
        [
            ("", UsageError, "the model's name is empty"),
            ("  ", UsageError, "the model's name is empty"),
            ("./none", NotFoundError, "model folder ./none does not exist"),
            ("/no/such", NotFoundError, "model folder /no/such does not exist"),
            ("none.gguf", NotFoundError, "model file none.gguf does not exist"),
            ("a/b/c", NotFoundError, "model folder a/b/c does not exist"),
            ("mine/config.json", UsageError, "is a file, and not a GGUF file; a model is that or a folder"),
            ("no spaces", UsageError, "'no spaces' is neither a folder nor a model's name"),
            ("a--b", UsageError, "'a--b' is neither"),
            ("x@", UsageError, "'x@' is neither"),
            ("@main", UsageError, "'@main' is neither"),
            ("x@../../etc", UsageError, "'x@../../etc' is neither"),
            ("a" * 5000, UsageError, "is neither"),
            ("a/" * 5000, NotFoundError, "does not exist"),
            ("~nobody-of-this-name/x", NotFoundError, "does not exist"),
            ("a\0b", UsageError, "is neither"),
        ],
    )
    @pytest.mark.usefixtures("here")
    def test_refusals(self, name: str, error: type[Exception], message: str) -> None:
        with pytest.raises(error) as caught:
            resolve_model(name)
        assert message in str(caught.value)


class TestAdapters:
    @pytest.fixture
    def adapter(self, here: Path) -> Path:
        (here / "tuned").mkdir()
        (here / "tuned" / "adapter_model.safetensors").write_bytes(b"")
        (here / "tuned" / "adapter_config.json").write_text('{"base_model_name_or_path": "my base"}')
        return here / "tuned"

    @pytest.mark.parametrize("name", ["tuned", "./tuned", "tuned/"])
    @pytest.mark.usefixtures("adapter")
    def test_one_is_no_model_and_names_its_own(self, name: str) -> None:
        with pytest.raises(UsageError) as caught:
            resolve_model(name)
        assert str(caught.value) == f"{name} is an adapter, not a model"
        _, fix, _ = caught.value.with_option_names(lambda option, values: f"--{option} {values[0]!r}")
        assert fix == f"--model 'my base' --adapter '{name}'"

    def test_one_that_names_none(self, adapter: Path) -> None:
        (adapter / "adapter_config.json").write_text("{}")
        with pytest.raises(UsageError) as caught:
            resolve_model("tuned")
        assert (caught.value.fix, caught.value.hint) == (None, "give its base model and adapter='tuned'")

    def test_a_model_with_an_adapter_beside_it_is_one(self, here: Path) -> None:
        (here / "mine" / "adapter_config.json").write_text("{}")
        assert resolve_model("mine").folder == Path("mine")


class TestLookups:
    def test_are_asked_first_and_in_turn(self, here: Path) -> None:
        asked: list[str] = []

        def stranger(name: str) -> Path | None:
            asked.append(name)
            return None

        source = resolve_model("mine", lookups=[stranger, lambda _: here / "mine" / "output"])
        assert source == ModelSource("mine", here / "mine" / "output", "resource")
        assert asked == ["mine"]

    def test_may_refuse(self) -> None:
        def runs(name: str) -> Path | None:
            raise NotFoundError(f"run {name} does not exist; the latest is 2")

        with pytest.raises(NotFoundError, match="the latest is 2"):
            resolve_model("runs/9", lookups=[runs])


class TestEmbedded:
    def test_comes_with_the_package_whatever_folder_is_near(self, here: Path) -> None:
        tiny_checkpoint(here / "sprite")
        source = resolve_model("sprite")
        assert source.kind == "embedded"
        assert source.folder.parent.parent.name == "conjure"
        assert resolve_model("./sprite").folder == Path("sprite")

    def test_is_a_small_gpt2_with_its_tokenizer(self) -> None:
        model = describe(resolve_model("sprite"))
        assert (model.problem, model.has_tokenizer, model.dtype) == (None, True, "bfloat16")
        assert model.size_bytes <= 22e6
        assert "sprite" in [source.name for source in models_here()]


class TestDownloads:
    """What `huggingface_hub` raises; `tests/integration/test_hub.py` has what a hub answers."""

    @pytest.fixture
    def failing(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
        def fail(error: Exception) -> None:
            def model_info(*_: object, **__: object) -> None:
                raise error

            monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(here / "hub"))
        return fail

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            OSError("I/O error: No space left on device (os error 28)"),
            RuntimeError("Data processing error: IO Error: Disk quota exceeded (os error 122)"),
            RuntimeError("Data processing error: IO Error: Permission denied (os error 13)"),
        ],
        ids=str,
    )
    def test_a_disk_that_takes_no_more_is_said_to_be_so(
        self, failing: Callable[[Exception], None], error: Exception
    ) -> None:
        failing(error)
        with pytest.raises(CheckpointError, match="model 'some/model' could not be stored: "):
            resolve_model("some/model")

    def test_a_transfer_that_broke_off_is_no_bug(self, failing: Callable[[Exception], None]) -> None:
        failing(RuntimeError("Data processing error: Task runtime error: os error 280"))
        with pytest.raises(NotFoundError, match=r"cannot be reached \(Data processing error: Task runtime"):
            resolve_model("some/model")

    def test_the_hub_is_asked_once_for_what_a_cached_model_lacks(
        self, here: Path, failing: Callable[[Exception], None]
    ) -> None:
        cached = here / "hub" / "models--some--model"
        folder = tiny_checkpoint(cached / "snapshots" / ("1" * 40))
        (folder / "tokenizer_config.json").unlink()
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text(folder.name)
        failing(OSError("no route to host"))
        assert resolve_model("some/model").folder == folder
        failing(AssertionError("asked again"))
        assert resolve_model("some/model").folder == folder
        assert resolve_model("some/model", with_card=True).folder == folder

    def test_no_memory_is_not_the_network_s_fault(self, failing: Callable[[Exception], None]) -> None:
        failing(RuntimeError("out of memory: 9 bytes are too many"))
        with pytest.raises(RuntimeError, match="9 bytes are too many"):
            resolve_model("some/model")
