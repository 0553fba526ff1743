"""Tokens as an API's answer spells them, and OpenAI's object of log-probabilities of completions.

Main entries: `spell_token`, `LegacyLogprobs`. Invariant: two different tokens of ordinary text are never
spelled alike: one that is no whole characters is spelled by its bytes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from conjure.http.generation.requests import TokenLogprob, finite_logprob
from conjure.http.generation.sequences import OutputDecoder
from conjure.lm.text.tokenizer import IncrementalDecoder, Tokenizer


def spell_token(tokenizer: Tokenizer, token_id: int, *, as_id: bool = False) -> str:
    """A token's text; ``bytes:…`` where its bytes are not UTF-8, ``token_id:N`` where it has none."""
    content = tokenizer.decode_bytes([token_id])
    if as_id or not content:
        return f"token_id:{token_id}"
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


class LegacyLogprobs:
    """The four parallel lists of ``logprobs``, token by token.

    Args:
        tokenizer: Spells tokens.
        prompt: What the text goes on from.
        offset: Characters of the prompt.
        as_ids: Whether tokens are spelled by their ids.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], offset: int, *, as_ids: bool) -> None:
        self._tokenizer, self._prompt, self._offset, self._as_ids = tokenizer, prompt, offset, as_ids
        self._decoder = OutputDecoder(tokenizer, prompt)
        self._tokens: list[str] = []
        self._logprobs: list[float | None] = []
        self._top: list[dict[str, float] | None] = []
        self._offsets: list[int] = []

    def add_prompt(self, text: str, tokens: Sequence[TokenLogprob], top: int) -> None:
        """The tokens of the prompt, which reads `text`; the first has no log-probability."""
        offsets = _prompt_offsets(self._tokenizer, self._prompt, text)
        for token_id, offset, token in zip(self._prompt, offsets, (None, *tokens), strict=True):
            self._add(token_id, offset, token, top)

    def add(self, token: TokenLogprob, top: int) -> None:
        """One token with its log-probability and the `top` likeliest; itself is always among them."""
        self._add(token.token_id, self._offset, token, top)
        self._offset += len(self._decoder.feed(token.token_id))

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

    def _add(self, token_id: int, offset: int, token: TokenLogprob | None, top: int) -> None:
        self._tokens.append(spell_token(self._tokenizer, token_id, as_id=self._as_ids))
        self._logprobs.append(None if token is None else finite_logprob(token.logprob))
        self._top.append(self._spelled(token, top) if token is not None else None)
        self._offsets.append(offset)

    def _spelled(self, token: TokenLogprob, top: int) -> dict[str, float]:
        spelled: dict[str, float] = {}
        for token_id, logprob in (*token.top[:top], (token.token_id, token.logprob)):
            spelled.setdefault(
                spell_token(self._tokenizer, token_id, as_id=self._as_ids), finite_logprob(logprob)
            )
        return spelled


def _prompt_offsets(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> Iterator[int]:
    """For each token of a prompt, the characters of `text` before it."""
    # A prompt that was given as text can begin with a token that is not part of the text.
    is_hidden = ids[0] == tokenizer.start_id and tokenizer.decode(ids) != text
    decoder, offset = IncrementalDecoder(tokenizer), 0
    for place, token_id in enumerate(ids):
        yield min(offset, len(text))  # a tokenizer that alters text may have made it longer
        if place or not is_hidden:
            offset += len(decoder.feed(token_id))


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
                    "logprob": finite_logprob(logprob),
                    "rank": rank,
                    "decoded_token": spell_token(tokenizer, token_id),
                }
                for token_id, logprob, rank in entries
            }
        )
    return answer
