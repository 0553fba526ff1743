"""The model card of a tuned checkpoint: what it is, in a page, for whoever finds the folder.

Main entry: `model_card`. Invariant: it holds facts about the data, never the data.
"""

from conjure.lm.training.plan import Plan


def model_card(plan: Plan, step: int) -> str:
    """Markdown for the checkpoint's ``README.md``.

    Args:
        plan: What the fine-tune set out to do.
        step: Optimizer step whose weights these are.
    """
    facts = plan.data
    files = ", ".join(str(file["name"]) for file in facts.files)
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---

# A language model tuned with conjure

Started from `{plan.model}` ({plan.parameters:,} parameters, {plan.trainable:,} of them trained) and tuned on
{facts.records:,} records ({facts.tokens:,} tokens) from {files}; these are the weights after {step:,} steps.

- blocks of {plan.block_size} tokens, {plan.batch_size} per step; peak learning rate {plan.learning_rate:g}
- held out to measure on: {plan.held_out_tokens:,} tokens, chosen by {plan.held_out_method}
- everything else: `training.json`

It writes what its training text is like, with that text's mistakes and biases, and may repeat parts of it.

```
conjure generate --model THIS_FOLDER
```
"""
