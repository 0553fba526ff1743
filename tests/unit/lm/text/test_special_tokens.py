"""What starts and ends a text is told from every place that names it."""

import json

import pytest
import tokenizers

from conjure.lm.text.tokenizer import Tokenizer
from support.tokenizers_of_kinds import tokenizer_folder


def change(path, **settings):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **settings}))


def made(folder):
    folder.mkdir()
    return folder


@pytest.fixture
def llama(tmp_path):
    return tokenizer_folder(made(tmp_path / "llama"), "llama-2")


@pytest.fixture
def smollm(tmp_path):
    return tokenizer_folder(made(tmp_path / "smollm"), "smollm")


class TestStart:
    def test_bos_where_the_model_wants_it(self, llama):
        tokenizer = Tokenizer.from_folder(llama)
        assert (tokenizer.start_ids, tokenizer.start_id, tokenizer.start_token) == ([1], 1, "<s>")
        assert tokenizer.encode("ab")[0] != 1  # nothing but the one place puts it

    def test_none_where_it_does_not(self, smollm):
        tokenizer = Tokenizer.from_folder(smollm)
        assert tokenizer.start_ids == []
        assert tokenizer.start_id == tokenizer.end_of_text_id

    def test_the_settings_decide_over_the_post_processor(self, llama):
        change(llama / "tokenizer_config.json", add_bos_token=False)
        assert Tokenizer.from_folder(llama).start_ids == []

    def test_both_say_the_same_of_a_saved_one(self, llama, smollm, tmp_path):
        change(llama / "tokenizer_config.json", add_bos_token=False)
        change(smollm / "tokenizer_config.json", add_bos_token=True, bos_token="<|endoftext|>")
        for folder, starts in [(llama, []), (smollm, [Tokenizer.from_folder(smollm).end_of_text_id])]:
            tokenizer = Tokenizer.from_folder(folder)
            assert tokenizer.start_ids == starts
            saved = tmp_path / f"saved {folder.name}"
            saved.mkdir()
            tokenizer.save(saved)
            theirs = tokenizers.Tokenizer.from_file(str(saved / "tokenizer.json"))
            assert theirs.encode("ab").ids == [*starts, *tokenizer.encode("ab")]
            assert Tokenizer.from_folder(saved).digest == tokenizer.digest

    def test_the_post_processor_decides_where_the_settings_are_silent(self, llama):
        settings = json.loads((llama / "tokenizer_config.json").read_text())
        del settings["add_bos_token"], settings["bos_token"]
        (llama / "tokenizer_config.json").write_text(json.dumps(settings))
        assert Tokenizer.from_folder(llama).start_ids == [1]


class TestEnds:
    def test_all_places_count(self, smollm):
        tokenizer = Tokenizer.from_folder(smollm)
        end = tokenizer.end_of_text_id
        assert tokenizer.end_ids == {end}
        change(smollm / "generation_config.json", eos_token_id=[end, 7])
        change(smollm / "config.json", eos_token_id=9)
        assert Tokenizer.from_folder(smollm).end_ids == {end, 7, 9}

    def test_the_template_s_end_of_turn_counts(self, smollm):
        (end,) = json.loads((smollm / "tokenizer.json").read_text())["added_tokens"]
        token = {**end, "content": "<|im_end|>", "id": end["id"] + 1}
        change(smollm / "tokenizer.json", added_tokens=[end, token])
        assert token["id"] not in Tokenizer.from_folder(smollm).end_ids
        change(smollm / "tokenizer_config.json", chat_template="{{ x }}<|im_end|>")
        assert token["id"] in Tokenizer.from_folder(smollm).end_ids

    def test_an_end_of_turn_of_a_template_that_is_given_counts(self, smollm):
        (end,) = json.loads((smollm / "tokenizer.json").read_text())["added_tokens"]
        token = {**end, "content": "<|im_end|>", "id": end["id"] + 1}
        change(smollm / "tokenizer.json", added_tokens=[end, token])
        tokenizer = Tokenizer.from_folder(smollm)
        assert tokenizer.with_chat_template("{{ x }}<|im_end|>").end_ids == {end["id"], token["id"]}
        assert tokenizer.with_chat_template("{{ x }}").end_ids == {end["id"]}

    def test_a_template_of_its_own_file_is_read_and_kept(self, smollm, tmp_path):
        (smollm / "chat_template.jinja").write_text("{{ messages }}")
        tokenizer = Tokenizer.from_folder(smollm)
        assert tokenizer.chat_template == "{{ messages }}"
        (tmp_path / "saved").mkdir()
        tokenizer.save(tmp_path / "saved")
        assert Tokenizer.from_folder(tmp_path / "saved").chat_template == "{{ messages }}"

    def test_an_id_that_no_token_has_is_no_end(self, smollm):
        change(smollm / "config.json", eos_token_id=50_000)
        tokenizer = Tokenizer.from_folder(smollm)
        assert tokenizer.end_ids == {tokenizer.end_of_text_id}
