"""Tokenizer properties over any text: there and back, in pieces, and id by id."""

from hypothesis import given
from hypothesis import strategies as st

from conjure.lm.text.tokenizer import IncrementalDecoder, split_safely
from support.models import TINY_VOCAB_SIZE, tiny_tokenizer

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
# What decides where words are cut: spaces of all kinds, apostrophes, contractions, punctuation.
WORD_EDGES = st.text(st.sampled_from(" \n\t\r'\u00a0\u2028\u3000\u180e\x1c\x85.,!sdt1٣é漢。ア-"), max_size=60)


@given(ANY_TEXT)
def test_decode_undoes_encode(text):
    assert tiny_tokenizer().decode(tiny_tokenizer().encode(text)) == text


@given(ANY_TEXT | WORD_EDGES, st.integers(1, 9))
def test_pieces_have_the_ids_of_the_whole(text, size):
    tokenizer = tiny_tokenizer()
    pieces = list(split_safely(text, size))
    assert "".join(pieces) == text
    ids = [id_ for piece in pieces for id_ in tokenizer.encode(piece)]
    assert ids == tokenizer._backend.encode(text, add_special_tokens=False).ids


@given(st.lists(st.integers(0, TINY_VOCAB_SIZE - 1), max_size=40))
def test_id_by_id_gives_what_all_at_once_gives(ids):
    decoder = IncrementalDecoder(tiny_tokenizer())
    pieces = [decoder.feed(id_) for id_ in ids]
    assert "".join(pieces) + decoder.flush() == tiny_tokenizer().decode(ids)


@given(ANY_TEXT)
def test_valid_text_streams_without_damage(text):
    decoder = IncrementalDecoder(tiny_tokenizer())
    streamed = "".join(map(decoder.feed, tiny_tokenizer().encode(text)))
    assert streamed == text
