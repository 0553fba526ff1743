"""Ids equal to transformers' GPT-2 tokenizer, the reference, on vocabularies made on the spot."""

import json
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Tokenizer, GPT2TokenizerFast

from conjure.lm.text.tokenizer import END_OF_TEXT, Tokenizer
from support.models import TEXTS, tiny_tokenizer

CODE = 'def greet(name: str = "you") -> None:\n    print(f"Hello, {name}!")  # 0xFF 1_000\n\n\tx += 2\n'
MIXED = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \n\t'.,!asdtmrvle019éёЖ漢😀\u0301")
)
SCRIPTS = [
    "Съешь ещё этих мягких булок.",
    "吾輩は猫である。",
    "e\u0301\u0323 n\u0303",
    "👩‍👩‍👧🇩🇪",
    CODE,
    *TEXTS,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.train([*SCRIPTS * 2, CODE * 3], 800).save(folder, context_length=64)
    return folder


@pytest.fixture(scope="module")
def ours(folder):
    return Tokenizer.from_folder(folder)


@cache
def reference() -> GPT2Tokenizer:
    """transformers' tokenizer, from the vocabulary and merges alone."""
    with tempfile.TemporaryDirectory() as name:
        tiny_tokenizer().save(name)
        return GPT2Tokenizer(vocab=f"{name}/vocab.json", merges=f"{name}/merges.txt")


@pytest.mark.parametrize("text", SCRIPTS)
def test_ids_are_the_references(folder, ours, text):
    theirs = GPT2Tokenizer(vocab=f"{folder}/vocab.json", merges=f"{folder}/merges.txt")
    assert ours.encode(text) == theirs(text)["input_ids"]


@given(MIXED)
def test_ids_are_the_references_on_any_text(text):
    special = tiny_tokenizer().encode(text, allow_special=True)
    assert special == reference()(text)["input_ids"]


@given(st.binary(max_size=60))
def test_ids_are_the_references_on_bytes(data):
    text = data.decode("latin1")
    assert tiny_tokenizer().encode(text, allow_special=True) == reference()(text)["input_ids"]


def test_the_marker_is_the_references_when_allowed(ours, folder):
    text = f"one {END_OF_TEXT} two{END_OF_TEXT}"
    theirs = GPT2TokenizerFast.from_pretrained(folder)
    assert ours.encode(text, allow_special=True) == theirs(text)["input_ids"]


def test_transformers_reads_a_saved_folder(ours, folder):
    theirs = GPT2TokenizerFast.from_pretrained(folder)
    assert theirs.model_max_length == 64
    assert theirs.eos_token_id == theirs.bos_token_id == ours.end_of_text_id
    for text in SCRIPTS:
        assert theirs(text)["input_ids"] == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text


def test_transformers_starts_texts_with_the_start_token_that_was_saved(ours, folder, tmp_path):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": ours.vocab_size, "content": "<s>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "add_bos_token": true}')
    with_start = Tokenizer.from_folder(tmp_path)
    with_start.save(tmp_path)
    theirs = GPT2TokenizerFast.from_pretrained(tmp_path)
    assert theirs.bos_token == "<s>"
    for text in SCRIPTS:
        assert theirs(text)["input_ids"] == [ours.vocab_size, *with_start.encode(text)]


def test_a_folder_saved_by_transformers_is_read(ours, folder, tmp_path):
    GPT2TokenizerFast.from_pretrained(folder).save_pretrained(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert again.end_of_text_id == ours.end_of_text_id
    assert again.encode_batch(SCRIPTS) == ours.encode_batch(SCRIPTS)
