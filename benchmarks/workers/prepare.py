"""Makes what everything is measured on: a 124M-parameter GPT-2 of random weights, its text, its GGUF files.

The vocabulary is GPT-2's own where a folder with it is given; else one is learned from the text, with as many
merges as that gives, and filled up to GPT-2's 50,257 tokens with some that no text has.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from exchange import answer, task

from conjure.lm.checkpoints.export import export
from conjure.lm.checkpoints.pretrained import save_checkpoint
from conjure.lm.models.decoder import Decoder
from conjure.lm.models.registry import read_model_config
from conjure.lm.text.records import read_records
from conjure.lm.text.tokenizer import END_OF_TEXT, Tokenizer

_TINY = read_model_config({"n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 8192})
_BLOCKS = 64
_PUBLISHED_NAMES = {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}


def tokenizer(vocabulary: str | None, records: list[str], size: int) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        if vocabulary is None:
            learn(records, size, Path(folder))
        else:
            for file in Path(vocabulary).iterdir():
                shutil.copy(file, Path(folder) / _PUBLISHED_NAMES.get(file.name, file.name))
        return Tokenizer.from_folder(folder)


def learn(records: list[str], size: int, folder: Path) -> None:
    """Write vocab.json and merges.txt of so many tokens: learned ones, fillers, and last the end of text."""
    Tokenizer.train(records, size).save(folder)
    (folder / "tokenizer.json").unlink()
    path = folder / "vocab.json"
    vocabulary = json.loads(path.read_text(encoding="utf-8"))
    learned = [token for token in vocabulary if token != END_OF_TEXT]
    fillers = [f"filler{number}" for number in range(len(learned), size - 1)]
    tokens = [*sorted(learned, key=vocabulary.__getitem__), *fillers, END_OF_TEXT]
    numbered = {token: number for number, token in enumerate(tokens)}
    path.write_text(json.dumps(numbered, ensure_ascii=False), encoding="utf-8")


def exact_prompts(words: Tokenizer, ids: list[int], length: int, count: int) -> Iterator[dict]:
    """Stretches of the text that are exactly so many tokens, whether as ids or encoded afresh."""
    found = 0
    for start in range(0, len(ids) - length):
        piece = ids[start : start + length]
        text = words.decode(piece)
        if text.startswith(" ") and "\ufffd" not in text and words.encode(text) == piece:
            yield {"text": text, "ids": piece}
            found += 1
            if found == count:
                return
    raise SystemExit(f"the text has too few stretches of {length} tokens")


def blocks(stream: list[int], size: int) -> np.ndarray:
    """Enough blocks, each with the token after it, that no epoch, and no smaller last batch, ends within a
    measurement; a short text comes again and again."""
    repeated = np.resize(np.array(stream, np.uint16), _BLOCKS * size + 1)
    return np.lib.stride_tricks.sliding_window_view(repeated, size + 1)[::size]


def main() -> None:
    assigned = task()
    folder = Path(assigned["folder"])
    records = list(read_records([assigned["data"]]))
    shape = _TINY if assigned["tiny"] else read_model_config({})
    words = tokenizer(assigned["vocabulary"], records, shape.vocab_size)
    config = replace(shape, bos_id=words.end_of_text_id, eos_ids=(words.end_of_text_id,), settings={})
    folder.mkdir(parents=True)
    save_checkpoint(folder / "checkpoint", Decoder(config).initialise(0), words)
    for kind in ("float16", "q8_0"):
        export(folder / "checkpoint", folder / "gguf", type=kind)

    encoded = words.encode_batch(records)
    stream = [token for record in encoded for token in (words.end_of_text_id, *record)]
    prompts = {
        length: list(
            exact_prompts(words, [token for record in encoded for token in record], int(length), count)
        )
        for length, count in assigned["prompts"].items()
    }
    (folder / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    scored = [{"text": text, "ids": ids} for text, ids in zip(records, encoded, strict=True)]
    (folder / "all-records.json").write_text(json.dumps(scored), encoding="utf-8")
    np.save(folder / "blocks.npy", blocks(stream, assigned["block"]))
    answer(
        end_of_text=words.end_of_text_id,
        parameters=config.parameter_count,
        vocabulary=words.vocab_size,
        tokens=len(stream),
    )


if __name__ == "__main__":
    main()
