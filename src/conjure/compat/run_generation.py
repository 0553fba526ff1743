"""transformers' ``run_generation.py`` of autumn 2019, for GPT-2.

Main entry: `main`; ``python -m conjure.compat.run_generation --help`` lists the flags. Invariant: a seed
gives the same text every time, and stdout holds the samples and nothing else. docs/compat.md says what
differs.
"""

import sys
from collections.abc import Sequence

from conjure.compat.script import Parser, check_model_type, check_seed, run


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

    # Imports torch, which neither --help nor a wrong flag needs.
    from conjure.compat.generation import generate

    return generate(flags)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; the exit status. None takes this process's arguments."""
    return run(script, arguments)


if __name__ == "__main__":
    sys.exit(main())
