"""The header is held against the file before anything is believed."""

import struct

import gguf
import numpy as np
import pytest

from conjure.errors import CheckpointError
from conjure.lm.checkpoints.gguf.reader import GGUFFile
from support.gguf_files import random_model, stored, write_gguf

HUGE = struct.pack("<Q", 1 << 60)


def header(*, version=3, tensors=0, keys=0, rest=b""):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_numbers_are_what_the_gguf_library_reads(tmp_path, kind):
    path = write_gguf(tmp_path / "m.gguf", kinds={"blk.0.ffn_up.weight": kind})
    theirs = {each.name: each for each in gguf.GGUFReader(path).tensors}["blk.0.ffn_up.weight"]
    with GGUFFile(path) as file:
        tensor = file.tensors["blk.0.ffn_up.weight"]
        assert tensor.type == kind
        whole = tensor.read()
        assert np.array_equal(whole, gguf.dequantize(theirs.data, theirs.tensor_type).reshape(96, 64))
        assert np.array_equal(tensor.read(slice(10, 20)), whole[10:20])
    weights = stored(random_model("llama"))["blk.0.ffn_up.weight"]
    assert np.abs(whole - weights).max() < 0.1


def test_keys_are_what_was_written(tmp_path):
    with GGUFFile(write_gguf(tmp_path / "m.gguf")) as file:
        assert file.keys["llama.block_count"] == 3
        assert file.keys["tokenizer.ggml.add_bos_token"] is False
        assert len(file.keys["tokenizer.ggml.tokens"]) == 300


def test_a_file_cut_short_anywhere_is_said_to_be(tmp_path):
    whole = write_gguf(tmp_path / "m.gguf").read_bytes()
    short = tmp_path / "short.gguf"
    for size in [*range(0, 200), *range(200, len(whole), len(whole) // 100)]:
        short.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"damaged|truncated"):
            GGUFFile(short)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\3\4" + bytes(60), "is not a GGUF file"),
        (header(version=1), "is of GGUF version 1"),
        (header(version=3 << 24), "is of GGUF version 50331648; conjure reads 2 and 3, little-endian"),
        (header(tensors=1 << 60), "it claims to contain 1,152,921,504,606,846,976 tensors"),
        (header(keys=1 << 40), "it claims to contain 1,099,511,627,776 keys"),
        (header(keys=1, rest=HUGE + bytes(60)), "bytes of text in one place"),
        (
            header(keys=1, rest=text("a") + struct.pack("<I", 99) + bytes(9)),
            "of type number 99",
        ),
        (header(keys=1, rest=text("a") + struct.pack("<II", 9, 8) + HUGE), "values in a list"),
        (header(keys=1, rest=text("a") + struct.pack("<II", 9, 4) + HUGE), "values in a list"),
        (header(keys=1, rest=text("a") + struct.pack("<II", 9, 9) + HUGE), "a list in it has values of type"),
        (header(tensors=1, rest=text("t") + struct.pack("<I", 77) + bytes(40)), "'t' has 77 dimensions"),
        (header(tensors=1, rest=text("t") + struct.pack("<IQIQ", 1, 1 << 62, 0, 0)), "truncated"),
        (header(tensors=1, rest=text("t") + struct.pack("<IQIQ", 1, 0, 0, 0)), "which is impossible"),
        (
            header(tensors=1, rest=text("t") + struct.pack("<IQIQ", 1, 33, 8, 0)),
            "of type Q8_0, which is im",
        ),
        (header(tensors=1, rest=text("t") + struct.pack("<IQIQ", 1, 32, 999, 0)), "of type number 999"),
        (
            header(keys=1, rest=text("general.alignment") + struct.pack("<II", 4, 0) + bytes(8)),
            "its alignment is 0",
        ),
    ],
)
def test_absurd_claims_are_one_sentence(tmp_path, data, words):
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        GGUFFile(path)
    assert words in str(caught.value)
