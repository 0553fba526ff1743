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
    flags = Parser(
        "conjure.compat.run_generation", description="Generate text with the options of the 2019 script."
    )
    add = flags.add_argument
    add("--model_type", required=True, help="gpt2")
    add("--model_name_or_path", required=True, help="Name or folder of the model.")
    add(
        "--prompt", default="", help="Prompt; ' ' starts a document; without it, the script asks for prompts."
    )
    add("--padding_text", default="", help="For Transformer-XL and XLNet; no effect.")
    add("--xlm_lang", "--xlm_language", default="", help="For XLM; no effect.")
    add("--length", type=int, default=20, help="New tokens; below 0: a whole context. (20)")
    add("--num_samples", type=int, default=1, help="Number of samples. (1)")
    add("--temperature", type=float, default=1.0, help="Sampling temperature; 0 is greedy. (1.0)")
    add("--repetition_penalty", type=float, default=1.0, help="Above 1 makes repetition less likely. (1.0)")
    add("--top_k", "--k", type=int, default=0, help="Sample from the K most likely tokens; 0: all. (0)")
    add(
        "--top_p",
        "--p",
        type=float,
        default=0.9,
        help="Sample from the most likely tokens with this total probability; 0: all. (0.9)",
    )
    add("--no_cuda", action="store_true", help="Use the CPU even if there is a GPU.")
    add("--seed", type=int, default=42, help="Random seed. (42)")
    add("--stop_token", help="Cut each sample at this text.")
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
            f"Prompt and text exceed the context of {context_length:,} tokens: each time it is full, the"
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
            raise DataError("the input is not UTF-8 text") from error
        if typed:
            yield typed
        else:
            say("The prompt is empty; type a space to start a document, or ^D to exit.")


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
