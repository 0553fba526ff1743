"""The library's names for models and data, resources among them.

Main entries: `load`, `finetune`. Invariant: a name means here what it means on the command line.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conjure.core.home import Home
from conjure.lm import language_model
from conjure.lm.training import finetune as tuning
from conjure.lm.training.events import TuningEvent
from conjure.recipes.comparison_inputs import base_trainings
from conjure.recipes.resource_lookup import data_path, model_lookup, with_data_paths


def load(
    name: str | Path, *, precision: str = "float32", adapter: str | Path | None = None
) -> language_model.LanguageModel:
    """Load a model, ready to use.

    Args:
        name: ``sprite``, a checkpoint folder, a run (``runs/3``), or a model on Hugging Face.
        precision: Number format of the weights in memory: ``float32`` (exact), ``bfloat16``, or ``auto``.
        adapter: A PEFT folder or resource (``runs/3/output.adapter``) to merge into the model.

    Raises:
        ConjureError: As `conjure.lm.language_model.load`.
    """
    merged = data_path(str(adapter)) if adapter is not None else None
    return language_model.load(name, precision=precision, adapter=merged, lookups=[model_lookup])


def finetune(
    data: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    model: str | Path = "sprite",
    on_event: Callable[[TuningEvent], None] | None = None,
    **options: Any,
) -> tuning.FinetuneResult:
    """Tune a model on text; see `conjure.lm.training.finetune.finetune` for all it takes and gives.

    Args:
        data: Files, folders or resources (``runs/2/data.csv``).
        output: Checkpoint folder to write.
        model: Model to start from: a name, a folder or a run (``runs/3``).
        on_event: Told of every event of the training.
        **options: Fields of `FinetuneRequest`; `validation` and `adapter` can be resources too.
    """
    sources = [data] if isinstance(data, str | Path) else data
    names = [data_path(str(source)) for source in sources]
    options = with_data_paths(options)
    return tuning.finetune(
        names,
        output=output,
        model=model,
        on_event=on_event,
        lookups=[model_lookup],
        base_trainings=base_trainings(Home.from_environment(), model),
        **options,
    )
