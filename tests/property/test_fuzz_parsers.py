"""Any bytes at all to every parser of files: they are read, or refused in one sentence; nothing else happens.

`make test` tries some hundred a parser; ``scripts/fuzz -n 100000 TARGET`` as many as one likes.
"""

import json
import os
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conjure.errors import ConjureError
from conjure.lm.checkpoints.export import export
from conjure.lm.checkpoints.gguf.conversion import convert
from conjure.lm.checkpoints.layout import read_config
from conjure.lm.checkpoints.safetensors_reader import TensorFile
from conjure.lm.text.layout import Layout
from conjure.lm.text.readers import read_records
from conjure.lm.text.tokenizer import Tokenizer
from support.gguf_files import matrices, write_gguf
from support.models import tiny_checkpoint, tiny_tokenizer
from support.records import JOKES, write_records

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
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


@st.composite
def damaged(draw, name):
    """A sound file with some stretches cut out, doubled or overwritten, or rubbish from the start."""
    data = bytearray(seed_file(name))
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        stop = min(len(data), start + draw(st.integers(0, 40)))
        data[start:stop] = draw(
            st.one_of(
                st.binary(max_size=12),
                st.just(bytes(data[start:stop]) * 2),
                st.sampled_from([b'"', b"\n", b"\0", b"\xff\xfe", b",;\t|", b"[[[", b"}", b"1e999", b"-1"]),
            )
        )
    return bytes(data)


def tried(name, data, read):
    """Read a file of these bytes; a `ConjureError` is an answer too, if it is one printable sentence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            read(path)
        except ConjureError as error:
            refusal = str(error)
        else:
            refusal = ""
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
    folder = path.parent / "folder"
    folder.mkdir()
    convert(path, folder, "")
    read_tensors(folder / "model.safetensors")


LAYOUTS = st.builds(
    Layout,
    delimiter=st.sampled_from([None, ";", "\t"]),
    header=st.booleans(),
    quoting=st.sampled_from(["auto", "standard", "none"]),
    encoding=st.sampled_from([None, "cp1251", "utf-16-le", "shift_jis"]),
)


@pytest.mark.parametrize("name", ["jokes.csv", "jokes.tsv"])
def test_tables(name):
    @FUZZ
    @given(data=damaged(name), layout=LAYOUTS)
    def fuzz(data, layout):
        tried(name, data, read_table(layout))

    fuzz()


@pytest.mark.parametrize("name", ["jokes.jsonl", "jokes.json", "jokes.parquet", "jokes.txt"])
def test_records(name):
    @FUZZ
    @given(data=damaged(name))
    def fuzz(data):
        tried(
            name, data, read_table(None) if name != "jokes.txt" else lambda path: list(read_records([path]))
        )

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
def test_model_files(name, read):
    @FUZZ
    @given(data=damaged(name))
    def fuzz(data):
        tried(name, data, read)

    fuzz()


@settings(max_examples=max(10, EXAMPLES // 50), deadline=None, database=None)
@given(data=damaged("tokenizer.json"))
def test_export(data):
    """Whatever the tokenizer, an exported file is whole or not there."""
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_checkpoint(Path(folder) / "model")
        (model / "tokenizer.json").write_bytes(data)
        try:
            written = export(model, Path(folder) / "out").path
        except ConjureError:
            assert not list(Path(folder).glob("out/*"))
        else:
            assert written.read_bytes()[:4] == b"GGUF"
