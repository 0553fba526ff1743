"""What is said of logits: the same by the compiled library, with any instructions, and by numpy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from conjure.lm.native import library
from conjure.lm.native.library import INSTRUCTIONS
from conjure.lm.native.logits import largest, logit_summary
from support.native import native_status


@pytest.fixture(params=[*INSTRUCTIONS, "off"], autouse=True)
def way(request, monkeypatch):
    if request.param == "off":
        monkeypatch.setenv(library.VARIABLE, "off")
    elif request.param == "amx":
        # Beside tiles these are the instructions before them, which more processors have.
        beside = native_status("avx512vnni", monkeypatch)
        monkeypatch.setattr("conjure.lm.native.logits.status", lambda: replace(beside, instructions="amx"))
    else:
        native_status(request.param, monkeypatch)


def random_logits(rows: int, vocab: int) -> np.ndarray:
    return (torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab)) * 4 - 100).numpy()


class TestSummarise:
    @pytest.mark.parametrize("vocab", [1, 17, 1023, 1024, 1025, 5003])
    def test_equals_torch(self, vocab):
        logits = random_logits(3, vocab)
        logsumexp, argmax = logit_summary(logits)
        expected = torch.from_numpy(logits).double().logsumexp(1).float()
        torch.testing.assert_close(torch.from_numpy(logsumexp), expected)
        assert np.array_equal(argmax, logits.argmax(1))

    def test_of_equal_logits_it_takes_the_first(self):
        logits = random_logits(1, 5000)
        for token in (4999, 3000, 2048, 2047, 5, 0):
            logits[0, token] = 50.0
            assert logit_summary(logits)[1].tolist() == [token]

    def test_bits_do_not_depend_on_other_rows(self):
        logits = random_logits(5, 5003)
        together = logit_summary(logits)[0]
        assert all(logit_summary(logits[row : row + 1])[0] == together[row] for row in range(5))

    def test_logits_far_apart_and_forbidden_ones(self):
        logits = np.full((1, 3000), -np.inf, np.float32)
        logits[0, 7], logits[0, 2500] = -1e5, 1e5
        logsumexp, argmax = logit_summary(logits)
        assert (logsumexp.item(), argmax.item()) == (1e5, 2500)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_what_is_no_number_leaves_no_number_in_its_row_only(self, bad):
        logits = random_logits(2, 3000)
        logits[1, 2000] = bad
        assert np.isfinite(logit_summary(logits)[0]).tolist() == [True, False]


class TestLargest:
    @pytest.mark.parametrize("vocab", [5, 64, 1000, 5003])
    @pytest.mark.parametrize("count", [1, 3, 50, 700])
    def test_equals_a_sort(self, vocab, count):
        logits = random_logits(4, vocab)
        expected = np.argsort(-logits, axis=1, kind="stable")[:, :count]
        assert np.array_equal(largest(logits, count), np.sort(expected, axis=1))

    def test_of_equal_ones_the_lower_ids_stay(self):
        logits = np.round(random_logits(3, 4000))  # some forty values
        expected = np.argsort(-logits, axis=1, kind="stable")[:, :77]
        assert np.array_equal(largest(logits, 77), np.sort(expected, axis=1))

    def test_rising_logits_push_out_all_before_them(self):
        assert largest(np.arange(3000, dtype=np.float32)[None], 20).tolist() == [list(range(2980, 3000))]

    def test_zeros_of_either_sign_are_equal(self):
        logits = np.zeros((1, 1000), np.float32)
        logits[0, :5] = -0.0
        assert largest(logits, 7).tolist() == [[0, 1, 2, 3, 4, 5, 6]]

    def test_forbidden_ones_fill_up(self):
        logits = np.full((1, 1000), -np.inf, np.float32)
        logits[0, 900] = 1.0
        assert largest(logits, 3).tolist() == [[0, 1, 900]]

    def test_more_than_there_are_is_all(self):
        assert largest(np.zeros((2, 3), np.float32), 50).tolist() == [[0, 1, 2]] * 2

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    @pytest.mark.parametrize("count", [3, 700])
    def test_what_is_no_number_changes_no_other_row(self, bad, count):
        logits = random_logits(3, 1000)
        expected = largest(logits[[0, 2]], count)
        logits[1, [5, 900]] = bad
        found = largest(logits, count)
        assert np.array_equal(found[[0, 2]], expected)
        assert np.array_equal(found[1], np.unique(found[1]))
        assert 0 <= found[1].min() <= found[1].max() < 1000
