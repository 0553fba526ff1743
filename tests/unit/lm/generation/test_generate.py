"""Generation: what a sample holds, how it ends, and that it is the same in whatever company it is written."""

from dataclasses import fields

import pytest
import torch

from conjure.errors import ContextLengthError, ModelError, UsageError
from conjure.lm.generation.engines.torch_engine import TorchEngine
from conjure.lm.generation.generate import Sample, Token, generate, stream
from conjure.lm.generation.request import GenerationRequest
from support.engines import logits_of
from support.models import tiny_model, tiny_tokenizer
from support.scripted_engine import ScriptedEngine

TOKENIZER = tiny_tokenizer()
END = TOKENIZER.end_of_text_id
PROMPTS = ["", "My dog", "Why did the scarecrow", "猫は", "He", "Времени нет, а часы"]
SETTINGS = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "nucleus": {"top_k": 0, "top_p": 0.9},
    "everything": {
        "temperature": 0.8,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0.02,
        "repetition_penalty": 1.3,
        "no_repeat_ngram": 3,
    },
}


def write(text: str, **settings) -> Sample:
    """One sample of an engine that says `text` and ends."""
    request = GenerationRequest(**{"max_new_tokens": 500, **settings})
    *_, sample = stream(ScriptedEngine(TOKENIZER, TOKENIZER.encode(text)), TOKENIZER, request)
    assert isinstance(sample, Sample)
    return sample


def facts(samples: list[Sample]) -> list[tuple]:
    return [(sample.prompt, sample.index, sample.text, sample.token_ids) for sample in samples]


class TestRequest:
    def test_every_number_has_a_bound(self):
        numbers = {field.name for field in fields(GenerationRequest) if field.type in (int, float)}
        assert numbers == set(GenerationRequest.BOUNDS)

    def test_all_faults_come_at_once(self):
        with pytest.raises(UsageError) as caught:
            GenerationRequest(
                temperature=-1,
                top_p=7,
                num_samples=0,
                max_new_tokens=0,
                seed=-1,
                stop=["a", ""],
                on_overflow="crash",
                prompts=[],
            )
        for words in (
            "temperature must be at least 0, not -1",
            "top_p must be above 0 and at most 1, not 7",
            "num_samples must be at least 1, not 0",
            "max_new_tokens must be at least 1, not 0",
            "seed must be at least 0, not -1",
            "stop contains an empty string",
            "on_overflow must be 'slide' or 'error', not 'crash'",
            "prompts is empty",
        ):
            assert words in str(caught.value)

    @pytest.mark.parametrize(("name", "value"), [("prompts", "My dog"), ("stop", "\n"), ("stop", [1])])
    def test_lists_of_texts_are_lists_of_texts(self, name, value):
        with pytest.raises(UsageError) as caught:
            GenerationRequest(**{name: value})
        assert f"{name} must be a list of strings, not {value!r}" in str(caught.value)

    def test_a_seed_is_drawn_when_none_is_given(self):
        assert len({GenerationRequest().seed for _ in range(10)}) > 5


class TestEnding:
    def test_end_of_text_ends_and_is_in_the_ids_but_not_in_the_text(self):
        sample = write("A short one.")

        assert (sample.text, sample.finish_reason) == ("A short one.", "end_of_text")
        assert sample.token_ids == [*TOKENIZER.encode("A short one."), END]
        assert len(sample.logprobs) == len(sample.token_ids)

    def test_length_counts_tokens(self):
        sample = write("A short one.", max_new_tokens=3)

        assert sample.finish_reason == "length"
        assert sample.token_ids == TOKENIZER.encode("A short one.")[:3]
        assert sample.text == TOKENIZER.decode(sample.token_ids)

    def test_an_end_at_the_very_last_token_is_an_end(self):
        length = len(TOKENIZER.encode("Hm.")) + 1
        assert write("Hm.", max_new_tokens=length).finish_reason == "end_of_text"

    def test_a_stop_string_across_tokens_cuts_the_text_before_it(self):
        sample = write("First line.\nSecond line.\n\nThird.", stop=["e.\n\nT", "never"])

        assert sample.text == "First line.\nSecond lin"
        assert sample.finish_reason == "stop"
        assert TOKENIZER.decode(sample.token_ids).startswith("First line.\nSecond line.\n\nT")
        assert len(sample.token_ids) < len(TOKENIZER.encode("First line.\nSecond line.\n\nThird."))

    def test_a_stop_string_that_completes_with_the_last_token_is_a_stop(self):
        length = len(TOKENIZER.encode("ab##"))
        sample = write("ab##", stop=["##"], max_new_tokens=length)
        assert (sample.text, sample.finish_reason) == ("ab", "stop")

    @pytest.mark.parametrize("settings", [{}, {"max_new_tokens": len(TOKENIZER.encode("ab#"))}])
    def test_what_only_began_like_a_stop_string_is_text(self, settings):
        sample = write("ab#", stop=["##"], **settings)
        assert sample.text == "ab#"
        assert sample.finish_reason in ("end_of_text", "length")

    def test_half_a_character_at_the_end_is_a_replacement_character(self):
        cat = TOKENIZER.encode("猫")
        assert len(cat) > 1
        sample = write("猫猫", max_new_tokens=2 * len(cat) - 1)
        assert sample.text == TOKENIZER.decode(sample.token_ids)
        assert sample.text.startswith("猫")
        assert sample.text.endswith("�")

    def test_rows_leave_the_batch_as_they_end_and_cost_falls(self):
        engine = ScriptedEngine(TOKENIZER, *(TOKENIZER.encode("ab" * length) for length in range(1, 9)))
        prompts = [f"p{number}" for number in range(8)]

        events = list(stream(engine, TOKENIZER, GenerationRequest(prompts=prompts, max_new_tokens=100)))

        samples = sorted((one for one in events if isinstance(one, Sample)), key=lambda one: one.prompt_index)
        assert [sample.text for sample in samples] == ["ab" * length for length in range(1, 9)]
        assert engine.rows_per_step[0] == 8
        assert engine.rows_per_step[-1] <= 2
        assert sum(engine.rows_per_step) < 0.75 * 8 * len(engine.rows_per_step)


class TestStream:
    def test_pieces_join_up_to_the_text_and_hold_whole_characters(self):
        text = "naïve 猫は寝ている 😀 часы"
        request = GenerationRequest(max_new_tokens=200)

        *tokens, sample = stream(ScriptedEngine(TOKENIZER, TOKENIZER.encode(text)), TOKENIZER, request)

        assert all(isinstance(token, Token) for token in tokens)
        assert "".join(token.text for token in tokens) == text == sample.text
        assert all("�" not in token.text for token in tokens)
        assert [token.token_id for token in tokens] == sample.token_ids
        assert [token.logprob for token in tokens] == sample.logprobs

    def test_nothing_of_a_stop_string_is_ever_let_through(self):
        request = GenerationRequest(max_new_tokens=200, stop=["\n\n"])
        shown = ""
        for event in stream(
            ScriptedEngine(TOKENIZER, TOKENIZER.encode("one\ntwo\n\nthree")), TOKENIZER, request
        ):
            shown += event.text if isinstance(event, Token) else ""
        assert shown == "one\ntwo"

    def test_the_first_token_comes_before_the_second_is_computed(self):
        engine = ScriptedEngine(TOKENIZER, TOKENIZER.encode("one two three"))
        events = stream(engine, TOKENIZER, GenerationRequest(max_new_tokens=200))
        next(events)
        assert len(engine.rows_per_step) == 1


class TestSamples:
    def test_they_come_by_prompt_and_index_with_what_made_them(self):
        prompts = ["b", "a longer prompt", ""]
        request = GenerationRequest(prompts=prompts, num_samples=2, max_new_tokens=3, seed=7)

        samples = generate(tiny_model(), TOKENIZER, request)

        assert [(s.prompt, s.prompt_index, s.index, s.seed) for s in samples] == [
            (prompt, number, index, 7) for number, prompt in enumerate(prompts) for index in (0, 1)
        ]

    def test_samples_of_a_prompt_differ_and_so_do_seeds(self):
        def texts(seed: int) -> set[str]:
            request = GenerationRequest(prompts=["My dog"], num_samples=8, max_new_tokens=8, seed=seed)
            return {sample.text for sample in generate(tiny_model(), TOKENIZER, request)}

        assert len(texts(0)) == 8
        assert texts(0) == texts(0)
        assert not texts(0) & texts(1)

    def test_logprobs_are_the_models_own_whatever_the_settings(self):
        model = tiny_model()
        for settings in SETTINGS.values():
            request = GenerationRequest(prompts=["My dog"], max_new_tokens=12, seed=3, **settings)
            (sample,) = generate(model, TOKENIZER, request)
            prompt = TOKENIZER.encode("My dog")
            with torch.no_grad():
                logits = model.head(model(torch.tensor([prompt + sample.token_ids])))[0]
            expected = logits.log_softmax(1)[len(prompt) - 1 : -1].gather(
                1, torch.tensor(sample.token_ids)[:, None]
            )
            assert sample.logprobs == pytest.approx(expected.squeeze(1).tolist(), abs=1e-4)

    def test_an_empty_prompt_is_the_start_of_a_document(self):
        model = tiny_model()
        request = GenerationRequest(temperature=0, max_new_tokens=1)
        (sample,) = generate(model, TOKENIZER, request)
        with torch.no_grad():
            assert sample.token_ids == [int(model.head(model(torch.tensor([[END]])))[0, -1].argmax())]

    def test_a_longer_sample_goes_on_from_the_shorter_one(self):
        short, long = (
            generate(
                tiny_model(), TOKENIZER, GenerationRequest(prompts=PROMPTS, max_new_tokens=length, seed=1)
            )
            for length in (5, 60)
        )
        assert [one.token_ids for one in short] == [one.token_ids[:5] for one in long]

    def test_dropout_is_off_and_back_afterwards(self):
        model = tiny_model(resid_pdrop=0.5, embd_pdrop=0.5).train()
        request = GenerationRequest(max_new_tokens=10, seed=0)
        first, second = generate(model, TOKENIZER, request), generate(model, TOKENIZER, request)
        assert first == second
        assert model.training
        assert torch.is_grad_enabled()

    def test_global_randomness_is_neither_used_nor_touched(self):
        request = GenerationRequest(max_new_tokens=10, seed=0)
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = generate(tiny_model(), TOKENIZER, request)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert generate(tiny_model(), TOKENIZER, request) == first

    def test_gradients_are_on_for_the_caller_between_tokens(self):
        for _ in stream(TorchEngine(tiny_model()), TOKENIZER, GenerationRequest(max_new_tokens=3)):
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()

    def test_broken_weights_are_an_error_not_a_text(self):
        model = tiny_model()
        with torch.no_grad():
            model.final_norm.weight.fill_(float("nan"))
        with pytest.raises(ModelError, match="not numbers"):
            generate(model, TOKENIZER, GenerationRequest(max_new_tokens=3))


@pytest.mark.slow
class TestCompany:
    """Alone, in a batch, beside other prompts, in another order: the same samples (float32)."""

    @pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
    @pytest.mark.parametrize(
        ("seed", "shape"), [(0, {}), (1, {"n_embd": 48, "n_head": 3}), (2, {"n_layer": 1})]
    )
    def test_batch_equals_single(self, settings, seed, shape):
        model = tiny_model(seed, **shape)

        def written(prompts: list[str], num_samples: int) -> list[Sample]:
            request = GenerationRequest(
                prompts=prompts, num_samples=num_samples, max_new_tokens=12, seed=seed, **settings
            )
            return generate(model, TOKENIZER, request)

        together = written(PROMPTS, 3)

        alone = [sample for prompt in PROMPTS for sample in written([prompt], 3)]
        assert facts(together) == facts(alone)
        assert facts(written(PROMPTS, 1)) == facts([sample for sample in together if sample.index == 0])
        backwards = written(PROMPTS[::-1], 3)
        assert sorted(facts(backwards)) == sorted(facts(together))
        for one, other in zip(together, alone, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)

    def test_a_split_into_several_batches_changes_nothing(self, monkeypatch):
        request = GenerationRequest(prompts=PROMPTS, num_samples=5, max_new_tokens=10, seed=4)
        whole = generate(tiny_model(), TOKENIZER, request)
        monkeypatch.setattr("conjure.lm.generation.generate._MOST_ROWS", 4)
        assert facts(generate(tiny_model(), TOKENIZER, request)) == facts(whole)
        monkeypatch.setattr("conjure.lm.generation.generate._CACHE_BYTES", 1)  # one row at a time
        assert facts(generate(tiny_model(), TOKENIZER, request)) == facts(whole)

    def test_reading_prompts_in_parts_changes_nothing(self, monkeypatch):
        request = GenerationRequest(prompts=PROMPTS, max_new_tokens=5, seed=4)
        whole = generate(tiny_model(), TOKENIZER, request)
        monkeypatch.setattr("conjure.lm.generation.engines.torch_engine._MOST_TOKENS", 24)
        assert facts(generate(tiny_model(), TOKENIZER, request)) == facts(whole)

    def test_a_prompt_is_read_once_for_all_its_samples(self):
        class CountingEngine(TorchEngine):
            def read(self, ids, cohort):
                shapes.append(tuple(ids.shape))
                return super().read(ids, cohort)

        shapes = []
        engine = CountingEngine(tiny_model())
        request = GenerationRequest(prompts=["My dog", "He"], num_samples=10, max_new_tokens=2)
        list(stream(engine, TOKENIZER, request))
        assert [rows for rows, _ in shapes] == [2, 20]


class TestOverflow:
    """The tiny model's context is 32 tokens."""

    def plain_window(self, model, prompt: list[int], count: int) -> list[int]:
        """Greedy tokens by the documented policy, each by a forward pass without a cache."""
        tokens, begin = list(prompt), max(0, len(prompt) - 16) if len(prompt) > 32 else 0
        for _ in range(count):
            if len(tokens) - begin > 32:
                begin = len(tokens) - 16
            with torch.no_grad():
                logits = model.head(model(torch.tensor([tokens[begin:]])))[0, -1]
            tokens.append(int(logits.argmax()))
        return tokens[len(prompt) :]

    @pytest.mark.parametrize("length", [1, 20, 31, 32, 33, 50, 100])
    def test_the_window_slides_by_the_documented_policy(self, length):
        model = tiny_model(seed=5)
        prompt = "ab!?" * 100
        prompt = TOKENIZER.decode(TOKENIZER.encode(prompt)[:length])
        ids = TOKENIZER.encode(prompt)
        assert len(ids) == length

        (sample,) = generate(
            model, TOKENIZER, GenerationRequest(prompts=[prompt], temperature=0, max_new_tokens=70)
        )

        expected = self.plain_window(model, ids, 70)
        assert sample.token_ids == expected[: len(sample.token_ids)]
        assert len(sample.token_ids) == 70 or sample.token_ids[-1] == END

    @pytest.mark.slow
    @pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
    def test_batch_equals_single_beyond_the_context(self, settings):
        prompts = [*PROMPTS, "He ate the clock. " * 3, "He ate the clock. " * 9, "It is. " * 8, "x" * 32]
        model = tiny_model(seed=6)

        def written(chosen: list[str]) -> list[Sample]:
            request = GenerationRequest(prompts=chosen, num_samples=2, max_new_tokens=50, seed=6, **settings)
            return generate(model, TOKENIZER, request)

        assert facts(written(prompts)) == [fact for prompt in prompts for fact in facts(written([prompt]))]

    def test_error_names_the_counts_and_writes_nothing(self):
        request = GenerationRequest(prompts=["He", "x" * 20], max_new_tokens=13, on_overflow="error")

        with pytest.raises(ContextLengthError) as caught:
            generate(tiny_model(), TOKENIZER, request)

        assert str(caught.value) == (
            "a prompt of 20 and 13 new tokens make 33, more than the model's context of 32"
        )
        assert (
            caught.value.hint == "generate at most 12 tokens, or let the window slide (on_overflow='slide')"
        )

    def test_error_for_a_prompt_that_does_not_fit_by_itself(self):
        request = GenerationRequest(prompts=["x" * 40], max_new_tokens=1, on_overflow="error")
        with pytest.raises(ContextLengthError) as caught:
            generate(tiny_model(), TOKENIZER, request)
        assert caught.value.hint.startswith("shorten the prompt")

    def test_what_just_fits_is_no_overflow(self):
        request = GenerationRequest(prompts=["x" * 20], max_new_tokens=12, on_overflow="error")
        (sample,) = generate(tiny_model(), TOKENIZER, request)
        assert len(sample.token_ids) == 12

    @pytest.mark.parametrize("context", [1, 2, 3])
    def test_the_smallest_contexts_work(self, context):
        request = GenerationRequest(prompts=["", "abc"], max_new_tokens=9, num_samples=2, seed=1)
        samples = generate(tiny_model(context_length=context), TOKENIZER, request)
        assert all(len(one.token_ids) == 9 or one.finish_reason == "end_of_text" for one in samples)


@pytest.mark.slow
class TestBfloat16:
    def test_logits_keep_their_differences_though_they_lie_far_from_zero(self):
        model = tiny_model(n_embd=64)
        with torch.no_grad():
            model.embedding.weight += 20 * torch.randn(
                64, generator=torch.Generator().manual_seed(0)
            )  # as GPT-2's do
        ids = torch.tensor([TOKENIZER.encode("My dog ate")])
        exact = logits_of(TorchEngine(model), ids)[0, 0]
        engine = TorchEngine(model.to(torch.bfloat16))
        logits = logits_of(engine, ids)[0, 0]

        assert logits.dtype == torch.float32
        assert exact.mean().abs() > 20 * exact.std(), "the test needs logits far from zero"
        error = (logits.log_softmax(0) - exact.log_softmax(0)).abs().mean()
        rounding = (exact.bfloat16().float().log_softmax(0) - exact.log_softmax(0)).abs().mean()
        assert error < rounding / 2

    def test_samples_are_written(self):
        request = GenerationRequest(prompts=PROMPTS, max_new_tokens=40, num_samples=2)
        samples = generate(tiny_model().to(torch.bfloat16), TOKENIZER, request)
        assert len(samples) == 2 * len(PROMPTS)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1e6, "top_k": 0}, {"top_k": 1}])
def test_ids_that_no_token_has_are_never_chosen(settings):
    model = tiny_model(vocab_size=340, tie_word_embeddings=False)
    with torch.no_grad():
        model.head_weight[300:] *= 50  # the model likes them best
    request = GenerationRequest(num_samples=8, max_new_tokens=12, seed=1, **settings)
    samples = generate(model, tiny_tokenizer(), request)
    assert all(id_ < 300 for sample in samples for id_ in sample.token_ids)
