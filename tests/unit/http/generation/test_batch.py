"""What a text becomes depends on its request alone, whatever else is written meanwhile."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from conjure.http.generation.batch import choose_tokens
from conjure.http.generation.model_worker import ModelWorker
from conjure.http.generation.requests import Failed, GenerationJob, PromptScored, Started, TokenWritten
from conjure.http.generation.sequences import GeneratedSequence
from conjure.http.generation.served_model import ServedModel, load_served_model
from conjure.lm.checkpoints.pretrained import load_model
from conjure.lm.generation.engine_loading import load_engine
from conjure.lm.generation.generate import Sample, stream
from conjure.lm.generation.logit_adjustments import LogitSettings
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.native.library import VARIABLE, status
from support.models import tiny_checkpoint, tiny_tokenizer

_CONTEXT = 160  # more than one piece of a prompt


@pytest.fixture(scope="module", params=["int8", "float32"])
def model(request, tmp_path_factory):
    if request.param == "int8" and status().library is None:
        pytest.skip(status().reason)
    folder = tiny_checkpoint(tmp_path_factory.mktemp("tiny"), context_length=_CONTEXT)
    return load_served_model("tiny", folder, precision=request.param, rows=8)


def _worker(model, most_rows=4, most_bytes=1 << 30):
    return ModelWorker(model, most_rows=most_rows, most_bytes=most_bytes)


def _collect(events, into):
    for job, event in events:
        assert not isinstance(event, Failed), event
        if isinstance(event, TokenWritten):
            into.setdefault((id(job), event.prompt, event.sample), []).append(event)


def _alone(model, job):
    worker, texts = _worker(model), {}
    worker.add(job)
    while worker.has_work:
        _collect(worker.work(), texts)
    return {key[1:]: events for key, events in texts.items()}


def _same(model, events, expected):
    """Bit for bit with the native engine; with torch the same text, and log-probabilities within 1e-5."""
    native = "native" in model.precision
    assert [(e.text, e.token.token_id, e.finish_reason) for e in events] == [
        (e.text, e.token.token_id, e.finish_reason) for e in expected
    ]
    ours, theirs = ([e.token.logprob for e in each] for each in (events, expected))
    assert ours == theirs if native else np.allclose(ours, theirs, atol=1e-5)


def _random_job(rng):
    prompts = [[rng.randrange(299) for _ in range(rng.randint(1, 100))] for _ in range(rng.randint(1, 2))]
    choice = LogitSettings(
        temperature=rng.choice([0.0, 0.5, 1.0]),
        top_k=rng.choice([0, 5]),
        presence_penalty=rng.choice([0.0, 1.5]),
        repetition_penalty=rng.choice([1.0, 1.3]),
        logit_bias=rng.choice([(), ((3, 5.0),)]),
    )
    return GenerationJob(
        prompts=prompts,
        settings=choice,
        samples=rng.randint(1, 3),
        max_tokens=rng.randint(1, 20),
        seed=rng.randint(0, 3),
        ignore_eos=rng.choice([True, False]),
        top_logprobs=rng.choice([None, 2]),
    )


@pytest.mark.parametrize("seed", range(8))
def test_company_changes_nothing(model, seed):
    """Jobs come between steps, and some of them are cancelled; the others get what they get alone."""
    rng = random.Random(seed)
    jobs = [_random_job(rng) for _ in range(5)]
    worker, texts, waiting, cancelled = _worker(model), {}, list(jobs), set()
    while waiting or worker.has_work:
        if waiting and rng.random() < 0.3:
            worker.add(waiting.pop())
        if rng.random() < 0.02:
            gone = rng.choice(jobs)
            if gone not in waiting:
                cancelled.add(id(gone))
                worker.drop(gone)
        _collect(worker.work(), texts)
    for job in jobs:
        if id(job) not in cancelled:
            for (prompt, sample), events in _alone(model, job).items():
                _same(model, texts[id(job), prompt, sample], events)


def test_a_text_is_what_the_library_generates(model):
    prompts = ["My dog", "The baker quit. He"]
    request = GenerationRequest(prompts=prompts, max_new_tokens=12, num_samples=2, seed=5, top_k=0)
    loaded = load_engine(model.folder, precision=model.precision.partition(",")[0])
    samples = [each for each in stream(loaded.engine, loaded.tokenizer, request) if isinstance(each, Sample)]
    ids = tiny_tokenizer().encode_batch(prompts)
    served = _alone(model, GenerationJob(prompts=ids, samples=2, max_tokens=12, seed=5))
    for sample in samples:
        events = served[sample.prompt_index, sample.index]
        assert "".join(event.text for event in events) == sample.text
        assert [event.token.token_id for event in events] == sample.token_ids
        assert np.allclose([event.token.logprob for event in events], sample.logprobs, atol=1e-5)


def test_a_long_prompt_is_read_in_pieces_while_others_get_a_token_each_step(model):
    worker = _worker(model)
    writing = GenerationJob(prompts=[[1, 2, 3]], max_tokens=40, ignore_eos=True)
    worker.add(writing)
    worker.work()
    steps = 0
    long = GenerationJob(prompts=[list(range(130))], max_tokens=2)
    worker.add(long)
    written = []
    while long not in written:
        written = [job for job, event in worker.work() if isinstance(event, TokenWritten)]
        assert written.count(writing) == 1
        steps += 1
    assert steps == 5  # 32 tokens four times, and 2


def test_a_cancelled_job_leaves_before_the_next_step(model):
    worker = _worker(model)
    job = GenerationJob(prompts=[[1, 2, 3]], samples=3, max_tokens=40, ignore_eos=True)
    worker.add(job)
    worker.work()
    assert worker.running == 3
    worker.drop(job)
    assert not worker.has_work
    assert worker.work() == []


def test_texts_can_be_counted_while_they_come_and_go(model):
    """The event loop counts them while the thread that computes goes on."""
    worker = _worker(model)
    worker.add(GenerationJob(prompts=[[1, 2, 3]], max_tokens=40))
    worker.work()
    held = worker._batch._held

    class Joining(list):
        def __len__(self):
            held[len(held) + 100] = next(iter(held.values()))
            return 0

    held[99] = replace(next(iter(held.values())), sequences=Joining())
    assert worker.running == 1


def test_rows_wait_for_room_and_join_in_order(model):
    worker = _worker(model, most_rows=2)
    jobs = [
        GenerationJob(prompts=[[number]], max_tokens=3, ignore_eos=True, seed=number) for number in range(5)
    ]
    for job in jobs:
        worker.add(job)
    ended = []
    while worker.has_work:
        assert worker.running <= 2
        told = [(job, e) for job, e in worker.work() if isinstance(e, TokenWritten)]
        ended += [jobs.index(job) for job, event in told if event.finish_reason]
    assert ended == [0, 1, 2, 3, 4]


def test_memory_is_bounded_by_what_rows_may_come_to_hold(model):
    bytes_of_one = model.engine.bytes_per_token * (1 + 10 - 1)
    worker = _worker(model, most_rows=100, most_bytes=3 * bytes_of_one)
    for seed in range(7):
        worker.add(GenerationJob(prompts=[[1]], max_tokens=10, ignore_eos=True, seed=seed))
    worker.work()
    assert worker.running == 3


def test_rows_that_share_a_cache_count_as_much_as_the_longest(model):
    """Torch gives rows that are written together one length; the native engine gives each its own."""
    long, short = (
        GenerationJob(prompts=[[1] * 100], max_tokens=2),
        GenerationJob(prompts=[[1]], max_tokens=10),
    )
    worker = _worker(model, most_bytes=model.engine.bytes_per_token * 150)
    for job in (long, short):
        worker.add(job)
    worker.work()
    shared = model.engine.bytes_of([(100, 101), (1, 10)])
    is_native = "native" in model.precision
    assert shared == model.engine.bytes_per_token * (111 if is_native else 2 * 109)
    assert worker.running == (2 if is_native else 1)


def test_a_job_that_does_not_fit_fails_alone(model):
    worker = _worker(model)
    bad = GenerationJob(prompts=[[1] * (_CONTEXT + 5)], max_tokens=3)
    good = GenerationJob(prompts=[[1]], max_tokens=3, ignore_eos=True)
    worker.add(bad)
    worker.add(good)
    told = []
    while worker.has_work:
        told += worker.work()
    assert [type(event) for job, event in told if job is bad] == [Failed]
    assert sum(isinstance(event, TokenWritten) for job, event in told if job is good) == 3


@pytest.mark.parametrize("native", ["auto", "off"])
@pytest.mark.parametrize("top_k", [0, 5, 299])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_whose_logits_are_no_numbers_fails_alone(model, monkeypatch, native, top_k, bad):
    monkeypatch.setenv(VARIABLE, native)
    settings = LogitSettings(top_k=top_k)
    job = GenerationJob(prompts=[[1], [2], [3]], settings=settings, max_tokens=3, top_logprobs=2)
    logits = np.random.default_rng(0).normal(size=(3, 300)).astype(np.float32)
    expected = choose_tokens(_sequences(job, model), logits, np.empty(0, np.int64))
    logits[1, [5, 7]] = bad
    sequences = _sequences(job, model)
    first, failed, last = choose_tokens(sequences, logits, np.empty(0, np.int64))
    assert isinstance(failed, Failed)
    assert [first, last] == [expected[0], expected[2]]
    assert [sequence.finished for sequence in sequences] == [False, True, False]


def test_rows_of_which_none_has_numbers_all_fail(model):
    job = GenerationJob(prompts=[[1], [2]], max_tokens=3)
    failed = choose_tokens(
        _sequences(job, model), np.full((2, 300), np.nan, np.float32), np.empty(0, np.int64)
    )
    assert [type(each) for each in failed] == [Failed, Failed]


def _sequences(job, model):
    return [GeneratedSequence(job, prompt, 0, model.tokenizer) for prompt in range(len(job.prompts))]


def _three_jobs(worker):
    """One that ends with its first token, one of three texts, and one that goes on; in one step."""
    ending = GenerationJob(prompts=[[1]], max_tokens=1)
    copied = GenerationJob(prompts=[[1], [2]], samples=3, max_tokens=4, ignore_eos=True)
    going = GenerationJob(prompts=[[3]], max_tokens=4, ignore_eos=True)
    for job in (ending, copied, going):
        worker.add(job)
    return ending, copied, going


def _told_until_the_end(worker):
    told = []
    while worker.has_work:
        told += worker.work()
    return told


def test_texts_that_there_is_no_memory_for_fail_and_no_others(model, monkeypatch):
    worker = _worker(model, most_rows=8)
    ending, copied, going = _three_jobs(worker)
    session = worker._batch._session
    fork = session.fork

    def without_memory(row, copies):
        if copies:
            raise MemoryError("no room for a row")
        return fork(row, copies)

    monkeypatch.setattr(session, "fork", without_memory)
    told = _told_until_the_end(worker)
    ends = [event.finish_reason for job, event in told if job is ending and isinstance(event, TokenWritten)]
    failed = [job for job, event in told if isinstance(event, Failed)]
    written = [event for job, event in told if job is going and isinstance(event, TokenWritten)]
    assert ends == ["length"]
    assert set(map(id, failed)) == {id(copied)}
    _same(model, written, _alone(model, going)[0, 0])


def test_a_step_that_fails_half_way_is_told_to_every_job(model, monkeypatch):
    worker = _worker(model, most_rows=8)
    jobs = _three_jobs(worker)
    appended = []

    def break_at_the_third(row, token):
        appended.append(row)
        if len(appended) == 3:
            raise RuntimeError("the engine is broken")

    monkeypatch.setattr(worker._batch._session, "append", break_at_the_third)
    told = _told_until_the_end(worker)
    assert {id(job) for job, event in told if isinstance(event, Failed)} == set(map(id, jobs))
    assert worker.running == 0


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    folder = tiny_checkpoint(tmp_path_factory.mktemp("tiny"), context_length=512)
    return load_served_model("tiny", folder, precision="auto", rows=8)


def test_logprobs_of_prompts_are_those_of_a_plain_forward_pass(exact):
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, 300, length).tolist() for length in (1, 2, 5, 60, 128, 129, 400)]
    worker = _worker(exact)
    job = GenerationJob(prompts=prompts, max_tokens=0, prompt_logprobs=3)
    worker.add(job)
    scored = {}
    while worker.has_work:
        scored |= {event.prompt: event for _, event in worker.work() if isinstance(event, PromptScored)}
    network = load_model(exact.folder)
    for number, ids in enumerate(prompts):
        with torch.no_grad():
            expected = network.head(network(torch.tensor([ids])))[0].float().log_softmax(1)
        tokens = scored[number].tokens
        assert [token.token_id for token in tokens] == ids[1:]
        for place, token in enumerate(tokens):
            assert token.logprob == pytest.approx(expected[place, token.token_id].item(), abs=1e-5)
            best = expected[place].topk(3)
            assert [logprob for _, logprob in token.top] == pytest.approx(best.values.tolist(), abs=1e-5)
            assert token.rank == int((expected[place] >= expected[place, token.token_id]).sum())


def test_one_token_after_a_scored_prompt_comes_from_the_same_pass(exact):
    worker = _worker(exact)
    settings = LogitSettings(temperature=0)
    worker.add(
        GenerationJob(prompts=[[1, 2, 3]], settings=settings, max_tokens=1, prompt_logprobs=1, top_logprobs=1)
    )
    events = []
    while worker.has_work:
        events += [event for _, event in worker.work()]
    (written,) = [event for event in events if isinstance(event, TokenWritten)]
    assert written.token.top == [(written.token.token_id, written.token.logprob)]
    assert written.finish_reason == "length"


def test_streams_go_on_between_pieces_of_scoring(exact):
    worker = _worker(exact)
    writing = GenerationJob(prompts=[[1]], max_tokens=100, ignore_eos=True)
    worker.add(writing)
    worker.add(GenerationJob(prompts=[[1] * 400], max_tokens=0, prompt_logprobs=0))
    for _ in range(4):
        assert [job for job, event in worker.work() if isinstance(event, TokenWritten)] == [writing]


def test_jobs_are_scored_one_after_the_other(exact):
    """Each that has begun holds the keys and values of a whole prompt, so only one may."""
    worker = _worker(exact)
    jobs = [GenerationJob(prompts=[[number] * 400], max_tokens=0, prompt_logprobs=0) for number in range(3)]
    for job in jobs:
        worker.add(job)
    told = []
    while worker.has_work:
        assert worker.running == 1
        told += [(jobs.index(job), type(event)) for job, event in worker.work()]
    assert told == [(number, kind) for number in range(3) for kind in (Started, PromptScored)]


def test_names_say_the_number_format(model):
    assert isinstance(model, ServedModel)
    assert model.precision.partition(",")[0] in model.fingerprint
