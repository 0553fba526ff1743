"""What is a secret, and texts without it: the one place that decides.

Main entries: `is_secret`, `Redaction`, `redact_text`. A text is secret by its shape (a token of a known
issuer, a private key), by its name (``PASSWORD``, ``OPENAI_API_KEY``), or by its place (the password of an
address, ``curl -u user:…``, ``mysql -p…``). Everyday names such as ``--stop_token``, ``--text-key``
and ``SORT_KEY`` are not secret. Invariant: each secret found becomes `STARS`; all else stays as it is.
"""

import re
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import accumulate, pairwise
from typing import NamedTuple

STARS = "***"

Span = tuple[int, int]

# Patterns are texts: `re` compiles one when it is first used, and keeps it. Together they would cost every
# command 10 ms, and most texts need few of them.

# ---- shapes ------------------------------------------------------------------------------------------------

# Tokens of known issuers, with the lengths they have; a name such as hf_jokes_dataset_v2 is none of them.
_ISSUED = (
    r"hf_[A-Za-z0-9]{34,}",
    r"api_org_[A-Za-z0-9]{34,}",
    r"gh[oprsu]_[A-Za-z0-9]{36,}",
    r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59,}",
    r"gl(?:pat|ptt|dt|rt|cbt|ft|soat|oas|agent)-[A-Za-z0-9_-]{20,}",
    r"sk-[A-Za-z0-9]{40,}",
    r"sk-(?:proj|svcacct|admin|ant|or)-[A-Za-z0-9_-]{32,}",
    r"gsk_[A-Za-z0-9]{40,}",
    r"xai-[A-Za-z0-9]{60,}",
    r"pplx-[A-Za-z0-9]{40,}",
    r"r8_[A-Za-z0-9]{37,}",
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",
    r"AIza[A-Za-z0-9_-]{35}",
    r"ya29\.[A-Za-z0-9_-]{20,}",
    r"GOCSPX-[A-Za-z0-9_-]{28}",
    r"xox[abeoprs]-[A-Za-z0-9-]{20,}",
    r"xapp-[A-Za-z0-9-]{20,}",
    r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",
    r"npm_[A-Za-z0-9]{36,}",
    r"pypi-AgE[A-Za-z0-9_-]{50,}",
    r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    r"do[opr]_v1_[a-f0-9]{64}",
    r"dckr_pat_[A-Za-z0-9_-]{27}",
    r"dapi[a-f0-9]{32}",
    r"hv[sbr]\.[A-Za-z0-9_-]{24,}",
    r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}",
    r"nvapi-[A-Za-z0-9_-]{60,}",
    r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
)
_TOKEN = rf"(?<![A-Za-z0-9_-])(?:{'|'.join(_ISSUED)})(?![A-Za-z0-9_])"
_SHORTEST_TOKEN = 20  # characters: AKIA and 16 more
# The same issuers with fewer characters, for what is mixed as no file's name is.
_SHORT_ISSUED = (
    r"(?<![A-Za-z0-9_-])(?:hf_|gh[oprsu]_|github_pat_|glpat-|sk-|xox[abp]-)(?P<rest>[A-Za-z0-9_-]{12,}+)"
)
_SHORTEST_SHORT = 15  # sk- and 12 more
_KEY_BEGINS = "-----BEGIN "
_PRIVATE_KEY = (
    rf"(?s){_KEY_BEGINS}[A-Z ]{{0,30}}PRIVATE KEY-----.*?(?:-----END [A-Z ]{{0,30}}PRIVATE KEY-----|\Z)"
)
_CHANGE = r"(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])|(?<=[a-z])(?=[A-Z])"
_LONGEST_RANDOM = 4096  # characters: a session token of AWS has a thousand and more


def _is_mixed(text: str, *, length: int = 12, changes: int = 3) -> bool:
    """Whether letters, capitals and digits alternate as they do in a token and in no word."""
    if not length <= len(text) <= _LONGEST_RANDOM or re.search(r"[\s<>*?{}()\[\],]", text):
        return False
    digits = sum(character.isdecimal() for character in text)
    return digits >= 2 and len(re.findall(_CHANGE, text)) >= changes


def _find_tokens(text: str) -> Iterator[Span]:
    longest = _longest_word(text)
    if longest >= _SHORTEST_TOKEN:
        yield from (match.span() for match in re.finditer(_TOKEN, text))
    if _KEY_BEGINS in text:
        yield from (match.span() for match in re.finditer(_PRIVATE_KEY, text))
    if longest >= _SHORTEST_SHORT:
        for match in re.finditer(_SHORT_ISSUED, text):
            if _is_mixed(match["rest"], changes=5):
                yield match.span()


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


# ---- names -------------------------------------------------------------------------------------------------


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_CAMEL = r"(?<=[a-z])(?=[A-Z])"
# Last words of a name that are of no weight: API_KEY_2, DB_PASSWORD_PROD, SECRET_KEY_BASE.
_SUFFIXES = _set(
    "prod production dev development staging stage test live backup old new primary secondary default "
    "value base64 b64 plain"
)
_VERSION = r"v?\d+"
_KEY_BASE = ["key", "base"]  # as Rails calls its key; after other words, base is of weight
_PASSWORDS = _set("password passwd passphrase passcode pwd pw pswd sshpass")
_PASSWORD_RUN_TOGETHER = ("password", "passwd")  # PGPASSWORD
_PASSWORD_VARIABLES = frozenset({"rediscli auth"})  # whose names do not say so
_ALWAYS = _PASSWORDS | _set("secret secrets apikey credential credentials creds")
_WITH_ISSUER = _set("key token tokens pat auth pass cred session cookie")
# What makes one of these a secret as such: who issued it, or what it opens.
_ISSUERS = _set(
    "access account admin airtable algolia anthropic api auth aws azure bearer bot cf ci client "
    "cloudflare cohere comet csrf databricks datadog deploy digitalocean discord docker encryption "
    "fireworks gcp gemini gh git github gitlab gl google groq heroku hf hub huggingface jwt kaggle "
    "langchain langsmith license linear login master mistral mlflow my neptune netlify ngc notion npm "
    "nvidia oauth openai openrouter perplexity personal pinecone private pypi refresh replicate sas "
    "secret security sendgrid sentry service session signing slack snowflake ssh stripe telegram tfe "
    "together twilio twine upload vault vercel wandb webhook xai"
)
_WORKING_FOLDERS = frozenset({"pwd", "oldpwd", "old pwd"})  # variables that shells keep
# Everyday neighbours of key and token: what they name is never secret by its name.
_EVERYDAY = _set(
    "answer additional attention begin bos boundary cache class cls col column compare config context "
    "count data dict document end endoftext eos extra field foreign forced group id image index input "
    "item join json label lang language mask max metric min new null num number output pad padding "
    "partition per primary prompt question query reason response reward row score sep separator shard "
    "sort source special split start stop subject summary target text think title unk value video word"
)
_RUN_TOGETHER = r".+(?:key|token|secret|passwd|password|pass|pwd|pat|auth|creds?)"
_PLAIN = r"\*+|true|false|none|null|yes|no|on|off|required|optional|basic|digest|bearer|ask|prompt|stdin"
# Not secrets whatever the name: plain words; on a command line also options, variables, placeholders.
_NO_VALUE = rf"(?i:{_PLAIN})"
_HARMLESS = rf"(?is:-.*|\$.*|`.*|:[A-Za-z_][\w.-]*:|%\w+%|\{{.*\}}|<.*|\[.*\]|@.*|{_PLAIN})"
_NUMBER = r"(?i)[-+]?[\d.]+(?:e[-+]?\d+)?"
_FILE = r"(?:~|\.{1,2})?/.*|.*\.(?:pem|key|json|txt|ya?ml|env|crt|cer|p12|pub|toml|ini|cfg)"


def is_secret(name: str, value: str, *, literal: bool = False) -> bool:
    """Whether `value`, which stands under this name, is to be kept out of records.

    Args:
        name: An option, variable, param, field or header.
        value: What stands after it.
        literal: No shell or program reads the value first, so that ``$X`` in it is no variable.
    """
    if not value or re.fullmatch(_NO_VALUE if literal else _HARMLESS, value):
        return False
    words = _words(name)
    if not words or " ".join(words) in _WORKING_FOLDERS:
        return False
    last, others = words[-1], words[:-1]
    if _names_password(words) or (last == "pass" and others and not _EVERYDAY & {*others}):
        return True
    if re.fullmatch(_NUMBER, value) or re.fullmatch(_FILE, value):
        return False
    if last in _ALWAYS or last.endswith("secret"):
        return True
    if last in _WITH_ISSUER and not last.endswith("s") and _is_issued(others):
        return True
    is_weak = last in _WITH_ISSUER or re.fullmatch(_RUN_TOGETHER, last) is not None
    return is_weak and not (others and others[-1] in _EVERYDAY) and _is_mixed(value)


def _names_password(words: Sequence[str]) -> bool:
    is_password = words[-1] in _PASSWORDS or words[-1].endswith(_PASSWORD_RUN_TOGETHER)
    return is_password or " ".join(words) in _PASSWORD_VARIABLES


def _is_issued(others: Sequence[str]) -> bool:
    """Whether the word before ``key`` or ``token`` says that it is one that opens something."""
    return bool(others) and others[-1] in _ISSUERS


def _words(name: str) -> list[str]:
    """The words of a name in small letters, without what follows the word that counts."""
    words = [word.lower() for word in re.split(r"[_.\s-]+", re.sub(_CAMEL, "_", name.strip("-"))) if word]
    while len(words) > 1 and (_is_suffix(words[-1]) or words[-2:] == _KEY_BASE):
        words.pop()
    words = [_without_number(word) for word in words]
    if words and words[-1] in ("mykey", "mytoken", "apitoken", "authtoken", "accesskey", "secretkey"):
        words[-1:] = ["api", "key"]
    return words


def _is_suffix(word: str) -> bool:
    """Whether a last word is of no weight; some have digits of their own (base64), some a number (prod2)."""
    return bool({word, _without_number(word)} & _SUFFIXES) or re.fullmatch(_VERSION, word) is not None


def _without_number(word: str) -> str:
    return word.rstrip("0123456789") or word


# ---- places in any text ------------------------------------------------------------------------------------

_ADDRESS = (
    r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,30}://(?P<user>[^\s/'\":?#]*+):(?P<password>[^\s/'\"]+)@"
)
_ADDRESS_USER = (
    r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,30}://(?P<user>[^\s/'\":@?#]++)(?::[^\s/'\"@]*)?@"
)
_QUERY = r"[?&;](?P<name>[A-Za-z_][\w.-]{0,60})=(?P<value>[^\s&#'\";]+)"
_QUERY_NAMES = _set("sig signature token tokens jwt code_verifier hmac")
_SIGNED = r"(?i)x-(?:amz|goog|oss|cos)-(?:signature|credential|security-token)"
_HEADER = (
    r"(?i)\b(?:proxy-)?authorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token|apikey|digest)\s+)?"
    r"(?P<value>[^\s'\"]+)"
)
_BEARER = r"(?i)\bbearer\s+(?P<value>[A-Za-z0-9._~+/=-]{16,}+)"
_SHORTEST_BEARER = 16
_COOKIE = r"(?i)\b(?:set-)?cookie:\s*(?P<value>[^'\"\n=]{1,200}=[^'\"\n]+)"
_VALUE = r"(?:'(?P<single>[^']*)'|\"(?P<double>[^\"]*)\"|(?P<plain>[^\s'\";|&,(){}\[\]]+))"
_ASSIGNED = rf"(?<![\w.-])(?P<name>-{{0,2}}[A-Za-z_][\w.-]*+)['\"]?\s*(?P<sign>=|:)\s*{_VALUE}"


def _find_in_text(text: str) -> Iterator[Span]:
    """Secrets by shape, in addresses, in headers and after names: in any text."""
    yield from _find_tokens(text)
    if "@" in text:
        yield from (match.span("password") for match in re.finditer(_ADDRESS, text) if match["password"])
        yield from (
            match.span("user") for match in re.finditer(_ADDRESS_USER, text) if _is_token_user(match["user"])
        )
    if "=" in text:
        yield from _find_in_queries(text)
    has_sign = "=" in text or ":" in text
    likely = (_HEADER, has_sign), (_COOKIE, ":" in text), (_BEARER, _longest_word(text) >= _SHORTEST_BEARER)
    for pattern in (pattern for pattern, is_likely in likely if is_likely):
        for match in re.finditer(pattern, text):
            if not re.fullmatch(_HARMLESS, match["value"]):
                yield match.span("value")
    if has_sign:
        yield from _find_assigned(text)


def _find_in_queries(text: str) -> Iterator[Span]:
    for match in re.finditer(_QUERY, text):
        name = match["name"]
        is_known = name.lower() in _QUERY_NAMES or re.fullmatch(_SIGNED, name) is not None
        if (is_known and not re.fullmatch(_HARMLESS, match["value"])) or is_secret(name, match["value"]):
            yield match.span("value")


def _is_token_user(user: str) -> bool:
    """Whether the user of an address without a password is a token, as services for git take one."""
    return len(user) >= 7 and re.search(r"\d", user) is not None and re.search(r"[A-Za-z]", user) is not None


def _find_assigned(text: str) -> Iterator[Span]:
    for match in re.finditer(_ASSIGNED, text):
        kind = next(kind for kind in ("single", "double", "plain") if match[kind] is not None)
        value = match[kind]
        # After a colon stands prose as often as a value: `password: see the wiki`.
        is_prose = match["sign"] == ":" and kind == "plain" and not re.search(r"\d", value)
        if not is_prose and is_secret(match["name"], value):
            yield match.span(kind)


# ---- places on command lines -------------------------------------------------------------------------------

_AFTER_USER = r"[^:\s]*:(?P<secret>.+)"
_ANYTHING = r"(?s)(?P<secret>.+)"


class _Place(NamedTuple):
    """Options of some programs after which a secret stands."""

    programs: frozenset[str]
    separate: frozenset[str]  # the secret is the next word
    attached: tuple[str, ...] = ()  # the secret follows in the same word
    form: str = _ANYTHING  # of what stands there


def _place(programs: str, separate: str, attached: str = "", form: str = _ANYTHING) -> _Place:
    return _Place(frozenset(programs.split()), frozenset(separate.split()), tuple(attached.split()), form)


_PLACES = (
    _place("curl", "-u --user -U --proxy-user", "-u -U --user= --proxy-user=", _AFTER_USER),
    _place("http https xh httpie", "-a --auth", "-a --auth=", _AFTER_USER),
    _place("curl", "--oauth2-bearer --pass --proxy-pass --key-pass --tlspassword"),
    _place("curl", "-b --cookie", "--cookie=", r"(?P<secret>[^=]+=.+)"),
    _place("mysql mysqldump mysqladmin mysqlimport mysqlshow mariadb mariadb-dump mycli", "", "-p"),
    _place("mongo mongosh mongodump mongorestore twine sshpass ftp", "-p", "-p"),
    _place("docker podman nerdctl helm skopeo az buildah oras crane", "-p"),
    _place("redis-cli valkey-cli", "-a --pass", "-a"),
    _place("7z 7za 7zr rar unrar", "", "-p"),
    _place("zip unzip sqlcmd bcp mosquitto_pub mosquitto_sub", "-P", "-P"),
    _place("ldapsearch ldapadd ldapmodify", "-w", "-w"),
    _place("smbclient", "-U --user", "-U --user=", r"[^%\s]*%(?P<secret>.+)"),
    _place("lftp", "-u", "-u", r"[^,\s]*,(?P<secret>.+)"),
    _place("openssl", "-passin -passout -pass -k -K", "", r"(?:pass:)?(?P<secret>(?!file:|env:).+)"),
    _place("wandb comet vault", "login"),
)
_PROGRAMS = frozenset(program for place in _PLACES for program in place.programs)
# A word of a shell line with the quotes it has, or what ends a command.
_SHELL_WORD = r"(?P<end>[;|&\n])|(?P<word>(?:'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|[^\s;|&'\"\\])+)|[\s'\"\\]"

Word = tuple[int, str]  # where it begins in the text, and the text


def _find_in_words(words: Sequence[Word]) -> Iterator[Span]:
    """Secrets by option and by program among the words of one command, as spans of the whole text."""
    programs: set[str] = set()
    before = ""
    for start, word in words:
        yield from ((start + low, start + high) for low, high in _find_by_option(before, word, programs))
        program = word.rpartition("/")[2]
        if program in _PROGRAMS:
            programs.add(program)
        before = word


def _find_by_option(before: str, word: str, programs: set[str]) -> Iterator[Span]:
    """The secret in a word, by the option before it or the one that it begins with."""
    is_option = before.startswith("-") and "=" not in before
    if is_option and is_secret(before, word):
        yield 0, len(word)
    for place in _PLACES if programs else ():
        if not place.programs & programs:
            continue
        if before in place.separate:
            yield from _in_form(place, word, 0)
        for option in place.attached:
            is_long = option.startswith("--")
            if word.startswith(option) and len(word) > len(option) and (is_long or word[1] != "-"):
                yield from _in_form(place, word, len(option))


def _in_form(place: _Place, word: str, start: int) -> Iterator[Span]:
    match = re.compile(place.form).fullmatch(word, start)
    if match and not re.fullmatch(_HARMLESS, match["secret"]):
        yield match.span("secret")


def _find_in_line(line: str, depth: int = 0) -> Iterator[Span]:
    """Secrets in a shell line: of its text and of its words, and of lines that stand quoted in it."""
    yield from _find_in_text(line)
    words: list[Word] = []
    for match in re.finditer(_SHELL_WORD, line):
        if match["end"]:
            yield from _find_in_words(words)
            words = []
        elif match["word"]:
            start, word = match.start(), match["word"]
            if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"":
                start, word = start + 1, word[1:-1]
            words.append((start, word))
            if depth < 3 and re.search(r"\s", word):
                yield from ((start + low, start + high) for low, high in _find_in_line(word, depth + 1))
    yield from _find_in_words(words)


# ---- texts without secrets ---------------------------------------------------------------------------------

_SHORTEST_SPREAD = 8  # a shorter secret is covered where it was recognised only: it may be part of any word


class Redaction:
    """Redacts texts that belong together; a secret found in one of them is covered in the others too.

    Each method returns its text with stars for the secrets in it.

    Attributes:
        found: Every secret that was found, to be kept nowhere.
    """

    def __init__(self) -> None:
        self.found: set[str] = set()

    def text(self, text: str) -> str:
        """Any text: passwords of addresses, tokens, values of secret names."""
        return self._cover(text, _find_in_text(text))

    def command(self, words: Sequence[str], *, known: Set[str] = frozenset()) -> tuple[str, ...]:
        """A command: one shell line, or a program and its arguments.

        Args:
            words: The line, or the words.
            known: Words that are no secrets, whatever they look like.
        """
        if len(words) == 1:
            return (self._cover(words[0], _find_in_line(words[0])),)
        by_option = _find_in_arguments(words)
        return tuple(
            word if word in known else self._cover(word, [*spans, *_find_in_line(word)])
            for word, spans in zip(words, by_option, strict=True)
        )

    def value(self, name: str, value: str) -> str:
        """What a variable or param holds: the whole if its name says so, else what is secret in it."""
        whole = [(0, len(value))] if is_secret(name, value, literal=True) else []
        return self._cover(value, [*whole, *_find_in_line(value)])

    def glob(self, glob: str) -> str:
        """A pattern of file names; in it a part that is mixed as only a token is counts too."""
        parts = re.finditer(r"[A-Za-z0-9_+=-]{16,}+", glob)
        mixed = [match.span() for match in parts if _is_mixed(match[0], length=16, changes=5)]
        return self._cover(glob, [*mixed, *_find_in_text(glob)])

    def spread(self, text: str) -> str:
        """A text that was redacted, without the secrets that were found elsewhere."""
        for secret in sorted(self.found, key=len, reverse=True):
            if len(secret) >= _SHORTEST_SPREAD:
                text = text.replace(secret, STARS)
        return text

    def _cover(self, text: str, spans: Iterable[Span]) -> str:
        pieces, place = [], 0
        for start, end in _merge(spans):
            pieces += [text[place:start], STARS]
            self.found.add(text[start:end])
            place = end
        return "".join([*pieces, text[place:]])


def redact_text(text: str) -> str:
    """Any text with stars for the secrets in it."""
    return Redaction().text(text)


def _find_in_arguments(words: Sequence[str]) -> list[list[Span]]:
    """For each of a command's words the secrets in it by option and program."""
    starts = list(accumulate(map(len, words), initial=0))
    found = list(_find_in_words(list(zip(starts[:-1], words, strict=True))))
    return [
        [(low - start, high - start) for low, high in found if start <= low and high <= end]
        for start, end in pairwise(starts)
    ]


def _merge(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(span for span in spans if span[1] > span[0]):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
