"""The fields of ``POST /v1/chat/completions``, read and checked.

Main entry: `read_chat_request`. Invariant: as for completions; what a message says is never taken for a
control token.
"""

from collections.abc import Mapping
from typing import Any

from conjure.errors import CheckpointError, DataError
from conjure.http.errors import HttpError, bad_value, shown
from conjure.http.generation.served_model import ServedModel
from conjure.lm.bounds import Bound
from conjure.lm.text.chat.encoding import ChatEncoder
from conjure.lm.text.chat.formats import Message, text_of_content
from conjure.lm.text.chat.template import find_template
from conjure.serve.fields import Fields
from conjure.serve.generation_request import (
    IGNORED,
    LOGPROBS,
    SAMPLES,
    SHARED,
    Call,
    check_context,
    check_min_tokens,
    read_job,
    read_options,
    read_settings,
)

KNOWN = (*SHARED, "max_completion_tokens", "messages", "response_format", "tools", "top_logprobs")
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_MOST_MESSAGES = 1000
_MESSAGE_FIELDS = {"role", "content", "name"}


def read_chat_request(body: Mapping[str, Any], model: ServedModel) -> Call:
    """Check a request for a model.

    Raises:
        HttpError: 400, with the field that is wrong, or because the model is none to chat with.
    """
    fields = Fields(body, KNOWN, IGNORED)
    _refuse_unserved(fields)
    logprobs = _logprobs(fields)
    settings = read_settings(fields, model.tokenizer)
    options = read_options(fields)
    samples = fields.number("n", SAMPLES, 1)
    prompt = _prompt(_messages(fields), model)
    max_tokens = _max_tokens(fields, model, len(prompt))
    check_min_tokens(settings, max_tokens)
    job = read_job(
        fields,
        model.tokenizer,
        prompts=[prompt],
        settings=settings,
        samples=samples,
        max_tokens=max_tokens,
        top_logprobs=logprobs,
    )
    return Call(job=job, options=options)


def _refuse_unserved(fields: Fields) -> None:
    if fields.given("tools"):
        raise bad_value("tools", "are not served")
    wanted = fields.value("response_format")
    if wanted is not None and wanted != {"type": "text"}:
        raise bad_value("response_format", f'is {shown(wanted)}; only {{"type": "text"}} is served')


def _logprobs(fields: Fields) -> int | None:
    wanted = fields.flag("logprobs")
    top = fields.number("top_logprobs", LOGPROBS, None)
    if top is not None and not wanted:
        raise bad_value("top_logprobs", "can only be given with logprobs")
    return (top or 0) if wanted else None


def _max_tokens(fields: Fields, model: ServedModel, prompt: int) -> int:
    """The most tokens of an answer; by default all that the context has room for."""
    bound = Bound(1, whole=True)
    name = "max_completion_tokens" if fields.given("max_completion_tokens") else "max_tokens"
    room = model.context_length - prompt
    given = fields.number(name, bound, max(1, room))
    check_context(prompt, given, model, "messages")
    return given


def _messages(fields: Fields) -> list[Message]:
    value = fields.value("messages")
    if not isinstance(value, list) or not value:
        raise bad_value("messages", "is required" if value is None else f"must be a list, not {shown(value)}")
    if len(value) > _MOST_MESSAGES:
        raise bad_value(
            "messages", f"contains {len(value):,} messages; at most {_MOST_MESSAGES:,} are allowed"
        )
    return [_message(each, number) for number, each in enumerate(value)]


def _message(value: Any, number: int) -> Message:
    """One message; null is as good as not given, and clients send back the nulls of an answer."""
    given = {name for name in value if value[name] is not None} if isinstance(value, dict) else None
    if given is None or not given <= _MESSAGE_FIELDS:
        raise bad_value("messages", f"has {shown(value)} at {number}; a message has role and content")
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad_value("messages", f"has role {shown(role)} at {number}; allowed: {', '.join(_ROLES)}")
    return Message(_ROLES[role], _content(value.get("content"), number))


def _content(value: Any, number: int) -> str:
    text = text_of_content(value)
    if text is None:
        raise bad_value("messages", f"has content {shown(value)} at {number}; only text is served")
    return text


def _prompt(messages: list[Message], model: ServedModel) -> list[int]:
    """The tokens of a conversation and of what opens its answer."""
    try:
        template = find_template(model.tokenizer)
    except CheckpointError as error:  # whatever the conversation is
        raise HttpError(500, str(error), code="model_failed") from error
    if template is None:
        raise HttpError(
            400,
            f"model {model.name!r} has no chat template, so it cannot chat; use /v1/completions",
            param="model",
            code="no_chat_template",
        )
    try:
        return ChatEncoder(model.tokenizer, template).prompt(messages, context_length=model.context_length)
    except (DataError, CheckpointError) as error:
        raise bad_value("messages", f"cannot be used: {error}") from error
