"""How much of the memory's speed one stream uses: weights that it reads, beside what only reading reaches.

    python benchmarks/workers/memory_share.py CHECKPOINT

Measured in turn, because the bandwidth of a virtual machine changes from minute to minute. Only the weights
of GPT-2's matrices are counted, so what is printed is a lower bound.

Main entry: `main`.
"""

import json
import statistics
import sys
import time
from pathlib import Path

from ceilings import Machine

from conjure.lm.generation.engine_loading import LoadedEngine, load_engine
from conjure.lm.generation.generate import Token, stream
from conjure.lm.generation.request import GenerationRequest

_ROUNDS, _TOKENS, _THREADS = 7, 100, 2
_BYTES = {"float32": 4, "int8": 1}


def main(checkpoint: Path) -> None:
    """Measure, and print one line for each number format."""
    shape = json.loads((checkpoint / "config.json").read_text())
    weights = 12 * shape["n_layer"] * shape["n_embd"] ** 2 + shape["vocab_size"] * shape["n_embd"]
    machine = Machine(_THREADS)
    for precision, size in _BYTES.items():
        loaded = load_engine(checkpoint, precision=precision, rows=1)
        _tokens_per_second(loaded)
        shares, rates = [], []
        for _ in range(_ROUNDS):
            bandwidth = machine.bandwidth(weights * size)
            rates.append(_tokens_per_second(loaded))
            shares.append(rates[-1] * weights * size / bandwidth)
        print(
            f"{precision}: {statistics.median(rates):.1f} tokens/s, {statistics.median(shares):.0%} of the"
            f" bandwidth ({min(shares):.0%} to {max(shares):.0%})"
        )


def _tokens_per_second(loaded: LoadedEngine) -> float:
    request = GenerationRequest(prompts=["Once"], max_new_tokens=_TOKENS, temperature=0.0)
    moments = [
        time.perf_counter()
        for event in stream(loaded.engine, loaded.tokenizer, request)
        if isinstance(event, Token)
    ]
    return (len(moments) - 1) / (moments[-1] - moments[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
