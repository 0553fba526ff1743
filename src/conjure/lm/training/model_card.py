"""The model card of a tuned checkpoint: what it is, in a page, for whoever finds the folder.

Main entry: `model_card`. Invariant: it holds facts about the data, never the data.
"""

import json

from conjure.core.units import format_number
from conjure.lm.checkpoints.provenance import BaseFacts
from conjure.lm.training.plan import Plan


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
    return f"""---
library_name: transformers
pipeline_tag: text-generation
base_model: {json.dumps(base.name)}
base_model_relation: finetune
{base.licence_lines}---

# A language model tuned with conjure

Fine-tuned from `{plan.model}` ({plan.parameters:,} parameters, {plan.trainable:,} of them trained) on
{plan.train_records:,} records ({plan.train_tokens:,} tokens) from {files}; the weights are those after
{step:,} steps.

- base model: {base}
- blocks of {plan.block_size} tokens, {plan.batch_size} per step; peak learning rate {rate}
- held out for evaluation: {plan.held_out_tokens:,} tokens, by {plan.held_out_method}
{_learned(plan)}- all settings: `training.json`

It imitates its training text, including that text's mistakes and biases, and may repeat parts of it.

```
conjure {"chat" if facts.are_chats else "generate"} --model THIS_FOLDER
```
"""


def _learned(plan: Plan) -> str:
    count = plan.train_answer_tokens
    return "" if count is None else f"- trained on the answers of conversations: {count:,} tokens\n"
