from pathlib import Path

import numpy as np
import pytest
import torch

import conjure
from conjure.errors import (
    CheckpointError,
    ContextLengthError,
    ModelError,
    NotFoundError,
    ShapeError,
    UsageError,
)
from conjure.lm import language_model
from conjure.lm.generation.generate import generate
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.generation.score import score
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.language_model import LanguageModel
from conjure.lm.nn.centred_head import scoring_head
from support.models import TINY_VOCAB_SIZE, tiny_checkpoint, tiny_model, tiny_tokenizer

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return conjure.load(folder)


class TestLoad:
    def test_by_path_and_by_text(self, folder: Path, model: LanguageModel) -> None:
        assert torch.equal(conjure.load(str(folder)).logits(IDS), model.logits(IDS))
        assert model.origin == f"{folder} (folder)"
        assert repr(model) == f"<LanguageModel {folder} (folder), 11,904 parameters>"

    def test_precision(self, folder: Path, model: LanguageModel) -> None:
        half = conjure.load(folder, precision="bfloat16")
        assert half.model.embedding.weight.dtype == torch.bfloat16
        logits = half.logits(IDS)
        assert logits.dtype == torch.float32
        assert (logits - model.logits(IDS)).abs().max() < 0.1 * model.logits(IDS).abs().max()
        with pytest.raises(UsageError, match="precision is 'int3'; allowed: auto"):
            conjure.load(folder, precision="int3")

    def test_names_only_the_caller_knows(self, folder: Path) -> None:
        found = language_model.load("runs/3", lookups=[lambda name: folder if name == "runs/3" else None])
        assert found.origin == "runs/3 (resource)"

    def test_a_tokenizer_too_large_for_the_model(self, tmp_path: Path) -> None:
        tiny_checkpoint(tmp_path / "m", vocab_size=TINY_VOCAB_SIZE - 1)
        with pytest.raises(CheckpointError, match="has 300 tokens and the model only 299"):
            conjure.load(tmp_path / "m")

    def test_a_vocabulary_padded_beyond_the_tokenizer_is_fine(self, tmp_path: Path) -> None:
        tiny_checkpoint(tmp_path / "m", vocab_size=320)
        assert conjure.load(tmp_path / "m").logits(IDS).shape == (2, 3, 320)


class TestLogits:
    def test_shape_type_and_values(self, model: LanguageModel) -> None:
        logits = model.logits(IDS)
        assert (logits.shape, logits.dtype, logits.requires_grad) == ((2, 3, 300), torch.float32, False)
        reference = tiny_model()
        with torch.no_grad():
            assert torch.equal(logits, reference.head(reference(IDS)))

    @pytest.mark.parametrize("ids", [IDS.numpy(), IDS.tolist(), np.asfortranarray(IDS.numpy())], ids=type)
    def test_takes_arrays_and_lists(self, model: LanguageModel, ids: object) -> None:
        assert torch.equal(model.logits(ids), model.logits(IDS))  # type: ignore[arg-type]

    def test_the_whole_context_fits(self, model: LanguageModel) -> None:
        assert model.logits(torch.zeros(1, 32, dtype=torch.int64)).shape == (1, 32, 300)

    @pytest.mark.parametrize(
        ("ids", "error", "message"),
        [
            (IDS.int(), ShapeError, "ids are int32 of shape (2, 3); int64 of shape (B, T) is needed"),
            (IDS.float(), ShapeError, "ids are float32 of shape (2, 3)"),
            (IDS[0], ShapeError, "ids are int64 of shape (3,)"),
            (IDS[:, :0], ShapeError, "ids of shape (2, 0) contain no token"),
            ("text", ShapeError, "ids are str, not an int64 tensor"),
            ([[1, 2], [3]], ShapeError, "ids are list, not an int64 tensor"),
            (None, ShapeError, "ids are NoneType, not an int64 tensor"),
            (torch.full((1, 3), 300), ModelError, "token id 300 is not from 0 to 299"),
            (torch.tensor([[5, -1]]), ModelError, "token id -1 is not from 0 to 299"),
            (torch.zeros(1, 33, dtype=torch.int64), ContextLengthError, "33 tokens do not fit"),
        ],
    )
    def test_refuses_other_ids(
        self, model: LanguageModel, ids: object, error: type[ModelError], message: str
    ) -> None:
        with pytest.raises(error) as caught:
            model.logits(ids)  # type: ignore[arg-type]
        assert message in str(caught.value)

    def test_a_model_left_in_training_mode_does_not_drop(self) -> None:
        network = tiny_model(embd_pdrop=0.5).train()
        model = LanguageModel(network, tiny_tokenizer())
        assert torch.equal(model.logits(IDS), model.logits(IDS))


class TestDelegation:
    def test_generate_is_lm_generate(self, model: LanguageModel) -> None:
        request = GenerationRequest(
            prompts=["a", "b"], max_new_tokens=6, num_samples=2, seed=3, stop=["zz"], top_k=7
        )
        samples = model.generate(["a", "b"], max_new_tokens=6, num_samples=2, seed=3, stop="zz", top_k=7)
        assert samples == generate(model.model, model.tokenizer, request)
        assert [sample.prompt for sample in samples] == ["a", "a", "b", "b"]

    def test_generate_draws_a_seed_and_tells_it(self, model: LanguageModel) -> None:
        first = model.generate(max_new_tokens=8)[0]
        assert model.generate(max_new_tokens=8, seed=first.seed)[0].token_ids == first.token_ids

    def test_generate_takes_none_for_no_stop_texts(self, model: LanguageModel) -> None:
        given = {"max_new_tokens": 4, "seed": 1}
        assert model.generate(stop=None, **given) == model.generate(**given)

    def test_generate_refuses_all_faults_at_once(self, model: LanguageModel) -> None:
        with pytest.raises(UsageError, match=r"temperature .*-1.*max_new_tokens .*0"):
            model.generate("a", max_new_tokens=0, temperature=-1)

    def test_generate_refuses_an_option_of_the_command_line_only(self, model: LanguageModel) -> None:
        with pytest.raises(UsageError, match="there is no option 'chat'"):
            model.generate("a", chat=True)

    def test_score_is_lm_score(self, model: LanguageModel) -> None:
        text = "My dog ate the clock."
        assert model.score(text, context=8, stride=2) == score(
            TorchScorer(model.model), model.tokenizer, text, context=8, stride=2
        )
        assert model.score(text).total == pytest.approx(sum(model.score(text).token_logprobs), rel=1e-6)

    def test_score_makes_its_copy_of_a_head_once_for_as_long_as_it_is_the_same(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = []

        def counted(weight: torch.Tensor) -> torch.Tensor:
            made.append(weight.shape)
            return scoring_head(weight)

        monkeypatch.setattr("conjure.lm.generation.torch_scorer.scoring_head", counted)
        half = conjure.load(folder, precision="bfloat16")
        first = half.score("My dog ate the clock.")
        assert half.score("My dog ate the clock.") == first
        assert len(made) == 1
        with torch.no_grad():
            half.model.head_weight[5:].mul_(-2)
        assert half.score("My dog ate the clock.").total == pytest.approx(
            score(TorchScorer(half.model), half.tokenizer, "My dog ate the clock.").total
        )
        half.model.float()
        assert half.score("My dog ate the clock.").total != first.total
        half.model = tiny_model(seed=1)
        assert half.score("My dog ate the clock.").total == pytest.approx(
            score(TorchScorer(half.model), half.tokenizer, "My dog ate the clock.").total
        )


class TestWithoutTokenizer:
    @pytest.fixture
    def bare(self, tmp_path: Path) -> LanguageModel:
        LanguageModel(tiny_model(), None).save(tmp_path / "bare")
        return conjure.load(tmp_path / "bare")

    def test_logits_and_save_work(self, bare: LanguageModel, tmp_path: Path) -> None:
        bare.save(tmp_path / "again")
        assert torch.equal(conjure.load(tmp_path / "again").logits(IDS), bare.logits(IDS))

    def test_text_is_refused(self, bare: LanguageModel) -> None:
        for call in (lambda: bare.tokenizer, lambda: bare.generate("a"), lambda: bare.score("a")):
            with pytest.raises(CheckpointError, match="has no tokenizer files"):
                call()


class TestSave:
    def test_in_the_home_folder(
        self, model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        model.save("~/saved")
        assert torch.equal(conjure.load("~/saved").logits(IDS), model.logits(IDS))
        assert (tmp_path / "saved").is_dir()

    def test_gives_the_same_model_back(self, model: LanguageModel, tmp_path: Path) -> None:
        model.save(tmp_path / "copy")
        again = conjure.load(tmp_path / "copy")
        assert torch.equal(again.logits(IDS), model.logits(IDS))
        assert again.tokenizer.encode("a clock") == model.tokenizer.encode("a clock")
        assert again.config == model.config

    def test_into_the_folder_it_came_from(self, tmp_path: Path) -> None:
        model = conjure.load(tiny_checkpoint(tmp_path / "m"))
        before = model.logits(IDS)
        model.save(tmp_path / "m")
        assert torch.equal(model.logits(IDS), before)
        assert torch.equal(conjure.load(tmp_path / "m").logits(IDS), before)

    def test_a_missing_model(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="does not exist"):
            conjure.load(tmp_path / "none")
