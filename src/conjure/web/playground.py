"""Text from models for the playground: streamed token by token, or scored, on the generation service.

Main entry: `Playground`. Invariant: a request can only name a model that `model_names` lists; the models that
were used last stay in memory, a few of them.
"""

import math
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from conjure.errors import ConjureError
from conjure.http.daemon_threads import in_daemon_thread
from conjure.http.errors import HttpError, bad_value
from conjure.http.event_stream import DONE, event
from conjure.http.generation.loading_models import LoadingModels
from conjure.http.generation.requests import (
    GenerationJob,
    PromptScored,
    TokenLogprob,
    TokenWritten,
    finite_logprob,
)
from conjure.http.generation.served_model import ServedModel, load_served_model
from conjure.http.generation.service import GenerationService, Limits
from conjure.lm.bounds import Bound, ValueFaultsError
from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.lm.generation.logit_adjustments import LogitSettings
from conjure.recipes.resource_lookup import model_lookup

_LIMITS = Limits(most_rows=4, most_waiting=16, most_bytes=256 << 20)
_MODELS_KEPT = 3
_ALTERNATIVES = 5
_LONGEST_TEXT = 20_000  # characters
_MOST_TOKENS = Bound(1, 1000, whole=True)
_SEED = Bound(0, 2**53 - 1, whole=True)  # as exactly as a page counts


class Playground:
    """Generates and scores; its methods belong to one event loop, in which it is made."""

    def __init__(self) -> None:
        self._service = GenerationService(_LIMITS)
        self._service.start()
        self._models: LoadingModels[Path] = LoadingModels()

    def drain(self) -> None:
        """Take no new requests."""
        self._service.drain()

    def abort(self) -> None:
        """End what is going on."""
        self._service.abort()

    def end(self) -> None:
        """Let the thread end."""
        self._service.end()

    async def generate(self, asked: Mapping[str, Any], names: list[str]) -> AsyncGenerator[bytes, None]:
        """Events of one text, token by token.

        Args:
            asked: ``model``, ``prompt``, and settings by the names of the API.
            names: The models there are.

        Raises:
            HttpError: A value is out of bounds, or the model cannot be loaded.
        """
        _refuse_unknown(asked, ("model", "prompt", "max_tokens", "seed", "temperature", "top_k", "top_p"))
        settings, most = _settings(asked), _whole(asked, "max_tokens", _MOST_TOKENS, 80)
        seed, text = _whole(asked, "seed", _SEED, 0), _text(asked, "prompt")
        model = await self._model(asked, names)
        prompt = _prompt(model, text)
        if len(prompt) >= model.context_length:
            raise bad_value("prompt", f"has {len(prompt)} tokens; the model takes {model.context_length}")
        job = GenerationJob(
            prompts=[prompt],
            settings=settings,
            max_tokens=min(most, model.context_length - len(prompt)),
            seed=seed,
            top_logprobs=_ALTERNATIVES,
        )
        return self._events(model, job)

    async def _events(self, model: ServedModel, job: GenerationJob) -> AsyncGenerator[bytes, None]:
        ticket = self._service.enter()
        try:
            async with self._service.submitted(model, job) as submitted:
                async for events in self._service.events(submitted):
                    ticket.follow(job, events)
                    written = [each for each in events if isinstance(each, TokenWritten)]
                    if written:
                        tokens = [_token(model, each.token) | {"text": each.text} for each in written]
                        yield event({"tokens": tokens, "finish_reason": written[-1].finish_reason})
                    if written and written[-1].finish_reason is not None:
                        yield DONE
                        return
        finally:
            ticket.give_back()

    async def score(self, asked: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
        """How likely each token of a text was.

        Raises:
            HttpError: A value is out of bounds, or the model cannot be loaded.
        """
        _refuse_unknown(asked, ("model", "prompt"))
        text = _text(asked, "prompt")
        model = await self._model(asked, names)
        prompt = _prompt(model, text)
        if not 2 <= len(prompt) <= model.context_length:
            raise bad_value("prompt", f"must have 2 to {model.context_length} tokens, not {len(prompt)}")
        job = GenerationJob(prompts=[prompt], max_tokens=0, prompt_logprobs=_ALTERNATIVES)
        ticket = self._service.enter()
        try:
            async with self._service.submitted(model, job) as submitted:
                async for events in self._service.events(submitted):
                    ticket.follow(job, events)
                    for each in events:
                        if isinstance(each, PromptScored):
                            return _scored(model, prompt, each)
        finally:
            ticket.give_back()
        raise HttpError(500, "the text was not scored")

    async def _model(self, asked: Mapping[str, Any], names: list[str]) -> ServedModel:
        name = asked.get("model")
        if not isinstance(name, str) or name not in names:
            raise bad_value("model", "must be one of the models that the page lists")
        try:
            folder = await in_daemon_thread(_folder, name)  # anew each time, for links move
            others = [each for each in self._models.keys if each != folder]
            self._models.retire(others[: 1 - _MODELS_KEPT])
            return await self._models.get(folder, lambda: _load(name, folder))
        except ConjureError as error:
            raise HttpError(400, f"{name} cannot be loaded: {error}", param="model") from error


def _folder(name: str) -> Path:
    return resolve_model(name, lookups=[model_lookup]).folder


def _load(name: str, folder: Path) -> ServedModel:
    return load_served_model(name, folder, precision="auto", rows=_LIMITS.most_rows)


def _prompt(model: ServedModel, text: str) -> list[int]:
    return model.tokenizer.prompt_ids(model.tokenizer.encode(text))


def _token(model: ServedModel, token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": _spelled(model, token.token_id),
        "logprob": _rounded(token.logprob),
        "top": [[_spelled(model, token_id), _rounded(logprob)] for token_id, logprob in token.top],
    }


def _scored(model: ServedModel, prompt: list[int], scored: PromptScored) -> dict[str, Any]:
    first = {"token": _spelled(model, prompt[0]), "logprob": None, "top": []}
    tokens = [first, *(_token(model, token) for token in scored.tokens)]
    mean = sum(token.logprob for token in scored.tokens) / max(len(scored.tokens), 1)
    return {
        "tokens": [token | {"text": token["token"]} for token in tokens],
        "loss": -_rounded(mean),
        "perplexity": math.exp(min(-mean, 700)),
    }


def _spelled(model: ServedModel, token_id: int) -> str:
    return model.tokenizer.decode_bytes([token_id]).decode(errors="replace")


def _rounded(logprob: float) -> float:
    return round(finite_logprob(logprob), 4)


def _refuse_unknown(asked: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(asked.keys() - set(known))
    if unknown:
        raise bad_value(unknown[0], f"is not a field; allowed: {', '.join(known)}")


def _text(asked: Mapping[str, Any], name: str) -> str:
    value = asked.get(name, "")
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise bad_value(name, f"must be a string of at most {_LONGEST_TEXT:,} characters")
    return value.encode("utf-8", "replace").decode()


def _whole(asked: Mapping[str, Any], name: str, bound: Bound, default: int) -> int:
    value = asked.get(name, default)
    if not bound.allows(value):
        raise bad_value(name, f"must be {bound}")
    return int(value)


def _settings(asked: Mapping[str, Any]) -> LogitSettings:
    given = {name: asked[name] for name in ("temperature", "top_k", "top_p") if name in asked}
    wrong = next((name for name, value in given.items() if type(value) not in (int, float)), None)
    if wrong is not None:
        raise bad_value(wrong, "must be a number")
    try:
        return LogitSettings(**given)
    except ValueFaultsError as error:
        raise bad_value(error.faults[0].name, error.faults[0].words) from error
