"""llama.cpp's decoding, greedy, through the C interface of its Python binding: no Python work beside it."""

import ctypes
import time

import llama_cpp
import numpy as np
from exchange import answer, decode_and_prefill, task

_LONGEST_BATCH = 2048  # tokens handed over at once


class Writer:
    """A model, and a context with room for as many rows as are asked for."""

    def __init__(self, path: str, threads: int) -> None:
        llama_cpp.llama_backend_init()
        self._threads = threads
        self._model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._batch = llama_cpp.llama_batch_init(_LONGEST_BATCH, 0, 1)

    def write(self, prompts: list[list[int]], count: int) -> list[float]:
        rows, length = len(prompts), len(prompts[0])
        context = self._context(rows, length + count)
        moments = []
        try:
            chosen = self._read_prompts(context, prompts)
            moments.append(time.perf_counter())
            for step in range(1, count):
                for row in range(rows):
                    self._put(row, chosen[row], length + step - 1, row, wanted=True)
                self._decode(context, rows)
                chosen = [self._greedy(context, row) for row in range(rows)]
                moments.append(time.perf_counter())
        finally:
            llama_cpp.llama_free(context)
        return moments

    def _context(self, rows: int, columns: int) -> ctypes.c_void_p:
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = rows * -(-columns // 256) * 256  # it is shared out evenly, in whole blocks of 256
        settings.n_batch = settings.n_ubatch = _LONGEST_BATCH
        settings.n_seq_max = rows
        settings.n_threads = settings.n_threads_batch = self._threads
        context = llama_cpp.llama_init_from_model(self._model, settings)
        if not context:
            raise SystemExit("llama.cpp made no context")
        return context

    def _read_prompts(self, context: ctypes.c_void_p, prompts: list[list[int]]) -> list[int]:
        """Read all prompts, as many whole ones at a time as go into a batch; the next token of each."""
        length = len(prompts[0])
        together = max(1, _LONGEST_BATCH // length)
        chosen = []
        for first in range(0, len(prompts), together):
            group = range(first, min(first + together, len(prompts)))
            places = [(row, column) for row in group for column in range(length)]
            for place, (row, column) in enumerate(places):
                self._put(place, prompts[row][column], column, row, wanted=column == length - 1)
            self._decode(context, len(places))
            chosen += [self._greedy(context, (row - first + 1) * length - 1) for row in group]
        return chosen

    def _put(self, place: int, token: int, position: int, row: int, *, wanted: bool) -> None:
        batch = self._batch
        batch.token[place], batch.pos[place], batch.logits[place] = token, position, wanted
        batch.n_seq_id[place] = 1
        batch.seq_id[place][0] = row

    def _decode(self, context: ctypes.c_void_p, tokens: int) -> None:
        self._batch.n_tokens = tokens
        if llama_cpp.llama_decode(context, self._batch) != 0:
            raise SystemExit("llama.cpp could not decode")

    def _greedy(self, context: ctypes.c_void_p, place: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(context, place)
        return int(np.ctypeslib.as_array(logits, shape=(self._vocab_size,)).argmax())


def main() -> None:
    assigned = task()
    writer = Writer(assigned["gguf"], assigned["threads"])
    answer(**decode_and_prefill(assigned, "ids", writer.write))


if __name__ == "__main__":
    main()
