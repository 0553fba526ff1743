"""Fine-tunes compared on what none of them was trained on, and ranked only where they differ."""

import json
import math
from dataclasses import dataclass, field, replace

import pytest

from conjure.lm.generation.score import Tally, score_documents
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.language_model import load
from conjure.lm.report import compare as comparing
from conjure.lm.report import compared_records
from conjure.lm.report.compare import (
    ComparedRun,
    Comparison,
    behind_lowest,
    compare,
    comparison_to_json,
    named,
    not_comparable,
    rank,
)
from conjure.lm.report.compared_records import (
    ComparedRecord,
    Training,
    TunedModel,
    TunedTexts,
    remake_split,
    some_records,
    unseen_records,
)
from conjure.lm.report.html.compare_page import protocol, render_comparison
from conjure.lm.report.measure_model import record_texts
from conjure.lm.training.request import FinetuneRequest
from support.models import tiny_checkpoint, tiny_tokenizer
from support.reports import HELD_OUT, OWN_LINES, TRAINING


@dataclass
class Texts:
    """Records a model was trained on, and others that were held out."""

    trained: tuple[str, ...]
    others: tuple[str, ...]
    read: int = field(default=0)

    def trained_on(self):
        return map(ComparedRecord, self.trained)

    def held_out(self):
        return map(ComparedRecord, self.others)


def run(number: int, **changes) -> ComparedRun:
    made = ComparedRun(
        run=number,
        data=("jokes.csv",),
        bits_per_byte=1.5,
        behind=0.25,
        behind_error=0.05,
        loss=4.25,
        rank=number - 2,
        samples=("<b>one</b>", ""),
        copies=0,
        distinct_pairs=0.9,
        length_distance=2.5,
        usual_distance=1.4,
    )
    return replace(made, **changes)


def comparison(**changes) -> Comparison:
    made = Comparison(
        schema=1,
        headline="Run 3 is best on 20 records that none of them was trained on.",
        candidates=25,
        left_out=5,
        unreadable=0,
        scored=20,
        available=20,
        context=512,
        stride=256,
        seed=0,
        same_tokenizer=True,
        questions=(),
        runs=(run(3), run(4)),
    )
    return replace(made, **changes)


def test_what_any_of_them_was_trained_on_is_left_out():
    one = Texts(TRAINING, HELD_OUT)
    other = Texts((*HELD_OUT[:5], HELD_OUT[5].upper().replace(".", "!")), OWN_LINES)
    candidates, unseen = unseen_records([one, other])
    assert [record.text for record in unseen] == [*HELD_OUT[6:], *OWN_LINES]
    assert candidates == len(HELD_OUT) + len(OWN_LINES)


def test_records_that_say_the_same_count_once():
    one = Texts(TRAINING, (*OWN_LINES[:3], OWN_LINES[0].lower(), OWN_LINES[0].replace(".", "!")))
    records = [ComparedRecord(line) for line in OWN_LINES[:3]]
    assert unseen_records([one, Texts(TRAINING, OWN_LINES[:3])]) == (3, records)


def test_nothing_is_left_where_each_was_trained_on_what_the_other_held_out():
    halves = (Texts(TRAINING, HELD_OUT), Texts(HELD_OUT, TRAINING))
    assert unseen_records(halves)[1] == []


def test_of_many_records_some_are_compared_the_same_each_time(monkeypatch):
    monkeypatch.setattr(compared_records, "MOST_CHARACTERS", 35)
    records = [ComparedRecord(f"record {number:02}!") for number in range(20)]  # 10 characters each
    chosen = some_records(records)
    assert len(chosen) == 3
    assert chosen == some_records(records[::-1])
    assert set(chosen) <= set(records)
    assert some_records(records[:3]) == records[:3]
    monkeypatch.setattr(compared_records, "MOST_CHARACTERS", 30)
    assert some_records(records[:3]) == records[:3]
    assert some_records([ComparedRecord("x" * 100)]) == [ComparedRecord("x" * 100)]


def scores(*losses: float) -> list[Tally]:
    return [Tally(-loss * 10, 10, 5, 40) for loss in losses]


def test_models_rank_by_what_they_make_of_the_same_records():
    good = [3 + 0.01 * place for place in range(20)]
    bad = [loss + 0.5 for loss in good]
    assert rank([scores(*bad), scores(*good)]) == [2, 1]


def test_what_is_no_clear_difference_is_a_tie():
    flat = [3.0] * 20
    wavering = [3.0 + (0.5 if place % 2 else -0.48) for place in range(20)]
    worse = [4.0 + 0.01 * place for place in range(20)]
    assert rank([scores(*wavering), scores(*worse), scores(*flat)]) == [1, 3, 1]


def test_how_far_a_model_is_behind_is_told_in_bits_per_byte():
    good = [Tally(-8 * math.log(2), 10, 5, 40)] * 20
    bad = [Tally(-math.log(2) * (12 + place % 2), 7, 5, 40) for place in range(20)]
    behind, lowest = behind_lowest([bad, good])
    assert lowest is None
    assert behind.change == pytest.approx(4.5 / 40)
    assert 0 < behind.standard_error < 0.01


def test_names_of_runs():
    assert (named([3, 5]), named([3, 5, 8])) == ("Runs 3 and 5", "Runs 3, 5 and 8")


def test_the_page_escapes_samples_and_says_the_protocol():
    page = render_comparison(comparison())
    assert "<h1>Runs 3 and 4 compared</h1>" in page
    assert "&lt;b&gt;one&lt;/b&gt;" in page
    assert "(empty)" in page
    assert "loss, nats per token" in page
    assert "0.250 ± 0.105" in page
    assert "5 of 25 held-out records are left out" in page


def test_nothing_comparable_has_no_ranking():
    runs = tuple(run(number, rank=None, bits_per_byte=None, behind=None, loss=None) for number in (3, 4))
    made = comparison(headline="Not comparable: …", scored=0, available=0, left_out=25, runs=runs)
    assert protocol(made).startswith("No record was scored. 25 of 25 held-out records are left out")
    assert "Not comparable" in render_comparison(made)
    assert json.loads(comparison_to_json(made))["runs"][0]["rank"] is None


def test_why_nothing_is_comparable():
    assert "held out any" in not_comparable(held_out=False, unseen=False)
    assert "trained on by another" in not_comparable(held_out=True, unseen=False)
    assert "chat templates" in not_comparable(held_out=True, unseen=True)


def test_answers_stand_beside_their_question():
    made = comparison(questions=("Why <b>?", "How?"), unreadable=2)
    page = render_comparison(made)
    assert '<th scope="col">question</th>' in page
    assert "Why &lt;b&gt;?" in page
    assert "The samples in a row answer the same question of a held-out conversation" in page
    assert "their answers, given what comes before them" in protocol(made)
    assert "2 of 25 are left out, because the chat template" in protocol(made)


def test_what_is_not_known_to_be_unseen_counts_as_trained_on(tmp_path):
    lines = [f"A line that says {number} and {number * number}." for number in range(60)]
    (tmp_path / "lines.txt").write_text("\n".join([*lines, *lines[:30]]))
    request = FinetuneRequest(data=["x"], output="y", split="lines", holdout=0.3)
    now = request.settings()
    older = {name: value for name, value in now.items() if name != "dedup"}
    tokenizer = tiny_tokenizer()

    def trained(settings, digest=None):
        training = Training(data=(str(tmp_path / "lines.txt"),), settings=settings, train_sha256=digest)
        made = remake_split(training, tokenizer)
        return made.split.train.digest, [record.text for record in made.trained_on(tokenizer)]

    digest, everything = trained(now)
    assert everything == [*lines, *lines[:30]]
    assert trained(now, "another")[1] == everything
    part = trained(now, digest)[1]
    assert len(part) < len(set(lines)) == 60
    of_0_1 = trained(older)[1]
    assert len(part) < len(of_0_1) < len(everything)


@pytest.mark.parametrize("validation", [False, True])
def test_data_are_read_again_as_the_fine_tune_read_them(tmp_path, validation):
    table, other = tmp_path / "jokes.csv", tmp_path / "others.csv"
    jokes = [f'Шутка номер {number}; "длинная' for number in range(12)]
    rows = "\n".join(f"{number}#{joke}<|endoftext|>" for number, joke in enumerate(jokes))
    table.write_bytes(rows.encode("cp1251"))
    other.write_bytes("1#Совсем другая шутка".encode("cp1251"))
    request = FinetuneRequest(
        data=[table],
        output=tmp_path / "model",
        column="2",
        delimiter="#",
        header=False,
        quoting="none",
        encoding="cp1251",
        special_tokens="token",
        validation=other if validation else None,
    )
    named_validation = str(other) if validation else None
    training = Training(data=(str(table),), settings=request.settings(), validation=named_validation)

    tokenizer = tiny_tokenizer()
    split = remake_split(training, tokenizer).split

    read = list(record_texts(split.train, tokenizer))
    assert split.heldout is not None
    held_out = list(record_texts(split.heldout, tokenizer))
    assert held_out == ["Совсем другая шутка"] if validation else len(held_out) > 0
    assert all("<|endoftext|>" not in text or text[:-13] in jokes for text in read)
    assert len(read) + (0 if validation else len(held_out)) == len(jokes)


@pytest.fixture
def tuned(tmp_path, monkeypatch):
    """Makes models that are as if tuned on a file of lines, some of them held out; they write little."""
    monkeypatch.setattr(comparing, "SAMPLES", 3)
    monkeypatch.setattr(comparing, "SAMPLE_TOKENS", 24)

    def make(number: int, lines, *, holdout=0.3, is_known=True, special_tokens="text", **model):
        data = tmp_path / f"lines-{number}.txt"
        data.write_text("\n".join(lines), encoding="utf-8")
        settings = FinetuneRequest(
            data=["x"], output="y", split="lines", holdout=holdout, special_tokens=special_tokens
        ).settings()
        training = Training(data=(str(data),), settings=settings)
        if is_known:
            digest = remake_split(training, tiny_tokenizer()).split.train.digest
            training = replace(training, train_sha256=digest)
        folder = tiny_checkpoint(tmp_path / f"model-{number}", **model)
        return TunedModel(run=number, folder=folder, trainings=(training,))

    return make


ALL_LINES = (*TRAINING, *HELD_OUT)


def test_what_was_compared_is_told(tuned):
    models = [tuned(3, ALL_LINES), tuned(4, ALL_LINES, seed=1)]
    made = compare(models)
    held_out = [record.text for record in TunedTexts(models[0], tiny_tokenizer()).held_out()]
    assert made.scored == made.available == made.candidates == len(held_out)
    assert (made.left_out, made.unreadable, made.questions) == (0, 0, ())
    assert (made.context, made.stride, made.same_tokenizer) == (32, 16, True)
    first, other = made.runs
    assert (first.run, first.data, other.run, other.data) == (3, ("lines-3.txt",), 4, ("lines-4.txt",))
    assert len(first.samples) == 3
    assert first.samples != other.samples
    assert sorted((run.behind is None, run.behind_error is None) for run in made.runs) == [
        (False, False),
        (True, True),
    ]
    behind, lowest = sorted(made.runs, key=lambda run: run.behind is None)
    assert behind.behind == pytest.approx(behind.bits_per_byte - lowest.bits_per_byte)
    own = load(models[0].folder)
    scored = score_documents(TorchScorer(own.model), own.tokenizer, held_out, comparing._windows([own]))
    whole = sum((each.tally for each in scored), Tally())
    assert first.loss == pytest.approx(whole.loss)
    assert first.bits_per_byte == pytest.approx(whole.bits_per_byte)
    assert 0 < first.length_distance < 24
    assert first.usual_distance >= 0
    assert 0 < first.distinct_pairs <= 1


def test_a_clear_difference_makes_one_the_best(tuned):
    models = [tuned(3, ALL_LINES, std=1.0), tuned(4, ALL_LINES, std=0.02), tuned(5, ALL_LINES, std=0.02)]
    two, three = compare(models[:2]), compare(models)
    assert [run.rank for run in two.runs] == [2, 1]
    assert two.headline == f"Run 4 is best on {two.scored} records that none of them was trained on."
    assert [run.rank for run in three.runs] == [3, 1, 1]
    assert three.headline.startswith("Runs 4 and 5 are best on ")
    assert three.headline.endswith(
        " that none of them was trained on, without a clear difference between them."
    )


def test_equal_models_have_no_clear_difference(tuned):
    made = compare([tuned(3, ALL_LINES), tuned(4, ALL_LINES)])
    assert [run.rank for run in made.runs] == [1, 1]
    assert made.headline.startswith(f"No clear difference between the runs on {made.scored} records")


def test_what_one_was_trained_on_is_left_out_of_what_is_scored(tuned):
    every = compare([tuned(3, ALL_LINES), tuned(4, ALL_LINES)])
    part = compare([tuned(3, ALL_LINES), tuned(4, ALL_LINES, holdout=0.1)])
    assert 0 < part.scored < part.candidates == every.candidates
    assert part.left_out == part.candidates - part.scored


@pytest.mark.parametrize(
    ("holdout", "is_known", "why"),
    [(0.0, True, "none of the runs held out any records"), (0.3, False, "was trained on by another")],
)
def test_models_that_share_no_unseen_record_are_not_ranked(tuned, holdout, is_known, why):
    made = compare([tuned(number, ALL_LINES, holdout=holdout, is_known=is_known) for number in (3, 4)])
    assert why in made.headline
    assert made.scored == 0
    assert all((run.rank, run.loss, run.bits_per_byte) == (None, None, None) for run in made.runs)
    assert all(len(run.samples) == 3 for run in made.runs)


def test_special_tokens_are_read_as_in_training(tuned):
    lines = [f"{line}<|endoftext|>" for line in ALL_LINES]
    models = [tuned(number, lines, special_tokens=way) for number, way in ((3, "text"), (4, "token"))]
    assert [TunedTexts(each, tiny_tokenizer()).reads_special_tokens for each in models] == [False, True]
    as_text, as_token = compare(models).runs
    assert as_text.loss != as_token.loss


def test_a_model_that_writes_what_it_was_trained_on_is_said_to_copy(tuned, monkeypatch):
    said = iter(ALL_LINES[:6])
    generate = comparing.generate
    monkeypatch.setattr(
        comparing, "generate", lambda *each: [replace(one, text=next(said)) for one in generate(*each)]
    )
    made = compare([tuned(3, ALL_LINES, holdout=0.0), tuned(4, OWN_LINES, holdout=0.0)])
    assert [run.copies for run in made.runs] == [3, 0]
