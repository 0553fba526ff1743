"""The native engine on every family of models, from files: the numbers of torch, in float32 and in int8.

Texts are longer than every window and than 100 positions, so that rotary positions and windows show.
"""

from pathlib import Path

import pytest
import torch

from conjure.lm.checkpoints.checkpoint_weights import open_weights
from conjure.lm.checkpoints.pretrained import load_model
from conjure.lm.generation.engines.int8_quantization import Int8Decoder
from conjure.lm.generation.engines.native import NativeEngine
from conjure.lm.generation.engines.native_weights import Format, NativeWeights
from conjure.lm.generation.engines.torch_engine import TorchEngine
from conjure.lm.native.library import Status
from support.engines import logits_of
from support.families import CHECKPOINTS, reference
from support.native import native_status

LENGTH, PROMPT = 150, 140
PAD = torch.tensor([0, 17, 101])


@pytest.fixture(scope="module", params=CHECKPOINTS)
def folder(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    reference(request.param).save_pretrained(folder)
    return folder


@pytest.fixture(params=["auto", "avx2"])
def found(request, monkeypatch) -> Status:
    """The best instructions here, and beside them AVX2, which has float sums of its own."""
    best = native_status("auto", monkeypatch)
    if request.param == best.instructions:
        pytest.skip("AVX2 is the best here")
    return native_status(request.param, monkeypatch)


def native(folder: Path, format: Format, found: Status) -> NativeEngine:
    with open_weights(folder) as stored:
        return NativeEngine(NativeWeights.make(stored.config, format, stored.parts), found)


def ids() -> torch.Tensor:
    return torch.randint(1, 300, (3, LENGTH), generator=torch.Generator().manual_seed(0))


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_float32_is_exact(folder, found):
    ours = logits_of(native(folder, "float32", found), ids(), PAD, PROMPT)
    assert difference(ours, logits_of(TorchEngine(load_model(folder)), ids(), PAD, PROMPT)) <= 1e-5


def test_bfloat16_weights_are_exact(folder, found):
    model = load_model(folder)
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and not name.startswith("position_embedding."):
            weight.data = weight.data.bfloat16().float()
    ours = logits_of(native(folder, "bfloat16", found), ids(), PAD, PROMPT)
    assert difference(ours, logits_of(TorchEngine(model), ids(), PAD, PROMPT)) <= 1e-5


def test_int8_has_the_numbers_of_its_oracle(folder, found):
    model = load_model(folder)
    ours = logits_of(native(folder, "int8", found), ids(), PAD, PROMPT)
    assert difference(ours, logits_of(TorchEngine(Int8Decoder(model)), ids(), PAD, PROMPT)) <= 4e-3
    assert difference(ours, logits_of(TorchEngine(model), ids(), PAD, PROMPT)) <= 0.15


def test_bits_do_not_depend_on_portions_and_company(folder, found):
    for format in ("float32", "int8"):
        engine = native(folder, format, found)
        together = logits_of(engine, ids(), PAD, PROMPT)
        for row, first in enumerate(PAD.tolist()):
            alone = logits_of(engine, ids()[row : row + 1, first:], prompt=PROMPT - first - 20)
            assert alone[0, 20:].equal(together[row])
