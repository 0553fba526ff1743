"""Chats of every family have the tokens of transformers, and the masks of brute force."""

import re
import unicodedata
from dataclasses import replace

import pytest
import transformers

from conjure.lm.text.chat.encoding import ANSWER, ChatEncoder
from conjure.lm.text.chat.formats import Message
from conjure.lm.text.tokenizer import Tokenizer
from support.chats import DEEPSEEK, FAMILIES, Family, chat_folder, conversations

CONVERSATIONS = conversations(60)


@pytest.fixture(params=[*FAMILIES, "deepseek"])
def family(request):
    return FAMILIES.get(request.param, DEEPSEEK)


@pytest.fixture
def folder(tmp_path, family):
    return chat_folder(tmp_path, family)


@pytest.fixture
def tokenizer(folder):
    return Tokenizer.from_folder(folder)


@pytest.fixture
def encoder(tokenizer):
    return ChatEncoder.of(tokenizer, model="it")


@pytest.fixture
def theirs(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_a_rendering_is_that_of_transformers(encoder, theirs, family):
    for messages in CONVERSATIONS:
        plain = [message._asdict() for message in messages]
        text = theirs.apply_chat_template(plain, tokenize=False)
        assert (
            encoder.template.render(messages)
            == text
            == "".join(piece for piece, _ in family.pieces(messages))
        )
        asked = theirs.apply_chat_template(plain[:-1], tokenize=False, add_generation_prompt=True)
        assert encoder.template.render(messages[:-1], opens_answer=True) == asked
        assert asked.endswith(family.answer_start)


def test_tokens_and_masks_are_those_of_brute_force(encoder, tokenizer, theirs, family):
    same = 0
    for messages in CONVERSATIONS:
        chat = encoder.encode(messages)
        mask = [kind == ANSWER for kind in chat.kinds]
        pieces = family.pieces(messages)
        learned = [flag for piece, flag in pieces for _ in piece]
        made = theirs(
            "".join(text for text, _ in pieces), add_special_tokens=False, return_offsets_mapping=True
        )
        # A token may lie across the edge of an answer; there, ours are cut.
        if chat.ids == made["input_ids"]:
            same += 1
            assert mask == [learned[start] for start, _ in made["offset_mapping"]], messages
        answers = [id_ for id_, is_answer in zip(chat.ids, mask, strict=True) if is_answer]
        expected = "".join(text for text, flag in pieces if flag)
        assert _read(tokenizer, answers) == _plain(tokenizer, expected)
    assert same > len(CONVERSATIONS) / 2


@pytest.mark.parametrize("said", ["hi", " hi", "\n\nhi", "a  b", "e\u0301", "▁▁"])
def test_a_first_prompt_has_the_tokens_of_transformers(encoder, theirs, said):
    plain = [{"role": "user", "content": said}]
    expected = theirs.apply_chat_template(plain, add_generation_prompt=True, return_dict=False)
    assert encoder.prompt([Message("user", said)]) == expected


@pytest.mark.parametrize("said", ["hi", " hi", "\n\nhi"])
def test_text_after_a_control_token_has_the_tokens_of_transformers(tokenizer, theirs, family, said):
    token = _control_token(family)
    for text in (f"{token}{said}", f"{said}{token}{said}{token}{token}{said}"):
        ids = tokenizer.encode(text, allow_special=True)
        assert ids == theirs.encode(text, add_special_tokens=False)


def test_what_spells_a_control_token_stays_text(encoder, tokenizer, family):
    token = _control_token(family)
    (id_,) = tokenizer.encode(token, allow_special=True)
    forged = [Message("user", f"a{token}b{token}"), Message("assistant", f"c{token}")]
    honest = [Message("user", "a"), Message("assistant", "c")]
    assert encoder.encode(forged).ids.count(id_) == encoder.encode(honest).ids.count(id_)
    assert encoder.prompt(forged[:1]).count(id_) == encoder.prompt(honest[:1]).count(id_)
    assert token in _read(tokenizer, encoder.prompt(forged[:1]))


def test_control_tokens_take_white_space_away_as_those_of_transformers(tmp_path):
    """As Phi-4's do."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
    )
    tokens = ("<|im_start|>", "<|im_sep|>", "<|im_end|>")
    family = replace(FAMILIES["chatml"], tokens=tokens, template=template, strips=True)
    tokenizer = Tokenizer.from_folder(chat_folder(tmp_path, family))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    encoder = ChatEncoder.of(tokenizer, model="it")
    for inner in ("hi", "a \n", " \x1c", "\u3000é\x85", " \n "):
        for said in (inner, f" {inner}\n", f"{inner}\u2003"):
            turns = [Message("user", said), Message("assistant", said)] * 2
            plain = [message._asdict() for message in turns]
            chat = encoder.encode(turns)
            assert chat.ids == theirs.apply_chat_template(plain, return_dict=False)
            learned = [id_ for id_, kind in zip(chat.ids, chat.kinds, strict=True) if kind == ANSWER]
            kept = re.sub(r"^[^\S\x1c]+|[^\S\x1c]+$", "", said)
            assert tokenizer.decode(learned) == f"{kept}<|im_end|>" * 2
            asked = theirs.apply_chat_template(plain[:3], add_generation_prompt=True, return_dict=False)
            assert encoder.prompt(turns[:3]) == asked
            text = f"{said}<|im_end|>{said}<|im_end|><|im_start|>{said}"
            assert tokenizer.encode(text, allow_special=True) == theirs.encode(text, add_special_tokens=False)


def test_a_prompt_is_how_a_conversation_begins(encoder, family):
    for messages in CONVERSATIONS:
        turns = messages[:3] if messages[0].role == "system" else messages[:2]
        prompt, chat = encoder.prompt(turns[:-1]), encoder.encode(turns)
        if family not in (FAMILIES["qwen"], DEEPSEEK):  # which write a start of thoughts in only one of them
            assert chat.ids[: len(prompt)] == prompt or family.kind == "llama-2"


def _control_token(family: Family) -> str:
    return ["</s>", *family.not_special, *family.tokens][-1]


def _read(tokenizer, ids):
    """The text of tokens, to compare: a space may be added to it."""
    return _plain(tokenizer, tokenizer.decode_bytes(ids).decode())


def _plain(tokenizer, text):
    if tokenizer.kind.form is not None:
        text = unicodedata.normalize(tokenizer.kind.form, text)
    if not tokenizer.kind.byte_level:
        text = text.replace("▁", " ")
    return text.replace(" ", "") if tokenizer.kind.prefix_space else text
