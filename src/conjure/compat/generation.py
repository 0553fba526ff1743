"""Generation as transformers' ``run_generation.py`` did it: a prompt after the other, samples drawn together.

Main entry: `generate`. Invariant: stdout holds the samples and nothing else.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator

import torch

from conjure.compat.progress import Progress
from conjure.compat.sampling import OldSampling, sample
from conjure.compat.script import say
from conjure.compat.text import decode, encode
from conjure.errors import DataError
from conjure.lm.generation.engines.torch_engine import TorchEngine
from conjure.lm.hardware import pick_device
from conjure.lm.language_model import load

_ASKING = "Model prompt >>> "


def generate(flags: Namespace) -> int:
    """Do what the script's flags ask for; the exit status."""
    settings = OldSampling(
        length=flags.length,
        num_samples=flags.num_samples,
        temperature=flags.temperature,
        top_k=flags.top_k,
        top_p=flags.top_p,
        repetition_penalty=flags.repetition_penalty,
    )
    device = torch.device("cpu") if flags.no_cuda else pick_device()
    generator = torch.Generator(device).manual_seed(flags.seed)
    model = load(flags.model_name_or_path)
    engine = TorchEngine(model.model.to(device))
    settings = settings.within(engine.context_length)
    if flags.length > settings.length:
        say(f"--length {flags.length:,} exceeds the context: {settings.length:,} tokens are generated.")
    for prompt in _prompts(flags.prompt):
        ids = encode(model.tokenizer, prompt)
        _announce_sliding(len(ids) + settings.length - 1, engine.context_length)
        with Progress("token", settings.length, settings.num_samples) as progress:
            rows = sample(engine, ids, settings, generator, progress.advance)
        for row in rows:
            text = decode(model.tokenizer, row)
            print(text.partition(flags.stop_token)[0] if flags.stop_token else text, flush=True)
    return 0


def _announce_sliding(tokens_read: int, context_length: int) -> None:
    if tokens_read > context_length:
        say(
            f"Prompt and text exceed the context of {context_length:,} tokens: when it is full, the model"
            f" continues from the last {max(1, context_length // 2):,}."
        )


def _prompts(given: str) -> Iterator[str]:
    """The prompt that was given, or what is typed until the input ends."""
    if given:
        yield given
        return
    while True:
        try:
            typed = _ask()
        except EOFError:
            say("")
            return
        except UnicodeDecodeError as error:
            raise DataError("what was typed is not UTF-8 text") from error
        if typed:
            yield typed
        else:
            say("The prompt is empty; type a space to start a document, or ^D to exit.")


def _ask() -> str:
    if sys.stdin.isatty() and sys.stdout.isatty():
        return input(_ASKING)
    print(_ASKING, end="", file=sys.stderr, flush=True)
    return input()
