"""transformers' Trainer on the same blocks of tokens."""

import tempfile
import time
from typing import Any

import numpy as np
import torch
from exchange import StepTimes, answer, task
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments


class Blocks(Dataset):
    """Blocks in memory; a label for every token but the first, as the model shifts them itself."""

    def __init__(self, path: str, block: int) -> None:
        self._ids = torch.from_numpy(np.load(path).astype(np.int64))[:, :block]

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._ids[index], "labels": self._ids[index]}


class Clock(TrainerCallback):
    """Times the steps, and ends training when there are enough."""

    def __init__(self, times: StepTimes) -> None:
        self._times = times

    def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> Any:
        control.should_training_stop = self._times.tick()
        return control


def main() -> None:
    assigned = task()
    dropouts = ("embd_pdrop", "resid_pdrop", "attn_pdrop")
    overrides = dict.fromkeys(dropouts, 0.0) if not assigned["dropout"] else {}
    model = AutoModelForCausalLM.from_pretrained(assigned["checkpoint"], dtype=torch.float32, **overrides)
    times = StepTimes(warm_up=assigned["warm_up"], most=assigned["steps"], seconds=assigned["seconds"])
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=assigned["batch"],
            max_steps=assigned["warm_up"] + assigned["steps"],
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            **assigned["arguments"],
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=Blocks(assigned["blocks"], assigned["block"]),
            callbacks=[Clock(times)],
        )
        started = time.perf_counter()
        loss = trainer.train().training_loss
    tokens = assigned["batch"] * assigned["block"]
    warm_up_s = time.perf_counter() - started - sum(times.steps)
    answer(**{assigned["group"]: tokens / times.mean_s, "loss": loss, "warm_up_s": warm_up_s})


if __name__ == "__main__":
    main()
