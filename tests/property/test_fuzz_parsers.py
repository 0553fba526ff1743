"""Any bytes at all to every parser of files: they are read, or refused in one sentence; nothing else happens.

`make test` tries 300 a parser; ``scripts/fuzz -n 100000 TARGET`` as many as one likes.
"""

import json
import os
import random
import struct
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conjure.errors import ConjureError
from conjure.lm.checkpoints.checkpoint_folder import read_config
from conjure.lm.checkpoints.export import export
from conjure.lm.checkpoints.gguf.conversion import convert
from conjure.lm.checkpoints.safetensors_reader import TensorFile
from conjure.lm.text.read_options import ReadOptions
from conjure.lm.text.records import read_records
from conjure.lm.text.tokenizer import Tokenizer
from support.gguf_files import matrices, write_gguf
from support.models import tiny_checkpoint, tiny_tokenizer
from support.records import JOKES, write_records

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))
FUZZ = settings(
    max_examples=EXAMPLES,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@cache
def seed_file(name: str) -> bytes:
    """A sound file of a kind, to be damaged."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if name in ("model.safetensors", "config.json"):
            return (tiny_checkpoint(Path(folder) / "model") / name).read_bytes()
        if name == "model.gguf":
            return write_gguf(
                path, "smallest", kinds=dict.fromkeys(matrices("smallest"), "Q8_0")
            ).read_bytes()
        if name == "tokenizer.json":
            tiny_tokenizer().save(folder)
            return path.read_bytes()
        if name == "jokes.json":
            return json.dumps([{"Joke": joke} for joke in JOKES]).encode()
        return write_records(path, JOKES).read_bytes()


# An edit takes five bytes of a recipe: where, how much, what to put there, and which. One string of bytes for
# everything is drawn in a tenth of the time that a strategy for each would take, and shrinks to fewer edits.
EDIT = struct.Struct(">HBBB")
RECIPES = st.binary(max_size=4 * EDIT.size)
PIECES = [b"", b'"', b"\n", b"\0", b"\xff\xfe", b",;\t|", b"[[[", b"}", b"1e999", b"-1"]


def damaged(name, recipe):
    """A sound file with some stretches cut out, doubled or overwritten, or rubbish from the start."""
    if recipe.startswith(b"\xff"):
        return recipe[1:]
    data = bytearray(seed_file(name))
    for start in range(0, len(recipe) - EDIT.size + 1, EDIT.size):
        place, length, what, which = EDIT.unpack_from(recipe, start)
        at = place * len(data) >> 16
        stretch = bytes(data[at : at + length % 41])
        replacement = (
            PIECES[which % len(PIECES)],
            stretch * 2,
            random.Random(which).randbytes(length % 13),
            bytes([which]),
        )[what % 4]
        data[at : at + len(stretch)] = replacement
    return bytes(data)


def tried(folder, name, recipe, read):
    """Read a file damaged so; a `ConjureError` is an answer too, if it is one printable sentence."""
    path = folder / name
    path.write_bytes(damaged(name, recipe))
    refusal = ""
    try:
        read(path)
    except ConjureError as error:
        refusal = str(error)
    assert len(refusal) < 3000


def read_table(layout):
    def read(path):
        records = read_records([path], column="Joke", layout=layout)
        for record in records:
            record.encode()
        assert all(bad.count > 0 and records.describe(bad) for bad in records.bad_rows.values())

    return read


def read_text(path):
    return list(read_records([path]))


def read_tensors(path):
    import torch

    with TensorFile(path) as file:
        for tensor in file.tensors.values():
            if tensor.shape and 0 not in tensor.shape and tensor.is_floating_point:
                tensor.read(torch.float32)


def read_tokenizer(path):
    tokenizer = Tokenizer.from_folder(path.parent)
    tokenizer.decode(tokenizer.encode("My dog ate the <|endoftext|> clock."))
    assert len(tokenizer.tokens) == tokenizer.vocab_size


def read_gguf(path):
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        convert(path, Path(folder), "")
        read_tensors(Path(folder) / "model.safetensors")


LAYOUTS = st.builds(
    ReadOptions,
    delimiter=st.sampled_from([None, ";", "\t"]),
    header=st.booleans(),
    quoting=st.sampled_from(["auto", "standard", "none"]),
    encoding=st.sampled_from([None, "cp1251", "utf-16-le", "shift_jis"]),
)


@pytest.mark.parametrize("name", ["jokes.csv", "jokes.tsv"])
def test_tables(tmp_path, name):
    @FUZZ
    @given(recipe=RECIPES, layout=LAYOUTS)
    def fuzz(recipe, layout):
        tried(tmp_path, name, recipe, read_table(layout))

    fuzz()


@pytest.mark.parametrize("name", ["jokes.jsonl", "jokes.json", "jokes.parquet", "jokes.txt"])
def test_records(tmp_path, name):
    @FUZZ
    @given(recipe=RECIPES)
    def fuzz(recipe):
        tried(tmp_path, name, recipe, read_text if name == "jokes.txt" else read_table(None))

    fuzz()


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("model.safetensors", read_tensors),
        ("model.gguf", read_gguf),
        ("tokenizer.json", read_tokenizer),
        ("config.json", lambda path: read_config(path.parent)),
    ],
)
def test_model_files(tmp_path, name, read):
    @FUZZ
    @given(recipe=RECIPES)
    def fuzz(recipe):
        tried(tmp_path, name, recipe, read)

    fuzz()


def test_export(tmp_path):
    """Whatever the tokenizer, an exported file is whole or not there."""
    model, out = tiny_checkpoint(tmp_path / "model"), tmp_path / "out"

    @settings(FUZZ, max_examples=max(EXAMPLES // 10, 1))  # each loads a model, and writes one
    @given(recipe=RECIPES)
    def fuzz(recipe):
        (model / "tokenizer.json").write_bytes(damaged("tokenizer.json", recipe))
        try:
            written = export(model, out).path
        except ConjureError:
            assert not list(out.glob("*"))
        else:
            assert written.read_bytes()[:4] == b"GGUF"
            written.unlink()

    fuzz()
