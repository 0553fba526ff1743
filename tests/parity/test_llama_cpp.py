"""A GGUF file of ours in llama.cpp: the same tokens for a text, the same probabilities for the next one.

It needs a Python binding of llama.cpp that computes: `pip install xllamacpp` has llama.cpp built in.
(llama-cpp-python is built on the spot, which took more than a quarter of an hour here.)
"""

import pytest
import torch

from conjure import load
from conjure.lm.checkpoints.export import export

pytestmark = pytest.mark.large

PROMPTS = [
    "Once upon a time, in   a land\n\nfar away I'd found 42 naïve 猫s",
    '"My dear fellow," said Holmes, ',
    "It's no use; we'll've gone\tby then!!",
]


@pytest.fixture(scope="module")
def llama_cpp():
    return pytest.importorskip("xllamacpp", reason="no binding of llama.cpp here: pip install xllamacpp")


# Float16 rounds weights to 11 bits. q8_0 rounds weights and activations to 8.
@pytest.mark.parametrize(("kind", "tolerance"), [("float16", 0.01), ("q8_0", 0.25)])
def test_llama_cpp_reads_and_computes_as_we_do(llama_cpp, tmp_path, kind, tolerance):
    ours = load("sprite")
    parameters = llama_cpp.CommonParams()
    parameters.model.path = str(export("sprite", tmp_path, type=kind).path)
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = ours.config.context_length, 1, False
    parameters.cpuparams.n_threads = 1
    server = llama_cpp.Server(parameters)
    for prompt in PROMPTS:
        answer = server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": 1,
                "temperature": 0.0,
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
        differences = [abs(theirs[id_] - logprob) for id_, logprob in enumerate(logprobs.tolist())]
        assert max(differences) < tolerance
