"""Conversations of one group: which of them say again what others say, and which only ask in the same way."""

import json
import random

import numpy as np
import pytest

from conjure.lm.text.chat.encoding import conversation_encoder
from conjure.lm.text.chat.formats import Conversation, Message
from conjure.lm.text.near_duplicates import group_records
from conjure.lm.text.records import read_records
from conjure.lm.text.repeated_answers import AnswerComparison
from conjure.lm.text.split import hold_out, hold_out_file
from conjure.lm.text.token_cache import find_groups, tokenise
from conjure.lm.text.tokenizer import Tokenizer
from support.chats import FAMILIES, chat_folder

DRAW = random.Random(7)
WORDS = ["".join(DRAW.choices("abcdefghijklmnoprstuvw", k=DRAW.randint(3, 8))) for _ in range(3000)]


def words(count):
    return " ".join(DRAW.choices(WORDS, k=count))


def chat(*turns, learned=True):
    roles = ("user", "assistant")
    messages = [Message(roles[n % 2], text, is_learned=learned) for n, text in enumerate(turns)]
    return Conversation(tuple(messages), "here")


def kept(chats):
    """The numbers of the conversations that repeat no earlier one."""
    groups = group_records(each.text for each in chats)
    comparison = AnswerComparison()
    for start in range(0, len(chats), 7):
        comparison.add(chats[start : start + 7])
    return np.unique(comparison.build(groups.labels).numbers, return_index=True)[1].tolist(), groups


def test_tasks_with_short_answers_are_one_group_each_and_kept_whole():
    tasks = [words(40) for _ in range(10)]
    asked = [f"{tasks[n % 10]} {words(10)}" for n in range(500)]
    chats = [chat(text, ("yes", "no")[n % 3 == 0]) for n, text in enumerate(asked)]
    found, groups = kept([*chats, chats[3], chat(asked[4].upper(), "No!"), chat(asked[4], "Yes.")])
    assert groups.count == 10
    # The last but one says what the fifth does not; the last is the fifth again.
    assert found == [*range(500), 501]


@pytest.mark.parametrize("each", [30, 150])
def test_answers_with_much_in_common_are_kept_where_they_differ(each):
    tasks = [words(40) for _ in range(10)]
    names = [words(12).split() for _ in range(10)]
    chats = []
    for n in range(10 * each):
        values = {name: DRAW.choice(("low", "high")) for name in names[n % 10]}
        chats.append(chat(f"{tasks[n % 10]} {words(10)}", json.dumps(values)))
    found, groups = kept([*chats, chats[0]])
    assert groups.count == 10
    assert found == list(range(10 * each))


def test_questions_about_one_passage_are_kept():
    passage = words(100)
    chats = [chat(f"{passage} {words(5)}?", words(20)) for _ in range(5)]
    found, groups = kept(chats)
    assert (groups.count, found) == (1, [0, 1, 2, 3, 4])


@pytest.mark.parametrize("length", [2, 30])
def test_a_conversation_that_goes_on_from_another_is_kept(length):
    turns = [words(length) for _ in range(8)]
    chats = [chat(*turns[:stop]) for stop in (2, 4, 6, 8)]
    assert kept(chats)[0] == [0, 1, 2, 3]
    assert kept(chats[::-1])[0] == ([0] if length > 2 else [0, 3])  # the least is too short for a group


def test_what_is_told_again_in_other_words_is_a_repeat():
    joke = words(24).split()
    told = [" ".join([*joke[:n], "another", *joke[n + 1 :]]) for n in (5, 15)]
    question = words(12)
    found, groups = kept([chat(question, " ".join(joke)), *(chat(question, text) for text in told)])
    assert (groups.count, found) == (1, [0])


def test_the_same_answer_in_another_group_is_no_repeat():
    answer = words(20)
    found, groups = kept([chat(words(60), answer), chat(words(60), answer)])
    assert (groups.count, found) == (2, [0, 1])


def test_answers_that_are_not_learned_do_not_count():
    question, answer = words(20), words(20)
    given = chat(question, answer, learned=False)
    assert kept([given, chat(question, answer), chat(question, answer)])[0] == [0, 1]


@pytest.mark.parametrize(("dedup", "dropped"), [("drop", 1), ("weight", 0), ("keep", 0)])
def test_a_split_keeps_groups_together_and_drops_repeats_only(tmp_path, dedup, dropped):
    tasks = [words(40) for _ in range(20)]
    rows = [
        {"prompt": f"{tasks[n % 20]} {words(10)}", "completion": ("yes", "no")[n % 2]} for n in range(200)
    ]
    path = tmp_path / "chat.jsonl"
    tokenizer = Tokenizer.from_folder(chat_folder(tmp_path, FAMILIES["chatml"]))
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    first = hold_out_of(path, tokenizer, tmp_path, dedup)
    twice = next(n for n, row in enumerate(rows) if is_trained_on(first, n))
    path.write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, rows[twice]]))
    for _ in range(2):  # made, and read from the cache
        split = hold_out_of(path, tokenizer, tmp_path, dedup)
        assert split.heldout.groups < 10 < split.heldout.records
        assert not set(split.heldout.labels.tolist()) & set(split.train.labels.tolist())
        assert split.dropped == dropped
        assert split.train.records + split.heldout.records == 201 - dropped
        assert split.heldout.without_repeats().records == split.heldout.records
        if dedup == "weight":
            assert split.train.weights.tolist().count(0.5) == 2
            assert split.train.weights.tolist().count(1.0) == split.train.records - 2


def hold_out_of(path, tokenizer, folder, dedup):
    records = read_records([path])
    encoder = conversation_encoder(records.chat_formats, tokenizer, model="it")
    text = tokenise(records, tokenizer, cache=folder / "cache", chat=encoder)
    return hold_out(text, groups=find_groups([records], cache=folder / "cache"), dedup=dedup)


def is_trained_on(split, number):
    return number in split.train.repeats.tolist()


@pytest.fixture
def tokens_of(tmp_path):
    """Records and tokens of conversations, each a list of what is said in turn."""
    tokenizer = Tokenizer.from_folder(chat_folder(tmp_path, FAMILIES["chatml"]))

    def make(chats, name="chat.jsonl"):
        roles = ("user", "assistant")
        rows = [
            {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns)]}
            for turns in chats
        ]
        (tmp_path / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        records = read_records([tmp_path / name])
        encoder = conversation_encoder(records.chat_formats, tokenizer, model="it")
        return records, tokenise(records, tokenizer, cache=tmp_path / "cache", chat=encoder)

    return make


def of_tasks(tasks, count):
    return [[f"{tasks[n % len(tasks)]} {words(10)}", ("yes", "no")[n % 3 == 0]] for n in range(count)]


def test_a_file_to_measure_on_may_be_of_the_tasks_that_are_trained_on(tokens_of, tmp_path):
    tasks = [words(40) for _ in range(10)]
    trained, new = of_tasks(tasks, 400), of_tasks(tasks, 50)
    trained.append([words(20), words(20)])
    known = [
        [trained[5][0].upper(), f"{trained[5][1]}!"],  # the same in other letters
        [*trained[-1], words(10), words(20)],  # goes on from a conversation that is trained on
    ]
    sets = tokens_of(trained), tokens_of([*new, *known], "valid.jsonl")
    for _ in range(2):  # made, and read from the cache
        groups = find_groups([records for records, _ in sets], cache=tmp_path / "cache")
        assert groups.count == 11
        split = hold_out_file(sets[0][1], sets[1][1], groups)
        assert (split.method, split.excluded, split.heldout.records) == ("file", len(known), len(new))


def test_a_short_conversation_that_stands_in_one_trained_on_is_not_measured_on(tokens_of, tmp_path):
    short = [["Why so early?", "It is late."], ["Why is it so?", "Nobody can say."]]
    trained = [[words(20), words(20)] for _ in range(9)]
    sets = tokens_of([*trained, [*short[0], words(20), words(20)]]), tokens_of(short * 2, "valid.jsonl")
    groups = find_groups([records for records, _ in sets], cache=tmp_path / "cache")
    split = hold_out_file(sets[0][1], sets[1][1], groups)
    assert (split.excluded, split.heldout.records) == (2, 2)


def test_a_task_that_is_held_out_as_a_whole_is_told(tokens_of, tmp_path):
    def held_out(chats):
        records, text = tokens_of(chats)
        return hold_out(text, groups=find_groups([records], cache=tmp_path / "cache"))

    split = held_out(of_tasks([words(40) for _ in range(10)], 500))
    assert (split.heldout.groups, split.heldout.records) == (1, 50)
    assert split.remark.startswith("50 of the held-out records have much of their text in common")
    assert held_out([[words(20), words(20)] for _ in range(100)]).remark is None
