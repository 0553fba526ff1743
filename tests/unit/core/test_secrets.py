import pytest

from conjure.core.secrets import Redaction, is_secret, redact_text

HUGGING_FACE = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh"
GITHUB = "ghp_" + "a1B2c3D4e5" * 3 + "a1B2c3"
RANDOM = "s3cr3t-V4lue-0001"


def redacted(*command):
    return Redaction().command(command)


@pytest.mark.parametrize(
    "line",
    [
        "python gen.py --stop_token '<|endoftext|>' --pad_token '<pad>' --text-key body",
        "python gen.py --stop_token A --eos-token '</s>' --bos_token=BOS",
        "python hf_finetune_gpt2.py",
        "conjure finetune hf_jokes_dataset_v2.csv --model sk-learn-embeddings-small",
        "python t.py --max-tokens 50 --tokenizer gpt2 --key name --session 3 --auth basic",
        "sort --key 2 file; jq '.tokens' a.json; SORT_KEY=name make",
        "python -c \"sorted(a, key=len); f(token='word', keys=[1])\"",
        'x --password=$PW --password "$PW" --token-file /run/t --private-key ~/.ssh/id --password-stdin',
        "x --api-key :key:",
        "git clone git+ssh://git@github.com/a/b; rsync user@host:/x .; pip install a@https://h/x@2",
        "git clone https://somebody@bitbucket.org/team/x.git",
        "curl 'https://host/search?key=name&tokens_per_page=5&q=a'",
        "curl -u $USER:$PASSWORD https://host",
        "mkdir -p out; grep -u a:b; sed -pattern x; ssh -p 22 host",
        "echo 'password: see the wiki'; python x.py --passes 3 --secret_santa joe",
        "gdown 1BxiMVs0XRA5nFMdKvBdBZjgmUUqptlbs74OgvE2upms",
        "git checkout 9fceb02d0ae598e95dc970b74767f19372d61af8",
    ],
)
def test_what_only_looks_secret_stays_as_it_is(line):
    assert redacted(line) == (line,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SORT_KEY", "name"),
        ("pad_token", "PAD"),
        ("PRIMARY_KEY", "id_2024_01_a1b2c3"),
        ("MONKEY", "george"),
        ("KEYBOARD", "de"),
        ("PWD", "/home/me"),
        ("MAX_TOKENS", "50"),
        ("LR", "1e-3"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/google.json"),
        ("PAT", "*.txt"),
        ("BASE", "main"),
        ("BASE64", "a1B2c3D4e5"),
        ("V2", "on"),
        ("V2_B64", RANDOM),
        ("DATABASE_URL", "sqlite:///x.db"),
        ("OPENAI_API_BASE", "https://host/v1"),
        ("GITHUB_AUTH_BASE", "https://host/login"),
        ("SORT_KEY_V2", "name"),
        ("PAD_TOKEN_V2", "PAD"),
        ("KEYBOARD_V2", "de"),
        ("TOKEN", "<pad>"),
    ],
)
def test_everyday_names_are_not_secret(name, value):
    assert not is_secret(name, value)
    assert Redaction().value(name, value) == value


@pytest.mark.parametrize("value", ["abc", RANDOM])
@pytest.mark.parametrize(
    "name",
    [
        "API_KEY",
        "OPENAI_API_KEY",
        "openaiApiKey",
        "HF_TOKEN",
        "password",
        "db-password",
        "DB_PASSWORD_2",
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_PAT",
        "CREDS",
        "MYKEY",
        "MY_KEY",
        "CLIENT_SECRET",
        "X-Api-Key",
        "AWS_SESSION_TOKEN",
        "PGPASSWORD",
        "VNCPASSWD",
        "DBSECRET",
        "SSHPASS",
        "REDISCLI_AUTH",
        "GOOGLE_CREDENTIALS_BASE64",
        "DB_PASSWORD_B64",
        "API_KEY_V2",
        "apiKeyV2",
        "GITHUB_TOKEN_V2_PROD2",
        "SECRET_KEY_BASE",
    ],
)
def test_names_that_name_a_secret(name, value):
    assert is_secret(name, value)


@pytest.mark.parametrize("name", ["TOKEN", "SOME_TOKEN", "thing-key", "AUTH", "SESSION"])
def test_other_names_are_secret_with_a_value_that_is_mixed_as_a_token(name):
    assert is_secret(name, RANDOM)
    assert not is_secret(name, "word")


@pytest.mark.parametrize("name", ["PGPASSWORD", "SSHPASS", "REDISCLI_AUTH"])
def test_a_password_is_secret_even_if_it_is_a_number(name):
    assert is_secret(name, "123456")


def test_a_long_token_is_secret_by_its_name():
    assert is_secret("SOME_TOKEN", "a1B2c3D4/e5" * 100)


@pytest.mark.parametrize(
    ("line", "stored"),
    [
        ("python t.py --hf-token=abcdef --lr 0.1", "python t.py --hf-token=*** --lr 0.1"),
        ("t --password 'a b' c", "t --password '***' c"),
        ("API_KEY=abc python x", "API_KEY=*** python x"),
        ("python -c \"login(password='hunter2')\"", "python -c \"login(password='***')\""),
        ('curl -H "Authorization: Bearer xyz"', 'curl -H "Authorization: Bearer ***"'),
        ("curl -H 'X-Api-Key: abc123'", "curl -H 'X-Api-Key: ***'"),
        ('curl -d \'{"password": "hunter2"}\' h', 'curl -d \'{"password": "***"}\' h'),
        ("curl -H 'Cookie: id=abc' h", "curl -H 'Cookie: ***' h"),
        (f"echo {HUGGING_FACE} {GITHUB}", "echo *** ***"),
        ("echo AKIA0123456789ABCDEF", "echo ***"),  # the shortest of its kind, as the next ones are
        ("echo sk-a1B2c3D4e5F6", "echo ***"),
        ("echo bearer a1b2c3d4e5f6a7b8", "echo bearer ***"),
        ("curl https://h/x?token=abc&sig=def", "curl https://h/x?token=***&sig=***"),
        ("curl 'https://h/x?a=1&X-Amz-Signature=def'", "curl 'https://h/x?a=1&X-Amz-Signature=***'"),
        ("curl -u me:hunter2 https://h", "curl -u me:*** https://h"),
        ("curl -sS --user 'me:hunter2' https://h", "curl -sS --user 'me:***' https://h"),
        ("/usr/bin/mysql -u root -phunter2 db", "/usr/bin/mysql -u root -p*** db"),
        ("sudo mysqldump -phunter2 db | gzip", "sudo mysqldump -p*** db | gzip"),
        ("sshpass -p hunter2 ssh host", "sshpass -p *** ssh host"),
        (
            "redis-cli -a hunter2 get x && docker login -p abc",
            "redis-cli -a *** get x && docker login -p ***",
        ),
        ("openssl enc -pass pass:abc", "openssl enc -pass pass:***"),
        ("wandb login 0123abcd", "wandb login ***"),
        ("bash -c 'mysql -phunter2 db'", "bash -c 'mysql -p*** db'"),
        ("psql postgres://me:p@ss@host/db", "psql postgres://me:***@host/db"),
        ("git clone https://me@mail.org:pw@host/x", "git clone https://me@mail.org:***@host/x"),
        ("git clone https://a1b2C3d4E5f6@host/x", "git clone https://***@host/x"),
        ("git clone https://token99@host/x", "git clone https://***@host/x"),
    ],
)
def test_secrets_in_a_shell_line(line, stored):
    assert redacted(line) == (stored,)


def test_secrets_among_arguments():
    given = ("x", "--password", "abc", "--no-key", "--api-key=zzz", "--lr", "3")
    assert redacted(*given) == ("x", "--password", "***", "--no-key", "--api-key=***", "--lr", "3")
    assert redacted("curl", "-u", "me:pw", "h") == ("curl", "-u", "me:***", "h")
    assert redacted("mysql", "-phunter2") == ("mysql", "-p***")
    assert redacted("bash", "-c", "curl -ume:pw h") == ("bash", "-c", "curl -ume:*** h")


def test_a_variable_is_taken_literally():
    assert Redaction().value("DB_PASSWORD", "$ecret") == "***"
    assert redacted("x", "--password", "$ecret") == ("x", "--password", "$ecret")


def test_addresses_lose_their_password_only():
    text = "git+https://me:pw@host/x and ssh://git@host, http://h:80/a@b"
    assert redact_text(text) == "git+https://me:***@host/x and ssh://git@host, http://h:80/a@b"


def test_a_private_key_is_covered_whole():
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----"
    assert Redaction().value("DEPLOY", f"{key}\n") == "***\n"


def test_a_secret_is_covered_wherever_else_it_stands():
    redaction = Redaction()
    assert redaction.value("DB_PASSWORD", "correct-horse") == "***"
    assert redaction.spread("out/correct-horse*") == "out/****"


def test_a_short_secret_does_not_cover_other_words():
    redaction = Redaction()
    redaction.value("DB_PASSWORD", "a")
    assert redaction.spread("data") == "data"


def test_a_glob_with_a_token_in_it():
    assert Redaction().glob("a1B2c3D4e5F6g7H8*") == "****"
    assert Redaction().glob("checkpoint-*/model_*_v2.safetensors") == "checkpoint-*/model_*_v2.safetensors"


@pytest.mark.parametrize(
    "text",
    [
        "aGVsbG8" * 20_000,
        "Cookie: " * 5000,
        "a=" * 20_000,
        "'a b " * 1000,
        "curl -u a:b " * 500,
        "a://:" * 9000,
    ],
)
def test_a_long_text_is_looked_through_once(text):
    """Looking again from each letter would take longer than a test may."""
    redacted(text)
    redact_text(f"{text}://me:pw@host")
