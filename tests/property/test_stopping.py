"""The stop matcher agrees with a search of the whole text, however the text is cut into pieces."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from conjure.lm.generation.stop_strings import StopMatcher

# Few letters, so that overlaps, repeats and near misses abound.
TEXTS = st.text("abж\n", max_size=40)
STOPS = st.lists(st.text("abж\n", min_size=1, max_size=5), max_size=4)


def naive_cut(text: str, stops: list[str]) -> str:
    return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@given(TEXTS, STOPS, st.lists(st.integers(0, 40)))
def test_any_split_of_a_text_is_cut_where_a_search_of_the_whole_would(text, stops, cuts):
    matcher = StopMatcher(stops)

    released = "".join(matcher.feed(piece) for piece in pieces_of(text, cuts)) + matcher.flush()

    assert released == naive_cut(text, stops)
    assert matcher.stopped == any(stop in text for stop in stops)


@given(TEXTS, STOPS)
def test_nothing_is_let_through_that_a_later_piece_could_still_make_a_stop_string(text, stops):
    matcher = StopMatcher(stops)
    released = ""
    for end, character in enumerate(text, start=1):
        released += matcher.feed(character)
        if matcher.stopped:
            break
        held = text[len(released) : end]
        # What is held back is the beginning of some stop string; what could not be is let through at once.
        assert held == "" or any(stop[: len(held)] == held[: len(stop)] for stop in stops)
    assert text.startswith(released)


@given(TEXTS, st.lists(st.integers(0, 40)))
def test_without_stop_strings_all_text_passes_at_once(text, cuts):
    matcher = StopMatcher([])

    assert [matcher.feed(piece) for piece in pieces_of(text, cuts)] == pieces_of(text, cuts)
    assert matcher.flush() == ""
