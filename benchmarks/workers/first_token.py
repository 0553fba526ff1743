"""A peer's shortest way from a new process to a first token on stdout: ``first_token.py PEER FOLDER PROMPT``.

``reading`` is the limit: Python itself, and one pass over the weights' file.
"""

import sys
from pathlib import Path

_MEGABYTE = 1 << 20


def transformers(folder: str, prompt: str) -> str:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    given = tokenizer(prompt, return_tensors="pt")
    written = model.generate(**given, max_new_tokens=1, do_sample=False, pad_token_id=0)
    return tokenizer.decode(written[0, -1:])


def ctranslate2(folder: str, prompt: str) -> str:
    import ctranslate2
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder).with_name("checkpoint") / "tokenizer.json"))
    generator = ctranslate2.Generator(folder)
    start = tokenizer.encode(prompt, add_special_tokens=False).tokens
    written = generator.generate_batch([start], max_length=1, include_prompt_in_result=False)
    return tokenizer.decode(written[0].sequences_ids[0])


def llama_cpp(path: str, prompt: str) -> str:
    from llama_cpp import Llama

    model = Llama(path, verbose=False)
    return model.create_completion(prompt, max_tokens=1, temperature=0.0)["choices"][0]["text"]


def reading(folder: str, _: str) -> str:
    buffer = bytearray(_MEGABYTE)
    with (Path(folder) / "model.safetensors").open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return "read"


if __name__ == "__main__":
    peer, folder, prompt = sys.argv[1:]
    # A dot before it: some first tokens are empty once decoded.
    print(f".{globals()[peer](folder, prompt)}", flush=True)
