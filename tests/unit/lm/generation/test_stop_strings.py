"""The stop matcher, by example; tests/property/test_stopping.py has the law."""

from conjure.lm.generation.stop_strings import StopMatcher


def test_a_stop_string_across_pieces_is_found_and_cut():
    matcher = StopMatcher(["\n\n"])

    assert matcher.feed("one\n") == "one"
    assert matcher.feed("two\n") == "\ntwo"
    assert matcher.feed("\nthree") == ""
    assert matcher.stopped
    assert matcher.feed("more") == ""
    assert matcher.flush() == ""


def test_a_false_start_is_let_through_with_the_next_piece():
    matcher = StopMatcher(["aab"])

    assert matcher.feed("aa") == ""
    assert matcher.feed("a") == "a"
    assert matcher.feed("c") == "aac"
    assert not matcher.stopped


def test_of_two_stop_strings_the_one_that_begins_first_cuts():
    matcher = StopMatcher(["world", "lo w"])

    assert matcher.feed("hello world") == "hel"
    assert matcher.stopped


def test_a_stop_string_inside_another_waits_for_the_longer_one():
    stops = ["bc", "abcd"]
    completed, abandoned = StopMatcher(stops), StopMatcher(stops)

    assert completed.feed("xabc") == "x"
    assert not completed.stopped
    assert completed.feed("d") == ""
    assert completed.stopped
    assert abandoned.feed("xabc") == "x"
    assert abandoned.feed("x") == "a"
    assert abandoned.stopped


def test_at_the_end_what_was_held_back_comes_out_up_to_a_stop_string():
    matcher, waiting = StopMatcher(["##"]), StopMatcher(["bc", "abcd"])

    assert matcher.feed("x#") == "x"
    assert matcher.flush() == "#"
    assert not matcher.stopped
    assert waiting.feed("abc") == ""
    assert waiting.flush() == "a"
    assert waiting.stopped
