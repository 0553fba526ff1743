r"""Words as a shell reads them, and text that is safe to print.

Main entries: `shell_words` for a command line that can be pasted, `printable` for text from outside inside a
message. Invariant: neither ever gives a control character.
"""

import shlex
import unicodedata

# Cc: control characters. Cs: bytes that were no text. Zl, Zp: line ends to some terminals. Cf also holds the
# joiners that scripts need, so of it only what changes the direction of what follows is shown by its number.
_UNSAFE_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")
DIRECTION_MARKS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_NAMED = {"\n": r"\n", "\t": r"\t", "\r": r"\r"}


def shell_words(*words: str) -> str:
    """The words as one command line: bash reads exactly them from it."""
    return " ".join(map(_shell_word, words))


def printable(text: str) -> str:
    r"""`text` with what a terminal might obey written as an escape, such as ``\x1b``; line feeds stay."""
    return "".join(
        _escaped(character) if _unsafe(character) and character != "\n" else character for character in text
    )


def _shell_word(word: str) -> str:
    if not any(map(_unsafe, word)):
        return shlex.quote(word)
    return f"$'{''.join(map(_shell_escaped, word))}'"


def _unsafe(character: str) -> bool:
    return unicodedata.category(character) in _UNSAFE_CATEGORIES or character in DIRECTION_MARKS


def _shell_escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if not _unsafe(character):
        return character
    # Octal takes three digits and no more, whatever follows.
    code = ord(character)
    data = bytes([code - 0xDC00]) if 0xDC00 <= code <= 0xDCFF else character.encode(errors="surrogatepass")
    return _NAMED.get(character) or "".join(f"\\{byte:03o}" for byte in data)


def _escaped(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
