"""How far the native engine's int8 logits are from its exact ones, on real text.

``.venv/bin/python benchmarks/int8_accuracy.py MODEL TEXT [--tokens 4096]`` reads the first tokens of a text
in windows and prints the share of positions whose most likely token differs, the mean loss of both, and the
mean Kullback-Leibler divergence in nats.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from conjure.lm.checkpoints.model_resolver import resolve_model
from conjure.lm.generation.engine_loading import native_engine
from conjure.lm.generation.engines.base import Engine
from conjure.lm.native import status
from conjure.lm.text.tokenizer import Tokenizer

WINDOW = 256


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    arguments = parser.parse_args()
    folder = resolve_model(arguments.model).folder
    ids = Tokenizer.from_folder(folder).encode(arguments.text.read_text(encoding="utf-8"))[: arguments.tokens]
    if len(ids) < WINDOW:
        raise SystemExit(f"{arguments.text} has {len(ids)} tokens; at least {WINDOW} are needed")
    windows = np.array(ids[: len(ids) // WINDOW * WINDOW]).reshape(-1, WINDOW)
    exact, rounded = (native_engine(folder, format, status())[0] for format in ("float32", "int8"))
    differing, divergence, losses = 0, 0.0, np.zeros(2)
    for column, pair in enumerate(zip(read(exact, windows), read(rounded, windows), strict=True)):
        first, second = (log_softmax(logits) for logits in pair)
        differing += int((first.argmax(1) != second.argmax(1)).sum())
        divergence += float((np.exp(first) * (first - second)).sum())
        follows = windows[:, column + 1, None]
        losses -= [np.take_along_axis(each, follows, 1).sum() for each in (first, second)]
    positions = len(windows) * (WINDOW - 1)
    print(
        f"{positions:,} positions: most likely token differs at {differing / positions:.1%}, "
        f"loss {losses[1] / positions:.4f} instead of {losses[0] / positions:.4f}, "
        f"divergence {divergence / positions:.1e} nats"
    )


def read(engine: Engine, windows: np.ndarray) -> Iterator[np.ndarray]:
    """The logits after each token but the last of all windows, (windows, V) each time."""
    session = engine.session()
    rows = session.add([[int(window[0])] for window in windows], [WINDOW] * len(windows))
    yield session.step(rows)[1]
    for tokens in windows[:, 1:-1].T:
        for row, token in zip(rows, tokens.tolist(), strict=True):
            session.append(row, token)
        yield session.step(rows)[1]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64, (R, V)."""
    numbers = logits.astype(np.float64)
    numbers -= numbers.max(1, keepdims=True)
    return numbers - np.log(np.exp(numbers).sum(1, keepdims=True))


if __name__ == "__main__":
    main()
