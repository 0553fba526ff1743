"""Every choice of `conjure finetune` against its alternatives and other tools' defaults, on texts of yours.

    .venv/bin/python benchmarks/tuning.py DATA... --model smollm2 --results FILE

Main entry: `main`. Each training runs in our own loop, on the same records, and is measured on the same
others by the protocol of the report: nats per byte of each held-out record, read after an end-of-text token
(of a conversation: its answers). FILE gets a line after each training; called again, only what is missing is
trained, and the table is of all.

Others' defaults are those of trl (full tuning), mlx-lm, litgpt and unsloth (LoRA). Their batches are counted
in records, ours in blocks of a few records; so theirs are as many blocks as have about as many tokens. Ours
adapts all matrices with LoRA where litgpt adapts two of them, and scales the corrections in its own way.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conjure.lm.generation.score import Tally, Windows, score_chats, score_documents
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.models.base import CausalLM
from conjure.lm.report.measure_model import HeldOutTexts, held_out_texts
from conjure.lm.training.events import Evaluated, StepDone
from conjure.lm.training.finetune import make_trainer
from conjure.lm.training.lora import merge_lora
from conjure.lm.training.preparation import Prepared, prepare
from conjure.lm.training.request import FinetuneRequest
from conjure.lm.training.trainer import Trainer

MOST_SCORED = 20_000  # held-out tokens
AVERAGED = 0.1  # of all steps: how far back the average of the weights reaches

# What differs from the defaults. "rate" multiplies the default rate; "batch_records" and "all_records" count
# a batch and a whole training in records.
OURS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "rate / 10": {"rate": 0.1},
    "rate / 3": {"rate": 1 / 3},
    "rate × 3": {"rate": 3.0},
    "batches of 4 blocks": {"batch_size": 4},
    "batches of 16 blocks": {"batch_size": 16},
    "records not masked": {"mask_records": False},
    "records masked": {"mask_records": True},
    "no dropout": {"dropout": 0.0},
    "dropout 0.1": {"dropout": 0.1},
    "LoRA of rank 16": {"lora": 16},
    "LoRA of rank 16, rate / 2": {"lora": 16, "rate": 0.5},
    "LoRA of rank 16, rate × 2": {"lora": 16, "rate": 2.0},
}
# Their batches have a record in each row.
_FIXED: dict[str, Any] = {"patience": 0, "dropout": 0.0, "mask_records": True}
THEIRS: dict[str, dict[str, Any]] = {
    "trl": {
        **_FIXED,
        "learning_rate": 2e-5,
        "schedule": "linear",
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "batch_records": 8,
    },
    "mlx-lm": {
        **_FIXED,
        "lora": 8,
        "learning_rate": 1e-5,
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "batch_records": 4,
        "all_records": 4000,
    },
    "litgpt": {
        **_FIXED,
        "lora": 8,
        "learning_rate": 3e-4,
        "weight_decay": 0.02,
        "batch_records": 16,
        "epochs": 5,
    },
    "unsloth": {
        **_FIXED,
        "lora": 16,
        "learning_rate": 2e-4,
        "schedule": "linear",
        "warmup_ratio": 0.03,
        "weight_decay": 0.001,
        "batch_records": 8,
        "epochs": 1,
    },
}
EVERY = OURS | THEIRS


@dataclass(frozen=True)
class Trained:
    """One training.

    Attributes:
        model: What was tuned.
        data: On what.
        setting: How, by its name.
        seed: Of everything random.
        base: Nats per byte of the held-out records before.
        kept: The same of the weights that `conjure finetune` keeps, or the last ones where it stops nowhere.
        averaged: The same of the average of the latest steps, where it was lowest; None: not measured.
        epoch: After how many epochs the weights are kept.
        epochs: Trained in all.
        seconds: Of training alone, without evaluations.
    """

    model: str
    data: str
    setting: str
    seed: int
    base: float
    kept: float
    averaged: float | None
    epoch: float
    epochs: float
    seconds: float


def train(model: str, data: Path, setting: str, seed: int, *, averages: bool = False) -> Trained:
    """One training, measured at each evaluation; with `averages`, of the averaged weights as well."""
    with tempfile.TemporaryDirectory() as folder:
        request = {"data": [data], "model": model, "output": Path(folder) / "output", "seed": seed}
        prepared = prepare(FinetuneRequest(**request, **settings_of(EVERY[setting], request)))
        return _train(prepared, data.name, setting, averages=averages)


def settings_of(changes: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `FinetuneRequest` for changes that are relative to a text or to the defaults."""
    given = {name: value for name, value in changes.items() if name in FinetuneRequest.__dataclass_fields__}
    prepared = prepare(FinetuneRequest(**request, **given))
    plan, records = prepared.plan, prepared.split.train.records
    if "rate" in changes:
        given["learning_rate"] = plan.learning_rate * changes["rate"]
    if "batch_records" in changes:
        given["batch_size"] = max(1, round(changes["batch_records"] * plan.blocks / records))
    if "all_records" in changes:
        given["epochs"] = changes["all_records"] / records
    return given


def _train(prepared: Prepared, data: str, setting: str, *, averages: bool) -> Trained:
    held_out = held_out_texts(prepared.split.heldout, prepared.tokenizer, tokens=MOST_SCORED)
    base = nats_per_byte(prepared, held_out, prepared.base.model)
    trainer = make_trainer(prepared)
    average, averaged = (WeightAverage(trainer), base) if averages else (None, None)
    seconds, kept, kept_step = 0.0, base, 0
    for event in trainer.run():
        if isinstance(event, StepDone):
            seconds += event.seconds
            if average is not None:
                average.update()
        elif isinstance(event, Evaluated) and event.step > 0:
            if average is not None and averaged is not None:
                averaged = min(averaged, nats_per_byte(prepared, held_out, average.model()))
            if event.improved or not prepared.request.patience:
                kept, kept_step = (
                    nats_per_byte(prepared, held_out, trainer.full_precision_model()),
                    event.step,
                )
    return Trained(
        str(prepared.request.model),
        data,
        setting,
        prepared.request.seed,
        base,
        kept,
        averaged,
        kept_step / trainer.steps_per_epoch,
        trainer.progress.step / trainer.steps_per_epoch,
        seconds,
    )


class WeightAverage:
    """An exponential average of a trainer's weights over its latest steps."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._share = 1 / max(1.0, AVERAGED * trainer.total_steps)
        self._weights = trainer.optimizer.master_weights
        self._averages = {name: weight.detach().clone() for name, weight in self._weights.items()}

    def update(self) -> None:
        """Take in the weights after a step; early on it reaches back less far."""
        share = max(self._share, 1 / (1 + self._trainer.progress.step / 10))
        for name, average in self._averages.items():
            average.lerp_(self._weights[name].detach(), share)

    def model(self) -> CausalLM:
        """The model with these weights."""
        model = self._trainer.model.empty_copy()
        whole = {**self._trainer.optimizer.full_precision(), **self._averages}
        model.load_state_dict(merge_lora(whole), assign=True)
        return model.eval()


def nats_per_byte(prepared: Prepared, held_out: HeldOutTexts, model: CausalLM) -> float:
    """Of all held-out records."""
    scorer, windows, tokenizer = TorchScorer(model), Windows.of(model), prepared.tokenizer
    scores = (
        score_chats(scorer, tokenizer, held_out.chats, windows)
        if held_out.chats
        else score_documents(scorer, tokenizer, held_out.texts, windows)
    )
    tally = sum((score.tally for score in scores), Tally())
    return -tally.total / tally.bytes


def lines(trained: list[Trained]) -> Iterator[str]:
    """A table for each model and text."""
    for model, data in sorted({(one.model, one.data) for one in trained}):
        these = [one for one in trained if (one.model, one.data) == (model, data)]
        yield f"{model}, {data}: {these[0].base:.4f} nats per held-out byte before"
        yield ""
        yield "| | seeds | nats per byte | lowest and highest | average of weights | epochs | seconds |"
        yield "|---|--:|--:|--:|--:|--:|--:|"
        for setting in EVERY:
            if found := [one for one in these if one.setting == setting]:
                yield _line(setting, found)
        yield ""


def _line(setting: str, found: list[Trained]) -> str:
    kept, averaged = [one.kept for one in found], [one.averaged for one in found if one.averaged is not None]
    epochs, seconds = (statistics.mean(getattr(one, name) for one in found) for name in ("epochs", "seconds"))
    return (
        f"| {setting} | {len(found)} | {statistics.mean(kept):.4f} | {min(kept):.4f} to {max(kept):.4f}"
        f" | {f'{statistics.mean(averaged):.4f}' if averaged else '-'} | {epochs:.1f} | {seconds:.0f} |"
    )


def main() -> None:
    """Train what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, nargs="+", help="tables or texts, each a text of its own")
    parser.add_argument("--model", default="sprite")
    parser.add_argument("--seeds", default="1,2", help="with commas (1,2)")
    parser.add_argument("--only", help="some settings, by the beginnings of their names, with commas")
    parser.add_argument("--averages", action="store_true", help="measure averaged weights as well")
    parser.add_argument("--results", type=Path, required=True, help="where each training is noted")
    options = parser.parse_args()
    only = tuple(options.only.split(",")) if options.only else ("",)
    trained = read_results(options.results)
    done = {(one.model, one.data, one.setting, one.seed) for one in trained}
    for seed in map(int, options.seeds.split(",")):
        for data in options.data:
            for setting in (each for each in EVERY if each.startswith(only)):
                if (options.model, data.name, setting, seed) in done:
                    continue
                trained.append(train(options.model, data, setting, seed, averages=options.averages))
                print(trained[-1], file=sys.stderr, flush=True)
                with options.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(trained[-1])) + "\n")
    print("\n".join(lines(trained)))


def read_results(path: Path) -> list[Trained]:
    """What was trained before."""
    if not path.exists():
        return []
    return [Trained(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
