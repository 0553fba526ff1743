"""Loading a model for writing: which number format is taken, and how it is called."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from conjure.errors import CheckpointError, UsageError
from conjure.lm.checkpoints.pretrained import save_checkpoint
from conjure.lm.generation import engine_loading
from conjure.lm.generation.engine_loading import load_engine, native_format
from conjure.lm.generation.engines.native import NativeEngine
from conjure.lm.generation.engines.torch_engine import TorchEngine
from conjure.lm.hardware import PRECISION_VARIABLE
from conjure.lm.native import Status, library
from conjure.lm.native.library import INSTRUCTIONS
from support.engines import logits_of
from support.models import tiny_checkpoint, tiny_config, tiny_model, tiny_tokenizer
from support.native import native_status
from support.oracle import random_ids


@pytest.fixture
def folder(tmp_path):
    return tiny_checkpoint(tmp_path / "tiny")


def first_logits(loaded):
    ids = random_ids(tiny_config(), 1, 10)
    return logits_of(loaded.engine, ids)[:, 0]


class TestPrecision:
    @pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-6), ("bfloat16", 0.05), ("int8", 0.05)])
    def test_what_was_asked_for_is_taken(self, folder, precision, bound):
        loaded, model = load_engine(folder, precision=precision), tiny_model()
        with torch.inference_mode():
            exact = model.head(model(random_ids(tiny_config(), 1, 10)))[:, -1]
        assert (first_logits(loaded) - exact).abs().max() <= bound * exact.abs().max()
        assert loaded.precision.split(",")[0] == precision
        assert loaded.tokenizer.encode("My dog") == tiny_tokenizer().encode("My dog")
        assert loaded.origin == f"{folder} (folder)"

    @pytest.mark.parametrize("instructions", INSTRUCTIONS)
    def test_int8_is_native_where_it_can_be(self, folder, monkeypatch, instructions):
        native_status(instructions, monkeypatch)
        loaded = load_engine(folder, precision="int8")
        assert isinstance(loaded.engine, NativeEngine)
        assert loaded.precision == f"int8, native {instructions}"

    def test_and_else_torch_with_the_same_numbers(self, folder, monkeypatch):
        native_status("portable", monkeypatch)
        native = load_engine(folder, precision="int8")
        monkeypatch.setenv(library.VARIABLE, "off")
        torch_s = load_engine(folder, precision="int8")
        assert isinstance(torch_s.engine, TorchEngine)
        assert torch_s.precision == "int8, torch"
        difference = (first_logits(native) - first_logits(torch_s)).abs().max()
        assert difference <= 2e-3 * first_logits(torch_s).abs().max()

    def test_auto_obeys_the_variable(self, folder, monkeypatch):
        monkeypatch.setenv(PRECISION_VARIABLE, "float32")
        assert load_engine(folder).precision.split(",")[0] == "float32"

    def test_auto_without_the_native_engine_is_what_torch_does_best(self, folder, monkeypatch):
        monkeypatch.setenv(library.VARIABLE, "off")
        assert load_engine(folder).precision in ("float32", "bfloat16")

    def test_another_word_is_refused(self, folder):
        with pytest.raises(UsageError, match="precision is 'int4'; allowed: auto, float32, bfl"):
            load_engine(folder, precision="int4")


class TestAuto:
    """Which machine writes in int8, and how many samples at a time."""

    AVX512 = Status(object(), "avx512vnni", "")  # pyright: ignore[reportArgumentType]
    PORTABLE = replace(AVX512, instructions="portable")
    NONE = replace(AVX512, library=None)

    @pytest.fixture(autouse=True)
    def nothing_set(self, monkeypatch):
        monkeypatch.delenv(PRECISION_VARIABLE, raising=False)

    @pytest.mark.parametrize(
        ("native", "rows", "format"),
        [
            (AVX512, 1, "int8"),
            (AVX512, 1000, "int8"),
            (PORTABLE, 7, "int8"),
            (PORTABLE, 8, None),
            (NONE, 1, None),
        ],
    )
    def test_by_processor(self, native, rows, format):
        assert native_format(tiny_config(), "auto", rows, native) == format
        exact = "float32" if format else None
        assert native_format(tiny_config(), "float32", rows, native) == exact
        assert native_format(tiny_config(), "bfloat16", rows, native) is None

    @pytest.mark.parametrize(("precision", "format"), [("auto", "int8"), ("float32", "float32")])
    def test_where_torch_is_not_installed_portable_instructions_do(self, precision, format, monkeypatch):
        monkeypatch.setattr(engine_loading, "find_spec", lambda _: None)
        assert native_format(tiny_config(), precision, 1000, self.PORTABLE) == format

    @pytest.mark.parametrize(
        ("set_to", "format"), [("auto", "int8"), ("", "int8"), ("float32", "float32"), ("bfloat16", None)]
    )
    def test_as_the_variable_says(self, set_to, format, monkeypatch):
        monkeypatch.setenv(PRECISION_VARIABLE, set_to)
        assert native_format(tiny_config(), "auto", 1, self.AVX512) == format

    def test_on_a_gpu_only_int8_that_was_asked_for(self, folder, monkeypatch):
        native_status("portable", monkeypatch)
        monkeypatch.setattr(engine_loading, "gpu_is_there", lambda: True)
        kinds = [type(load_engine(folder, precision=asked).engine) for asked in ("auto", "float32", "int8")]
        assert kinds == [TorchEngine, TorchEngine, NativeEngine]

    def test_not_for_models_it_does_not_compute(self):
        assert native_format(replace(tiny_config(), activation="tanh"), "auto", 1, self.AVX512) is None


def test_a_model_without_a_tokenizer_cannot_write(tmp_path):
    save_checkpoint(tmp_path / "mute", tiny_model(), None)
    with pytest.raises(CheckpointError, match="has no tokenizer files, so it cannot read or write text"):
        load_engine(tmp_path / "mute")


def test_damaged_weights_are_refused_in_int8_too(tmp_path):
    path = tiny_checkpoint(tmp_path / "damaged") / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    tensors["transformer.h.0.attn.c_proj.weight"][0, 0] = float("inf")
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        load_engine(tmp_path / "damaged", precision="int8")
