"""Every kind of tokenizer gives transformers' ids, and its texts back."""

import json
import os
import unicodedata

import pytest
import tokenizers
import transformers

from conjure.lm.text.tokenizer import IncrementalDecoder, Tokenizer, split_safely
from support.tokenizers_of_kinds import KINDS, hostile_texts, tokenizer_folder

# HOSTILE_TEXTS=10000 tries ten times as many.
TEXTS = hostile_texts(int(os.environ.get("HOSTILE_TEXTS", "1000")))


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def folder(tmp_path, kind):
    return tokenizer_folder(tmp_path, kind)


def test_ids_are_those_of_transformers(folder):
    ours, theirs = Tokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text, ids in zip(TEXTS, ours.encode_batch(TEXTS), strict=True):
        assert ids == theirs.encode(text, add_special_tokens=False, split_special_tokens=True), text


def test_texts_come_back_but_for_what_the_kind_says(folder, kind):
    tokenizer = Tokenizer.from_folder(folder)
    form = {"qwen2": "NFC", "neox": "NFC"}.get(kind)
    for text in TEXTS:
        expected = unicodedata.normalize(form, text) if form else text
        if kind in ("llama-2", "gemma", "gemma-3"):
            expected = expected.replace("▁", " ")
        assert tokenizer.decode(tokenizer.encode(text)) == expected
    assert (tokenizer.alters is None) == (kind in ("gpt-2", "smollm", "llama-bpe", "deepseek-r1-qwen"))


def test_texts_of_ids_are_those_of_tokenizers(folder):
    ours, theirs = Tokenizer.from_folder(folder), tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    for text, ids in zip(TEXTS, ours.encode_batch(TEXTS), strict=True):
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False), text


@pytest.mark.parametrize(
    ("kind", "name"), [("llama-2", "LlamaTokenizer"), ("deepseek-r1-qwen", "Qwen2Tokenizer")]
)
def test_ids_are_those_of_the_file_where_transformers_builds_a_class_anew(folder, name):
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text("utf-8")) | {"tokenizer_class": name}))
    ours, theirs = Tokenizer.from_folder(folder), tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    theirs.encode_special_tokens = True
    for text, ids in zip(TEXTS, ours.encode_batch(TEXTS), strict=True):
        assert ids == theirs.encode(text, add_special_tokens=False).ids, text


def test_runs_of_spaces_that_are_tokens_are_spaces(tmp_path):
    tokenizer = Tokenizer.from_folder(tokenizer_folder(tmp_path, "gemma-3"))
    ids = tokenizer.encode("a  b")
    assert tokenizer.tokens.index("▁▁") in ids
    assert tokenizer.decode(ids) == "a  b"


def test_a_text_cut_where_it_may_be_has_the_same_ids(folder, kind):
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.kind.cut is None) == (kind == "llama-2")
    pieces = 0
    for text in TEXTS:
        parts = list(split_safely(text, 1, cut=tokenizer.kind.cut))
        pieces += len(parts)
        assert [id_ for part in parts for id_ in tokenizer.encode(part)] == tokenizer.encode(text), text
    assert pieces > len(TEXTS) or kind == "llama-2"


def test_a_stream_never_splits_a_character(folder):
    tokenizer = Tokenizer.from_folder(folder)
    for text in TEXTS[:300]:
        ids = tokenizer.encode(text)
        decoder = IncrementalDecoder(tokenizer)
        pieces = [decoder.feed(id_) for id_ in ids] + [decoder.flush()]
        assert "".join(pieces) == tokenizer.decode(ids)
        assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in text


def test_what_is_saved_is_what_was_read(folder, tmp_path):
    (tmp_path / "saved").mkdir()
    tokenizer = Tokenizer.from_folder(folder)
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.from_folder(tmp_path / "saved")
    assert again.digest == tokenizer.digest
    assert (again.start_ids, again.end_of_text) == (tokenizer.start_ids, tokenizer.end_of_text)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again.encode(TEXTS[0]) == theirs.encode(
        TEXTS[0], add_special_tokens=False, split_special_tokens=True
    )
