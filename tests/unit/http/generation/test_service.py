"""Who is let in: a request for each free slot, and as many more as may wait."""

import pytest

from conjure.http.errors import HttpError
from conjure.http.generation.requests import GenerationJob, PromptScored, Started, TokenLogprob, TokenWritten
from conjure.http.generation.service import GenerationService, Limits

_ONE = GenerationJob(prompts=[[1]])


def _service(slots, queue):
    return GenerationService(Limits(most_rows=slots, most_waiting=queue))


def _end(sample=0):
    return TokenWritten(0, sample, TokenLogprob(1, 0.0), "", finish_reason="stop")


def _enter_all(service):
    """Requests until one is refused."""
    tickets = []
    while True:
        try:
            tickets.append(service.enter())
        except HttpError as error:
            refused = error
            break
    assert (refused.status, refused.code) == (429, "queue_full")
    return tickets


@pytest.mark.parametrize(("slots", "queue", "let_in"), [(1, 1, 2), (4, 2, 6), (64, 256, 320)])
def test_requests_at_the_same_moment_take_the_slots_and_the_queue(slots, queue, let_in):
    assert len(_enter_all(_service(slots, queue))) == let_in


def test_a_slot_is_free_again_when_its_text_ends():
    service = _service(1, 1)
    first, second = _enter_all(service)
    first.follow(_ONE, [Started()])
    assert service.waiting == 1
    assert _enter_all(service) == []  # one is being written, one waits
    first.follow(_ONE, [_end()])
    third = service.enter()  # before the answer to the first one was sent
    for ticket in (first, first, second, third):
        ticket.give_back()
    assert service.waiting == 0
    assert len(_enter_all(service)) == 2


def test_a_request_for_many_texts_takes_their_slots_until_the_last_ones_end():
    service = _service(4, 1)
    job = GenerationJob(prompts=[[1]], samples=6)
    many = service.enter()
    many.follow(job, [Started()])
    assert len(_enter_all(service)) == 1
    many.follow(job, [_end(0), _end(1)])
    assert _enter_all(service) == []  # the other four fill the slots
    many.follow(job, [_end(2)])
    assert len(_enter_all(service)) == 1
    many.give_back()
    assert len(_enter_all(service)) == 3


def test_scoring_takes_one_slot_until_the_last_prompt_is_scored():
    service = _service(2, 1)
    job = GenerationJob(prompts=[[1, 2], [3]], samples=2, max_tokens=1, prompt_logprobs=0)
    scoring = service.enter()
    scoring.follow(job, [Started()])
    assert len(_enter_all(service)) == 2
    scoring.follow(job, [PromptScored(0, []), _end(0), _end(1)])
    assert _enter_all(service) == []
    scoring.follow(job, [PromptScored(1, [])])
    assert len(_enter_all(service)) == 1
