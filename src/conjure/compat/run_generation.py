"""transformers' ``run_generation.py`` of autumn 2019, for GPT-2.

Main entry: `main`; ``python -m conjure.compat.run_generation --help`` lists the flags. Invariant: a seed
gives the same text every time, and stdout holds the samples and nothing else. docs/compat.md says what
differs.
"""

import sys
from collections.abc import Sequence

from conjure.compat.script import Parser, check_model_type, check_seed, run

_PROGRAM = "conjure.compat.run_generation"


def parser() -> Parser:
    """The script's flags; the names of December 2019 are aliases."""
    flags = Parser(_PROGRAM, description="Generate text with the options of the 2019 script.")
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

    # Imports torch, which neither --help nor a wrong flag needs.
    from conjure.compat.generation import generate

    return generate(flags)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; the exit status. None takes this process's arguments."""
    return run(_PROGRAM, script, arguments)


if __name__ == "__main__":
    sys.exit(main())
