"""The models that runs have tuned: what each was tuned on, how well it did, and the links to it.

Main entry: `tuned_models`. Invariant: a run is listed as long as the model it saved is there.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from conjure.core.home import Home
from conjure.errors import NotFoundError
from conjure.recipes.resource_lookup import CHECKPOINT_OUTPUT
from conjure.recipes.run_specs import MODEL_MOUNT
from conjure.recipes.used_models import named_models
from conjure.runs.artifacts.team_transfer import bring_files
from conjure.runs.database.rows import RunFilter
from conjure.runs.lifecycle.open_store import open_store
from conjure.runs.schema.record import MountFacts, RunRecord
from conjure.runs.schema.resource import RUNS, Resource
from conjure.runs.schema.run_folder import RunFolder

_HELD_OUT_LOSS = "held_out_loss"


@dataclass(frozen=True, slots=True)
class TunedModel:
    """A model that a run saved.

    Attributes:
        name: What `--model` takes: ``runs/3``.
        folder: Its checkpoint.
        base: What it was tuned from, None where the run does not say.
        data: What it was tuned on.
        held_out_loss: Its mean loss on text it was not trained on, nats per token.
        links: Names of links to it.
    """

    name: str
    folder: Path
    base: str | None
    data: tuple[str, ...]
    held_out_loss: float | None
    links: tuple[str, ...]


def tuned_models(home: Home) -> Iterator[TunedModel]:
    """Every tuned model, the newest first."""
    if not home.database.exists():
        return
    with open_store(home) as store:
        runs = [run for run in store.listing(RunFilter(limit=None)) if run.kind == "finetune"]
        values = store.latest_values(run.number for run in runs)
        links = store.links()
        for run in runs:
            if home.is_elsewhere(run.number):
                with suppress(NotFoundError):  # it goes on, or saved nothing
                    bring_files(
                        home, Resource(RUNS, str(run.number), None, (CHECKPOINT_OUTPUT, "config.json"))
                    )
            folder = RunFolder(home.run_folder(run.number)).outputs / CHECKPOINT_OUTPUT
            if not (folder / "config.json").is_file():
                continue
            name = f"runs/{run.number}"
            meant = (name, f"{name}/{CHECKPOINT_OUTPUT}")
            record = store.get(run.number)
            yield TunedModel(
                name=name,
                folder=folder,
                base=_base(record),
                data=tuple(_data(record.mounts)),
                held_out_loss=values.get(run.number, {}).get(_HELD_OUT_LOSS),
                links=tuple(each.name for each in links if each.resource in meant),
            )


def _base(record: RunRecord) -> str | None:
    mounted = next((mount.resource for mount in record.mounts if mount.target == MODEL_MOUNT), None)
    if mounted is not None:
        return mounted.removesuffix(f"/{CHECKPOINT_OUTPUT}")
    return next(iter(named_models(record)), None)


def _data(mounts: tuple[MountFacts, ...]) -> Iterator[str]:
    return (Path(mount.target).name for mount in mounts if mount.target != MODEL_MOUNT)
