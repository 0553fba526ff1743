"""Chat templates of several families, written for these tests, with tokenizers that have their tokens."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import tokenizers

from conjure.lm.checkpoints.pretrained import save_checkpoint
from conjure.lm.text.chat.formats import Message
from conjure.lm.text.tokenizer import Tokenizer
from support.models import tiny_model
from support.tokenizers_of_kinds import hostile_texts, tokenizer_folder

Pieces = list[tuple[str, bool]]  # what is rendered, and whether it is to be learned

_CHATML = """\
{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\\nYou are a test.<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
_LLAMA3 = """\
{{- bos_token }}
{%- for message in messages -%}
{{ '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\\n\\n' }}
{{- message['content'] | trim ~ '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif -%}
"""
_QWEN = """\
{%- for message in messages -%}
{%- set text = message.content -%}
{%- if message.role == 'assistant' and '</think>' in text -%}
{%- set text = text.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif -%}
{{ text + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
_GEMMA = """\
{{ bos_token }}
{%- set turns = messages -%}
{%- set before = '' -%}
{%- if messages[0].role == 'system' -%}
{%- set before = messages[0].content + '\\n\\n' -%}
{%- set turns = messages[1:] -%}
{%- endif -%}
{%- for message in turns -%}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate') }}
{%- endif -%}
{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}
{{- (before if loop.first else '') + message.content | trim + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif -%}
"""
_LLAMA2 = """\
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{ ' ' + message.content + ' ' + eos_token }}
{%- else -%}
{{ bos_token + '[' + message.role + '] ' + message.content + ' [/]' }}
{%- endif -%}
{%- endfor -%}
"""
_DEEPSEEK = """\
{%- if messages[0].role == 'system' %}{{ messages[0].content }}{% endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' %}{{ '<｜User｜>' + message.content }}{% endif -%}
{%- if message.role == 'assistant' %}{{ '<｜Assistant｜>' + message.content + eos_token }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif -%}
"""


def _pieces_chatml(messages: list[Message]) -> Pieces:
    pieces = (
        [] if messages[0].role == "system" else [("<|im_start|>system\nYou are a test.<|im_end|>\n", False)]
    )
    for role, content, _ in messages:
        answer = role == "assistant"
        pieces += [(f"<|im_start|>{role}\n", False), (f"{content}<|im_end|>", answer), ("\n", False)]
    return pieces


def _pieces_llama3(messages: list[Message]) -> Pieces:
    pieces = [("<s>", False)]
    for role, content, _ in messages:
        header = f"<|start_header_id|>{role}<|end_header_id|>\n\n"
        pieces += [(header, False), (f"{content.strip()}<|eot_id|>", role == "assistant")]
    return pieces


def _pieces_qwen(messages: list[Message]) -> Pieces:
    pieces = []
    for number, (role, content, _) in enumerate(messages):
        answer = role == "assistant"
        pieces.append((f"<|im_start|>{role}\n", False))
        if answer and number == len(messages) - 1:
            pieces.append(("<think>\n\n</think>\n\n", True))  # the generation prompt ends before it
        pieces += [(f"{content}<|im_end|>", answer), ("\n", False)]
    return pieces


def _pieces_gemma(messages: list[Message]) -> Pieces:
    pieces, before = [("<s>", False)], ""
    for role, content, _ in messages:
        if role == "system":
            before = f"{content}\n\n"
            continue
        answer = role == "assistant"
        pieces.append((f"<start_of_turn>{'model' if answer else role}\n", False))
        pieces += [(f"{before}{content.strip()}<end_of_turn>", answer), ("\n", False)]
        before = ""
    return pieces


def _pieces_llama2(messages: list[Message]) -> Pieces:
    pieces = []
    for role, content, _ in messages:
        if role == "assistant":
            pieces += [(f" {content} </s>", True)]
        else:
            pieces += [(f"<s>[{role}] {content} [/]", False)]
    return pieces


def _pieces_deepseek(messages: list[Message]) -> Pieces:
    pieces = []
    for role, content, _ in messages:
        answer = role == "assistant"
        marker = {"system": "", "user": "<｜User｜>", "assistant": "<｜Assistant｜>"}[role]
        pieces += [(marker, False), (f"{content}<|endoftext|>" if answer else content, answer)]
    return pieces


@dataclass(frozen=True)
class Family:
    """One family: its kind of tokenizer, its tokens, its template and what that writes."""

    kind: str
    bos: str
    eos: str
    tokens: tuple[str, ...]
    template: str
    pieces: Callable[[list[Message]], Pieces]
    answer_start: str
    prefix_once: bool = False
    not_special: tuple[str, ...] = ()
    strips: bool = False


_IM = ("<|im_start|>", "<|im_end|>")
_HEADERS = ("<s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
FAMILIES = {
    "chatml": Family(
        "smollm", "<|im_start|>", "<|im_end|>", _IM, _CHATML, _pieces_chatml, "<|im_start|>assistant\n"
    ),
    "llama3": Family(
        "llama-bpe",
        "<s>",
        "<|eot_id|>",
        _HEADERS,
        _LLAMA3,
        _pieces_llama3,
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "qwen": Family("qwen2", "", "<|im_end|>", _IM, _QWEN, _pieces_qwen, "<|im_start|>assistant\n"),
    "gemma": Family(
        "gemma",
        "<s>",
        "</s>",
        ("<start_of_turn>", "<end_of_turn>"),
        _GEMMA,
        _pieces_gemma,
        "<start_of_turn>model\n",
    ),
    "llama2": Family("llama-2", "<s>", "</s>", (), _LLAMA2, _pieces_llama2, ""),
    # As transformers saves a Llama 2 tokenizer with `legacy=False`.
    "llama2, not legacy": Family("llama-2", "<s>", "</s>", (), _LLAMA2, _pieces_llama2, "", prefix_once=True),
}
# As of the models distilled from DeepSeek R1: their files do not mark what starts a turn as special.
DEEPSEEK = Family(
    "deepseek-r1-qwen",
    "",
    "<|endoftext|>",
    (),
    _DEEPSEEK,
    _pieces_deepseek,
    "<｜Assistant｜><think>\n",
    not_special=("<think>", "</think>", "<｜User｜>", "<｜Assistant｜>"),
)
# Its template fails on a conversation that asks what 2 is.
FAILING = replace(
    FAMILIES["chatml"],
    template="{% if messages[0].content == 'What is 2?' %}{{ messages.no.such }}{% endif %}" + _CHATML,
)
_PREFIX_ONCE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


def chat_folder(folder: Path, family: Family) -> Path:
    """Write a family's tokenizer and template into an existing folder; returns it."""
    tokenizer_folder(folder, family.kind)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    strips = {"lstrip": family.strips, "rstrip": family.strips, "normalized": False}
    backend.add_special_tokens([tokenizers.AddedToken(token, **strips) for token in family.tokens])
    backend.add_tokens([tokenizers.AddedToken(token, normalized=True) for token in family.not_special])
    content = json.loads(backend.to_str())
    if family.prefix_once:
        content |= {"normalizer": None, "pre_tokenizer": _PREFIX_ONCE}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"eos_token": family.eos, "chat_template": family.template}
    settings |= {"bos_token": family.bos} if family.bos else {}
    path.write_text(json.dumps(settings), encoding="utf-8")
    return folder


def conversations(count: int, *, seed: int = 0) -> list[list[Message]]:
    """Conversations of one to three questions and answers, of texts that are hard on tokenizers."""
    draw = random.Random(seed)
    texts = [text for text in hostile_texts(8 * count, seed) if text.strip() and "\0" not in text]
    made = []
    for _ in range(count):
        turns = [Message("system", draw.choice(texts))] if draw.random() < 0.3 else []
        for _ in range(draw.randint(1, 3)):
            turns += [Message("user", draw.choice(texts)), Message("assistant", draw.choice(texts))]
        made.append(turns)
    return made


def chat_checkpoint(folder: Path, family: Family, *, context_length: int = 256) -> Path:
    """A checkpoint of a tiny model with large random weights that has a family's tokenizer and template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_folder(chat_folder(folder, family))
    ends = tokenizer.end_of_text_id
    model = tiny_model(
        vocab_size=tokenizer.vocab_size, context_length=context_length, bos_token_id=ends, eos_token_id=ends
    )
    save_checkpoint(folder.parent / f"{folder.name}-model", model, tokenizer)
    return folder.parent / f"{folder.name}-model"
