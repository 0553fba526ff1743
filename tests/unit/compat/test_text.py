"""Text in and out as in 2019."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conjure.compat.text import clean_up, decode, encode
from conjure.lm.text.tokenizer import Tokenizer
from support import scripts_of_2019 as theirs
from support.models import tiny_tokenizer

EOT = "<|endoftext|>"
VOCABULARY = {EOT: tiny_tokenizer().end_of_text_id}


@pytest.mark.parametrize("prompt", [" ", "\n", "\t \n", "\u00a0"])
def test_white_space_alone_is_the_start_of_a_document(prompt):
    assert encode(tiny_tokenizer(), prompt) == [tiny_tokenizer().end_of_text_id]


def test_an_empty_prompt_has_no_ids():
    assert encode(tiny_tokenizer(), "") == []


@pytest.mark.parametrize("prompt", [" My dog", "My dog", "My dog\n\n"])
def test_a_prompt_is_stripped(prompt):
    assert encode(tiny_tokenizer(), prompt) == tiny_tokenizer().encode("My dog")


def test_white_space_around_the_end_of_text_vanishes():
    ids = encode(tiny_tokenizer(), f" one\n{EOT}\n two {EOT}{EOT}")
    end = tiny_tokenizer().end_of_text_id
    assert ids == [*tiny_tokenizer().encode("one"), end, *tiny_tokenizer().encode("two"), end, end]


@given(st.lists(st.sampled_from([EOT, " ", "\n", "a", "dog ", " clock.", "猫", "<|", "|>"]), max_size=8))
def test_ids_are_those_of_the_tokenizer_stated_again(pieces):
    text = "".join(pieces)
    assert encode(tiny_tokenizer(), text) == theirs.tokenize(VOCABULARY, tiny_tokenizer().encode, text)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a dog . Really ?", "a dog. Really?"),
        ("No ! Yes , no", "No! Yes, no"),
        ("I do not", "I don't"),
        ("it 's , we 're , I 've , I 'm", "it's, we're, I've, I'm"),
        ("the dogs ' bones", "the dogs'bones"),
        ("ca n't", "can't"),
        ("[ 1 , 2 ]", "[ 1, 2 ]"),
    ],
)
def test_decoding_cleans_up(text, cleaned):
    assert clean_up(text) == cleaned
    assert decode(tiny_tokenizer(), tiny_tokenizer().encode(text)) == cleaned


def test_the_end_of_text_is_written_out():
    end = tiny_tokenizer().end_of_text_id
    ids = [*tiny_tokenizer().encode("one"), end, *tiny_tokenizer().encode("two")]
    assert decode(tiny_tokenizer(), ids) == f"one{EOT}two"


def test_half_a_character_becomes_the_mark_for_it():
    ids = tiny_tokenizer().encode("猫")
    assert decode(tiny_tokenizer(), ids[:-1]) == "\ufffd"


def test_tokens_added_later_get_a_space(tmp_path):
    tiny_tokenizer().save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "added_tokens.json").write_text('{"<joke>": 300}')
    tokenizer = Tokenizer.from_folder(tmp_path)

    ids = encode(tokenizer, "one <joke> two")

    assert ids == [*tokenizer.encode("one"), 300, *tokenizer.encode("two")]
    assert decode(tokenizer, ids) == "one <joke>two"
