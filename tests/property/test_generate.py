"""What is written depends on nothing around it, and stop strings cut where a search of the text would."""

from hypothesis import given, settings
from hypothesis import strategies as st

from conjure.lm.generation.generate import Sample, generate, stream
from conjure.lm.generation.request import GenerationRequest
from support.models import tiny_model, tiny_tokenizer
from support.scripted_engine import ScriptedEngine

MODEL, TOKENIZER = tiny_model(seed=9), tiny_tokenizer()
TOKENS = st.integers(0, TOKENIZER.end_of_text_id - 1)
STOPS = st.text("aeo nst.\n\ufffdж", min_size=1, max_size=3)
SAMPLING = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.0]),
        "top_k": st.integers(0, 60),
        "top_p": st.floats(0.1, 1.0),
        "min_p": st.floats(0.0, 0.5),
        "repetition_penalty": st.floats(0.5, 2.0),
        "no_repeat_ngram": st.integers(0, 4),
    },
)


@settings(max_examples=15)
@given(
    prompts=st.lists(st.text(max_size=30), min_size=1, max_size=4),
    num_samples=st.integers(1, 3),
    max_new_tokens=st.integers(1, 30),
    seed=st.integers(0, 2**64 - 1),
    sampling=SAMPLING,
)
def test_a_batch_is_its_samples_one_at_a_time(prompts, num_samples, max_new_tokens, seed, sampling):
    def written(chosen: list[str], samples: int) -> list[Sample]:
        request = GenerationRequest(
            prompts=chosen, num_samples=samples, max_new_tokens=max_new_tokens, seed=seed, **sampling
        )
        return generate(MODEL, TOKENIZER, request)

    together = written(prompts, num_samples)

    alone = [sample for prompt in prompts for sample in written([prompt], num_samples)]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert [one.text for one in together] == [one.text for one in alone]
    first = [one.token_ids for one in together if one.index == 0]
    assert first == [sample.token_ids for prompt in prompts for sample in written([prompt], 1)]


@given(
    st.lists(TOKENS, max_size=40), st.lists(st.text("aeo nst.\n\ufffdж", min_size=1, max_size=3), max_size=3)
)
def test_any_tokens_and_stop_strings_give_the_text_a_search_would(ids, stop):
    request = GenerationRequest(max_new_tokens=100, stop=stop, temperature=0)

    *tokens, sample = stream(ScriptedEngine(TOKENIZER, ids), TOKENIZER, request)

    whole = TOKENIZER.decode(ids)
    cut = min((whole.index(text) for text in stop if text in whole), default=None)
    assert sample.text == whole[:cut]
    assert "".join(token.text for token in tokens) == sample.text
    assert sample.finish_reason == ("end_of_text" if cut is None else "stop")
    assert [*ids, TOKENIZER.end_of_text_id][: len(sample.token_ids)] == sample.token_ids
