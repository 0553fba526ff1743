"""Fields of a request, each checked by name, so that an error names the one that is wrong.

Main entry: `Fields`. Invariant: a field that is not known is refused, null is as good as not given, true is
no number, and nothing is allocated before all numbers are within their bounds.
"""

from collections.abc import Collection, Mapping
from typing import Any

from conjure.core.text import did_you_mean
from conjure.http.errors import HttpError, bad_value, shown
from conjure.lm.bounds import Bound


class Fields:
    """The body of a request.

    Args:
        body: As it was sent.
        known: Names that are read.
        ignored: Names that are accepted and change nothing.
    """

    def __init__(
        self, body: Mapping[str, Any], known: Collection[str], ignored: Collection[str] = ()
    ) -> None:
        for name in body:
            if name not in known and name not in ignored:
                guess = did_you_mean(name, known)
                raise HttpError(
                    400,
                    f"the field {shown(name)} is not known here{f'; {guess}' if guess else ''}",
                    param=name,
                    code="unknown_field",
                )
        self._body = body

    def given(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._body.get(name) is not None

    def value(self, name: str) -> Any:
        """The field as it was sent; None where it was not."""
        return self._body.get(name)

    def number(self, name: str, bound: Bound, default: Any) -> Any:
        """A number within its bound."""
        value = self._body.get(name)
        if value is None:
            return default
        if not bound.allows(value):
            raise bad_value(name, f"must be {bound.words_for(value)}, not {shown(value)}")
        return int(value) if bound.whole else float(value)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self._body.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise bad_value(name, f"must be true or false, not {shown(value)}")
        return value

    def texts(self, name: str, *, most: int, longest: int) -> tuple[str, ...]:
        """A text or a list of them, none empty."""
        value = self._body.get(name)
        texts = [value] if isinstance(value, str) else value if value is not None else []
        if not isinstance(texts, list) or not all(isinstance(each, str) and each for each in texts):
            raise bad_value(name, f"must be a string or a list of strings, none empty, not {shown(value)}")
        if len(texts) > most:
            raise bad_value(name, f"contains {len(texts)} strings; at most {most} are allowed")
        if any(len(each) > longest for each in texts):
            raise bad_value(name, f"contains a string of more than {longest} characters")
        return tuple(texts)

    def ids(self, name: str, *, vocab_size: int, most: int) -> list[int]:
        """A list of token ids of the model."""
        value = self._body.get(name)
        return checked_ids(name, [] if value is None else value, vocab_size=vocab_size, most=most)


def checked_ids(name: str, value: Any, *, vocab_size: int, most: int) -> list[int]:
    """A list of token ids, once each is one.

    Raises:
        HttpError: It is no list, too long, or holds something else.
    """
    if not isinstance(value, list):
        raise bad_value(name, f"must be a list of token ids, not {shown(value)}")
    if len(value) > most:
        raise bad_value(name, f"contains {len(value):,} token ids; at most {most:,} are allowed")
    for each in value:
        if type(each) is not int or not 0 <= each < vocab_size:
            raise bad_value(name, f"contains {shown(each)}; token ids are from 0 to {vocab_size - 1}")
    return value
