"""Turns what train.py made into the folder that is shipped: weights, tokenizer, scores, model card.

    python examples/sprite/publish.py BASE_FOLDER TEXT_FOLDER PROSE_FOLDER WORK_FOLDER OUTPUT_FOLDER

Where WORK_FOLDER has an evaluation.md (evaluate.py writes it about OUTPUT_FOLDER), the card ends with it.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from clean_text import read_documents
from safetensors import safe_open
from train import BATCH_SIZE, DROPOUT, LEFT_OUT, PROSE_SHARE, SENTENCES_SHARE

from conjure.core.files import sha256_file
from conjure.lm.checkpoints.pretrained import save_checkpoint
from conjure.lm.generation.generate import generate
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.generation.score import Tally, Windows, score_documents
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.language_model import LanguageModel, load
from conjure.lm.models.decoder import Decoder
from conjure.lm.models.shape import ModelConfig

CONTEXT, STRIDE = 512, 256
PROMPTS = ["", "Nora left her umbrella on the bus.", "A good neighbour is someone who", '"I am hungry," said']
CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# sprite

The small model that is included in conjure, for getting started and for tests without a network. It has
GPT-2's architecture and a twelfth of its size. **It knows only English, and writes a few plain sentences
about everyday things.** Do not rely on what it says. It is meant to be fine-tuned.

- **Shape**: {parameters:,} parameters ({layers} layers, {heads} heads, {channels} channels),
  context {context} tokens, its own byte-level BPE of {vocabulary:,} tokens, stored in bfloat16.
- **Data**: first, 45 MB of English prose in the public domain in the United States, mostly fiction from
  before 1931 (18.5M tokens; the weights trained on it have the SHA-256
  `{base_digest}`).
  Then {megabytes:.1f} MB of plain English that SmolLM2-135M-Instruct (Apache-2.0) wrote from our own
  prompts, {documents:,} short texts ({left_out:,} more were left out), SHA-256
  `{digest}`,
  and, per token of them, {sentences_share} of 47,000 sentences of Common Voice (CC0) and {prose_share} of
  the prose. `examples/sprite/SOURCES.md` lists prose and sentences with their rights. Paragraphs with slurs
  were removed from the prose with a word list, which does not find everything.
- **Training** on the texts: {steps:,} steps of {step_tokens:,} tokens, {tokens:.1f}M tokens in all, in
  {minutes:.0f} minutes on two processor cores, with AdamW, dropout {dropout}, by
  `examples/sprite/train.py`; the weights are averaged over the last steps.
- **Held-out loss** (context {scored_context}, stride {stride}), in bits per byte:

  | | this sprite | the previous one |
  | --- | ---: | ---: |
  | {own_bytes:,} bytes of texts of the same kind | **{own:.4f}** | {own_before:.4f} |
  | {old_bytes:,} bytes of old prose | {old:.4f} | {old_before:.4f} |
- **License**: Apache-2.0, like conjure.

## What it writes

{samples}
"""


@dataclass(frozen=True)
class Scores:
    """How a model fares: on held-out texts like those it learned from, and on held-out old prose."""

    own: Tally
    old: Tally


def trained_model(work: Path, config: ModelConfig) -> tuple[Decoder, dict]:
    """The averaged weights of the last save, and how far it had come."""
    with safe_open(work / "state.safetensors", "pt") as file:
        names = [name for name in file.keys() if name.startswith("average.")]  # noqa: SIM118
        weights = {name.removeprefix("average."): file.get_tensor(name) for name in names}
        progress = json.loads(file.metadata()["progress"])
    model = Decoder(config)
    model.load_state_dict(weights)
    return model.eval(), progress


def score(language_model: LanguageModel, texts: Path, prose: Path) -> Scores:
    """Both held-out losses of a model."""
    model = language_model.model
    windows = Windows.of(model, CONTEXT, STRIDE)

    def tally(documents: list[str]) -> Tally:
        scores = score_documents(TorchScorer(model), language_model.tokenizer, documents, windows)
        return sum((score.tally for score in scores), Tally())

    return Scores(
        tally(read_documents(texts / "heldout.txt")), tally([(prose / "heldout.txt").read_text("utf-8")])
    )


def card(
    config: ModelConfig,
    base_digest: str,
    scores: Scores,
    before: Scores,
    progress: dict,
    figures: dict,
    samples: list[str],
) -> str:
    step_tokens = BATCH_SIZE * config.context_length
    return CARD.format(
        parameters=config.parameter_count,
        layers=config.n_layer,
        heads=config.n_head,
        channels=config.n_embd,
        context=config.context_length,
        vocabulary=config.vocab_size,
        base_digest=base_digest,
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
        own=scores.own.bits_per_byte,
        own_bytes=scores.own.bytes,
        own_before=before.own.bits_per_byte,
        old=scores.old.bits_per_byte,
        old_bytes=scores.old.bytes,
        old_before=before.old.bits_per_byte,
        samples="\n\n".join(f"> {' '.join(sample.split())}" for sample in samples),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("prose", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    base = load(arguments.base)
    config = base.model.config
    model, progress = trained_model(arguments.work, config)
    # what is scored is what is shipped: the rounded weights
    save_checkpoint(arguments.output, model, base.tokenizer, dtype=torch.bfloat16)
    shipped = load(arguments.output)
    scores = score(shipped, arguments.texts, arguments.prose)
    before = score(base, arguments.texts, arguments.prose)
    request = GenerationRequest(prompts=PROMPTS, max_new_tokens=80, seed=1)
    samples = [sample.prompt + sample.text for sample in generate(shipped.model, shipped.tokenizer, request)]
    figures = json.loads((arguments.texts / "figures.json").read_text())
    base_digest = sha256_file(arguments.base / "model.safetensors")
    text = card(config, base_digest, scores, before, progress, figures, samples)
    evaluation = arguments.work / "evaluation.md"
    if evaluation.exists():
        text += f"\n{evaluation.read_text()}"
    facts = {
        "base_sha256": base_digest,
        "text": figures["text.txt"],
        "left_out": sorted(LEFT_OUT),
        **progress,
        "bits_per_byte": scores.own.bits_per_byte,
        "bits_per_byte_of_old_prose": scores.old.bits_per_byte,
    }
    save_checkpoint(arguments.output, model, base.tokenizer, dtype=torch.bfloat16, card=text, training=facts)
    print(
        f"{arguments.output}: {scores.own.bits_per_byte:.4f} bits per byte"
        f" (before: {before.own.bits_per_byte:.4f}), {scores.old.bits_per_byte:.4f} of old prose"
        f" ({before.old.bits_per_byte:.4f})"
    )


if __name__ == "__main__":
    main()
