"""Names to folders: the cache, the hub (a small one of our own on the loopback interface), and no network."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.fake_hub import FakeHub, serving
from support.models import tiny_checkpoint

PROGRAM = """
import json, sys
from conjure.errors import ConjureError
from conjure.lm.checkpoints.model_resolver import resolve_model
try:
    found = resolve_model(sys.argv[1], fetch="fetch" in sys.argv, with_card="with card" in sys.argv)
    answer = {"folder": str(found.folder), "kind": found.kind, "revision": found.revision, "text": str(found)}
except ConjureError as error:
    answer = {"error": type(error).__name__, "message": str(error), "fix": error.fix, "hint": error.hint}
print(json.dumps({**answer, "torch": "torch" in sys.modules}))
"""


@dataclass
class Answer:
    folder: str | None = None
    kind: str | None = None
    revision: str | None = None
    text: str | None = None
    error: str | None = None
    message: str = ""
    fix: str | None = None
    hint: str | None = None
    torch: bool = False


Resolve = Callable[..., Answer]


@pytest.fixture
def resolve(tmp_path: Path) -> Resolve:
    """Resolves a name in a process of its own, against a hub's address, with an empty cache to begin with."""

    def run(
        name: str,
        url: str = "http://127.0.0.1:9",
        *,
        fetch: bool = True,
        with_card: bool = False,
        **variables: str,
    ) -> Answer:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        settings = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, name, *["fetch"] * fetch, *["with card"] * with_card],
            env={**inherited, **settings, **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return Answer(**json.loads(done.stdout))

    return run


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    hub = FakeHub()
    hub.repositories["some/model"] = tiny_checkpoint(tmp_path / "served")
    with serving(hub):
        yield hub


class TestFetching:
    def test_downloads_once_and_then_needs_no_network(self, hub: FakeHub, resolve: Resolve) -> None:
        served = hub.repositories["some/model"]
        (served / "pytorch_model.bin").write_bytes(b"never wanted")
        for name in ("README.md", "LICENSE", "LICENSE.txt"):
            (served / name).write_text("---\nlicense: mit\n---\n")
        first = resolve("some/model", hub.url)
        assert first.kind == "hub"
        assert first.revision == hub.commit("some/model")
        assert first.text == f"some/model (Hugging Face, revision {first.revision[:8]})"
        names = {path.name for path in Path(first.folder or "").iterdir()}
        assert names == {path.name for path in served.iterdir()} - {"pytorch_model.bin"}
        hub.requests.clear()
        assert resolve("some/model", hub.url) == first
        assert hub.requests == []
        assert resolve("some/model") == first
        assert not first.torch

    def test_a_named_branch_is_looked_up_again(self, hub: FakeHub, resolve: Resolve) -> None:
        before = resolve("some/model@main", hub.url)
        tiny_checkpoint(hub.repositories["some/model"], seed=1)
        after = resolve("some/model@main", hub.url)
        assert after.revision == hub.commit("some/model") != before.revision
        assert resolve("some/model@main").revision == after.revision  # without the network the newest known

    def test_a_commit(self, hub: FakeHub, resolve: Resolve) -> None:
        commit = hub.commit("some/model")
        assert resolve(f"some/model@{commit}", hub.url).revision == commit
        assert resolve(f"some/model@{commit}").revision == commit

    def test_missing_tokenizer_files_are_fetched_later(self, hub: FakeHub, resolve: Resolve) -> None:
        folder = Path(resolve("some/model", hub.url).folder or "")
        for name in ("tokenizer.json", "vocab.json"):
            (folder / name).unlink()
        assert resolve("some/model").folder == str(folder)  # no network: as far as it goes
        resolve("some/model", hub.url)
        assert (folder / "tokenizer.json").exists()

    def test_what_other_programs_left_out_is_fetched_later(self, hub: FakeHub, resolve: Resolve) -> None:
        (hub.repositories["some/model"] / "README.md").write_text("---\nlicense: mit\n---\n")
        first = resolve("some/model", hub.url)
        folder = Path(first.folder or "")
        for name in ("tokenizer_config.json", "README.md"):
            (folder / name).unlink()
            assert resolve("some/model", with_card=True) == first  # no network: as far as it goes
            assert resolve("some/model", hub.url, with_card=True) == first
            assert (folder / name).exists()

    def test_a_card_is_asked_for_only_where_it_is_needed(self, hub: FakeHub, resolve: Resolve) -> None:
        (hub.repositories["some/model"] / "README.md").write_text("---\nlicense: mit\n---\n")
        first = resolve("some/model", hub.url)
        (Path(first.folder or "") / "README.md").unlink()
        hub.requests.clear()
        assert resolve("some/model", hub.url) == first
        assert hub.requests == []

    def test_what_a_repository_does_not_have_is_asked_for_once(self, hub: FakeHub, resolve: Resolve) -> None:
        (hub.repositories["some/model"] / "tokenizer_config.json").unlink()
        first = resolve("some/model", hub.url)
        hub.requests.clear()
        assert resolve("some/model", hub.url) == first
        assert hub.requests == []

    def test_a_model_that_lacks_only_that_stays_as_it_is(self, hub: FakeHub, resolve: Resolve) -> None:
        (hub.repositories["some/model"] / "README.md").write_text("---\nlicense: mit\n---\n")
        first = resolve("some/model", hub.url)
        (Path(first.folder or "") / "README.md").unlink()
        hub.gated.add("some/model")
        assert resolve("some/model", hub.url, with_card=True) == first
        del hub.repositories["some/model"]
        assert resolve("some/model", hub.url, with_card=True) == first

    def test_a_moved_model_is_completed_under_the_name_it_has(self, hub: FakeHub, resolve: Resolve) -> None:
        served = hub.repositories["some/model"]
        hub.repositories = {"openai-community/gpt2": served, "gpt2": served}
        folder = Path(resolve("openai-community/gpt2", hub.url).folder or "")
        (folder / "tokenizer_config.json").unlink()
        assert resolve("gpt2", hub.url).folder == str(folder)
        assert (folder / "tokenizer_config.json").exists()

    def test_looking_only_does_not_fetch(self, hub: FakeHub, resolve: Resolve) -> None:
        answer = resolve("some/model", hub.url, fetch=False)
        assert answer.error == "NotFoundError"
        assert answer.message == "model 'some/model' is not on this machine"
        assert hub.requests == []


class TestRefusals:
    def test_unknown_name(self, hub: FakeHub, resolve: Resolve) -> None:
        answer = resolve("gtp2", hub.url)
        assert (answer.error, answer.message) == (
            "NotFoundError",
            "there is no model 'gtp2' on Hugging Face, or it is private",
        )
        assert answer.hint == "did you mean gpt2?"

    def test_unknown_revision(self, hub: FakeHub, resolve: Resolve) -> None:
        answer = resolve("some/model@v9", hub.url)
        assert answer.message == "model 'some/model' has no revision 'v9' on Hugging Face"

    def test_gated(self, hub: FakeHub, resolve: Resolve) -> None:
        hub.gated.add("some/model")
        answer = resolve("some/model", hub.url)
        assert "model 'some/model' is gated" in answer.message
        assert "hf auth login" in (answer.hint or "")

    def test_pickle_only(self, hub: FakeHub, resolve: Resolve) -> None:
        served = hub.repositories["some/model"]
        (served / "model.safetensors").rename(served / "pytorch_model.bin")
        answer = resolve("some/model", hub.url)
        assert answer.error == "CheckpointError"
        assert "only as a pickle" in answer.message
        assert "conjure models convert" in (answer.hint or "")

    def test_another_architecture_before_its_weights_are_fetched(
        self, hub: FakeHub, resolve: Resolve
    ) -> None:
        served = hub.repositories["some/model"]
        (served / "config.json").write_text('{"model_type": "mamba"}')
        answer = resolve("some/model", hub.url)
        assert answer.error == "CheckpointError"
        assert "model_type 'mamba'" in answer.message
        assert not any("safetensors" in request for request in hub.requests)

    def test_an_adapter(self, hub: FakeHub, resolve: Resolve) -> None:
        served = hub.repositories["some/model"]
        (served / "model.safetensors").rename(served / "adapter_model.safetensors")
        (served / "adapter_config.json").write_text("{}")
        answer = resolve("some/model", hub.url)
        assert answer.message == "'some/model' on Hugging Face is an adapter, not a model"
        assert answer.hint == (
            "hf download some/model --local-dir FOLDER, then give its base model and adapter='./FOLDER'"
        )

    def test_not_a_model(self, hub: FakeHub, resolve: Resolve) -> None:
        (hub.repositories["some/model"] / "config.json").unlink()
        assert "is not a model: it has no config.json" in resolve("some/model", hub.url).message


class TestNoNetwork:
    def test_one_sentence_with_the_three_ways_out(self, resolve: Resolve) -> None:
        answer = resolve("gpt2")
        assert answer.error == "NotFoundError"
        assert answer.message.startswith(
            "model 'gpt2' is not on this machine and Hugging Face cannot be reached ("
        )
        assert answer.hint == (
            "connect to the network, name a local folder as ./FOLDER, or the embedded model, sprite"
        )

    def test_offline_mode(self, resolve: Resolve) -> None:
        answer = resolve("gpt2", HF_HUB_OFFLINE="1")
        assert "cannot be reached" in answer.message
        assert "\n" not in answer.message

    @pytest.mark.large  # waits for the real time limits, eight seconds
    def test_a_network_that_swallows_everything_does_not_hang(self, resolve: Resolve) -> None:
        with socket.create_server(("127.0.0.1", 0)) as deaf:  # accepts, and never answers
            answer = resolve("gpt2", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        assert "cannot be reached" in answer.message

    def test_a_moved_name_finds_the_cache_under_the_new_one(self, hub: FakeHub, resolve: Resolve) -> None:
        hub.repositories = {"openai-community/gpt2": hub.repositories["some/model"]}
        folder = resolve("openai-community/gpt2", hub.url).folder
        assert resolve("gpt2").folder == folder

    def test_an_incomplete_snapshot_is_not_taken(self, hub: FakeHub, resolve: Resolve) -> None:
        folder = Path(resolve("some/model", hub.url).folder or "")
        (folder / "model.safetensors").unlink()
        assert resolve("some/model").error == "NotFoundError"


def test_a_folder_that_is_no_model_does_not_hide_a_hub_model(
    tmp_path: Path, hub: FakeHub, resolve: Resolve
) -> None:
    (tmp_path / "some" / "model").mkdir(parents=True)
    assert resolve("some/model", hub.url).kind == "hub"
    shutil.copyfile(tmp_path / "served" / "config.json", tmp_path / "some" / "model" / "config.json")
    assert resolve("some/model", hub.url).kind == "folder"
