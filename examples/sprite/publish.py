"""Turns what train.py made into the folder that is shipped: weights, tokenizer, scores, model card.

    python examples/sprite/publish.py TEXT_FOLDER PROSE_FOLDER WORK_FOLDER OUTPUT_FOLDER

Where WORK_FOLDER has an evaluation.md (evaluate.py writes it about OUTPUT_FOLDER), the card ends with it.
"""

import argparse
import json
from pathlib import Path

import torch
from clean_text import read_documents
from safetensors import safe_open
from train import BATCH_SIZE, CONFIG, DROPOUT, LEFT_OUT, PROSE_SHARE, SENTENCES_SHARE

from conjure.lm.checkpoints.pretrained import save_checkpoint
from conjure.lm.generation.generate import generate
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.generation.score import Tally, Windows, score_documents
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.language_model import load
from conjure.lm.models.decoder import Decoder
from conjure.lm.text.tokenizer import Tokenizer

CONTEXT, STRIDE = 512, 256
PROMPTS = ["", "Nora left her umbrella on the bus.", "A good neighbour is someone who", '"I am hungry," said']
CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# sprite

The small model that comes with conjure. It has Llama's architecture at a seven-hundredth of the size of
Llama 7B, so you can start, and run the tests with a trained model, without a network. **It is small, it knows
only English, and it writes a few plain sentences about everyday things**: its statements are not facts. It is
meant to be fine-tuned.

- **Shape**: {parameters:,} parameters ({layers} layers, {heads} heads, {channels} channels),
  context {context} tokens, its own byte-level BPE of {vocabulary:,} tokens, stored in bfloat16.
- **Data**: {megabytes:.1f} MB of plain English that SmolLM2-135M-Instruct (Apache-2.0) wrote from prompts
  of our own, {documents:,} short texts ({left_out:,} more were left out), SHA-256
  `{digest}`;
  and, listed in `examples/sprite/SOURCES.md`, 45 MB of English prose in the public domain in the United
  States and 47,000 sentences of Common Voice (CC0), of which each pass over the texts takes others,
  {prose_share} and {sentences_share} tokens for each of the texts'. Paragraphs with slurs were removed from
  the prose with a word list, which cannot find everything.
- **Training**: {steps:,} steps of {step_tokens:,} tokens, {tokens:.1f} M tokens in all, in {minutes:.0f}
  minutes of two processor cores, with Muon and AdamW, dropout {dropout}, by `examples/sprite/train.py`;
  shipped is an average of the weights over the last steps.
- **Held-out loss** (context {scored_context}, stride {stride}): **{own:.4f} bits per byte** on {own_bytes:,}
  bytes of such texts, {old:.4f} on {old_bytes:,} bytes of old prose, none of which it ever saw.
- **Licence**: Apache-2.0, like conjure.

## What it writes

{samples}
"""


def trained_model(work: Path) -> tuple[Decoder, dict]:
    """The averaged weights of the last save, and how far it had come."""
    with safe_open(work / "state.safetensors", "pt") as file:
        names = [name for name in file.keys() if name.startswith("average.")]  # noqa: SIM118
        weights = {name.removeprefix("average."): file.get_tensor(name) for name in names}
        progress = json.loads(file.metadata()["progress"])
    model = Decoder(CONFIG)
    model.load_state_dict(weights)
    return model.eval(), progress


def card(own: Tally, old: Tally, progress: dict, figures: dict, samples: list[str]) -> str:
    step_tokens = BATCH_SIZE * CONFIG.context_length
    return CARD.format(
        parameters=CONFIG.parameter_count,
        layers=CONFIG.n_layer,
        heads=CONFIG.n_head,
        channels=CONFIG.n_embd,
        context=CONFIG.context_length,
        vocabulary=CONFIG.vocab_size,
        megabytes=figures["text.txt"]["bytes"] / 1e6,
        documents=figures["text.txt"]["documents"],
        digest=figures["text.txt"]["sha256"],
        left_out=sum(figures["left out"].values()),
        prose_share=PROSE_SHARE,
        sentences_share=SENTENCES_SHARE,
        steps=progress["step"],
        step_tokens=step_tokens,
        tokens=progress["step"] * step_tokens / 1e6,
        minutes=progress["elapsed"] / 60,
        dropout=DROPOUT,
        scored_context=CONTEXT,
        stride=STRIDE,
        own=own.bits_per_byte,
        own_bytes=own.bytes,
        old=old.bits_per_byte,
        old_bytes=old.bytes,
        samples="\n\n".join(f"> {' '.join(sample.split())}" for sample in samples),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", type=Path)
    parser.add_argument("prose", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    model, progress = trained_model(arguments.work)
    tokenizer = Tokenizer.from_folder(arguments.work / "tokenizer")
    # what is scored is what is shipped: the rounded weights
    save_checkpoint(arguments.output, model, tokenizer, dtype=torch.bfloat16)
    shipped = load(arguments.output).model
    windows = Windows.of(shipped, CONTEXT, STRIDE)

    def tally(texts: list[str]) -> Tally:
        scores = score_documents(TorchScorer(shipped), tokenizer, texts, windows)
        return sum((score.tally for score in scores), Tally())

    own = tally(read_documents(arguments.texts / "heldout.txt"))
    old = tally([(arguments.prose / "heldout.txt").read_text("utf-8")])
    request = GenerationRequest(prompts=PROMPTS, max_new_tokens=80, seed=1)
    samples = [sample.prompt + sample.text for sample in generate(shipped, tokenizer, request)]
    figures = json.loads((arguments.texts / "figures.json").read_text())
    text = card(own, old, progress, figures, samples)
    evaluation = arguments.work / "evaluation.md"
    if evaluation.exists():
        text += f"\n{evaluation.read_text()}"
    facts = {
        "text": figures["text.txt"],
        "left_out": sorted(LEFT_OUT),
        **progress,
        "bits_per_byte": own.bits_per_byte,
        "bits_per_byte_of_old_prose": old.bits_per_byte,
    }
    save_checkpoint(arguments.output, model, tokenizer, dtype=torch.bfloat16, card=text, training=facts)
    print(f"{arguments.output}: {own.bits_per_byte:.4f} bits per byte, {old.bits_per_byte:.4f} of old prose")


if __name__ == "__main__":
    main()
