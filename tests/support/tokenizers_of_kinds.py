"""A small tokenizer of each kind, in the files a checkpoint folder has, and texts that are hard on them."""

import json
import random
from collections import Counter
from pathlib import Path

from conjure.lm.checkpoints.gguf.vocabulary import tokenizer_files
from conjure.lm.text.tokenizer import Tokenizer
from support.models import TEXTS

_TRAINED_ON = [
    *TEXTS,
    "12 345 6789 and 1,000; don't, we'll, IT'S\n\n  two\tspaces ...",
    "e\u0301 caf\u00e9 ñ",
] * 3
_ALPHABETS = [
    "abc xyz",
    "aB 1 23.'s't",
    "'sS'Ll'Re't don",
    " \n\t\r\u00a0\u2003\u0085\u180e",
    ".,;:!?。、-_()[]",
    "e\u0301o\u0308\u0323ﬁÅ\u212b\u1100\u1161\u11a8한",
    "猫は寝ている漢字",
    "😀👩\u200d👩🇩🇪\ufe0f",
    "0123456789٣½²",
    "\u2581▁ <0x41><s>",
    "\x00\x01\x7f\ufeff\U0010ffff",
]


def _byte_level(name: str) -> dict:
    learned = Tokenizer.train(_TRAINED_ON, 420)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": learned.tokens,
        "tokenizer.ggml.token_type": [1] * (learned.vocab_size - 1) + [3],
        "tokenizer.ggml.merges": learned.merges,
        "tokenizer.ggml.eos_token_id": learned.end_of_text_id,
        "tokenizer.ggml.bos_token_id": learned.end_of_text_id,
    }


def _sentence_piece(*, prefix: bool, runs: bool = False) -> dict:
    """Keys of a vocabulary of pieces; with runs two spaces are an added token, as in Gemma's vocabulary."""
    counts: Counter[str] = Counter()
    for text in _TRAINED_ON:
        spelled = text.replace(" ", "▁")
        counts.update(
            spelled[at : at + size] for size in (1, 2, 3, 4) for at in range(len(spelled) - size + 1)
        )
    pieces = [piece for piece, _ in counts.most_common(400) if "▁" not in piece[1:]]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    scores = [-1.0 - rank for rank in range(len(pieces))]
    added = ["▁▁"] if runs else []
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *bytes_, *added, *pieces],
        "tokenizer.ggml.scores": [0.0] * (259 + len(added)) + scores,
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[4] * len(added), *[1] * len(pieces)],
        "tokenizer.ggml.add_space_prefix": prefix,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


KINDS = {
    "gpt-2": lambda: _byte_level("gpt-2"),
    "smollm": lambda: _byte_level("smollm"),
    "llama-bpe": lambda: _byte_level("llama-bpe"),
    "qwen2": lambda: _byte_level("qwen2"),
    "deepseek-r1-qwen": lambda: _byte_level("deepseek-r1-qwen"),
    "neox": lambda: _byte_level("olmo"),
    "llama-2": lambda: _sentence_piece(prefix=True),
    "gemma": lambda: _sentence_piece(prefix=False),
    "gemma-3": lambda: _sentence_piece(prefix=False, runs=True),
}


def tokenizer_folder(folder: Path, kind: str) -> Path:
    """Write a tokenizer's files into an existing folder; returns it."""
    files = tokenizer_files(KINDS[kind](), vocabulary=1000, context=64)
    for name, content in [
        ("tokenizer.json", files.tokenizer),
        ("tokenizer_config.json", files.config),
        ("generation_config.json", files.generation),
    ]:
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder


def hostile_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of characters and joints that are easily got wrong."""
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(draw.randint(1, 6)):
            alphabet = draw.choice(_ALPHABETS)
            parts.append("".join(draw.choice(alphabet) for _ in range(draw.randint(1, 12))))
        texts.append(draw.choice(["", " ", "  "]).join(parts))
    return texts
