"""``/tokenize``, ``/detokenize`` and ``/tokenizer_info``: the model's tokenizer, for programs without one.

Main entries: one function per route. Invariant: ids are those that the same text has as a prompt.
"""

from collections.abc import Mapping
from typing import Any

from conjure.http.errors import bad_value, shown
from conjure.http.generation.served_model import ServedModel
from conjure.serve.completion_request import encode_prompt
from conjure.serve.fields import Fields

_MOST_TOKENS = 1_000_000


def tokenize(body: Mapping[str, Any], model: ServedModel) -> dict[str, Any]:
    """The ids of a text.

    Raises:
        HttpError: 400, with the field that is wrong.
    """
    fields = Fields(body, ("model", "prompt", "add_special_tokens", "return_token_strs"))
    prompt = fields.value("prompt")
    if not isinstance(prompt, str):
        raise bad_value(
            "prompt", "is required" if prompt is None else f"must be a string, not {shown(prompt)}"
        )
    with_start = fields.flag("add_special_tokens", default=True)
    ids = encode_prompt(prompt, model.tokenizer, with_start=with_start)
    answer = {"count": len(ids), "max_model_len": model.context_length, "tokens": ids}
    if fields.flag("return_token_strs"):
        spelled = model.tokenizer.tokens
        answer["token_strs"] = [spelled[token_id] for token_id in ids]
    return answer


def detokenize(body: Mapping[str, Any], model: ServedModel) -> dict[str, Any]:
    """The text of ids.

    Raises:
        HttpError: 400, with the field that is wrong.
    """
    fields = Fields(body, ("model", "tokens"))
    if not fields.given("tokens"):
        raise bad_value("tokens", "is required")
    ids = fields.ids("tokens", vocab_size=model.tokenizer.vocab_size, most=_MOST_TOKENS)
    return {"prompt": model.tokenizer.decode(ids)}


def tokenizer_info(model: ServedModel) -> dict[str, Any]:
    """Special tokens and the chat template, as evaluation programs ask for them."""
    tokenizer = model.tokenizer
    return {
        "tokenizer_class": "conjure",
        "eos_token": tokenizer.end_of_text,
        "bos_token": tokenizer.start_token,
        "pad_token": tokenizer.end_of_text,
        "chat_template": tokenizer.chat_template,
        "model_max_length": model.context_length,
        "vocab_size": tokenizer.vocab_size,
        "add_bos_token": bool(tokenizer.start_ids),
    }
