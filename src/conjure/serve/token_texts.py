"""Tokens as an API's answer spells them, and OpenAI's object of log-probabilities of completions.

Main entries: `spell_token`, `LegacyLogprobs`. Invariant: two different tokens of ordinary text are never
spelled alike: one that is no whole characters is spelled by its bytes.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from conjure.http.generation.requests import TokenLogprob
from conjure.lm.text.tokenizer import Tokenizer

_LOWEST = -9999.0  # JSON has no infinity


def spell_token(tokenizer: Tokenizer, token_id: int, *, as_id: bool = False) -> str:
    """A token's text; ``bytes:…`` where its bytes are not UTF-8, ``token_id:N`` where it has none."""
    content = tokenizer.decode_bytes([token_id])
    if as_id or not content:
        return f"token_id:{token_id}"
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def finite(logprob: float) -> float:
    """A log-probability that JSON can carry."""
    return max(logprob, _LOWEST)


@dataclass
class LegacyLogprobs:
    """The four parallel lists of ``logprobs``, token by token.

    Attributes:
        tokenizer: Spells tokens.
        as_ids: Whether tokens are spelled by their ids.
        offset: Characters before the first token.
    """

    tokenizer: Tokenizer
    as_ids: bool
    offset: int = 0
    _tokens: list[str] = field(default_factory=list)
    _logprobs: list[float | None] = field(default_factory=list)
    _top: list[dict[str, float] | None] = field(default_factory=list)
    _offsets: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Prepare to count characters, which a token can begin or end in the middle of."""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._special = frozenset(self.tokenizer.special_tokens.values())

    def add_first(self, token_id: int) -> None:
        """The first token of a prompt, which nothing stands before."""
        self._add(token_id, None, None)

    def add(self, token: TokenLogprob, top: int) -> None:
        """One token with its log-probability and the `top` likeliest; itself is always among them."""
        spelled: dict[str, float] = {}
        for token_id, logprob in (*token.top[:top], (token.token_id, token.logprob)):
            spelled.setdefault(spell_token(self.tokenizer, token_id, as_id=self.as_ids), finite(logprob))
        self._add(token.token_id, finite(token.logprob), spelled)

    def take(self) -> dict[str, Any]:
        """What was added since the last time."""
        taken = {
            "tokens": self._tokens,
            "token_logprobs": self._logprobs,
            "top_logprobs": self._top,
            "text_offset": self._offsets,
        }
        self._tokens, self._logprobs, self._top, self._offsets = [], [], [], []
        return taken

    def _add(self, token_id: int, logprob: float | None, top: dict[str, float] | None) -> None:
        self._tokens.append(spell_token(self.tokenizer, token_id, as_id=self.as_ids))
        self._logprobs.append(logprob)
        self._top.append(top)
        self._offsets.append(self.offset)
        if token_id not in self._special:
            self.offset += len(self._decoder.decode(self.tokenizer.decode_bytes([token_id])))


def prompt_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[TokenLogprob], top: int
) -> list[dict[str, Any] | None]:
    """VLLM's ``prompt_logprobs``: for each token the likeliest ones and itself, by their ids; first null."""
    answer: list[dict[str, Any] | None] = [None]
    for token in tokens:
        entries = [(token_id, logprob, rank) for rank, (token_id, logprob) in enumerate(token.top[:top], 1)]
        if token.token_id not in [token_id for token_id, _, _ in entries]:
            entries.insert(0, (token.token_id, token.logprob, token.rank or 1))
        answer.append(
            {
                str(token_id): {
                    "logprob": finite(logprob),
                    "rank": rank,
                    "decoded_token": spell_token(tokenizer, token_id),
                }
                for token_id, logprob, rank in entries
            }
        )
    return answer
