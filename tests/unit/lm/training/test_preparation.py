"""What a fine-tune is planned to be, before anything is trained."""

import json
import re
from dataclasses import replace

import pytest
import torch

from conjure.errors import ConflictError, DataError, TrainingError, UsageError
from conjure.lm.models.registry import read_model_config
from conjure.lm.report.measure_model import questions
from conjure.lm.training import preparation
from conjure.lm.training.distributed.process_group import ProcessGroup
from conjure.lm.training.finetune import _save_state, make_trainer, run_training
from conjure.lm.training.history import History
from conjure.lm.training.plan import memory_bytes
from conjure.lm.training.preparation import prepare
from conjure.lm.training.request import FinetuneRequest
from conjure.lm.training.state import state_folder
from support.chats import FAMILIES, chat_checkpoint
from support.families import reference
from support.models import tiny_checkpoint, tiny_tokenizer
from support.tuning import OPTIONS, tuning_inputs


@pytest.fixture
def asked(tmp_path):
    data, model = tuning_inputs(tmp_path)
    options = OPTIONS | {"batch_size": 8}
    return FinetuneRequest(data=[data], model=model, output=tmp_path / "tuned", split="lines", **options)


@pytest.mark.parametrize(("distributed", "nodes", "threads"), [(4, None, 4), (2, 2, 8)])
def test_the_processes_of_a_node_share_its_cores(asked, distributed, nodes, threads, monkeypatch):
    monkeypatch.setattr(preparation, "usable_cores", lambda: 16)
    plan = prepare(replace(asked, distributed=distributed, nodes=nodes)).plan
    assert (plan.processes, plan.threads) == (4, threads)


@pytest.mark.parametrize(
    ("distributed", "nodes", "shares"), [(None, None, 1), (4, None, 1), (1, 4, 4), (2, 2, 2)]
)
def test_machines_share_the_time(asked, distributed, nodes, shares, monkeypatch):
    taken = []
    monkeypatch.setattr(preparation, "expected_seconds", lambda *_, tokens, **__: taken.append(tokens) or 0.0)
    for request in (asked, replace(asked, distributed=distributed, nodes=nodes)):
        prepare(request)
    assert taken[0] == shares * taken[1]


@pytest.mark.parametrize(("saved", "goes_on_with"), [(8, 2), (4, 4)])
def test_passes_too_few_to_share_are_made_smaller_when_a_training_goes_on(asked, saved, goes_on_with):
    """The blocks of a step in one pass leave nothing for the second of two processes."""
    prepared = prepare(asked)
    assert prepared.plan.batch_size == 8
    trainer = make_trainer(prepared)
    trainer.settings = replace(trainer.settings, micro_batch=saved)
    _save_state(prepared, trainer, History())
    assert prepare(replace(asked, resume=True, distributed=2)).plan.micro_batch == goes_on_with


def test_a_process_that_only_trains_does_so_without_the_base_s_weights(asked):
    whole, part = (prepare(replace(asked, max_steps=2)) for _ in range(2))
    part = part.without_base_weights()
    assert part.base.model.device.type == "meta"
    assert (part.base.origin, part.tokenizer) == (whole.base.origin, part.base.tokenizer)

    class Follower(ProcessGroup):
        leads = False  # so it saves nothing

    group = Follower()
    histories = [run_training(each, group=group).history for each in (whole, part)]
    assert histories[0].train == histories[1].train != []


@pytest.mark.parametrize("given", [{}, {"dropout": 0.3}])
def test_dropout_is_that_of_the_model_unless_it_is_given(asked, tmp_path, given):
    model = tiny_checkpoint(tmp_path / "dropped", embd_pdrop=0.1, resid_pdrop=0.2)
    config = prepare(replace(asked, model=model, **given)).model.config
    own = (0.1, 0.2)
    assert (config.embedding_dropout, config.residual_dropout) == (own if not given else (0.3, 0.3))


@pytest.mark.parametrize("given", [None, True, False])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "gpt_neox"])
def test_records_are_masked_where_positions_are_rotary(asked, tmp_path, family, given):
    base = tmp_path / family
    reference(family).save_pretrained(base)
    tiny_tokenizer().save(base)
    prepared = prepare(replace(asked, model=base, mask_records=given))
    assert make_trainer(prepared).settings.mask_records is (family != "gpt2" if given is None else given)


def test_a_resumed_training_keeps_what_an_earlier_version_decided(asked, tmp_path):
    begun = replace(asked, dropout=0.1, mask_records=True, learning_rate=None)
    prepared = prepare(begun)
    prepared = replace(prepared, plan=replace(prepared.plan, learning_rate=0.0123))
    trainer = make_trainer(prepared)
    _save_state(prepared, trainer, History())
    resumed = prepare(replace(asked, dropout=None, mask_records=None, learning_rate=None, resume=True))
    assert (resumed.request.dropout, resumed.request.mask_records) == (0.1, True)
    assert resumed.request.chat_date is None  # the data are plain text
    assert resumed.plan.learning_rate == 0.0123


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"prompt_loss_weight": 0.1}, "prompt_loss_weight is 0.1, but no record is a conversation"),
        ({"chat_date": "2026-03-01"}, "chat_date is 2026-03-01, but no record is a conversation"),
    ],
)
def test_what_only_conversations_have_is_refused_of_plain_text(asked, given, refused):
    with pytest.raises(UsageError, match=f"^{re.escape(refused)}$"):
        prepare(replace(asked, **given))
    replace(asked, **given, resume=True).refuse_chat_settings()  # it went on without, and may go on


def test_one_process_computes_with_the_threads_that_torch_has(asked, monkeypatch):
    monkeypatch.setattr(preparation, "usable_cores", lambda: 16)
    assert prepare(asked).plan.threads == torch.get_num_threads() != 16


def test_each_gpu_has_memory_and_a_share_of_the_time(asked, monkeypatch):
    """As far as a plan is made without one: two machines with two GPUs each."""
    taken = []
    monkeypatch.setattr(preparation, "pick_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(preparation, "available_bytes", lambda _: 10**9)
    monkeypatch.setattr(preparation, "expected_seconds", lambda *_, tokens, **__: taken.append(tokens) or 0.0)
    one, four = (prepare(each).plan for each in (asked, replace(asked, distributed=2, nodes=2)))
    assert (one.available_bytes, four.available_bytes) == (10**9, 2 * 10**9)
    assert taken[0] == 4 * taken[1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"epochs": 1}, {"passes_per_step": 1, "tokens_per_pass": 8 * 16}),
        ({"epochs": 0.5, "grad_accumulation": 2}, {"passes_per_step": 2, "tokens_per_pass": 8 * 16}),
        ({"max_steps": 1}, {"steps": 1, "tokens": 8 * 16}),
    ],
    ids=str,
)
def test_the_time_is_that_of_the_steps_that_are_made(asked, given, expected, monkeypatch):
    works = []
    monkeypatch.setattr(preparation, "expected_seconds", lambda *_, **work: works.append(work) or 0.0)
    prepared = prepare(replace(asked, **given))
    (work,) = works
    assert {name: work[name] for name in expected} == expected
    assert work["steps"] == prepared.plan.steps == make_trainer(prepared).total_steps
    if "epochs" in given:  # each token but the first is read
        assert work["tokens"] == (prepared.plan.train_tokens - 1) * given["epochs"]


def test_forward_passes_add_up_to_the_blocks_of_a_step(asked):
    plan = prepare(replace(asked, batch_size=2, grad_accumulation=3)).plan
    assert (plan.batch_size, plan.micro_batch) == (6, 2)


def test_everything_is_trained_unless_some_is_frozen(asked):
    plan, some, norm = (prepare(replace(asked, freeze=freeze)).plan for freeze in (0, 1, 2))
    assert plan.trainable == plan.parameters > some.trainable > norm.trainable == 2 * 16
    with pytest.raises(UsageError, match="freeze is 3; the model has 2 blocks"):
        prepare(replace(asked, freeze=3))


class TestLearningRates:
    """Of a model that is large enough for the versions to differ; its weights are not needed."""

    @pytest.fixture
    def config(self):
        shape = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50_257}
        return read_model_config(shape)

    def rate(self, request, config, **changes):
        return preparation._learning_rate(replace(request, learning_rate=None, **changes), config)

    def test_corrections_have_a_higher_one(self, asked, config):
        assert self.rate(asked, config) == pytest.approx(1e-3 * (1.24e8 / 1.01e7) ** -0.9, rel=0.1)
        assert self.rate(asked, config, lora=8) == pytest.approx(10 * self.rate(asked, config), rel=0.1)

    def test_a_training_of_0_1_goes_on_at_the_one_of_that_version(self, asked, config):
        prepared = prepare(asked)
        _save_state(prepared, make_trainer(prepared), History())
        state = state_folder(prepared.output) / "progress.json"
        state.write_text(json.dumps({"agreement": json.loads(state.read_text())["agreement"]}))
        assert self.rate(asked, config, resume=True) == pytest.approx(1e-3 * 12.4**-0.3, rel=0.1)


def test_a_block_size_that_is_given_is_not_that_of_the_unfinished_training(asked):
    prepared = prepare(asked)
    _save_state(prepared, make_trainer(prepared), History())
    assert prepare(replace(asked, block_size=8, resume=True)).plan.block_size == 8


@pytest.mark.parametrize(
    ("training", "files"),
    [
        ({"settings": {}}, ("other text",)),
        ({"settings": {}, "plan": {"data": {"files": [{"name": "/far/away.txt"}]}}}, ("away.txt",)),
        ({"notes": "not of a fine-tune"}, ()),
    ],
)
def test_what_the_base_was_tuned_on_is_known_as_far_as_it_says(asked, training, files):
    (asked.model / "training.json").write_text(json.dumps(training))
    assert prepare(asked).base_files == files


class TestConversations:
    """Forty of them, a quarter held out."""

    @pytest.fixture
    def asked(self, asked, tmp_path):
        turns = ("What is {}?", "user"), ("A {}.", "assistant")
        rows = [[{"role": role, "content": text.format(n)} for text, role in turns] for n in range(40)]
        data = tmp_path / "chat.jsonl"
        data.write_text("".join(f"{json.dumps({'messages': row})}\n" for row in rows))
        model = chat_checkpoint(tmp_path / "chat", FAMILIES["chatml"], context_length=64)
        return replace(asked, data=[data], split=None, model=model)

    def test_they_may_have_what_only_they_have(self, asked):
        prepared = prepare(replace(asked, prompt_loss_weight=0.25, chat_date="2026-03-01"))
        assert prepared.split.train.given_weight == 0.25

    def test_a_validation_file_of_another_kind_is_what_is_refused(self, asked, tmp_path):
        (tmp_path / "plain.txt").write_text("What is 1?\n")
        plain = replace(asked, data=[tmp_path / "plain.txt"], prompt_loss_weight=0.25)
        with pytest.raises(DataError, match=r"chat\.jsonl contains conversations"):
            prepare(replace(plain, validation=asked.data[0]))
        with pytest.raises(UsageError, match=r"prompt_loss_weight is 0\.25, but no record is a conversation"):
            prepare(replace(plain, validation=tmp_path / "plain.txt"))

    def test_a_model_of_them_is_asked_what_was_held_out(self, asked):
        prepared = prepare(asked)
        heldout, tokenizer = prepared.split.heldout, prepared.tokenizer
        few, many = prepared.generation_request(3, 5), prepared.generation_request(25, 5)
        assert (few.prompts, few.num_samples) == (questions(heldout, tokenizer, 3), 1)
        assert (len(many.prompts), many.num_samples) == (heldout.records, 25 // heldout.records)
        without = prepare(replace(asked, holdout=0))
        assert without.generation_request(3, 5).prompts == questions(without.split.train, tokenizer, 3)

    def test_a_model_of_plain_text_is_asked_for_texts(self, asked, tmp_path):
        (tmp_path / "plain.txt").write_text("What is 1?\n" * 3)
        request = prepare(replace(asked, data=[tmp_path / "plain.txt"])).generation_request(3, 5)
        assert (list(request.prompts), request.num_samples, request.max_new_tokens) == ([""], 3, 5)


class TestBlocksOfANovel:
    """One long record, and a model that could read very much of it at once."""

    @pytest.fixture
    def asked(self, asked, tmp_path):
        novel = tmp_path / "novel.txt"
        novel.write_text("".join(f"Chapter {n}. It was a dark and stormy night again. " for n in range(300)))
        model = tiny_checkpoint(tmp_path / "wide", context_length=8192)
        return replace(asked, data=[novel], split=None, model=model, block_size=None)

    @pytest.fixture
    def with_room_for(self, asked, monkeypatch):
        """Leave memory for one block of so many tokens at a time."""
        model = prepare(asked).model
        trainable = sum(weight.numel() for weight in model.parameters())

        def leave(tokens, processes=1):
            needed = memory_bytes(model, trainable, 1, tokens, torch.float32, further_gradients=3)
            available = processes * (int(needed / 0.9) + 1)
            monkeypatch.setattr(preparation, "available_bytes", lambda _: available)

        return leave

    def test_they_are_many(self, asked):
        plan = prepare(asked).plan
        assert (plan.block_size, plan.batch_size) == (1024, 8)

    def test_they_are_as_long_as_memory_holds(self, asked, with_room_for):
        with_room_for(256)
        plan = prepare(asked).plan
        assert (plan.block_size, plan.micro_batch) == (256, 1)

    @pytest.mark.parametrize(("distributed", "nodes"), [(4, 1), (2, 2), (1, 4)])
    def test_the_processes_of_a_machine_share_its_memory(self, asked, with_room_for, distributed, nodes):
        with_room_for(256, processes=distributed)
        plan = prepare(replace(asked, distributed=distributed, nodes=nodes)).plan
        assert (plan.block_size, plan.micro_batch) == (256, 1)
        assert 0.89 * plan.available_bytes < plan.memory_bytes <= 0.9 * plan.available_bytes

    def test_a_size_that_was_asked_for_is_refused_instead(self, asked, with_room_for):
        with_room_for(256)
        with pytest.raises(TrainingError, match="training needs about"):
            prepare(replace(asked, block_size=512))

    def test_a_training_that_goes_on_keeps_their_size(self, asked):
        prepared = prepare(asked)
        long = replace(prepared, plan=replace(prepared.plan, block_size=2048))  # by an earlier version
        _save_state(long, make_trainer(long), History())
        assert prepare(replace(asked, resume=True)).plan.block_size == 2048


def test_the_output_is_where_it_was_when_it_was_checked(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepared = prepare(replace(asked, output="tuned"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert prepared.output == tmp_path / "tuned"


def test_the_current_folder_is_no_output(asked, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ConflictError, match="the current folder"):
        prepare(replace(asked, output="."))


def test_an_adapter_replaces_nothing_but_an_adapter(asked, tmp_path):
    request = replace(asked, lora=2, lora_output="adapter")
    folder = tmp_path / "tuned.adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_text("")
    prepare(request)  # as a training that is resumed finds it
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConflictError, match=r"saving an adapter would replace .*contains 'notes\.txt'"):
        prepare(request)
    prepare(replace(request, lora_output="merged"))
    for name in ("adapter_config.json", "adapter_model.safetensors", "notes.txt"):
        (folder / name).unlink()
    (folder / "adapter_model.safetensors").write_text("")
    with pytest.raises(ConflictError, match="not empty and not an adapter"):
        prepare(request)
