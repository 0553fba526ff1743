"""Which models recorded runs used: by the names in their commands, and by the digests that they wrote down.

Main entries: `named_models`, `used_models`, `models_of_one_name`. Invariant: nothing is loaded or resolved;
what a run of an older conjure did not write down is None.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conjure.core.home import Home
from conjure.recipes.generation_specs import FIGURES_FILE, SAMPLES_FILE
from conjure.recipes.resource_lookup import CHECKPOINT_OUTPUT
from conjure.runs.schema.record import RunRecord
from conjure.runs.schema.run_folder import RunFolder

# Where a fine-tune notes its base: beside the state of one that is not finished, and in the result.
_BASE_NOTES = (f"{CHECKPOINT_OUTPUT}.training/progress.json", f"{CHECKPOINT_OUTPUT}/training.json")
_ADAPTER = "--adapter="
_FIRST_SAMPLE_CHARACTERS = 1 << 20


@dataclass(frozen=True, slots=True)
class UsedModel:
    """A model that a run used.

    Attributes:
        name: As the command names it, of a mounted one the resource; and the adapter merged into it, if any.
        mounted: Whether it is a resource that is mounted into the run.
        sha256: Of its weights, None where the run did not write it down.
        made_by: The version of conjure that wrote it down, where that is known.
    """

    name: str
    mounted: bool
    sha256: str | None
    made_by: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """What ``--json`` prints."""
        return {"name": self.name, "sha256": self.sha256}


def named_models(record: RunRecord) -> list[str]:
    """The models in the command of a recorded ``generate``, ``score`` or ``finetune``; none of other runs."""
    words = list(record.spec.filled_command) if record.spec.kind in _READERS else []
    for place, word in enumerate(words):
        if word == "--":
            break
        if word == "--compare":
            return words[place + 1 : place + 3]
        if word == "--model":
            return words[place + 1 : place + 2]
        if word.startswith("--model="):
            return [word.partition("=")[2]]
    return []


def used_models(home: Home, record: RunRecord) -> list[UsedModel]:
    """The same models, with what the run wrote down of each."""
    outputs, names = RunFolder.of(home, record.number).outputs, named_models(record)
    try:
        noted = list(_READERS[record.spec.kind](outputs)) if names else []
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # what is there is a user's own
        noted = []
    resources = {mount.target: mount.resource for mount in record.mounts}
    unknown = [(None, None)] * (len(names) - len(noted))
    adapter = next((word for word in record.spec.filled_command if word.startswith(_ADAPTER)), "")
    merged = adapter.removeprefix(_ADAPTER)
    suffix = f" with {resources.get(merged, merged)}" if merged else ""
    return [
        UsedModel(
            name=resources.get(name, name).removesuffix(f"/{CHECKPOINT_OUTPUT}") + suffix,
            mounted=name in resources,
            sha256=sha256,
            made_by=made_by,
        )
        for name, (sha256, made_by) in zip(names, [*noted, *unknown], strict=False)
    ]


def models_of_one_name(home: Home, records: Iterable[RunRecord]) -> dict[str, dict[int, str]]:
    """The names by which some runs used different models, each with the digests by run."""
    used: dict[str, dict[int, str]] = {}
    for record in records:
        for model in used_models(home, record):
            if model.sha256 is not None and not model.mounted:
                used.setdefault(model.name, {})[record.number] = model.sha256
    return {name: digests for name, digests in used.items() if len(set(digests.values())) > 1}


_Note = tuple[str | None, str | None]


def _base_of_finetune(outputs: Path) -> Iterator[_Note]:
    files = [outputs / name for name in _BASE_NOTES if (outputs / name).is_file()]
    facts = [json.loads(file.read_text("utf-8")) for file in files]
    digests = (_text(each.get("base") or {}, "sha256") for each in facts)
    versions = (_text(each, "conjure") for each in facts)
    yield next(filter(None, digests), None), next(filter(None, versions), None)


def _model_of_samples(outputs: Path) -> Iterator[_Note]:
    with (outputs / SAMPLES_FILE).open(encoding="utf-8") as file:
        start = file.read(_FIRST_SAMPLE_CHARACTERS)
    sample, _ = json.JSONDecoder().raw_decode(start, start.index("{"))
    yield _text(sample, "model_sha256"), None


def _models_of_figures(outputs: Path) -> Iterator[_Note]:
    figures = json.loads((outputs / FIGURES_FILE).read_text("utf-8"))
    for each in figures if isinstance(figures, list) else [figures]:
        yield _text(each, "model_sha256"), None


def _text(facts: Mapping[str, Any], name: str) -> str | None:
    found = facts.get(name)
    return found if isinstance(found, str) else None


_READERS = {"finetune": _base_of_finetune, "generate": _model_of_samples, "score": _models_of_figures}
