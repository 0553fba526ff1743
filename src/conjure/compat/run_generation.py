"""transformers' ``run_generation.py`` of autumn 2019, for GPT-2.

Main entry: `main`; ``python -m conjure.compat.run_generation --help`` lists the flags. Invariant: a seed
gives the same text every time, and stdout holds the samples and nothing else. docs/compat.md says what
differs.
"""

import sys
from collections.abc import Iterator, Sequence

from conjure.compat.progress import Progress
from conjure.compat.script import Parser, check_model_type, check_seed, run, say
from conjure.errors import DataError

_ASKING = "Model prompt >>> "


def parser() -> Parser:
    """The script's flags; the names of December 2019 are aliases."""
    flags = Parser("conjure.compat.run_generation", description="Write text with a GPT-2 model, as in 2019.")
    add = flags.add_argument
    add("--model_type", required=True, help="gpt2")
    add("--model_name_or_path", required=True, help="Name or folder of the model.")
    add("--prompt", default="", help="What to go on from; ' ' starts a document; none asks for some.")
    add("--padding_text", default="", help="For Transformer-XL and XLNet; no effect.")
    add("--xlm_lang", "--xlm_language", default="", help="For XLM; no effect.")
    add("--length", type=int, default=20, help="New tokens; below 0 a whole context. (20)")
    add("--num_samples", type=int, default=1, help="Samples, drawn together. (1)")
    add("--temperature", type=float, default=1.0, help="0 takes the likeliest token. (1.0)")
    add("--repetition_penalty", type=float, default=1.0, help="Above 1 repeats less. (1.0)")
    add("--top_k", "--k", type=int, default=0, help="Only so many of the likeliest tokens; 0: all. (0)")
    add("--top_p", "--p", type=float, default=0.9, help="Only tokens up to this probability; 0: all. (0.9)")
    add("--no_cuda", action="store_true", help="Stay on the CPU where there is a GPU.")
    add("--seed", type=int, default=42, help="Of everything random. (42)")
    add("--stop_token", help="Text at which to cut a finished sample.")
    return flags


def script(arguments: Sequence[str]) -> int:
    """Do what the arguments ask for; the exit status."""
    flags = parser().parse_args(arguments)
    check_model_type(flags.model_type)
    check_seed(flags.seed)

    import torch

    from conjure.compat.sampling import OldSampling, sample
    from conjure.compat.text import decode, encode
    from conjure.lm.generation.engines.torch_engine import TorchEngine
    from conjure.lm.hardware import pick_device
    from conjure.lm.language_model import load

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
        say(f"--length {flags.length:,} is beyond the model's context: {settings.length:,} tokens it is.")
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
            f"Prompt and text outgrow the context of {context_length:,} tokens: each time it is full, the"
            f" model goes on from the last {max(1, context_length // 2):,}."
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
            say("An empty prompt has no tokens; a space is the start of a document, ^D ends this.")


def _ask() -> str:
    if sys.stdin.isatty() and sys.stdout.isatty():
        return input(_ASKING)
    print(_ASKING, end="", file=sys.stderr, flush=True)
    return input()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; the exit status. None takes this process's arguments."""
    return run(script, arguments)


if __name__ == "__main__":
    sys.exit(main())
