"""A fine-tune on conversations learns answers, is measured on answers, and reports on answers."""

import json
from dataclasses import replace
from datetime import date
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conjure.cli.language_model import training
from conjure.cli.language_model.training_view import plan_lines, result_json
from conjure.errors import CheckpointError, DataError, UsageError
from conjure.lm.generation.score import Windows, score_chats, score_documents
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.language_model import load
from conjure.lm.nn.loss import IGNORE, linear_cross_entropy
from conjure.lm.report.compared_records import Training, remake_split
from conjure.lm.report.measure_model import held_out_texts, questions, record_texts, some_records
from conjure.lm.text.chat.encoding import ANSWER, FIRST, GIVEN, ChatEncoder, EncodedChat, conversation_encoder
from conjure.lm.text.chat.formats import Message
from conjure.lm.text.records import read_records
from conjure.lm.text.split import hold_out
from conjure.lm.text.token_cache import describe, find_groups, tokenise
from conjure.lm.text.tokenizer import Tokenizer
from conjure.lm.training import base_model_comparison, preparation
from conjure.lm.training.distributed.process_group import ProcessGroup
from conjure.lm.training.events import StepDone
from conjure.lm.training.finetune import (
    FinetuneResult,
    _resumable_facts,
    _save_state,
    finetune,
    make_trainer,
    run_training,
)
from conjure.lm.training.history import History, Trained
from conjure.lm.training.master_weights import adamw
from conjure.lm.training.packing import Blocks
from conjure.lm.training.preparation import prepare
from conjure.lm.training.request import FinetuneRequest
from conjure.lm.training.trainer import Trainer, TrainSettings
from conjure.recipes import metrics
from support.chats import FAILING, FAMILIES, chat_checkpoint, chat_folder
from support.models import tiny_checkpoint, tiny_model
from support.training import token_blocks


def records_of(path, count=40):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n}?"},
                {"role": "assistant", "content": f"A {n * n}."},
            ]
        }
        for n in range(count)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return read_records([path])


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "files").mkdir()
    return Tokenizer.from_folder(chat_folder(tmp_path / "files", FAMILIES["chatml"]))


@pytest.fixture
def text(tmp_path, tokenizer):
    records = records_of(tmp_path / "chat.jsonl")
    chat = conversation_encoder(records.chat_formats, tokenizer, model="it")
    return tokenise(records, tokenizer, cache=tmp_path / "cache", chat=chat)


def test_tokens_and_kinds_are_kept_side_by_side(text, tokenizer):
    chat = ChatEncoder.of(tokenizer, model="it").encode(
        [Message("user", "What is 3?"), Message("assistant", "A 9.")]
    )
    assert text.conversation(3) == chat
    assert text.record(3).tolist() == chat.ids


def test_conversations_that_the_tokenizer_alters_are_counted(tmp_path):
    tokenizer = Tokenizer.from_folder(chat_folder(tmp_path, FAMILIES["qwen"]))
    asked = ["plain", "cafe\u0301", "plain too", "e\u0301"]  # NFC makes one character of each accent
    rows = [{"prompt": text, "completion": f"{text} {text}"} for text in asked]
    (tmp_path / "chat.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    records = read_records([tmp_path / "chat.jsonl"])
    chat = conversation_encoder(records.chat_formats, tokenizer, model="it")
    text = tokenise(records, tokenizer, cache=tmp_path / "cache", chat=chat)
    assert text.altered == 2
    facts = describe(records, text, find_groups([records], cache=tmp_path / "cache"))
    assert any(remark.startswith("2 records are altered") for remark in facts.remarks)


def test_a_record_is_as_long_as_its_last_answer(tmp_path, tokenizer):
    """That is what a sample is: an answer to all that comes before, without what ends it."""
    turns = [
        {"role": "user", "content": "What is 3?"},
        {"role": "assistant", "content": "It is nine, as everyone should know."},
        {"role": "user", "content": "And 4?"},
        {"role": "assistant", "content": "A 16."},
    ]
    (tmp_path / "turns.jsonl").write_text(json.dumps({"messages": turns}))
    records = read_records([tmp_path / "turns.jsonl"])
    chat = conversation_encoder(records.chat_formats, tokenizer, model="it")
    text = tokenise(records, tokenizer, cache=tmp_path / "cache", chat=chat)
    assert text.written_lengths(tokenizer.end_ids).tolist() == [len(tokenizer.encode("A 16."))]


@pytest.mark.parametrize(("weight", "counts"), [(0.0, (0, 0, 1)), (0.25, (0, 0.25, 1)), (1.0, (0, 1, 1))])
def test_targets_are_what_counts(text, weight, counts):
    stream = replace(hold_out(text, 0).train, given_weight=weight)
    blocks = Blocks(stream, 64)
    kinds = np.asarray(text.kinds)
    batch = blocks.batch(range(len(blocks)))
    targets = batch.targets.flatten()[: blocks.target_count].tolist()
    expected = [
        int(id_) if counts[kind] else IGNORE for id_, kind in zip(text.ids[1:], kinds[1:], strict=True)
    ]
    assert targets == expected
    total = sum(counts[kind] for kind in kinds[1:])
    assert batch.total_weight == pytest.approx(total)
    assert {FIRST, GIVEN, ANSWER} == set(kinds.tolist())


def test_what_is_held_out_is_read_as_questions_and_answers(text, tokenizer):
    split = hold_out(text, 0.2)
    found = held_out_texts(split.heldout, tokenizer, tokens=10**6)
    assert all(answer.startswith("A ") and answer.endswith(".") for answer in found.texts)
    assert len(found.chats) == len(found.texts) == split.heldout.records
    assert next(record_texts(split.train, tokenizer)).startswith("A ")
    asked = questions(split.heldout, tokenizer, 3)
    assert asked[0].text.endswith("assistant\n")
    assert asked[0].ids == found.chats[0].question(tokenizer)[1]


def test_answers_are_scored_given_their_questions(tmp_path, text):
    folder = chat_checkpoint(tmp_path / "model", FAMILIES["chatml"])
    model = load(folder)
    chat = text.conversation(3)
    (score,) = score_chats(TorchScorer(model.model), model.tokenizer, [chat], Windows.of(model.model))
    logprobs = model.logits(torch.tensor([chat.ids])).log_softmax(-1)[0]
    places = [place for span in chat.answers(model.tokenizer.end_ids) for place in span]
    assert score.token_logprobs == pytest.approx(
        [logprobs[at - 1, chat.ids[at]].item() for at in places], abs=1e-4
    )
    assert (score.tally.bytes, score.tally.words) == (4, 2)
    assert model.tokenizer.decode(score.token_ids) == "A 9."


def test_an_answer_that_nothing_comes_before_is_scored_whole(tmp_path):
    """A base model's record of an empty prompt is its answer alone."""
    model = load(tiny_checkpoint(tmp_path / "model"))
    tokenizer = model.tokenizer
    ids = [*tokenizer.encode("A joke."), tokenizer.end_of_text_id]
    chat = EncodedChat(ids, [ANSWER] * len(ids))
    scorer = TorchScorer(model.model)
    (score,) = score_chats(scorer, tokenizer, [chat], Windows.of(model.model))
    (expected,) = score_documents(scorer, tokenizer, ["A joke."], Windows.of(model.model))
    assert score.token_ids == expected.token_ids
    assert score.token_logprobs == pytest.approx(expected.token_logprobs, abs=1e-5)


def test_held_out_text_without_an_answer_is_nothing_to_measure_on(tmp_path):
    """The last tenth of a single conversation is held out, which here is a question."""
    folder = chat_checkpoint(tmp_path / "model", FAMILIES["chatml"], context_length=128)
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because. " * 20}]
    last = {"role": "user", "content": "But why is that so, and not otherwise? " * 20}
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": [*turns, last]}))
    result = finetune(
        tmp_path / "chat.jsonl", output=tmp_path / "out", model=folder, epochs=2, block_size=32, patience=1
    )
    assert (result.loss_before, result.loss_after) == (None, None)
    assert result.plan.held_out_reason.endswith("have no answer")
    assert result.steps == result.best_step > 0
    assert load(tmp_path / "out").generate("Why?", max_new_tokens=2)


def test_the_only_answer_is_trained_on_and_not_held_out(tmp_path, tokenizer):
    turns = [{"role": "user", "content": "A long document. " * 40}, {"role": "assistant", "content": "Yes."}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": turns}))
    records = read_records([tmp_path / "chat.jsonl"])
    chat = conversation_encoder(records.chat_formats, tokenizer, model="it")
    split = hold_out(tokenise(records, tokenizer, cache=tmp_path / "cache", chat=chat))
    assert split.train.has_targets
    assert (split.heldout, split.method) == (None, "none")
    assert split.reason.endswith("has no answer to train on")


def test_a_training_resumed_on_another_day_trains_on_the_same_tokens(tmp_path, monkeypatch):
    dated = replace(
        FAMILIES["chatml"],
        template=FAMILIES["chatml"].template.replace("a test.", "a test of ' + strftime_now('%d') + '."),
    )
    records_of(tmp_path / "chat.jsonl")
    request = FinetuneRequest(
        data=[tmp_path / "chat.jsonl"],
        model=chat_checkpoint(tmp_path / "model", dated, context_length=128),
        output=tmp_path / "out",
        batch_size=4,
    )
    monkeypatch.setattr(preparation, "today", lambda: date(2026, 2, 1))
    begun = prepare(request)
    _save_state(begun, make_trainer(begun), History())
    monkeypatch.setattr(preparation, "today", lambda: date(2026, 2, 2))
    resumed = prepare(replace(request, resume=True))
    assert resumed.request.chat_day == date(2026, 2, 1)
    assert _resumable_facts(resumed)["agreement"]["chat_date"] == "2026-02-01"
    first = resumed.tokenizer.decode(resumed.text.ids[:40].tolist())
    assert "a test of 01." in first
    assert resumed.text.ids.tolist() == begun.text.ids.tolist()
    assert "a test of 02." in resumed.tokenizer.decode(
        prepare(replace(request, output=tmp_path / "new")).text.ids[:40].tolist()
    )


@pytest.mark.parametrize("given", [None, "2026-03-01"])
def test_the_other_processes_take_the_date_of_the_first(given, monkeypatch):
    class Follower(ProcessGroup):
        def settings_of_leader(self):
            return {"micro_batch": 2, "chat_date": "2026-02-01", "block_size": 128}

    asked = []

    def note(request, **_):
        asked.append(request)
        return SimpleNamespace(without_base_weights=lambda: None)

    monkeypatch.setattr(training, "prepare", note)
    monkeypatch.setattr(training, "run_training", lambda *_, **__: None)
    training._follow(FinetuneRequest(data=["-"], output="out", chat_date=given), Follower())
    assert asked[0].chat_date == (given or "2026-02-01")


@pytest.mark.slow
def test_a_tune_learns_answers_and_its_report_is_about_them(tmp_path):
    folder = chat_checkpoint(tmp_path / "model", FAMILIES["chatml"], context_length=128)
    records_of(tmp_path / "chat.jsonl")
    result = finetune(
        tmp_path / "chat.jsonl",
        output=tmp_path / "out",
        model=folder,
        epochs=12,
        learning_rate=3e-3,
        batch_size=4,
        dropout=0.0,
    )
    assert result.loss_after < result.loss_before
    assert result.plan.data.answer_tokens is not None
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    sample = report["tuned"]["samples"][0]
    assert sample["prompt"].startswith("system\nYou are a test.\nuser\nWhat is ")
    assert len(report["tuned"]["samples"]) >= result.held_out.records
    assert "the answers given what comes before them" in (tmp_path / "out" / "report.html").read_text()
    assert load(tmp_path / "out").tokenizer.chat_template == FAMILIES["chatml"].template


@pytest.mark.slow
@pytest.mark.usefixtures("short_reports")
def test_what_is_said_to_be_trained_on_is_what_is_trained_on(tmp_path):
    folder = chat_checkpoint(tmp_path / "model", FAMILIES["chatml"], context_length=64)
    rows = (tmp_path / "chat.jsonl", tmp_path / "twice.jsonl")
    records_of(rows[0])
    rows[1].write_text(rows[0].read_text() * 2)
    request = FinetuneRequest(
        data=[rows[1]], model=folder, output=tmp_path / "out", epochs=1, batch_size=4, sample_every=0
    )
    prepared = prepare(request)
    plan, train = prepared.plan, prepared.split.train
    chats = [record for record in some_records(train, prepared.tokenizer, train.records)]
    answers = sum(chat.kinds.count(ANSWER) for chat in chats)
    assert 0 < answers < plan.data.answer_tokens / 2
    assert f"conversations (messages): {answers:,} tokens of answers are trained on" in "\n".join(
        plan_lines(plan)
    )
    trained = run_training(prepared)
    read = sum(len(chat.ids) for chat in chats)
    assert trained.history.tokens == read - 1
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{len(chats)} records ({read:,} tokens)" in card
    assert f"- trained on the answers of conversations: {answers:,} tokens" in card
    result = FinetuneResult.of(prepared, trained, None)
    rate = result_json(result, None)["tokens_per_s"]
    assert rate == pytest.approx((read - 1) / trained.history.seconds)


def test_what_is_scored_is_limited_by_what_was_read(tmp_path, monkeypatch, tokenizer):
    asked = []
    monkeypatch.setattr(base_model_comparison, "FEWEST_SCORED_TOKENS", 1)
    monkeypatch.setattr(
        base_model_comparison, "held_out_texts", lambda *_, tokens, **__: asked.append(tokens)
    )
    monkeypatch.setattr(base_model_comparison, "some_records", lambda *_: [])
    folder = chat_checkpoint(tmp_path / "model", FAMILIES["chatml"], context_length=64)
    records_of(tmp_path / "chat.jsonl")
    prepared = prepare(FinetuneRequest(data=[tmp_path / "chat.jsonl"], model=folder, output=tmp_path / "out"))
    monkeypatch.setattr(base_model_comparison, "measure_model", lambda *_, **__: None)
    monkeypatch.setattr(base_model_comparison, "load", lambda _: prepared.base)
    history = History()
    history.note(StepDone(1, 1.0, 1.0, 1.0, targets=7, tokens=40, seconds=1.0))
    base_model_comparison.measure(prepared, Trained("completed", 1, 1, history))
    assert asked == [40]


def test_of_several_answers_only_what_they_say_counts_in_bytes(tmp_path):
    own = load(chat_checkpoint(tmp_path / "model", FAMILIES["chatml"], context_length=128))
    says = ["Yes.", "Ça va."]
    messages = [
        message
        for number, answer in enumerate(says)
        for message in (Message("user", f"And {number}?"), Message("assistant", answer))
    ]
    chat = ChatEncoder.of(own.tokenizer, model="it").encode(messages)
    windows = Windows(128, 64)
    (scored,) = score_chats(TorchScorer(own.model), own.tokenizer, [chat], windows)
    assert scored.tally.bytes == sum(len(answer.encode()) for answer in says)
    assert (scored.tally.words, scored.tally.tokens) == (3, len(scored.token_ids))


def test_a_step_without_an_answer_has_no_loss():
    kinds = np.array([FIRST] + [GIVEN] * 31 + [ANSWER] * 32, np.uint8)
    blocks = token_blocks(64)
    stream = replace(blocks._stream, kinds=kinds)
    trainer = Trainer(
        tiny_model(0, 0.1),
        Blocks(stream, 8),
        None,
        TrainSettings(epochs=1, batch_size=1, micro_batch=1),
        adamw(1e-3, 0.0),
    )
    steps = [event for event in trainer.run() if isinstance(event, StepDone)]
    without = [step for step in steps if step.targets == 0]
    assert len(without) == 3
    assert all(step.loss is None and step.tokens == 8 for step in without)
    assert all(step.loss > 0 for step in steps if step.targets)
    history, logged = History(), []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(metrics, "log_metric", lambda name, value, step: logged.append((name, step)))
        for step in steps:
            history.note(step)
            metrics.report_metrics(step)
    counted = [step.step for step in steps if step.targets]
    assert [step for step, _ in history.train] == counted
    assert [step for name, step in logged if name == "loss"] == counted


def test_a_prompt_and_its_completion_train_a_base_model(tmp_path):
    rows = [{"prompt": f"What is {n}?", "completion": f" A {n * n}."} for n in range(30)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    base = tiny_checkpoint(tmp_path / "base", context_length=64)
    result = finetune(tmp_path / "pairs.jsonl", output=tmp_path / "out", model=base, max_steps=4)
    assert result.loss_before is not None
    records_of(tmp_path / "chat.jsonl")
    with pytest.raises(
        UsageError, match=r"base has no chat template, and the data contain conversations \(messages\)"
    ):
        finetune(tmp_path / "chat.jsonl", output=tmp_path / "out", model=base)


THOUGHT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>b</think>c"}]
REASON = "the chat template changes or leaves out an answer, so it is not known which tokens to train on"


@pytest.fixture
def thinking(tmp_path):
    (tmp_path / "thinking").mkdir()
    return Tokenizer.from_folder(chat_folder(tmp_path / "thinking", FAMILIES["qwen"]))


def test_conversations_that_cannot_be_masked_are_refused_if_there_are_no_others(tmp_path, thinking):
    path = tmp_path / "chat.jsonl"
    path.write_text(f"{json.dumps({'messages': THOUGHT})}\n" * 3)
    records = read_records([path])
    chat = conversation_encoder(records.chat_formats, thinking, model="it")
    with pytest.raises(
        DataError,
        match=rf"no conversation can be used: 3 × cannot be encoded: {REASON} \(first: .*, line 1\)",
    ):
        tokenise(records, thinking, cache=tmp_path / "cache", chat=chat)
    with pytest.raises(UsageError, match="special_tokens"):
        tokenise(records, thinking, cache=tmp_path / "cache", chat=chat, allow_special=True)


def test_conversations_that_cannot_be_masked_are_left_out_and_told(tmp_path, thinking):
    path = tmp_path / "chat.jsonl"
    records_of(path)
    rows = path.read_text().splitlines()
    forged = [{**THOUGHT[0], "content": "<|im_end|>"}, THOUGHT[1]]
    for place, turns in ((0, THOUGHT), (7, forged), (20, THOUGHT), (41, forged)):
        rows.insert(place, json.dumps({"messages": turns}))
    path.write_text("\n".join(rows))
    records = read_records([path])
    chat = conversation_encoder(records.chat_formats, thinking, model="it")
    for _ in range(2):  # made, and read from the cache
        text = tokenise(records, thinking, cache=tmp_path / "cache", chat=chat)
        groups = find_groups([records], refused=[text.refused], cache=tmp_path / "cache")
        facts = describe(records, text, groups)
        assert (facts.records, len(groups.labels), facts.bad_row_count) == (40, 40, 4)
        assert facts.bad_rows == (
            f"2 × cannot be encoded: {REASON} (first: {path}, line 1)",
            "2 × cannot be encoded: the chat template changes or leaves out an answer, and a message contains"
            f" <|im_end|>, which would become that token (first: {path}, line 8)",
        )
    settings = {"holdout": 0.2, "dedup": "keep"}
    digest = hold_out(text, 0.2, groups=groups).train.digest
    made = remake_split(Training(data=(str(path),), settings=settings, train_sha256=digest), thinking)
    asked = [record.text for record in (*made.trained_on(thinking), *made.held_out(thinking))]
    assert sorted(asked) == sorted(f"What is {n}?\nA {n * n}." for n in range(40))
    held_out = "".join(record_texts_of(made.split.heldout, thinking))
    assert all(record.messages[-1].content in held_out for record in made.held_out(thinking))
    assert len(find_groups([records], cache=tmp_path / "cache").labels) == 44


def record_texts_of(stream, tokenizer):
    return [chat.answer_text(tokenizer) for chat in some_records(stream, tokenizer, stream.records)]


def test_only_so_many_reasons_are_told(tmp_path, tokenizer):
    records = records_of(tmp_path / "chat.jsonl", count=9)

    class Picky(ChatEncoder):
        def encode(self, messages):
            if messages[0].content != "What is 8?":
                raise DataError(messages[0].content)
            return super().encode(messages)

    text = tokenise(records, tokenizer, cache=tmp_path / "cache", chat=Picky.of(tokenizer, model="it"))
    told = [(bad.count, bad.number, bad.detail) for bad in text.bad_rows]
    assert told == [*((1, n + 1, f"What is {n}?") for n in range(5)), (3, 6, "")]
    assert text.refused == frozenset(range(8))


def test_a_conversation_on_which_the_template_fails_is_named(tmp_path):
    folder = chat_folder(tmp_path, FAILING)
    rows = [each.conversation.messages for each in records_of(tmp_path / "chat.jsonl", count=3).pieces()]
    tokenizer = Tokenizer.from_folder(folder)
    records = read_records([tmp_path / "chat.jsonl"])
    chat = conversation_encoder(records.chat_formats, tokenizer, model="it")
    assert chat.encode(rows[0])
    with pytest.raises(
        CheckpointError, match=r"chat\.jsonl, line 3: the model's chat template fails"
    ) as caught:
        tokenise(records, tokenizer, cache=tmp_path / "cache", chat=chat)
    assert caught.value.hint.endswith("change this one, or leave it out")


def test_facts_count_what_is_learned(tmp_path, tokenizer, text):
    records = records_of(tmp_path / "chat.jsonl")
    facts = describe(records, text, find_groups([records], cache=tmp_path / "cache"))
    assert facts.answer_tokens == int((np.asarray(text.kinds) == ANSWER).sum())
    assert facts.files[0]["chat"] == "messages"
    assert facts.size_bytes == sum(len(f"What is {n}?A {n * n}.") for n in range(40))


def test_weights_count_in_every_part_of_a_large_loss():
    # So many logits that, without the native kernels, they are looked at in more than one part.
    torch.manual_seed(0)
    hidden, weight = torch.randn(40, 3, dtype=torch.float64), torch.randn(1 << 16, 3, dtype=torch.float64)
    targets, weights = torch.arange(40), torch.rand(40)
    loss = linear_cross_entropy(hidden, weight, targets, divisor=2.0, weights=weights)
    each = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    assert loss.item() == pytest.approx((each * weights).sum().item() / 2, rel=1e-6)
