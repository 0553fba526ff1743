"""Where a model came from, as whoever passes it on must say: its name, its license, and what was rounded.

Main entries: `BaseFacts`, `export_card`. Invariant: nothing here loads weights, and what a folder does not
tell is None, never a guess.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conjure.core.files import open_regular
from conjure.errors import CheckpointError
from conjure.lm.checkpoints.checkpoint_folder import LICENSE_FILES, ORIGIN_FILE, read_json_object

CARD_FILE = "README.md"
_OTHER = "other"  # what cards say of a license that Hugging Face does not list; another line names it
_IN_HEAD = r"""{}: *("(?:[^"\\]|\\.)*"|'[^']*'|[\w.-]+(?: [\w.-]+)*) *"""  # of a card, which is YAML
_LICENCE, _LICENCE_NAME = (re.compile(_IN_HEAD.format(key)) for key in ("license", "license_name"))
_LONGEST_LICENCE = 100  # a name, not a text
_LARGEST_TEXT_BYTES = 1 << 20
_HEAD_BYTES = 4096
_QUANTISED = re.compile(r"I?Q\d.*|TQ\d.*")  # number formats of GGUF files that round weights


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What a model card says of the model that another was made from.

    Attributes:
        name: How to name it to those who have it too.
        licence: As its own card names it; None where it does not.
        rounded_to: The number formats of a quantised file that its weights were read from; None where they
            were not.
        licence_name: The name of a license that the card calls ``other``; None where it gives none.
        licence_texts: The files with its license, by name.
    """

    name: str
    licence: str | None = None
    rounded_to: str | None = None
    licence_name: str | None = None
    licence_texts: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, folder: Path) -> "BaseFacts":
        """The facts that a checkpoint folder tells; what is not there is None.

        Args:
            name: The model's name, as it was asked for.
            folder: Its checkpoint folder.
        """
        origin = _origin(folder)
        kinds = sorted(kind for kind in origin.get("number_formats", {}) if _QUANTISED.fullmatch(str(kind)))
        licence, own_name = _one_line(origin.get("license")), _one_line(origin.get("license_name"))
        if licence is None:
            head = _head_of_card(folder / CARD_FILE)
            licence, own_name = _in_head(_LICENCE, head), _in_head(_LICENCE_NAME, head)
        return cls(
            name,
            licence,
            ", ".join(kinds) or None,
            own_name if licence == _OTHER else None,
            _licence_texts(folder),
        )

    @property
    def licence_lines(self) -> str:
        """The license in the head of a card; nothing where none is known."""
        # YAML reads a string of JSON as the same text, whatever is in it.
        told = {"license": self.licence, "license_name": self.licence_name}
        lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in told.items() if value]
        return "".join(lines)

    def __str__(self) -> str:
        """The base model in a card: its name, its license, and whether its weights were rounded."""
        named = self.licence_name or self.licence
        licence = (
            f"its license is {named}, which also applies to this model"
            if named is not None
            else "its files name no license; the terms of its source also apply to this model"
        )
        weights = f"; its weights came from a quantized file ({self.rounded_to})" if self.rounded_to else ""
        return f"{self.name}; {licence}{weights}"


def export_card(base: BaseFacts, adapter: str | None = None) -> str:
    """Markdown for the ``README.md`` of an exported model that has no card of its own.

    Args:
        base: The model that was exported.
        adapter: The name of an adapter that was merged into it.
    """
    merged = f"- merged with the adapter {adapter}, whose own terms also apply\n" if adapter else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
base_model: {json.dumps(base.name)}
{base.licence_lines}---

# A language model exported with conjure

- base model: {base}
{merged}"""


def _origin(folder: Path) -> dict:
    """What was noted when a GGUF file was converted."""
    try:
        return read_json_object(folder / ORIGIN_FILE)
    except CheckpointError:
        return {}


def _head_of_card(card: Path) -> str:
    try:
        with open_regular(card) as file:
            text = file.read(_HEAD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    return text.split("---")[1] if text.startswith("---") else ""


def _in_head(pattern: re.Pattern[str], head: str) -> str | None:
    """The value of a line in the head of a model card."""
    found = next(filter(None, map(pattern.fullmatch, head.splitlines())), None)
    if found is None:
        return None
    try:
        return _one_line(json.loads(found[1]) if found[1].startswith('"') else found[1].strip("'"))
    except ValueError:
        return None


def _one_line(value: object) -> str | None:
    """A license's name, in one line; None where it is none."""
    name = " ".join(value.split()) if isinstance(value, str) else ""
    return name if name.isprintable() and 0 < len(name) <= _LONGEST_LICENCE else None


def _licence_texts(folder: Path) -> dict[str, bytes]:
    texts = {}
    for path in sorted(folder.glob(LICENSE_FILES)):
        try:
            with open_regular(path) as file:
                text = file.read(_LARGEST_TEXT_BYTES + 1)
        except OSError:
            continue
        if len(text) <= _LARGEST_TEXT_BYTES:
            texts[path.name] = text
    return texts
