"""Measures whether what sprite writes makes sense, beside an older sprite, real text and its teacher.

    python examples/sprite/evaluate.py BASE_FOLDER TEXT_FOLDER PROSE_FOLDER WORK_FOLDER OUTPUT_FOLDER

BASE_FOLDER is the sprite before, OUTPUT_FOLDER what publish.py made. WORK_FOLDER gets
evaluation.md, a table for the model card; sheet.md, shuffled samples that someone who is not told which are
which marks as sensible or not; and key.json, which tells.
"""

import argparse
import json
import random
import re
from itertools import count
from pathlib import Path

from clean_text import read_documents
from write_text import ROWS, Writing

from conjure.lm.generation.engine_loading import load_engine
from conjure.lm.generation.generate import Sample, stream
from conjure.lm.generation.request import GenerationRequest, SamplingSettings
from conjure.lm.generation.score import Tally, Windows, score_documents
from conjure.lm.generation.scorer_loading import load_scorer
from conjure.lm.report.diversity import distinct, self_bleu
from conjure.lm.report.word_ngrams import split_words

TEACHER = "smollm2"
SAMPLES, SHOWN, TOKENS, SEED = 500, 34, 60, 7
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # the teacher cannot read them
FAIR_WORDS = 10_000  # for distinct-2: longer text repeats more


def written(model: str | Path) -> list[str]:
    """Samples of a model from the start of a text, as they come: nothing is chosen or cut."""
    loaded = load_engine(model, rows=SAMPLES)
    request = GenerationRequest(max_new_tokens=TOKENS, num_samples=SAMPLES, seed=SEED, top_k=0)
    samples = [each for each in stream(loaded.engine, loaded.tokenizer, request) if isinstance(each, Sample)]
    return [sample.text for sample in sorted(samples, key=lambda sample: sample.index)]


def teachers_own() -> list[str]:
    """What the teacher writes from the recipe's prompts, at the temperature that the others have."""
    settings, texts = SamplingSettings(top_k=0), {}
    writing = Writing(load_engine(TEACHER, precision="int8", rows=ROWS), SEED, count(), settings=settings)
    while len(texts) < SAMPLES:
        for record in writing.step():
            if record["number"] < SAMPLES:
                texts[record["number"]] = record["frame"].replace("{}", record["text"])
    return [texts[number] for number in sorted(texts)]


def excerpts(texts: list[str], characters: int) -> list[str]:
    """Beginnings of as many texts, cut to the length that samples have."""
    chosen = random.Random(SEED).sample(texts, min(SAMPLES, len(texts)))
    return [text[:characters] for text in chosen]


def row(name: str, texts: list[str], tally: Tally) -> str:
    """A line of the table: the teacher's loss, and how varied the texts are."""
    split = [split_words(text) for text in texts]
    variety = distinct(split, 2, words=FAIR_WORDS)
    return f"| {name} | {len(texts)} | {tally.loss:.3f} | {variety or 0:.3f} | {self_bleu(split) or 0:.3f} |"


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
    sets = {"sprite": written(arguments.output), "the previous sprite": written(arguments.base)}
    length = sum(map(len, sets["sprite"])) // SAMPLES
    prose = [text for text in (arguments.prose / "heldout.txt").read_text("utf-8").splitlines() if text]
    sets |= {
        "SmolLM2-135M-Instruct, by the recipe": teachers_own(),
        "held-out text": excerpts(read_documents(arguments.texts / "heldout.txt"), length),
        "held-out old prose": excerpts(prose, length),
    }
    teacher = load_scorer(TEACHER, much=True)
    windows = Windows.of(teacher.scorer)
    lines = []
    for name, texts in sets.items():
        spoken = [text for text in texts if text.strip() and not CONTROLS.search(text)]
        scores = score_documents(teacher.scorer, teacher.tokenizer, spoken, windows)
        lines.append(row(name, spoken, sum((score.tally for score in scores), Tally())))
        print(lines[-1], flush=True)
    about = (
        f"SmolLM2-135M-Instruct's mean nats per token on {SAMPLES} texts of up to {TOKENS} tokens,\n"
        f"unselected, at temperature 1.0 and top-p 1 (seed {SEED}); distinct-2 of {FAIR_WORDS:,} words;\n"
        "self-BLEU of all\n"
        "(`python examples/sprite/evaluate.py`):\n\n"
    )
    head = "| texts | how many | nats per token | distinct-2 | self-BLEU |\n"
    head += "| --- | ---: | ---: | ---: | ---: |\n"
    table = "".join(f"{line}\n" for line in lines)
    (arguments.work / "evaluation.md").write_text(f"## How sensible its texts are\n\n{about}{head}{table}")
    shown = [(name, text) for name in list(sets)[:3] for text in sets[name][:SHOWN]]
    random.Random(SEED).shuffle(shown)
    sheet = "".join(f"{number}. {' '.join(text.split())}\n\n" for number, (_, text) in enumerate(shown, 1))
    (arguments.work / "sheet.md").write_text(sheet)
    key = {number: name for number, (name, _) in enumerate(shown, 1)}
    (arguments.work / "key.json").write_text(json.dumps(key, indent=2) + "\n")


if __name__ == "__main__":
    main()
