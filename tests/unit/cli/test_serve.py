"""`conjure serve`: how models are named, and what is refused before anything is loaded."""

import pytest

from conjure.cli.commands.serve import split_model
from conjure.cli.language_model.serve import _read_template, serve
from conjure.errors import UsageError

_OPTIONS = {
    "predictor": None,
    "config": None,
    "host": "127.0.0.1",
    "port": 0,
    "api_key_file": None,
    "chat_template": None,
    "allow_host": (),
    "precision": "auto",
    "slots": 1,
    "queue": 1,
    "log_prompts": False,
}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sprite", ("sprite", "sprite")),
        ("jokes=runs/3", ("jokes", "runs/3")),
        ("a=b=c", ("a", "b=c")),
        ("./a=b", ("./a=b", "./a=b")),
        ("org/name@main", ("org/name@main", "org/name@main")),
    ],
)
def test_names_of_models(given, expected):
    assert split_model(given) == expected


@pytest.mark.parametrize("given", ["", "=sprite", "jokes=", " jokes=sprite", "a\nb=sprite"])
def test_what_is_no_name(given):
    with pytest.raises(UsageError, match="neither a model nor NAME=MODEL"):
        split_model(given)


@pytest.mark.parametrize(
    ("models", "options", "words"),
    [
        (["a=sprite", "a=sprite"], {}, "two models are called 'a'"),
        (["sprite"], {"host": "0.0.0.0"}, "no API key is set"),
    ],
)
def test_what_cannot_be_served(models, options, words):
    with pytest.raises(UsageError, match=words):
        serve(models, **_OPTIONS | options)


@pytest.mark.parametrize(
    ("template", "words"),
    [("{% if %}", "cannot be used"), ("{{ no.such.name }}", "cannot be used"), ("a" * 131_073, "131,072")],
)
def test_a_template_that_cannot_be_used_is_refused_at_once(tmp_path, template, words):
    file = tmp_path / "chat.jinja"
    file.write_text(template)
    with pytest.raises(UsageError, match=words):
        serve(["sprite"], **_OPTIONS | {"chat_template": file})


@pytest.mark.parametrize("template", ["{{ eos_token + pad_token }}", "{{ raise_exception('system first') }}"])
def test_a_template_that_may_take_other_conversations_is_kept(tmp_path, template):
    file = tmp_path / "chat.jinja"
    file.write_text(template)
    assert _read_template(file) == template
