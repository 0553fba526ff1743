"""Which tokens start and end a text, of all the places where a checkpoint folder names them.

Main entries: `read_special_tokens`, `turn_ends`. Invariant: whether a text starts with BOS is decided here
and nowhere else; nothing lets the tokenizers library add tokens of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from conjure.core.files import open_regular, parse_json
from conjure.core.text import error_text
from conjure.errors import CheckpointError

END_OF_TEXT = "<|endoftext|>"
END_OF_MESSAGE = "<|eom_id|>"  # in a turn that goes on
# What templates end a turn with; each counts where the template in use spells it.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", END_OF_MESSAGE)
_TEMPLATE_FILE = "chat_template.jinja"
LARGEST_TEMPLATE = 1 << 17  # characters; those in use have 200 to 30,000


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Tokens with a task.

    Attributes:
        end: The token that ends a document.
        start: What the model wants before every document; None where it wants nothing.
        end_ids: All ids that end a text.
        settings: The content of ``tokenizer_config.json``, the chat template in it.
    """

    end: str
    start: str | None
    end_ids: frozenset[int]
    settings: Mapping[str, Any]


def read_special_tokens(
    folder: Path, backend: tokenizers.Tokenizer, content: Mapping[str, Any] | None
) -> SpecialTokens:
    """The special tokens of a checkpoint folder.

    Args:
        folder: The folder.
        backend: Its tokenizer.
        content: Of its ``tokenizer.json``, where it has one.

    Raises:
        CheckpointError: No token ends a document, or a file is damaged.
    """
    settings = read_tokenizer_settings(folder)
    config, generation = _optional(folder / "config.json"), _optional(folder / "generation_config.json")
    end = _end(folder, backend, settings, config)
    ends = {
        backend.token_to_id(end),
        *_ids(generation),
        *_ids(config),
        *turn_ends(backend, settings.get("chat_template")),
    }
    known = {id_ for id_ in ends if id_ is not None and backend.id_to_token(id_) is not None}
    return SpecialTokens(end, _start(backend, settings, content), frozenset(known), settings)


def read_tokenizer_settings(folder: Path) -> dict[str, Any]:
    """The content of a folder's ``tokenizer_config.json``, the chat template in it; empty where it has none.

    Raises:
        CheckpointError: A file is damaged.
    """
    settings = _optional(folder / "tokenizer_config.json")
    template = folder / _TEMPLATE_FILE
    if template.is_file():  # as transformers has it, the file comes before the setting
        with open_regular(template) as file:
            # More than is allowed is refused by whoever uses the template, and never needed whole.
            start = file.read(4 * LARGEST_TEMPLATE + 1)
        settings["chat_template"] = start.decode("utf-8", errors="replace")
    return settings


def _start(
    backend: tokenizers.Tokenizer, settings: Mapping[str, Any], content: Mapping[str, Any] | None
) -> str | None:
    """BOS, if the model wants it: as the settings say, else as the tokenizer's own post-processor does."""
    start, wanted = _first_of_template(content), settings.get("add_bos_token")
    if wanted is not None:
        bos = spelling(settings.get("bos_token"))
        start = (bos if bos is not None else start) if wanted else None
    return start if start is not None and backend.token_to_id(start) is not None else None


def _first_of_template(content: Mapping[str, Any] | None) -> str | None:
    """The special token that a ``tokenizer.json`` puts before a text."""
    post = (content or {}).get("post_processor") or {}
    steps = post.get("processors", [post]) if isinstance(post, dict) else []
    for step in steps if isinstance(steps, list) else []:
        single = step.get("single") if isinstance(step, dict) else None
        if isinstance(single, list) and single and isinstance(single[0], dict):
            token = single[0].get("SpecialToken")
            if isinstance(token, dict) and isinstance(token.get("id"), str):
                return token["id"]
    return None


def _end(
    folder: Path, backend: tokenizers.Tokenizer, settings: Mapping[str, Any], config: Mapping[str, Any]
) -> str:
    """The token that ends a document: as the folder's settings name it, else GPT-2's own.

    Raises:
        CheckpointError: None of them is in the vocabulary.
    """
    named = [settings.get("eos_token"), _optional(folder / "special_tokens_map.json").get("eos_token")]
    candidates = [spelling(each) for each in named]
    candidates += [backend.id_to_token(id_) for id_ in _ids(config)]
    for token in (*candidates, END_OF_TEXT):
        if token is not None and backend.token_to_id(token) is not None:
            return token
    raise CheckpointError(
        f"the vocabulary in {folder} has no end-of-text token: neither {END_OF_TEXT} nor one that "
        "tokenizer_config.json names as eos_token",
        hint="set eos_token in tokenizer_config.json to one of its tokens",
    )


def spelling(token: Any) -> str | None:
    """A token as it is written, of a setting that may hold more about it."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _ids(config: Mapping[str, Any]) -> Iterator[int]:
    """The ids that a file names as ends; those that no tokenizer could have are left out."""
    named = config.get("eos_token_id")
    for id_ in named if isinstance(named, list) else [named]:
        if isinstance(id_, int) and not isinstance(id_, bool) and 0 <= id_ < 1 << 31:
            yield id_


def turn_ends(backend: tokenizers.Tokenizer, template: Any) -> Iterator[int]:
    """The ids that end a turn of a chat by its template, as a folder's settings have it; None has none."""
    text = template if isinstance(template, str) else str(template or "")  # some folders have several, named
    for token in TURN_ENDS:
        id_ = backend.token_to_id(token)
        if id_ is not None and token in text:
            yield id_


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that must hold an object.

    Raises:
        CheckpointError: It cannot be read, or holds something else.
    """
    try:
        with open_regular(path) as file:
            value = parse_json(file.read())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error_text(error)}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON, or is truncated: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} should contain a JSON object and contains a {type(value).__name__}")
    return value
