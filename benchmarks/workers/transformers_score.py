"""The same records scored with transformers, each after an end-of-text token.

``one`` is the loop most people write: a record at a time, loss from the model. ``batch`` is the best sensible
one: records sorted by length, padded, a forward pass for some thousand tokens.
"""

import json
import time
from pathlib import Path

import torch
from exchange import answer, task
from transformers import AutoModelForCausalLM

_BATCH_TOKENS = 4096
_IGNORE = -100


def batches(records: list[list[int]], way: str) -> list[list[list[int]]]:
    if way == "one":
        return [[record] for record in records]
    made: list[list[list[int]]] = []
    for record in sorted(records, key=len, reverse=True):
        if not made or (len(made[-1]) + 1) * len(made[-1][0]) > _BATCH_TOKENS:
            made.append([])
        made[-1].append(record)
    return made


def main() -> None:
    assigned = task()
    stored = json.loads(Path(assigned["records"]).read_text(encoding="utf-8"))
    records = [[assigned["end_of_text"], *record["ids"]] for record in stored]
    dtype = getattr(torch, assigned["dtype"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(assigned["checkpoint"], dtype=dtype).to(device).eval()

    @torch.inference_mode()
    def nats(chosen: list[list[int]]) -> float:
        total = 0.0
        for rows in batches(chosen, assigned["way"]):
            ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
            # Padding is on the right, where no earlier token looks, so it needs no attention mask.
            labels = torch.full_like(ids, _IGNORE)
            for row, record in enumerate(rows):
                labels[row, 1 : len(record)] = ids[row, 1 : len(record)]
            ids, labels = ids.to(device), labels.to(device)
            count = int((labels[:, 1:] != _IGNORE).sum())
            total += model(ids, labels=labels, use_cache=False).loss.item() * count
        return total

    tokens = sum(len(record) - 1 for record in records)
    nats(records[:8])
    started = time.perf_counter()
    total = nats(records)
    answer(score=tokens / (time.perf_counter() - started), nats=total / tokens)


if __name__ == "__main__":
    main()
