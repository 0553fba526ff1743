"""The recipe of sprite's text: prompts, what is written from them, and what is left out."""

import importlib
import sys
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from conjure.lm.generation.engine_loading import load_engine
from conjure.lm.text.split import TokenStream

RECIPE = Path(__file__).parents[3] / "examples/sprite"


@pytest.fixture
def recipe(monkeypatch):
    """Imports a module of the recipe by name."""
    monkeypatch.syspath_prepend(str(RECIPE))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(RECIPE) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_prompts_are_filled_and_varied(recipe):
    prompts = [recipe("prompts").draw(5, number) for number in range(2000)]
    assert not [
        prompt for prompt in prompts if "{" in "".join((*prompt.openings, prompt.asked, prompt.shared))
    ]
    assert all(prompt.frame.count("{}") == 1 and prompt.frame.count("{") == 1 for prompt in prompts)
    assert len(set(prompts)) > 1900
    assert {prompt.form for prompt in prompts} > {"story", "tale", "talk", "letter", "saying", "problem"}
    assert recipe("prompts").draw(5, 17) == prompts[17] != recipe("prompts").draw(6, 17)


def test_a_number_gets_the_same_text_in_any_company(recipe):
    write_text = recipe("write_text")
    loaded = load_engine("sprite", precision="int8")

    def written(numbers, rows, texts):
        writing = write_text.Writing(loaded, 1, numbers, rows=rows)
        records = (record for _ in count() for record in writing.step())
        return {record["number"]: record for record in islice(records, texts)}

    together, alone = written(count(), 8, 10), written(iter([3, 2, 1, 0]), 1, 3)
    shared = together.keys() & alone.keys()
    assert shared
    assert all(together[number] == alone[number] for number in shared)


def test_what_was_written_is_read_again_without_a_torn_line(recipe, tmp_path):
    write_text = recipe("write_text")
    (tmp_path / "written-0001.jsonl").write_text('{"number": 4, "text": "a"}\n{"number": 2, "te')
    (tmp_path / "written-0002.jsonl").write_text('{"number": 2, "text": "b"}\n')
    assert [record["text"] for record in write_text.read_written(tmp_path)] == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Nora left her umbrella on the bus, and the driver found it.", None),
        ("As an AI language model, I do not own an umbrella.", "assistant's talk"),
        ("An umbrella is a special kind of umbrella for the rain.", "repetition"),
        ("She went home to sleep. She went home to eat.", "repetition"),
        ("You need: - an umbrella - a coat for the rain", "markup, list or figures"),
        ("He said hello.", "too short"),
        ("She paid for a caf\u00e9 by the sea last summer.", "other characters"),
        ('He said, "I will come home late tonight.', "open quotation"),
        ('Ben said, "I am going home to my dog."', None),
        ("Ben is learning to swim because I am a swimmer.", "teller speaks of itself"),
    ],
)
def test_what_is_left_out(recipe, text, fault):
    record = {"text": text, "form": "story", "frame": "{}", "logprob": -1.0, "ended": True}
    assert recipe("clean_text").fault(record, text) == fault


def test_a_text_is_cut_to_whole_sentences_without_the_assistants_greeting(recipe):
    clean_text = recipe("clean_text")
    said = "That's a great question! try a warm bath. It helps to"
    assert clean_text.whole_sentences(clean_text.plain(said), ended=False) == "Try a warm bath."


def test_every_epoch_has_all_documents_in_another_order(recipe):
    train = recipe("train")
    documents = [[number, number, 99] for number in range(40)]
    ids = np.concatenate(documents)
    starts = np.arange(0, len(ids), 3)
    text = TokenStream(ids, starts, starts + 3, True, np.arange(len(starts)))
    prose = TokenStream(ids + 50, starts, starts + 3, True, np.arange(len(starts)))
    blocks = train.ShuffledDocuments(text, [(prose, 0.3)], block_size=4)

    def epoch(number):
        order = blocks.order(number, seed=1)
        return blocks.batch(order).ids.flatten().tolist()

    first = epoch(0)
    assert first == epoch(0) != epoch(1)
    assert sorted(token for token in first if token < 50) == sorted([*range(40)] * 2)
    assert sum(50 <= token < 90 for token in first) == 24  # two thirds of 0.3 * 120 tokens


def test_a_text_that_says_mostly_what_one_before_it_says_is_left_out(recipe):
    texts = [
        "Once upon a time, there was a cat that lived near the bakery.",
        "Once upon a time, there was a fox that could not sleep.",
        "Once upon a time, there was a cat that lived near the mill.",
    ]
    assert recipe("clean_text").without_near_duplicates(texts) == [0, 1]


def test_a_start_writes_after_all_files_that_are_there(recipe, tmp_path):
    next_file = recipe("write_text").next_file
    assert next_file(tmp_path).name == "written-0001.jsonl"
    (tmp_path / "written-0002.jsonl").touch()
    assert next_file(tmp_path).name == "written-0003.jsonl"
