"""Fine-tunes on conversations compared: the answers are scored, and each sample answers a question."""

import json

import pytest

from conjure.errors import UsageError
from conjure.lm.language_model import load
from conjure.lm.report.compare import compare
from conjure.lm.report.compared_records import (
    ComparedRecord,
    Training,
    TunedModel,
    remake_split,
    seen_in_training,
    unseen_records,
)
from conjure.lm.text.chat.formats import Message
from conjure.lm.training.finetune import run_training
from conjure.lm.training.preparation import prepare
from conjure.lm.training.request import FinetuneRequest
from support.chats import FAMILIES, chat_checkpoint
from support.models import tiny_checkpoint
from support.texts import ONE_LINERS


def chats(lines, *, system=None):
    """Each line as the answer to a question about its first word."""
    for line in lines:
        first = [{"role": "system", "content": system}] if system else []
        yield {
            "messages": [
                *first,
                {"role": "user", "content": f"Tell me about {' '.join(line.split()[:3])}."},
                {"role": "assistant", "content": line},
            ]
        }


def written(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def tuned(folder, number, base, data, *, holdout=0.3, **options) -> TunedModel:
    """A model tuned for a few steps."""
    request = FinetuneRequest(
        data=[data],
        output=folder / f"tuned-{number}",
        model=base,
        max_steps=2,
        batch_size=2,
        precision="float32",
        sample_every=0,
        holdout=holdout,
        **options,
    )
    run_training(prepare(request))
    facts = json.loads((folder / f"tuned-{number}" / "training.json").read_text())
    training = Training(data=(str(data),), settings=request.settings(), train_sha256=facts["train_sha256"])
    return TunedModel(run=number, folder=folder / f"tuned-{number}", trainings=(training,))


@pytest.fixture
def base(tmp_path):
    return chat_checkpoint(tmp_path / "chatml", FAMILIES["chatml"])


def test_the_split_is_made_again_by_conversation(tmp_path, base):
    data = written(tmp_path / "chat.jsonl", chats(ONE_LINERS, system="Be brief."))
    one = tuned(tmp_path, 1, base, data)
    tokenizer = load(one.folder).tokenizer
    made = remake_split(one.trainings[0], tokenizer)
    held_out = list(made.held_out(tokenizer))
    trained = [record.text for record in made.trained_on(tokenizer)]
    assert len(held_out) + len(trained) == len(ONE_LINERS)
    assert {record.messages[-1].content for record in held_out} <= set(ONE_LINERS)
    assert all("Be brief." not in text for text in [*trained, *(record.text for record in held_out)])
    assert all(record.question.startswith("Tell me about") for record in held_out)
    assert not {record.text for record in held_out} & set(trained)


def test_answers_are_scored_and_written_to_the_same_questions(tmp_path, base):
    data = written(tmp_path / "chat.jsonl", chats(ONE_LINERS))
    models = [tuned(tmp_path, 1, base, data), tuned(tmp_path, 2, base, data, learning_rate=1e-3)]
    told = []
    compared = compare(models, tell=told.append)
    assert told == ["Reading the data", "Measuring run 1", "Measuring run 2"]
    assert compared.same_tokenizer
    assert 0 < compared.scored <= compared.candidates
    assert compared.left_out == compared.unreadable == 0
    assert len(compared.questions) == compared.scored
    assert all(len(run.samples) == len(compared.questions) for run in compared.runs)
    assert all(run.bits_per_byte is not None for run in compared.runs)


def test_what_another_run_was_trained_on_is_left_out(tmp_path, base):
    data = written(tmp_path / "chat.jsonl", chats(ONE_LINERS))
    compared = compare([tuned(tmp_path, 1, base, data), tuned(tmp_path, 2, base, data, holdout=0.1)])
    assert compared.left_out > 0
    assert compared.scored + compared.left_out == compared.candidates


def test_a_conversation_that_one_template_refuses_is_left_out(tmp_path, base):
    gemma = chat_checkpoint(tmp_path / "gemma", FAMILIES["gemma"])
    twice = [
        {"messages": [*row["messages"][:1], {"role": "user", "content": "Please."}, *row["messages"][1:]]}
        for row in chats(ONE_LINERS[:20])
    ]
    odd = written(tmp_path / "odd.jsonl", [*chats(ONE_LINERS[20:]), *twice])
    plain = written(tmp_path / "plain.jsonl", chats(ONE_LINERS[20:]))
    compared = compare([tuned(tmp_path, 1, base, odd), tuned(tmp_path, 2, gemma, plain)])
    assert not compared.same_tokenizer
    assert compared.scored + compared.left_out + compared.unreadable == compared.candidates


def test_conversations_and_plain_text_are_not_compared(tmp_path, base):
    chat = written(tmp_path / "chat.jsonl", chats(ONE_LINERS))
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(ONE_LINERS), encoding="utf-8")
    models = [tuned(tmp_path, 1, base, chat), tuned(tmp_path, 2, base, lines, split="lines")]
    with pytest.raises(UsageError, match="run 1 was tuned on conversations and run 2 on plain text"):
        compare(models)


def test_a_model_without_a_template_reads_no_turns(tmp_path, base):
    chat = written(tmp_path / "chat.jsonl", chats(ONE_LINERS))
    pairs = written(
        tmp_path / "pairs.jsonl",
        ({"prompt": f"{line.split()[0]}:", "completion": line} for line in ONE_LINERS),
    )
    models = [
        tuned(tmp_path, 1, base, chat),
        tuned(tmp_path, 2, tiny_checkpoint(tmp_path / "plain"), pairs),
    ]
    with pytest.raises(UsageError, match="the model of run 2 has no chat template"):
        compare(models)


def test_conversations_count_once_however_many_runs_hold_them_out(tmp_path, base):
    data = written(tmp_path / "chat.jsonl", chats(ONE_LINERS))
    one = tuned(tmp_path, 1, base, data)
    tokenizer = load(one.folder).tokenizer

    class Texts:
        def __init__(self):
            self._split = remake_split(one.trainings[0], tokenizer)

        def trained_on(self):
            return self._split.trained_on(tokenizer)

        def held_out(self):
            return self._split.held_out(tokenizer)

    assert unseen_records([Texts(), Texts()]) == unseen_records([Texts()])


class TestConversationsOfOneTask:
    TASKS = tuple(" ".join(ONE_LINERS[first : first + 3]) for first in (30, 33, 36))

    def of_task(self, lines):
        return [
            {"messages": [{"role": "user", "content": f"{self.TASKS[len(line) % 3]} {line}"},
                          {"role": "assistant", "content": f"It is about {line}"}]}
            for line in lines
        ]  # fmt: skip

    def records(self, lines):
        for row in self.of_task(lines):
            messages = tuple(Message(each["role"], each["content"]) for each in row["messages"])
            yield ComparedRecord("\n".join(each.content for each in messages), messages)

    def unseen(self, trained):
        held_out = list(self.records(ONE_LINERS[15:30]))

        class Texts:
            def trained_on(self):
                return iter(trained)

            def held_out(self):
                return iter(held_out)

        candidates, unseen = unseen_records([Texts()])
        assert candidates == 15
        return unseen

    def test_only_what_gives_an_answer_trained_on_counts_as_seen(self):
        unseen = self.unseen(self.records(ONE_LINERS[:20]))
        assert unseen == list(self.records(ONE_LINERS[20:30]))

    def test_what_was_trained_on_as_plain_text_counts_as_seen(self):
        assert not self.unseen(ComparedRecord(each.text) for each in self.records(ONE_LINERS[:20]))

    def test_a_base_tuned_on_the_same_task_has_not_seen_all(self, tmp_path, base):
        first = written(tmp_path / "first.jsonl", self.of_task(ONE_LINERS[:20]))
        second = written(tmp_path / "second.jsonl", self.of_task(ONE_LINERS[15:30]))
        one = tuned(tmp_path, 1, base, first, holdout=0)
        made = remake_split(
            Training(data=(str(second),), settings={**one.trainings[0].settings, "holdout": 0}),
            tokenizer := load(one.folder).tokenizer,
        )
        seen = seen_in_training(one.trainings, made.records, made.text, made.split.train, tokenizer)
        assert seen.tolist() == [True] * 5 + [False] * 10
