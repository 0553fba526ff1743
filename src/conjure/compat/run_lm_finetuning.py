"""transformers' ``run_lm_finetuning.py`` of autumn 2019, for GPT-2.

Main entry: `main`; ``python -m conjure.compat.run_lm_finetuning --help`` lists the flags. Invariant: blocks,
order, schedule and optimizer are the script's; docs/compat.md says what differs.
"""

import math
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from conjure.compat.script import Parser, check_model_type, check_seed, run, say
from conjure.errors import ConflictError, UsageError

_PROGRAM = "conjure.compat.run_lm_finetuning"


def parser() -> Parser:
    """The script's flags."""
    flags = Parser(
        _PROGRAM,
        description="Fine-tune a GPT-2 model with the options of the 2019 script.",
    )
    _add_files(flags)
    _add_phases(flags)
    _add_training(flags)
    _add_hardware(flags)
    return flags


def _add_files(flags: Parser) -> None:
    add = flags.add_argument
    add("--train_data_file", required=True, help="Training text.")
    add("--output_dir", required=True, help="Folder for the model and its checkpoints.")
    add("--eval_data_file", help="Evaluation text.")
    add("--model_type", default="bert", help="gpt2")
    add("--model_name_or_path", help="Name or folder of the model to start from.")
    add("--config_name", default="", help="Model whose config.json to use.")
    add("--tokenizer_name", default="", help="Model whose tokenizer to use.")
    add("--cache_dir", default="", help="Cache folder for Hugging Face models.")
    add("--block_size", type=int, default=-1, help="Tokens in a block; 0 or less: the model's context. (-1)")
    add("--overwrite_output_dir", action="store_true", help="Write into a folder that is not empty.")
    add("--overwrite_cache", action="store_true", help="No effect: there is no cache.")


def _add_phases(flags: Parser) -> None:
    add = flags.add_argument
    add("--do_train", action="store_true", help="Train.")
    add("--do_eval", action="store_true", help="Evaluate the model in --output_dir.")
    add("--evaluate_during_training", action="store_true", help="Evaluate at every logging step.")
    add("--eval_all_checkpoints", action="store_true", help="Evaluate every checkpoint in --output_dir.")
    add("--logging_steps", type=int, default=50, help="Steps between log lines; 0: none. (50)")
    add("--save_steps", type=int, default=50, help="Steps between checkpoints; 0: none. (50)")
    add("--save_total_limit", type=int, help="Maximum number of checkpoints to keep; default: all.")
    add("--do_lower_case", action="store_true", help="No effect on GPT-2.")


def _add_training(flags: Parser) -> None:
    add = flags.add_argument
    add("--per_gpu_train_batch_size", type=int, default=4, help="Blocks per forward pass. (4)")
    add("--per_gpu_eval_batch_size", type=int, default=4, help="Blocks per forward pass in evaluation. (4)")
    add("--gradient_accumulation_steps", type=int, default=1, help="Forward passes per update. (1)")
    add("--learning_rate", type=float, default=5e-5, help="Peak learning rate. (5e-5)")
    add("--weight_decay", type=float, default=0.0, help="Weight decay of all but biases. (0.0)")
    add("--adam_epsilon", type=float, default=1e-8, help="Epsilon of AdamW. (1e-8)")
    add("--max_grad_norm", type=float, default=1.0, help="Clip gradients to this norm. (1.0)")
    add("--num_train_epochs", type=float, default=1.0, help="Number of epochs. (1.0)")
    add("--max_steps", type=int, default=-1, help="Above 0: number of steps, instead of epochs. (-1)")
    add("--warmup_steps", type=int, default=0, help="Number of warm-up steps. (0)")
    add("--seed", type=int, default=42, help="Random seed. (42)")
    add("--mlm", action="store_true", help="For BERT; refused.")
    add("--mlm_probability", type=float, default=0.15, help="For BERT; no effect.")


def _add_hardware(flags: Parser) -> None:
    add = flags.add_argument
    add("--no_cuda", action="store_true", help="Use the CPU even if there is a GPU.")
    add("--fp16", action="store_true", help="Needed NVIDIA's apex; no effect.")
    add("--fp16_opt_level", default="O1", help="For apex; no effect.")
    add("--local_rank", type=int, default=-1, help="Set by torch.distributed.launch; only 0 works.")
    add("--server_ip", default="", help="For a debugger; no effect.")
    add("--server_port", default="", help="For a debugger; no effect.")


def script(arguments: Sequence[str]) -> int:
    """Do what the arguments ask for; the exit status."""
    flags = parser().parse_args(arguments)
    check_model_type(flags.model_type)
    faults = [*_faulty_numbers(flags), *_contradictions(flags)]
    if faults:
        raise UsageError("; ".join(faults))
    check_seed(flags.seed)
    if flags.local_rank > 0:
        say(f"--local_rank is {flags.local_rank}: the process with rank 0 does all the work.")
        return 0
    _check_output(flags)
    for remark in _remarks(flags):
        say(remark)
    if flags.cache_dir:
        # huggingface_hub reads it when it is imported, which is later.
        os.environ["HF_HUB_CACHE"] = flags.cache_dir

    # Imports torch, which neither --help nor a wrong flag needs.
    from conjure.compat.finetuning import Finetuning

    return Finetuning(flags).run()


def _faulty_numbers(flags: Namespace) -> Iterator[str]:
    least = {
        "per_gpu_train_batch_size": 1,
        "per_gpu_eval_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "learning_rate": 0,
        "weight_decay": 0,
        "adam_epsilon": 0,
        "warmup_steps": 0,
        "num_train_epochs": 0,
    }
    for name, bound in least.items():
        value = getattr(flags, name)
        if not (value >= bound and math.isfinite(value)):
            yield f"--{name} must be at least {bound}, not {value}"
    if not flags.max_grad_norm > 0:
        yield f"--max_grad_norm must be above 0, not {flags.max_grad_norm}"
    if flags.block_size == 1:
        yield "--block_size is 1; a block needs at least 2 tokens"


def _contradictions(flags: Namespace) -> Iterator[str]:
    if flags.mlm:
        yield "--mlm is for BERT; GPT-2 is trained to predict the next token"
    if flags.do_train and not flags.model_name_or_path:
        yield "--model_name_or_path is missing: the model to start from"
    if flags.do_eval and not flags.eval_data_file:
        yield "--do_eval needs --eval_data_file"
    if flags.evaluate_during_training and not flags.eval_data_file:
        yield "--evaluate_during_training needs --eval_data_file"


def _check_output(flags: Namespace) -> None:
    output = Path(flags.output_dir)
    if output.exists() and not output.is_dir():
        raise ConflictError(f"--output_dir {output} is a file", hint="name a folder")
    if flags.do_train and not flags.overwrite_output_dir and output.exists() and any(output.iterdir()):
        raise ConflictError(
            f"--output_dir {output} exists and is not empty",
            hint="use --overwrite_output_dir to write into it (other files are kept), or give another folder",
        )


def _remarks(flags: Namespace) -> Iterator[str]:
    """What was asked for and cannot be, though the rest can."""
    if flags.fp16:
        yield "--fp16 needed NVIDIA's apex; conjure computes in float32 here, with the results of float32."
    if flags.local_rank == 0:
        yield "--local_rank is 0: this process does all the work, on one device; other processes exit."
    if flags.server_ip or flags.server_port:
        yield "--server_ip and --server_port made the script wait for a debugger; conjure does not wait."
    if flags.do_lower_case:
        yield "--do_lower_case has no effect: GPT-2's tokens know upper and lower case."
    if flags.do_train and flags.max_steps <= 0 and flags.num_train_epochs % 1:
        yield f"--num_train_epochs is {flags.num_train_epochs}: only whole epochs are trained, as in 2019."
    if not flags.do_train and not flags.do_eval:
        yield "Neither --do_train nor --do_eval was given, so there is nothing to do."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; the exit status. None takes this process's arguments."""
    return run(_PROGRAM, script, arguments)


if __name__ == "__main__":
    sys.exit(main())
