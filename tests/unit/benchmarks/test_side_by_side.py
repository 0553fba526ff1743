"""What the benchmark makes of its readings: the figures themselves are for the machine to say."""

import json
import platform
import sys
from pathlib import Path

import pytest

CEILINGS = {
    "memory_bandwidth": 35e9,
    "memory_bandwidth_decode_1": 50e9,
    "matrix_float32": 2e11,
    "matrix_bfloat16": 2e12,
    "matrix_int8": 3e12,
    "rate_float32": 3e11,
    "rate_bfloat16": 3e12,
    "rate_int8": 4e12,
}
PROCESSOR = {"processor": "AMD EPYC", "features": ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"]}
RESULTS = "results-amd-avx512-bf16"
SHAPE = {"n_layer": 12, "n_embd": 768, "vocab_size": 50257}
WORK = {"block": 1024, "short_block": 128, "measures": {"decode_1": {"rows": 1, "prompt": 32, "new": 128}}}
SETTINGS = {
    "command": "make bench",
    "quick": False,
    "rounds": 3,
    "threads": 2,
    "data": "jokes.csv",
    "parameters": 124_439_808,
    "vocabulary": 50257,
    "scored_records": 10,
    "scored_tokens": 250,
}


@pytest.fixture
def summary(benchmark):
    """A summary of readings given as {(group, name, role): [figures of a round, …]}."""
    contenders, results = benchmark("contenders"), benchmark("results")

    def summarise(taken):
        entered = [contenders.Contender(name, group, role=role) for group, name, role in taken]
        readings = results.Readings(entered)
        for (group, name, _), rounds in taken.items():
            readings.taken[group, name] = [results.Reading(figures, 1 << 30) for figures in rounds]
        readings.ceilings = [CEILINGS, {name: 0.9 * value for name, value in CEILINGS.items()}]
        facts = benchmark("machine").facts(Path("nowhere")) | PROCESSOR
        return results.summarise(readings, shape=SHAPE, work=WORK, machine=facts, settings=SETTINGS)

    return summarise


def decoding(*values):
    return [{"decode_1": value} for value in values]


def test_the_median_of_the_rounds_is_compared_with_the_best_peer(summary):
    found = summary(
        {
            ("decode", "conjure", "ours"): decoding(180.0, 20.0, 200.0),
            ("decode", "conjure, float32", "variant"): decoding(40.0),
            ("decode", "slow", "peer"): decoding(30.0, 31.0, 90.0),
            ("decode", "fast", "peer"): decoding(60.0, 61.0, 59.0),
        }
    )["decode_1"]
    assert (found["ours"], found["peers"]) == (180.0, {"slow": 31.0, "fast": 60.0})
    assert (found["best_peer"], found["ratio_to_best_peer"]) == ("fast", 3.0)
    assert found["variants"] == {"conjure, float32": 40.0}
    assert found["details"]["conjure"] == {"rounds": [180.0, 20.0, 200.0], "peak_bytes": 1 << 30}


def test_one_stream_is_limited_by_reading_every_weight_once_a_token(summary):
    found = summary({("decode", "conjure", "ours"): decoding(200.0)})["decode_1"]
    weights = 12 * 12 * 768**2 + 50257 * 768  # 123.5 MB of int8
    memory = 2 * 2 * 12 * 768 * 96  # keys and values in bfloat16 of 96 tokens, on average
    assert found["limit"] == pytest.approx(50e9 / (weights + memory), rel=1e-3)
    assert found["share_of_limit"] == pytest.approx(200.0 / found["limit"], rel=1e-3)
    assert found["ratio_to_best_peer"] is None  # nobody to compare with


def test_where_less_is_better_a_ratio_above_1_still_means_ahead(summary):
    found = summary(
        {
            ("cold_start", "conjure generate", "ours"): [{"cold_start": 2.0}],
            ("cold_start", "peer", "peer"): [{"cold_start": 6.0}],
            ("cold_start", "reading", "limit"): [{"cold_start": 0.5}],
        }
    )["cold_start"]
    assert (found["ratio_to_best_peer"], found["share_of_limit"], found["unit"]) == (3.0, 0.25, "s")


def test_a_contender_that_scores_something_else_is_left_out(summary):
    found = summary(
        {
            ("score", "conjure", "ours"): [{"score": 900.0, "nats": 4.0}],
            ("score", "same", "peer"): [{"score": 300.0, "nats": 4.001}],
            ("score", "other", "peer"): [{"score": 3000.0, "nats": 3.5}],
        }
    )["score"]
    assert found["peers"] == {"same": 300.0}
    assert found["left_out"] == {"other": "its score is 3.5000 nats per token, not 4.0000"}


def test_short_steps_are_a_measure_of_their_own(summary):
    found = summary(
        {
            ("train", "conjure", "ours"): [{"train": 800.0, "loss": 9.0, "warm_up_s": 5.0}],
            ("train_short", "conjure", "ours"): [{"train_short": 500.0, "loss": 9.0, "warm_up_s": 5.0}],
            ("train_short", "Trainer", "peer"): [{"train_short": 250.0, "loss": 9.0, "warm_up_s": 5.0}],
        }
    )
    assert (found["train"]["ours"], found["train"]["peers"]) == (800.0, {})
    assert (found["train_short"]["ours"], found["train_short"]["ratio_to_best_peer"]) == (500.0, 2.0)
    assert found["train_short"]["limit"] > found["train"]["limit"]  # less attention


def test_training_says_what_each_gain_is_worth(summary):
    found = summary(
        {
            ("train", "conjure", "ours"): [{"train": 800.0, "loss": 9.0, "warm_up_s": 5.0}],
            ("train", "chunks", "gain"): [{"train": 500.0, "loss": 9.0, "warm_up_s": 6.0}],
            ("train", "conjure finetune", "first_step"): [{"first_step": 12.0}],
        }
    )["train"]
    assert (found["without"], found["first_step_s"], found["peers"]) == ({"chunks": 500.0}, 12.0, {})


def test_the_report_has_every_figure_beside_its_limit(benchmark, summary, tmp_path, capsys):
    results = summary(
        {
            ("decode", "conjure", "ours"): decoding(180.0),
            ("decode", "CTranslate2", "peer"): decoding(60.0),
            ("cold_start", "conjure generate", "ours"): [{"cold_start": 2.0}],
        }
    )
    benchmark("report").write_report(results, tmp_path)
    assert json.loads((tmp_path / f"{RESULTS}.json").read_text()) == results
    limit = round(results["decode_1"]["limit"])
    row = f"| Decoding, 1 stream, tokens/s | **180** | 60 (CTranslate2) | **3.00×** | {limit} | "
    assert row in (tmp_path / f"{RESULTS}.md").read_text()
    assert row in capsys.readouterr().out
    assert (tmp_path / f"{RESULTS}.svg").read_text().startswith("<?xml")


def test_a_plot_that_cannot_be_drawn_loses_no_figure(benchmark, summary, tmp_path, capsys):
    results = summary({("decode", "conjure", "ours"): decoding(180.0)})
    (tmp_path / f"{RESULTS}.svg").mkdir()
    with pytest.raises(SystemExit, match=rf"{RESULTS}\.svg could not be drawn: IsADirectoryError"):
        benchmark("report").write_report(results, tmp_path)
    assert json.loads((tmp_path / f"{RESULTS}.json").read_text()) == results
    assert "| Decoding, 1 stream, tokens/s | **180** |" in (tmp_path / f"{RESULTS}.md").read_text()
    assert "**180**" in capsys.readouterr().out


def test_a_quick_run_needs_nothing_that_is_compiled_and_says_what_it_is(benchmark, summary):
    quick = [
        one for one in benchmark("contenders").contenders(Path("made"), WORK) if not (one.once or one.slow)
    ]
    assert {one.role for one in quick} == {"ours", "peer", "limit"}
    assert not [one.name for one in quick if one.name.startswith("llama.cpp")]
    results = summary({("decode", "conjure", "ours"): decoding(180.0)})
    results["settings"]["quick"] = True
    assert any(line.startswith("**A quick run**") for line in benchmark("report").lines(results))


class TestProcesses:
    def test_output_and_the_time_of_its_first_byte(self, benchmark):
        script = "print('a', flush=True); print('b')"
        outcome = benchmark("processes").run([sys.executable, "-c", script], {})
        assert outcome.output == "a\nb\n"
        assert 0 < outcome.first_output_s <= outcome.seconds
        assert outcome.peak_bytes > 1 << 20

    def test_the_last_line_of_stderr_is_the_reason_of_a_failure(self, benchmark):
        processes = benchmark("processes")
        with pytest.raises(processes.WorkerError, match=r"^ValueError: no such thing$"):
            processes.run([sys.executable, "-c", "raise ValueError('no such thing')"], {})

    def test_a_worker_that_hangs_is_killed(self, benchmark):
        processes = benchmark("processes")
        with pytest.raises(processes.WorkerError, match=r"^took over 0 s$"):
            processes.run([sys.executable, "-c", "import time; time.sleep(60)"], {}, limit_s=0.3)


class TestStepTimes:
    def test_warm_up_does_not_count(self, benchmark):
        times = benchmark("exchange").StepTimes(warm_up=2, most=2, seconds=100)
        assert [times.tick() for _ in range(4)] == [False, False, False, True]
        assert len(times.steps) == 2

    def test_time_ends_it_after_one_step_at_least(self, benchmark):
        times = benchmark("exchange").StepTimes(warm_up=1, most=9, seconds=0)
        assert [times.tick() for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("processor", "features", "kind"),
    [
        ("Intel(R) Xeon(R) Processor @ 2.50GHz", ["avx2", "avx512f", "avx512_vnni"], "intel-avx512-vnni"),
        (
            "Intel(R) Xeon(R) Platinum",
            ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"],
            "intel-amx",
        ),
        ("AMD EPYC", ["avx2"], "amd-avx2"),
        ("Neoverse-N1", [], platform.machine()),
    ],
)
def test_results_are_named_after_the_kind_of_processor(benchmark, processor, features, kind):
    assert benchmark("machine").kind({"processor": processor, "features": features}) == kind
