"""A second architecture behind `CausalLM`: everything else works with it unchanged."""

import importlib
from pathlib import Path

import pytest
import torch

import conjure
from conjure.lm.checkpoints.pretrained import load_model, save_checkpoint
from conjure.lm.generation.generate import generate
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.generation.score import score
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.models.registry import build, read_model_config, register
from conjure.lm.training.lora import add_lora
from support.decay_model import DECAY, DecayModel
from support.models import TINY_VOCAB_SIZE, tiny_tokenizer
from support.tuning import OPTIONS, tuning_inputs

SETTINGS = {
    "model_type": "decay",
    "vocab_size": TINY_VOCAB_SIZE,
    "context": 32,
    "channels": 16,
    "layers": 2,
    "eos_token_id": TINY_VOCAB_SIZE - 1,
}
PROMPTS = ["My dog", "Why did the scarecrow win", "a"]


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    register(DECAY)


def decay_model(seed: int = 0) -> DecayModel:
    config = read_model_config(SETTINGS)
    assert type(build(config)) is DecayModel
    return DecayModel(config).initialise(seed, 0.4).eval()  # pyright: ignore[reportArgumentType]


def test_it_says_what_it_is():
    model = decay_model()
    assert (model.n_layer, model.context_length, model.eos_ids) == (2, 32, (299,))
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)
    assert model.config.parameter_count == sum(weight.numel() for weight in model.parameters())


def test_batched_padded_and_sliding_it_writes_what_each_prompt_alone_does():
    model, tokenizer = decay_model(), tiny_tokenizer()
    settings = {"max_new_tokens": 50, "seed": 3, "temperature": 0.8}
    together = generate(model, tokenizer, GenerationRequest(prompts=PROMPTS, num_samples=2, **settings))
    for prompt in PROMPTS:
        alone = generate(model, tokenizer, GenerationRequest(prompts=[prompt], num_samples=2, **settings))
        assert [each.token_ids for each in alone] == [
            each.token_ids for each in together if each.prompt == prompt
        ]


def test_it_scores_a_text_longer_than_its_context():
    model, tokenizer = decay_model(), tiny_tokenizer()
    text = "Time flies like an arrow; fruit flies like a banana. " * 3
    scored = score(TorchScorer(model), tokenizer, text)
    assert len(scored.token_ids) > model.context_length
    first = torch.tensor([[tokenizer.end_of_text_id, *scored.token_ids[:10]]])
    with torch.no_grad():
        expected = model.head(model(first)).log_softmax(-1)[0, 9, scored.token_ids[9]]
    assert scored.token_logprobs[9] == pytest.approx(expected.item(), rel=1e-5)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path):
    model = decay_model()
    save_checkpoint(tmp_path / "model", model, tiny_tokenizer())
    again = load_model(tmp_path / "model")
    assert again.config == model.config
    assert all(torch.equal(weight, again.get_parameter(name)) for name, weight in model.named_parameters())


def test_lora_adapts_its_blocks_and_not_its_embedding():
    model = add_lora(decay_model(), 4, seed=0)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {f"blocks.{layer}.mix.lora_{part}" for layer in (0, 1) for part in "ab"}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"lora": 4}, {"freeze": 1}, {"mask_records": True}])
def test_it_is_fine_tuned_measured_and_reported_on(tmp_path: Path, options):
    data, _ = tuning_inputs(tmp_path)
    save_checkpoint(tmp_path / "model", decay_model(), tiny_tokenizer())
    settings = {**OPTIONS, "learning_rate": 3e-2, "split": "lines", **options}
    result = conjure.finetune(data, model=tmp_path / "model", output=tmp_path / "tuned", **settings)
    assert result.loss_before is not None
    assert result.loss_after is not None
    assert result.loss_after < result.loss_before
    assert (result.checkpoint / "report.html").exists()
    assert isinstance(conjure.load(result.checkpoint).model, DecayModel)


@pytest.mark.usefixtures("short_reports")
def test_the_architecture_in_the_documentation_works(tmp_path: Path, monkeypatch):
    page = (Path(__file__).parents[4] / "docs" / "models.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "bigram.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    bigram = importlib.import_module("bigram")
    config = bigram.BigramConfig(
        family="bigram", vocab_size=TINY_VOCAB_SIZE, context_length=32, n_embd=16, n_layer=2
    )
    save_checkpoint(tmp_path / "model", bigram.Bigram(config).initialise(0), tiny_tokenizer())
    data, _ = tuning_inputs(tmp_path)
    result = conjure.finetune(
        data, model=tmp_path / "model", output=tmp_path / "tuned", split="lines", **OPTIONS
    )
    assert result.loss_before is not None
    assert result.loss_after is not None
    assert result.loss_after < result.loss_before
    assert conjure.load(result.checkpoint).generate("My dog", max_new_tokens=50, seed=1)
