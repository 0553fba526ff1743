"""The model card of a tuned checkpoint: what it is, in a page, for whoever finds the folder.

Main entry: `model_card`. Invariant: it holds facts about the data, never the data.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from conjure.core.files import open_regular
from conjure.core.units import format_number
from conjure.errors import CheckpointError
from conjure.lm.checkpoints.checkpoint_folder import ORIGIN_FILE, read_json_object
from conjure.lm.training.plan import Plan

_LICENCE = re.compile(  # in the card's head, which is YAML
    r"""license: *("(?:[^"\\]|\\.)*"|'[^']*'|[\w.-]+) *"""
)
_LONGEST_LICENCE = 100  # a name, not a text
_HEAD_BYTES = 4096
_QUANTISED = re.compile(r"I?Q\d.*|TQ\d.*")  # number formats of GGUF files that round weights


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What a model card says of the model that a tuned one started from.

    Attributes:
        name: How to name it to those who have it too.
        licence: As its own card names it; None where it does not.
        rounded_to: The number formats of a quantised file that its weights were read from; None where they
            were not.
    """

    name: str
    licence: str | None = None
    rounded_to: str | None = None

    @classmethod
    def of(cls, name: str, folder: Path) -> "BaseFacts":
        """The facts that a checkpoint folder tells; what is not there is None.

        Args:
            name: The model's name, as it was asked for.
            folder: Its checkpoint folder.
        """
        origin = _origin(folder)
        kinds = sorted(kind for kind in origin.get("number_formats", {}) if _QUANTISED.fullmatch(str(kind)))
        licence = _licence_name(origin.get("license")) or _licence_of_card(folder / "README.md")
        return cls(name, licence, ", ".join(kinds) or None)


def model_card(plan: Plan, step: int, base: BaseFacts) -> str:
    """Markdown for the checkpoint's ``README.md``.

    Args:
        plan: What the fine-tune set out to do.
        step: Optimizer step whose weights these are.
        base: The model that it started from.
    """
    facts = plan.data
    files = ", ".join(str(file["name"]) for file in facts.files)
    rate = format_number(plan.learning_rate)
    # YAML reads a string of JSON as the same text, whatever is in it.
    licence = f"license: {json.dumps(base.licence, ensure_ascii=False)}\n" if base.licence is not None else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
base_model: {json.dumps(base.name)}
base_model_relation: finetune
{licence}---

# A language model tuned with conjure

Fine-tuned from `{plan.model}` ({plan.parameters:,} parameters, {plan.trainable:,} of them trained) on
{plan.train_records:,} records ({plan.train_tokens:,} tokens) from {files}; the weights are those after
{step:,} steps.

- base model: {_base(base)}
- blocks of {plan.block_size} tokens, {plan.batch_size} per step; peak learning rate {rate}
- held out for evaluation: {plan.held_out_tokens:,} tokens, by {plan.held_out_method}
{_learned(plan)}- all settings: `training.json`

It imitates its training text, including that text's mistakes and biases, and may repeat parts of it.

```
conjure {"chat" if facts.are_chats else "generate"} --model THIS_FOLDER
```
"""


def _base(base: BaseFacts) -> str:
    licence = (
        f"its license is {base.licence}, which also applies to this model"
        if base.licence is not None
        else "its files name no license; the terms of its source also apply to this model"
    )
    weights = f"; its weights came from a quantized file ({base.rounded_to})" if base.rounded_to else ""
    return f"{base.name}; {licence}{weights}"


def _learned(plan: Plan) -> str:
    count = plan.train_answer_tokens
    return "" if count is None else f"- trained on the answers of conversations: {count:,} tokens\n"


def _origin(folder: Path) -> dict:
    """What was noted when a GGUF file was converted."""
    try:
        return read_json_object(folder / ORIGIN_FILE)
    except CheckpointError:
        return {}


def _licence_of_card(card: Path) -> str | None:
    """The license in the head of a model card."""
    try:
        with open_regular(card) as file:
            text = file.read(_HEAD_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    head = text.split("---")[1] if text.startswith("---") else ""
    found = next(filter(None, map(_LICENCE.fullmatch, head.splitlines())), None)
    if found is None:
        return None
    try:
        return _licence_name(json.loads(found[1]) if found[1].startswith('"') else found[1].strip("'"))
    except ValueError:
        return None


def _licence_name(value: object) -> str | None:
    """A license's name, in one line; None where it is none."""
    name = " ".join(value.split()) if isinstance(value, str) else ""
    return name if name.isprintable() and 0 < len(name) <= _LONGEST_LICENCE else None
