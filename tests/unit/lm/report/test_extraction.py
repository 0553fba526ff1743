"""What a model can recite is what it would write, token for token."""

import pytest
import torch

from conjure.lm.generation.generate import generate
from conjure.lm.generation.request import GenerationRequest
from conjure.lm.report.extraction import LONGEST, SHORTEST, extracted_share
from conjure.lm.report.report_schema import ExtractedShare
from conjure.lm.text.chat.encoding import ANSWER, GIVEN, EncodedChat
from support.models import tiny_model, tiny_tokenizer


def greedy_text(model, prompt: str, tokens: int) -> list[int]:
    request = GenerationRequest(prompts=[prompt], max_new_tokens=tokens, temperature=0.0, seed=0)
    return generate(model, tiny_tokenizer(), request)[0].token_ids


def test_it_is_what_greedy_writing_gives():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    start = tokenizer.encode("the moon and the sun a")
    half = tokenizer.encode("the moon and the sun and so on it went until")[:10]
    ids = torch.tensor([[tokenizer.end_of_text_id, *half]])
    for _ in range(10):
        with torch.no_grad():
            ids = torch.cat([ids, model.head(model(ids))[:, -1:].argmax(-1)], 1)
    recited = tokenizer.decode(ids[0, 1:].tolist())
    if tokenizer.encode(recited) != ids[0, 1:].tolist():
        pytest.fail("choose another beginning: its text has other tokens")
    wrong = tokenizer.decode([*ids[0, 1:-1].tolist(), start[0]])
    texts = [recited, wrong, recited, "short"]
    assert extracted_share(model, tokenizer, texts) == ExtractedShare(3, 2)


def test_records_that_are_too_short_are_not_tried():
    assert extracted_share(tiny_model(), tiny_tokenizer(), ["short", ""]) is None
    assert extracted_share(tiny_model(), tiny_tokenizer(), []) is None


def test_progress_counts_the_tokens_that_are_read():
    read = []
    texts = ["one record of some words and then some more of them, or so it seems " * 20] * 30
    share = extracted_share(tiny_model(), tiny_tokenizer(), texts, on_progress=read.append)
    assert share is not None
    assert share.records == 30
    assert sum(read) == 30 * min(LONGEST, tiny_model().config.context_length)
    assert SHORTEST <= LONGEST


def continued(model, ids: list[int], tokens: int) -> list[int]:
    """The ids, and what a greedy model writes after them."""
    for _ in range(tokens):
        with torch.no_grad():
            ids = [*ids, int(model.head(model(torch.tensor([ids])))[0, -1].argmax())]
    return ids


def chat(ids: list[int], *, answer: int) -> EncodedChat:
    """A conversation of which so many of the last tokens are the answer."""
    return EncodedChat(ids, [GIVEN] * (len(ids) - answer) + [ANSWER] * answer)


def words(count: int) -> list[int]:
    return tiny_tokenizer().encode("the moon and the sun and so on it went until one day " * 5)[:count]


def test_of_a_conversation_the_last_answer_is_recited():
    """Also beside longer ones; of an odd number of tokens, the greater half; of no question, nothing."""
    model, tokenizer = tiny_model(), tiny_tokenizer()
    long, short = continued(model, words(23), 10), continued(model, words(17), 9)
    wrong = [*long[:-1], (long[-1] + 1) % 100]
    early = [*short[:16], short[16] + 1, *continued(model, [*short[:16], short[16] + 1], 9)[17:]]
    records = [
        chat(long, answer=20), chat(short, answer=17), chat(wrong, answer=20), chat(early, answer=19),
        chat(long, answer=33),
    ]  # fmt: skip
    assert extracted_share(model, tokenizer, records) == ExtractedShare(4, 2)


def test_of_a_conversation_longer_than_the_context_the_end_is_read():
    model = tiny_model()
    read = continued(model, words(23), 10)  # the context, and one to be written
    asked = chat([*words(30), *read], answer=20)
    assert extracted_share(model, tiny_tokenizer(), [asked]) == ExtractedShare(1, 1)
    assert extracted_share(model, tiny_tokenizer(), [chat([7, *read[1:]], answer=33)]) is None


def test_sixteen_tokens_are_enough_to_be_tried():
    records = [chat(words(20), answer=answer) for answer in (SHORTEST, SHORTEST - 1)]
    share = extracted_share(tiny_model(), tiny_tokenizer(), records)
    assert share is not None
    assert share.records == 1


@pytest.mark.parametrize(("long", "short"), [(20, 50), (5, 120)])
def test_records_of_like_length_are_read_together_but_not_too_many(long, short):
    model, sizes = tiny_model(), []
    model.register_forward_pre_hook(lambda _, arguments: sizes.append(arguments[0].numel()))
    records = [chat(words(33), answer=32)] * long + [chat(words(17), answer=16)] * short
    share = extracted_share(model, tiny_tokenizer(), records)
    assert share is not None
    assert share.records == long + short
    assert max(sizes) <= 1024
    assert len(sizes) == 3
