"""conjure's scoring of a file of records, each a document of its own."""

import json
import time
from pathlib import Path

from exchange import answer, task

from conjure.lm.generation.score import Tally, Windows, score_documents
from conjure.lm.generation.scorer_loading import load_scorer


def main() -> None:
    assigned = task()
    records = json.loads(Path(assigned["records"]).read_text(encoding="utf-8"))
    model = load_scorer(assigned["checkpoint"], much=True, precision=assigned.get("dtype", "float32"))
    windows = Windows.of(model.scorer)
    texts = [record["text"] for record in records]

    def score(chosen: list[str]) -> Tally:
        scored = score_documents(model.scorer, model.tokenizer, chosen, windows)
        return sum((found.tally for found in scored), Tally())

    score(texts[:8])
    started = time.perf_counter()
    tally = score(texts)
    answer(score=tally.tokens / (time.perf_counter() - started), nats=-tally.total / tally.tokens)


if __name__ == "__main__":
    main()
