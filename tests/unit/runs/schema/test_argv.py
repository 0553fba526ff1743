import subprocess

import pytest

from conjure.runs.schema.argv import fill_in, to_arguments, to_image_arguments, unknown_placeholders


def test_params_are_filled_in_word_by_word():
    assert fill_in(("train.py", "--lr", ":lr:", "x=:lr:,:n:"), {"lr": "1e-3", "n": "a b"}) == (
        "train.py",
        "--lr",
        "1e-3",
        "x=1e-3,a b",
    )


def test_without_params_a_command_is_as_it_was_written():
    assert fill_in(("echo :a:",), {}) == ("echo :a:",)


def test_a_value_is_not_looked_at_for_params_again():
    assert fill_in(("x", ":a:"), {"a": ":b:", "b": "no"}) == ("x", ":b:")


def test_plain_values_stand_in_a_shell_line_as_they_are():
    assert fill_in(("python train.py --lr :lr:",), {"lr": "0.1"}) == ("python train.py --lr 0.1",)


def test_other_values_are_quoted_for_the_shell():
    assert fill_in(("echo :a: '<:a:>' \"<:a:>\"",), {"a": "it's $5"}) == (
        "echo 'it'\"'\"'s $5' '<it'\\''s $5>' \"<it's \\$5>\"",
    )


@pytest.mark.parametrize(
    ("word", "around"),
    [
        (":a:", "{}"),
        ("x':a:'y", "x{}y"),
        ('x":a:"y', "x{}y"),
        ("'\\':a:", "\\{}"),  # a backslash in single quotes is only that
        ('\\":a:', '"{}'),  # and elsewhere takes the quote along
        ('"\\":a:"', '"{}'),
        ("""'"':a:""", '"{}'),  # a quote in other quotes is only that
        ("\"':a:'\"", "'{}'"),
    ],
)
def test_a_shell_gets_the_value_as_it_was_given(word, around):
    value = """it's "$HOME" `x` \\ y"""
    filled = fill_in((f"printf %s {word}",), {"a": value})
    assert subprocess.check_output(to_arguments(filled), text=True) == around.format(value)


def test_the_shell_is_bash_where_there_is_one(tmp_path, monkeypatch):
    (tmp_path / "bash").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert to_arguments(("echo hi",)) == (str(tmp_path / "bash"), "-c", "echo hi")
    (tmp_path / "bash").unlink()
    assert to_arguments(("echo hi",)) == ("/bin/sh", "-c", "echo hi")


def test_one_word_goes_to_a_shell_and_several_do_not():
    assert to_arguments(("echo hi; exit 3",))[1:] == ("-c", "echo hi; exit 3")
    assert to_arguments(("echo", "a  b")) == ("echo", "a  b")


def test_unknown_placeholders_are_noticed_but_not_clock_times_or_slices():
    command = ("python t.py :lr: 12:30:45 x[::2] http://h:80/a b:c:d --at=:n:",)
    assert unknown_placeholders(command, {"n": "1"}) == ["lr"]


def test_in_an_image_a_line_goes_to_bash_where_there_is_one():
    line = "echo ${BASH_VERSION:+in bash}"
    assert subprocess.check_output(to_image_arguments((line,)), text=True) == "in bash\n"
    assert to_image_arguments(("echo", "a b")) == ("echo", "a b")
