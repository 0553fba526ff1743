"""Products in tiles (AMX): every logit, to the bit, as without tiles, on any processor.

The machine code is that of the library that is installed; where the processor has no AMX, the signal that it
raises for each instruction is handled by executing it (amx_trap.c). Where the processor lacks the
instructions beside tiles, too, they are emulated: the source is that of a processor with AMX, and the
instructions on tiles are C of the same meaning (tiles.h). So they are where CFLAGS asks for something, as
scripts/sanitize-native does.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conjure.lm.checkpoints.checkpoint_weights import open_weights
from conjure.lm.generation.engines.base import RowQueue
from conjure.lm.generation.engines.native import NativeEngine, NativeRow
from conjure.lm.generation.engines.native_weights import NativeWeights
from conjure.lm.native.library import Status, status
from support.engines import logits_of, native_weights
from support.families import CHECKPOINTS, reference
from support.models import tiny_model
from support.native import (
    build_emulated_tiles,
    emulated_tiles,
    library_sources,
    native_status,
    trapped_amx,
)
from support.oracle import random_ids

_ABSENT, _WRONG, _USABLE = 1, 3, 4  # what `conjure_tiles` says; as in forward.c

_BESIDE = "avx512vnni"  # what a processor with AMX does all else with

# Sizes that are no multiples of a tile's, with several groups of inputs and several panels of outputs.
ODD = {"n_embd": 99, "n_head": 11, "n_inner": 205, "vocab_size": 301, "context_length": 80}


@pytest.fixture(scope="module")
def tiles() -> Iterator[tuple[Status, Status]]:
    """The library with and without tiles."""
    with pytest.MonkeyPatch.context() as patch:
        found = native_status("auto", patch)
    usable = amx(found) if "CFLAGS" not in os.environ else None
    if usable is None:
        yield emulated_tiles("portable")
        return
    with usable:
        yield replace(found, instructions="amx"), replace(found, instructions=_BESIDE)


def best_base() -> str:
    """The best instructions here but for AMX."""
    with pytest.MonkeyPatch.context() as patch:
        best = native_status("auto", patch).instructions
    return _BESIDE if best == "amx" else best


def amx(found: Status) -> AbstractContextManager[None] | None:
    """While it is entered, this process can execute AMX instructions; None where it cannot."""
    assert found.library is not None
    if best_base() != _BESIDE:
        return None
    state = found.library.conjure_tiles()
    if state == _ABSENT:
        return trapped_amx()
    return nullcontext() if state == _USABLE else None


def engines(
    weights: NativeWeights, tiles: tuple[Status, Status], threads: int | None = None
) -> tuple[NativeEngine, NativeEngine]:
    tiled, plain = (NativeEngine(weights, found, threads=threads) for found in tiles)
    return tiled, plain


def every_logit(engine: NativeEngine, pieces: Sequence[Sequence[int]]) -> np.ndarray:
    """The logits after each token of some rows, read in one call, (tokens, V)."""
    config, rows = engine.config, []
    for piece in pieces:
        queue = RowQueue(piece, len(piece), config.context_length, config.vocab_size)
        rows.append(NativeRow(queue, config, engine.remembered))
        queue.take(len(piece))
    tokens = sum(map(len, pieces))
    logits = np.empty((tokens, config.vocab_size), np.float32)
    engine.forward(rows, pieces, range(tokens), logits)
    return logits


def test_any_number_of_rows(tiles):
    tiled, plain = engines(native_weights(tiny_model(**ODD)), tiles)
    for count in (*range(1, 34, 2), 16, 32, *range(47, 50), *range(62, 71)):
        ids = random_ids(tiled.config, 1, count, seed=count).tolist()
        assert np.array_equal(every_logit(tiled, ids), every_logit(plain, ids)), count


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_rows_of_many_lengths_and_more_than_a_segment(tiles, threads):
    tiled, plain = engines(native_weights(tiny_model(**ODD)), tiles, threads)
    lengths = [40, 3, 39, 1, 17, 33, 8, 22, 40, 5, 12, 60, 77, 2, 1, 51]  # 411 tokens
    pieces = [random_ids(tiled.config, 1, count, seed=count).tolist()[0] for count in lengths]
    assert np.array_equal(every_logit(tiled, pieces), every_logit(plain, pieces))


def test_one_token_at_a_time(tiles):
    tiled, plain = engines(native_weights(tiny_model(**ODD)), tiles)
    ids, pad = random_ids(tiled.config, 19, 30), torch.arange(19)
    assert logits_of(tiled, ids, pad, 20).equal(logits_of(plain, ids, pad, 20))


@pytest.mark.parametrize(
    "changes",
    [
        {"n_embd": 768, "n_head": 12, "n_layer": 1, "context_length": 40},
        {"n_embd": 32, "n_head": 1, "n_inner": 1},
    ],
    ids=["ordinary", "one group"],
)
def test_other_sizes(tiles, changes):
    tiled, plain = engines(native_weights(tiny_model(std=0.02, **changes)), tiles)
    ids = random_ids(tiled.config, 1, 20).tolist()
    assert np.array_equal(every_logit(tiled, ids), every_logit(plain, ids))


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_every_family(tiles, family, tmp_path):
    reference(family).save_pretrained(tmp_path)
    with open_weights(tmp_path) as stored:
        tiled, plain = engines(NativeWeights.make(stored.config, "int8", stored.parts), tiles)
    ids = torch.randint(1, 300, (1, 150), generator=torch.Generator().manual_seed(0)).tolist()
    assert np.array_equal(every_logit(tiled, ids), every_logit(plain, ids))


def test_float32_is_not_concerned(tiles):
    tiled, plain = engines(native_weights(tiny_model(**ODD), "float32"), tiles)
    ids = random_ids(tiled.config, 1, 40).tolist()
    assert np.array_equal(every_logit(tiled, ids), every_logit(plain, ids))


def test_what_is_no_number_stays_so(tiles):
    weights = native_weights(tiny_model(**ODD))
    weights.arrays["blocks.1.mlp_norm.weight"][5] = float("nan")
    tiled, _ = engines(weights, tiles)
    assert np.isnan(every_logit(tiled, random_ids(tiled.config, 1, 20).tolist())).all()


class TestCheckAtLoad:
    """Before tiles are used, a product is compared with the same one without."""

    def test_it_passes(self):
        tiled, _ = emulated_tiles("portable")
        assert tiled.library is not None
        assert tiled.library.conjure_tiles() == _USABLE

    @pytest.mark.parametrize(
        ("right", "wrong"),
        [
            ("tile_add_unsigned(sums, LOW, weights)", "tile_add_signed(sums, LOW, weights)"),
            ("tile_add_signed(sums, HIGH, weights)", "tile_add_signed(sums, weights, HIGH)"),
            ("high << 8", "high << 7"),
            ("? LEFT : RIGHT", "? RIGHT : LEFT"),
        ],
    )
    def test_it_finds_another_result(self, tmp_path, right, wrong):
        if status().library is None:
            pytest.skip(status().reason)
        copy = Path(shutil.copytree(library_sources(), tmp_path / "native"))
        source = copy / "tile_products.h"
        text = source.read_text()
        assert right in text
        source.write_text(text.replace(right, wrong))
        assert build_emulated_tiles(copy, "portable", "-O0", "-Wno-unused").conjure_tiles() == _WRONG
