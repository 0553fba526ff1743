import pytest

from conjure.core.secrets import is_secret_name, redact_command, redact_environment, redact_text


@pytest.mark.parametrize("name", ["API_KEY", "HF_TOKEN", "password", "db-password", "AWS_SECRET_ACCESS_KEY"])
def test_secret_names(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["MONKEY", "KEYBOARD", "PATH", "TOKENIZER", "lr"])
def test_other_names(name):
    assert not is_secret_name(name)


def test_addresses_lose_user_and_password():
    assert (
        redact_text("git+https://me:pw@host/x and ssh://git@host")
        == "git+https://***@host/x and ssh://***@host"
    )


def test_a_number_of_tokens_is_no_token():
    assert redact_environment({"MAX_TOKENS": "50", "ACCESS_TOKENS": "a1", "PIN_TOKEN": "50"}) == {
        "MAX_TOKENS": "50",
        "ACCESS_TOKENS": "***",
        "PIN_TOKEN": "***",
    }


@pytest.mark.parametrize(
    ("line", "stored"),
    [
        ("python t.py --token abcdef --lr 0.1", "python t.py --token *** --lr 0.1"),
        ("python t.py --hf-token=abcdef", "python t.py --hf-token=***"),
        ("t --password 'a b' c", "t --password *** c"),
        ("API_KEY=abc python x", "API_KEY=*** python x"),
        ("python -c \"login(password='hunter2')\"", 'python -c "login(password=***)"'),
        ('curl -H "Authorization: Bearer xyz"', 'curl -H "Authorization: Bearer ***"'),
        ("echo hf_abcdefghijklmnop", "echo ***"),
    ],
)
def test_secrets_in_a_shell_line(line, stored):
    assert redact_command((line,)) == (stored,)


@pytest.mark.parametrize(
    "line",
    [
        "python t.py --max-tokens 50 --tokenizer gpt2",
        "sort --key 2 file",
        'python -c "sorted(a, key=len)"',
        "x --password=$PW",
        "x --api-key :key:",
        "conjure generate --max-new-tokens 20",
    ],
)
def test_everyday_lines_stay_as_they_are(line):
    assert redact_command((line,)) == (line,)


def test_secrets_among_arguments():
    given = ("x", "--token", "abc", "--no-key", "--api-key=zzz", "--lr", "3")
    assert redact_command(given) == ("x", "--token", "***", "--no-key", "--api-key=***", "--lr", "3")


def test_a_long_word_is_looked_through_once():
    """Looking again from each letter would take longer than a test may."""
    word = "aGVsbG8" * 20_000
    assert redact_command((word,)) == (word,)
    assert redact_text(f"{word}://me:pw@host") == f"{word}://***@host"
