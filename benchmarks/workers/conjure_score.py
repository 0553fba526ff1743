"""conjure's scoring of a file of records, each a document of its own."""

import json
import time
from pathlib import Path

import torch
from exchange import answer, task

from conjure.lm.checkpoints.pretrained import load_checkpoint
from conjure.lm.generation.score import Tally, Windows, score_documents
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.hardware import pick_device


def main() -> None:
    assigned = task()
    records = json.loads(Path(assigned["records"]).read_text(encoding="utf-8"))
    model, tokenizer = load_checkpoint(
        assigned["checkpoint"], getattr(torch, assigned.get("dtype", "float32"))
    )
    model = model.to(pick_device()).eval()
    windows = Windows.of(model)
    texts = [record["text"] for record in records]

    def score(chosen: list[str]) -> Tally:
        return sum(
            (found.tally for found in score_documents(TorchScorer(model), tokenizer, chosen, windows)),
            Tally(),
        )

    score(texts[:8])
    started = time.perf_counter()
    tally = score(texts)
    answer(score=tally.tokens / (time.perf_counter() - started), nats=-tally.total / tally.tokens)


if __name__ == "__main__":
    main()
