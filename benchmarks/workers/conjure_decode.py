"""conjure's decoding and prefill, through the same stream of events that `conjure generate` shows."""

import functools
import time

from exchange import answer, decode_and_prefill, task

from conjure.lm.generation.engine_loading import load_engine
from conjure.lm.generation.generate import Token, stream
from conjure.lm.generation.request import GenerationRequest


def main() -> None:
    assigned = task()

    # One at a time: which engine is taken may depend on the number of rows.
    @functools.lru_cache(maxsize=1)
    def writer(rows: int):
        return load_engine(assigned["checkpoint"], precision=assigned["precision"], rows=rows)

    def write(prompts: list[str], count: int) -> list[float]:
        request = GenerationRequest(prompts=prompts, max_new_tokens=count, temperature=0.0, seed=0)
        made = writer(len(prompts))
        moments, tokens = [], 0
        for event in stream(made.engine, made.tokenizer, request):
            tokens += isinstance(event, Token)
            if isinstance(event, Token) and tokens % len(prompts) == 0:
                moments.append(time.perf_counter())
        return moments

    answer(**decode_and_prefill(assigned, "text", write))


if __name__ == "__main__":
    main()
