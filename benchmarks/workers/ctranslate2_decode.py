"""CTranslate2's generator, greedy."""

import json
import time
from pathlib import Path

import ctranslate2
from exchange import answer, decode_and_prefill, task


def main() -> None:
    assigned = task()
    folder = Path(assigned["ctranslate2"])
    generator = ctranslate2.Generator(
        str(folder), compute_type=assigned["compute_type"], intra_threads=assigned["threads"], inter_threads=1
    )
    tokens = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))

    def write(prompts: list[list[int]], count: int) -> list[float]:
        moments: list[float] = []
        arrived = 0

        def note(_: object) -> bool:
            nonlocal arrived
            arrived += 1
            if arrived % len(prompts) == 0:
                moments.append(time.perf_counter())
            return False

        generator.generate_batch(
            [[tokens[token] for token in prompt] for prompt in prompts],
            max_length=count,
            min_length=count,
            include_prompt_in_result=False,
            callback=note,
        )
        return moments

    answer(**decode_and_prefill(assigned, "ids", write))


if __name__ == "__main__":
    main()
