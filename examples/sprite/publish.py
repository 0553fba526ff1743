"""Turns what train.py made into the folder that is shipped: weights, tokenizer, score, model card.

python examples/sprite/publish.py TEXT_FOLDER WORK_FOLDER OUTPUT_FOLDER
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from train import BATCH_SIZE, CONFIG, LEFT_OUT

from conjure.lm.checkpoints.pretrained import save_checkpoint
from conjure.lm.generation.generate import generate
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.generation.score import Tally, Windows, score_documents
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.language_model import load
from conjure.lm.models.decoder import Decoder
from conjure.lm.text.tokenizer import Tokenizer

CONTEXT, STRIDE = 512, 256
PROMPTS = ["", "The old man looked at the", '"I have been thinking," said']


def trained_model(work: Path) -> tuple[Decoder, dict]:
    """The master weights of the last save, and how far it had come."""
    with safe_open(work / "state.safetensors", "pt") as file:
        names = [name for name in file.keys() if name.startswith("master.")]  # noqa: SIM118
        weights = {name.removeprefix("master."): file.get_tensor(name) for name in names}
        progress = json.loads(file.metadata()["progress"])
    model = Decoder(CONFIG)
    model.load_state_dict(weights)
    return model.eval(), progress


CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# sprite

The small model that comes with conjure. It has GPT-2's architecture at a twelfth of its size, so you can
start, and run the tests with a trained model, without a network. **It is small, it knows only English, and
it writes old-fashioned prose**: its statements are not facts, and its characters talk like people in 1900.
It is meant to be fine-tuned.

- **Shape**: {parameters:,} parameters ({layers} layers, {heads} heads, {channels} channels),
  context {context} tokens, its own byte-level BPE of {vocabulary:,} tokens, stored in bfloat16.
- **Data**: {megabytes:.0f} MB of English prose in the public domain in the United States, mostly fiction
  from before 1931, and also presidents' addresses and the Jargon File; `examples/sprite/SOURCES.md` lists
  every text and its rights. Paragraphs with slurs of that time were removed with a word list, which cannot
  find everything.
- **Training**: {steps:,} steps of {step_tokens:,} tokens, {tokens:.1f} M tokens in all, in {minutes:.0f}
  minutes of one processor core, with Muon and AdamW, by `examples/sprite/train.py`.
- **Held-out loss**: {loss:.4f} nats per token, **{bits_per_byte:.4f} bits per byte**, on {bytes:,}
  bytes of prose it never saw (`heldout.txt`, context {scored_context}, stride {stride}).
- **Licence**: Apache-2.0, like conjure.

## What it writes

{samples}
"""


def card(tally: Tally, progress: dict, megabytes: float, samples: list[str]) -> str:
    step_tokens = BATCH_SIZE * CONFIG.context_length
    return CARD.format(
        parameters=CONFIG.parameter_count,
        layers=CONFIG.n_layer,
        heads=CONFIG.n_head,
        channels=CONFIG.n_embd,
        context=CONFIG.context_length,
        vocabulary=CONFIG.vocab_size,
        megabytes=megabytes,
        steps=progress["step"],
        step_tokens=step_tokens,
        tokens=progress["step"] * step_tokens / 1e6,
        minutes=progress["elapsed"] / 60,
        loss=tally.loss,
        bits_per_byte=tally.bits_per_byte,
        bytes=tally.bytes,
        scored_context=CONTEXT,
        stride=STRIDE,
        samples="\n\n".join(f"> {' '.join(sample.split())}" for sample in samples),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    model, progress = trained_model(arguments.work)
    tokenizer = Tokenizer.from_folder(arguments.work / "tokenizer")
    # what is scored is what is shipped: the rounded weights
    save_checkpoint(arguments.output, model, tokenizer, dtype=torch.bfloat16)
    shipped = load(arguments.output).model
    held_out = (arguments.texts / "heldout.txt").read_text("utf-8")
    windows = Windows.of(shipped, CONTEXT, STRIDE)
    tally = next(score_documents(TorchScorer(shipped), tokenizer, [held_out], windows)).tally
    request = GenerationRequest(prompts=PROMPTS, max_new_tokens=80, seed=1)
    samples = [sample.prompt + sample.text for sample in generate(shipped, tokenizer, request)]
    trained_on = [path for path in arguments.texts.glob("*.txt") if path.name not in LEFT_OUT]
    megabytes = sum(path.stat().st_size for path in trained_on) / 1e6
    text = card(tally, progress, megabytes, samples)
    facts = {
        "left_out": sorted(LEFT_OUT),
        **progress,
        "loss": tally.loss,
        "bits_per_byte": tally.bits_per_byte,
    }
    save_checkpoint(arguments.output, model, tokenizer, dtype=torch.bfloat16, card=text, training=facts)
    print(f"{arguments.output}: {tally.loss:.4f} nats per token, {tally.bits_per_byte:.4f} bits per byte")


if __name__ == "__main__":
    main()
