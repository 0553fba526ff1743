"""Files as text: which encoding, compressed or not, and bytes that are no text.

Main entries: `open_text`, `read_lines`, `guess_encoding`. Every kind of text file is opened here. A byte
order mark decides, then the encoding that was asked for, then UTF-8; nothing is guessed into the text.
Invariant: what is no text in its encoding stands as lone surrogates, so that only its own record suffers.
"""

import codecs
import gzip
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, cast

from conjure.core.files import open_regular
from conjure.lm.bounds import value_fault

DEFAULT_ENCODING = "utf-8"
MARK = "\ufeff"  # the byte order mark, decoded

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_TELLING_PAIRS = 4
_GUESS_BYTES = 1 << 18
_SHOWN_CHARACTERS = 60
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ERRORS = "conjure.lone_surrogates"

# The longer mark first: UTF-32's little-endian one begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# Not encodings of text files, though Python lists them with those.
_NO_ENCODINGS = {"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape"}

# What 8-bit and East Asian text files are written in; the commonest first, for it wins a tie. Each
# by a name that Python and iconv both know.
_CANDIDATES = [
    "cp1252", "cp1251", "cp1250", "gb18030", "cp932", "big5", "cp949", "euc-jp", "koi8-r", "cp1253", "cp1254",
    "cp1255", "cp1256", "cp1257", "cp1258", "cp874", "iso8859-2", "iso8859-5", "cp866", "macintosh",
]  # fmt: skip


class Guess(NamedTuple):
    """What 8-bit text may be.

    Attributes:
        encoding: Its name, as Python and iconv both know it.
        sample: The first line that is not UTF-8, read so.
    """

    encoding: str
    sample: str


def check_encoding(name: str) -> str:
    """An encoding's name as Python spells it.

    Raises:
        UsageError: There is no such encoding.
    """
    with suppress(LookupError, ValueError):
        found = codecs.lookup(name)
        if found._is_text_encoding and found.name not in _NO_ENCODINGS:
            return found.name
    raise value_fault(
        "encoding",
        f"must be one that Python knows (such as utf-8, utf-16, cp1252 or cp1251), not {name!r}",
    )


def open_bytes(path: Path) -> BinaryIO:
    """A file's bytes, of a gzip file (whatever its name) those inside."""
    file = open_regular(path)
    magic = file.read(len(_GZIP_MAGIC))
    file.seek(0)
    return cast(BinaryIO, _OwningGzip(file)) if magic == _GZIP_MAGIC else file


def is_gzip(path: Path) -> bool:
    """Whether a file is one of gzip, whatever its name."""
    with open_regular(path) as file:
        return file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC


def text_encoding(path: Path, given: str | None = None) -> str:
    """The codec that reads a file: what its byte order mark says, else `given`, else UTF-8."""
    with open_bytes(path) as file:
        start = file.read(4)
    marked = next((name for mark, name in _MARKS if start.startswith(mark)), None)
    return marked or given or DEFAULT_ENCODING


def open_text(path: Path, encoding: str | None = None) -> IO[str]:
    """A text file; every line end is read as a line feed."""
    codec = text_encoding(path, encoding)
    return io.TextIOWrapper(open_bytes(path), encoding=codec, errors=_ERRORS, newline=None)


def read_lines(path: Path, encoding: str | None = None) -> Iterator[str]:
    """A text file's lines, each with its line feed.

    Byte order marks are dropped wherever they stand: files joined by `cat` have them in the middle.
    """
    with open_text(path, encoding) as file:
        for line in file:
            yield strip_byte_order_marks(line)


def strip_byte_order_marks(text: str) -> str:
    """`text` without byte order marks."""
    return text.replace(MARK, "") if MARK in text else text


def read_text(data: bytes) -> str:
    """Bytes as text, by their byte order mark, else as UTF-8.

    Raises:
        UnicodeDecodeError: They are neither.
    """
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), DEFAULT_ENCODING)
    return data.decode(marked)


def undecodable_line(path: Path, encoding: str | None = None) -> int | None:
    """The first line of a file that is no text in its encoding, from 1; None where all of it is."""
    line = 1
    with open_text(path, encoding) as file:
        while chunk := file.read(_CHUNK):
            bad = _LONE_SURROGATE.search(chunk)
            line += chunk.count("\n", 0, bad.start() if bad is not None else len(chunk))
            if bad is not None:
                return line
    return None


def guess_encoding(path: Path) -> Guess | None:
    """What a file that is not UTF-8 is most likely written in.

    None where that cannot be told, or where the file is UTF-8 but for some of its bytes: any other encoding
    would spoil the rest.
    """
    with open_bytes(path) as file:
        data = file.read(_GUESS_BYTES)
    return guess_bytes(data)


def guess_bytes(data: bytes) -> Guess | None:
    """As `guess_encoding`, of the bytes themselves."""
    wide = _wide_encoding(data)
    if wide is not None:
        return Guess(wide, _sample(data.decode(wide, errors="ignore").splitlines()))
    telling = [line for line in data.splitlines() if not _is_utf8(line)]
    if not telling or _is_damaged_utf8(data):
        return None
    import charset_normalizer

    joined = b"\n".join(telling)
    best = charset_normalizer.from_bytes(joined, cp_isolation=_CANDIDATES).best()
    if best is None:
        return None
    text = joined.decode(best.encoding, errors="replace")
    # Related encodings often read a text alike: of those, the commonest is named.
    encoding = next(name for name in _CANDIDATES if joined.decode(name, errors="replace") == text)
    return Guess(encoding, _sample(text.splitlines()))


def _is_damaged_utf8(data: bytes) -> bool:
    """Whether more is UTF-8 than is not, ASCII apart: in other encodings few characters are, by chance."""
    text = data.decode(errors="surrogateescape")
    damaged = len(_LONE_SURROGATE.findall(text))
    return len(_NOT_ASCII.findall(text)) > 2 * damaged


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _wide_encoding(data: bytes) -> str | None:
    """UTF-16 without its mark: most text has a NUL in every other place."""
    head = data[: len(data) // 2 * 2]
    pairs = len(head) // 2
    if pairs < _TELLING_PAIRS:
        return None
    first, second = head[::2].count(0), head[1::2].count(0)
    if second > 0.4 * pairs > 10 * first:
        return "utf-16le"
    return "utf-16be" if first > 0.4 * pairs > 10 * second else None


def _sample(lines: Sequence[str]) -> str:
    text = next((line.strip() for line in lines if line.strip()), "")
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


class _OwningGzip(gzip.GzipFile):
    """A gzip file that closes the file it reads from, too."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(fileobj=file, mode="rb")
        self._file = file

    def close(self) -> None:
        super().close()
        self._file.close()


def _lone_surrogates(error: UnicodeError) -> tuple[str, int]:
    """For bytes that are no text: a lone surrogate for each (Python's own handler refuses ASCII ones)."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(_ERRORS, _lone_surrogates)
