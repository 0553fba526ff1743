"""A GGUF file of ours in llama.cpp: the same tokens for a text, the same probabilities for the next one.

It needs a Python binding of llama.cpp that computes: `pip install xllamacpp` has llama.cpp built in.
(llama-cpp-python is built on the spot, which took more than a quarter of an hour here.)
"""

import json
import urllib.request

import pytest
import torch
from safetensors.torch import load_file, save_file

from conjure import load
from conjure.lm.checkpoints.export import export
from conjure.lm.checkpoints.gguf.conversion import checkpoint_folder
from conjure.lm.text.tokenizer import Tokenizer
from support.gguf_files import write_gguf
from support.tokenizers_of_kinds import KINDS, tokenizer_folder

pytestmark = pytest.mark.large

FULL, LOCAL = "full_attention", "sliding_attention"
PROMPTS = [
    "Once upon a time, in   a land\n\nfar away I'd found 42 naïve 猫s",
    '"My dear fellow," said Holmes, ',
    "It's no use; we'll've gone\tby then!!",
]


@pytest.fixture(scope="module")
def llama_cpp():
    return pytest.importorskip("xllamacpp", reason="no binding of llama.cpp here: pip install xllamacpp")


@pytest.fixture
def serve(llama_cpp):
    """Loads a file; the result asks for a path, such as ``tokenize``, with a body."""

    def started(path):
        parameters = llama_cpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx, parameters.n_parallel, parameters.warmup = 128, 1, False
        parameters.cpuparams.n_threads = 1
        server = llama_cpp.Server(parameters)

        def ask(name, **body):
            headers = {"Content-Type": "application/json"}
            address = f"{server.listening_address}/{name}"
            request = urllib.request.Request(address, json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)

        return ask

    return started


def test_runs_of_spaces_are_the_tokens_that_they_are_here(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("CONJURE_HOME", str(tmp_path / "home"))
    converted = checkpoint_folder(write_gguf(tmp_path / "model.gguf", "gemma3", vocabulary=1000))
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_bytes((converted / name).read_bytes())
    tokenizer = Tokenizer.from_folder(tokenizer_folder(tmp_path / "model", "gemma-3"))
    ask = serve(export(tmp_path / "model", tmp_path / "out").path)
    for text in ("a  b", "the  cat   sat", "x\n  two"):
        ids = tokenizer.encode(text)
        assert ask("tokenize", content=text)["tokens"] == ids
        assert ask("detokenize", tokens=ids)["content"] == text == tokenizer.decode(ids)


def test_a_file_that_does_not_say_whether_texts_start_with_bos_is_read_alike(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("CONJURE_HOME", str(tmp_path / "home"))
    keys = KINDS["llama-bpe"]() | {"tokenizer.ggml.add_bos_token": None}
    path = write_gguf(tmp_path / "model.gguf", keys=keys, vocabulary=len(keys["tokenizer.ggml.tokens"]))
    tokenizer = Tokenizer.from_folder(checkpoint_folder(path))
    started = serve(path)("tokenize", content="the cat", add_special=True)["tokens"]
    assert started == [*tokenizer.start_ids, *tokenizer.encode("the cat")]
    assert len(tokenizer.start_ids) == 1


# Float16 rounds weights to 11 bits. q8_0 rounds weights and activations to 8.
@pytest.mark.parametrize(("kind", "tolerance"), [("float16", 0.01), ("q8_0", 0.25)])
def test_llama_cpp_reads_and_computes_as_we_do(llama_cpp, tmp_path, kind, tolerance):
    ours = load("sprite")
    server = started_server(llama_cpp, export("sprite", tmp_path, type=kind).path, ours.config.context_length)
    for prompt in PROMPTS:
        assert largest_difference(server, ours, prompt) < tolerance


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LONG = "Once upon a time there was a cat. " * 5  # past the window and YaRN's trained context
MODELS = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "gptneox": ("gptneox", {}),
    "tied gptneox": ("gptneox", {"tie_word_embeddings": True}),
    "a base spelt as an integer": ("llama", {"rope_parameters": None, "rope_theta": 5000}),
    "linear": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama3": ("llama3", {}),
    "yarn": ("qwen2", {"rope_scaling": YARN}),
    "yarn with bounds": ("qwen3", {"rope_scaling": {**YARN, "beta_fast": 32.0, "beta_slow": 1.0}}),
    "gemma3": ("gemma3", {}),
    "gemma3's local base": ("gemma3", {"rope_local_base_freq": 500.0}),
    "gemma3's pattern": ("gemma3", {"layer_types": [LOCAL, FULL, LOCAL, FULL, LOCAL, FULL, LOCAL]}),
    "gemma3 without a window": ("gemma3", {"layer_types": [FULL] * 7}),
}


@pytest.mark.parametrize("case", MODELS)
def test_every_family_computes_the_same(llama_cpp, tmp_path, monkeypatch, case):
    monkeypatch.setenv("CONJURE_HOME", str(tmp_path / "home"))
    name, changes = MODELS[case]
    folder = checkpoint_folder(write_gguf(tmp_path / "model.gguf", name))
    model = changed_copy(folder, tmp_path / "it", changes)
    ours = load(model)
    server = started_server(llama_cpp, export(model, tmp_path / "out", type="float32").path, 256)
    for prompt in ("cat", LONG):
        assert largest_difference(server, ours, prompt) < 0.02


def changed_copy(folder, copy, changes):
    """A checkpoint folder with other settings; a head that becomes tied goes."""
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    settings = json.loads((folder / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(settings | changes))
    if changes.get("tie_word_embeddings"):
        tensors = load_file(copy / "model.safetensors")
        del tensors["embed_out.weight"]
        save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return copy


def started_server(llama_cpp, path, context):
    parameters = llama_cpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = context, 1, False
    parameters.cpuparams.n_threads = 1
    return llama_cpp.Server(parameters)


def largest_difference(server, ours, prompt):
    """Of the log-probabilities of all next tokens, after the tokens were found to be the same."""
    answer = server.handle_completions(
        {
            "prompt": prompt,
            "n_predict": 1,
            "temperature": 0.0,
            # Of an end or of half a character nothing would be told; the bias does not change what is told.
            "logit_bias": [[ours.tokenizer.encode("a")[0], 1000.0]],
            "n_probs": ours.config.vocab_size,
            "post_sampling_probs": False,
        }
    )
    ids = ours.tokenizer.encode(prompt)
    assert answer["usage"]["prompt_tokens"] == len(ids)
    (token,) = answer["choices"][0]["logprobs"]["content"]
    theirs = {entry["id"]: entry["logprob"] for entry in token["top_logprobs"]}
    logprobs = ours.logits(torch.tensor([ids]))[0, -1].log_softmax(0)
    assert sorted(theirs) == list(range(ours.config.vocab_size))
    return max(abs(theirs[id_] - logprob) for id_, logprob in enumerate(logprobs.tolist()))
