"""What a response has whichever route it goes by: who wrote it, when, and how many tokens that took.

Main entry: `ApiResponse`. Invariant: all parts of one response say the same of it.
"""

import secrets
import time
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from conjure.http.errors import to_json_bytes
from conjure.http.generation.served_model import ServedModel
from conjure.serve.generation_request import Call

AnyCall = TypeVar("AnyCall", bound=Call)


class ApiResponse(Generic[AnyCall]):
    """What is common to all parts of one response.

    Attributes:
        call: The request.
        model: What served it.
        generated: Tokens generated so far, of texts that are not shown included.

    Args:
        prefix: Of its id, by which clients tell kinds of responses.
        call: The request.
        model: What serves it.
        name: What the request calls the model.
    """

    def __init__(self, prefix: str, call: AnyCall, model: ServedModel, name: str) -> None:
        self.call, self.model = call, model
        self.generated = 0
        self._head: dict[str, Any] = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": name,
            "system_fingerprint": model.fingerprint,
        }

    def with_head(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """One part of a stream."""
        return {**self._head, "object": kind, "choices": choices, **more}

    def whole(self, kind: str, choices: Iterable[dict[str, Any]], **more: Any) -> bytes:
        """All of the response as JSON; `choices` are made one by one.

        Each is encoded by itself, for encoding holds up all other threads and a response can have millions of
        log-probabilities.
        """
        start, end = (to_json_bytes(each)[1:-1] for each in ({**self._head, "object": kind}, more))
        return b'{%b,%b,"choices":[%b]}' % (start, end, b",".join(map(to_json_bytes, choices)))

    @property
    def usage(self) -> dict[str, int]:
        """Tokens read and generated."""
        prompt = sum(map(len, self.call.job.prompts))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.generated,
            "total_tokens": prompt + self.generated,
        }

    @property
    def no_usage_yet(self) -> dict[str, None]:
        """What a part of a stream says of the usage, if that is told at the end."""
        return {"usage": None} if self.call.options.include_usage else {}
