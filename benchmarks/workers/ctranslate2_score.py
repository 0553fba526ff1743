"""The same records scored with CTranslate2, each after an end-of-text token."""

import json
import time
from pathlib import Path

import ctranslate2
from exchange import answer, task

_BATCH_TOKENS = 4096


def main() -> None:
    assigned = task()
    folder = Path(assigned["ctranslate2"])
    generator = ctranslate2.Generator(
        str(folder), compute_type=assigned["compute_type"], intra_threads=assigned["threads"], inter_threads=1
    )
    tokens = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    stored = json.loads(Path(assigned["records"]).read_text(encoding="utf-8"))
    records = [[tokens[token] for token in (assigned["end_of_text"], *record["ids"])] for record in stored]

    def nats(chosen: list[list[str]]) -> float:
        scored = generator.score_batch(chosen, max_batch_size=_BATCH_TOKENS, batch_type="tokens")
        return -sum(sum(result.log_probs) for result in scored)

    nats(records[:8])
    started = time.perf_counter()
    total = nats(records)
    elapsed = time.perf_counter() - started
    count = sum(len(record) - 1 for record in records)
    answer(score=count / elapsed, nats=total / count)


if __name__ == "__main__":
    main()
