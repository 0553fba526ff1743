"""Templates are rendered as transformers renders them, and none can do harm."""

import json
from datetime import date

import pytest

from conjure.errors import CheckpointError, DataError
from conjure.lm.text.chat.formats import Message
from conjure.lm.text.chat.template import ChatTemplate, find_template
from conjure.lm.text.special_tokens import LARGEST_TEMPLATE
from conjure.lm.text.tokenizer import Tokenizer
from support.chats import FAMILIES, chat_folder

ASKED = [Message("user", "Hello")]
GOOD = ChatTemplate("{{ messages[0].content }}", {}, date(2026, 3, 1))


def template(source):
    return ChatTemplate(source, {}, date(2026, 3, 1))


def test_variables_and_functions_are_those_of_transformers():
    source = (
        "{{ bos_token }}{{ {'é': 1} | tojson }}{{ strftime_now('%d %b %Y') }}{{ tools is none }}{{ nothing }}"
    )
    made = ChatTemplate(source, {"bos_token": "<s>"}, date(2026, 3, 1))
    assert made.render(ASKED) == '<s>{"é": 1}01 Mar 2026True'
    assert made.asks_for_date


def test_lines_of_tags_leave_nothing_and_loops_have_controls():
    source = "{% for n in range(9) %}\n    {% if n == 2 %}\n{% break %}{% endif %}\n{{ n }}\n{% endfor %}"
    assert template(source).render(ASKED) == "0\n1\n"


def test_a_template_may_refuse_a_conversation():
    with pytest.raises(DataError, match="refuses the conversation: no system"):
        template("{{ raise_exception('no system') }}").render(ASKED)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "runs too long"),
        ("{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", "writes more than 16,777,216 characters"),
        ("{{ ('x' * 2000000000) | length }}", "needs more than 1,024 MiB"),
        ("{% if %}", "fails: Expected an expression"),
        ("{{ messages[0].content.x.y }}", "fails: .*has no attribute 'x'"),
        ("{{ ''.__class__.__mro__ }}", "fails: access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "fails: .*append"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "fails: maximum recursion"),
        ("{% include 'other' %}", "fails: no loader"),
    ],
)
def test_a_bad_template_is_one_sentence_and_the_next_one_works(source, words):
    with pytest.raises(CheckpointError, match=f"chat template {words}"):
        template(source).render(ASKED)
    assert GOOD.render(ASKED) == "Hello"


def test_a_template_of_a_megabyte_is_refused(tmp_path):
    folder = chat_folder(tmp_path, FAMILIES["chatml"])
    (folder / "chat_template.jinja").write_text("x" * (1 << 20))
    with pytest.raises(CheckpointError, match=f"larger than {LARGEST_TEMPLATE:,} characters"):
        find_template(Tokenizer.from_folder(folder))


def test_the_file_comes_before_the_setting(tmp_path):
    folder = chat_folder(tmp_path, FAMILIES["chatml"])
    (folder / "chat_template.jinja").write_text("{{ eos_token }}")
    found = find_template(Tokenizer.from_folder(folder))
    assert found is not None
    assert found.render(ASKED) == "<|im_end|>"


def test_of_several_templates_the_default_is_used(tmp_path):
    folder = chat_folder(tmp_path, FAMILIES["chatml"])
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    named = [{"name": "tools", "template": "1"}, {"name": "default", "template": "2"}]
    path.write_text(json.dumps(settings | {"chat_template": named}))
    assert find_template(Tokenizer.from_folder(folder)).source == "2"
    path.write_text(json.dumps(settings | {"chat_template": named[:1]}))
    with pytest.raises(CheckpointError, match="several chat templates"):
        find_template(Tokenizer.from_folder(folder))
