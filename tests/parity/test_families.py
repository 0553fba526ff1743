"""Every family against transformers, on random weights large enough that attention matters.

Texts are longer than every window and than 100 positions, so that rotary positions and windows show.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from conjure.lm.checkpoints.pretrained import load_model, save_checkpoint
from conjure.lm.checkpoints.tensor_layout import take_apart
from conjure.lm.generation.engines import cuda_graph
from conjure.lm.generation.engines.cuda_graph import GraphEngine
from conjure.lm.generation.engines.torch_engine import TorchEngine
from conjure.lm.models.base import CausalLM
from conjure.lm.models.decoder import Decoder
from conjure.lm.nn import rope
from conjure.lm.nn.loss import linear_cross_entropy
from support.engines import logits_of
from support.families import CHECKPOINTS, FAMILIES, reference

LENGTH = 150
TOLERANCE = 1e-4  # of the largest logit


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory):
    """transformers' model, and ours of the checkpoint it saves; each made once."""
    made: dict[str, tuple[PreTrainedModel, CausalLM, Path]] = {}

    def pair(name: str) -> tuple[PreTrainedModel, CausalLM, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp("family")
            theirs = reference(name)
            theirs.save_pretrained(folder)
            made[name] = (theirs, load_model(folder), folder)
        return made[name]

    return pair


def ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Tokens, without the one that transformers' Gemma pads with, whose embedding it never trains."""
    return torch.randint(1, 300, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model: CausalLM, tokens: torch.Tensor, **reading: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.head(model(tokens, **reading))


def assert_near(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("name", CHECKPOINTS)
class TestAgainstTransformers:
    def test_logits(self, pairs, name: str) -> None:
        theirs, ours, _ = pairs(name)
        tokens = ids(2, LENGTH)
        with torch.no_grad():
            expected = theirs(tokens).logits
        assert_near(logits(ours, tokens), expected, 1e-5 if name == "gpt2" else TOLERANCE)
        # What stands far back matters, or all of this would prove little.
        changed = tokens.clone()
        changed[:, 0] = (changed[:, 0] + 1) % 300
        assert not torch.allclose(logits(ours, changed)[:, -1], expected[:, -1], rtol=0, atol=1e-3)

    def test_loss_and_gradients(self, pairs, name: str) -> None:
        theirs, ours, _ = pairs(name)
        tokens = ids(2, LENGTH, seed=1)
        theirs.zero_grad()
        ours.zero_grad()
        loss = theirs(tokens, labels=tokens).loss
        loss.backward()
        hidden, targets = ours(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        our_loss = linear_cross_entropy(hidden, ours.head_weight, targets, divisor=len(targets))
        our_loss.backward()
        assert our_loss.item() == pytest.approx(loss.item(), rel=1e-5)
        expected = dict(theirs.named_parameters())
        if "gpt_neox" in name and "lm_head.weight" in expected:  # transformers renames it in files
            expected["embed_out.weight"] = expected.pop("lm_head.weight")
        compared = set()
        for our_name, parameter in ours.named_parameters():
            for their_name, part in take_apart(ours.config, our_name, parameter.grad).items():
                their_grad = expected[their_name].grad
                assert (part - their_grad).abs().max() <= 2e-4 * their_grad.abs().max() + 1e-9, their_name
                compared.add(their_name)
        assert compared == set(expected)

    def test_greedy_text(self, pairs, name: str) -> None:
        theirs, ours, _ = pairs(name)
        tokens = ids(3, 40, seed=2)
        settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        expected = theirs.generate(tokens, max_new_tokens=30, **settings)
        written, cache = tokens, ours.new_cache(3, 70)
        last = tokens
        for _ in range(30):
            last = logits(ours, last, cache=cache)[:, -1:].argmax(-1)
            written = torch.cat([written, last], 1)
        assert torch.equal(written, expected)

    def test_saved_it_is_the_same_file_and_loads_in_transformers(self, pairs, tmp_path, name: str) -> None:
        theirs, ours, folder = pairs(name)
        save_checkpoint(tmp_path / "saved", ours, None)
        before, after = (load_file(each / "model.safetensors") for each in (folder, tmp_path / "saved"))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[each], after[each]) for each in before)
        said, says = (json.loads((each / "config.json").read_text()) for each in (folder, tmp_path / "saved"))
        assert says == said
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
        tokens = ids(1, 60)
        with torch.no_grad():
            assert torch.equal(again(tokens).logits, theirs(tokens).logits)


@pytest.mark.parametrize("name", CHECKPOINTS)
class TestEqualities:
    """What must hold of our model alone."""

    def test_cache_equals_no_cache_in_any_portions(self, pairs, name: str) -> None:
        _, ours, _ = pairs(name)
        tokens = ids(2, LENGTH)
        cache = ours.new_cache(2, LENGTH + 3)
        parts = tokens.split([1, 60, 1, 37, LENGTH - 99], dim=1)
        assert_near(
            torch.cat([logits(ours, part, cache=cache) for part in parts], 1), logits(ours, tokens), 1e-5
        )
        assert cache.length == LENGTH

    def test_a_padded_row_equals_the_row_alone(self, pairs, name: str) -> None:
        _, ours, _ = pairs(name)
        rows = [ids(1, length, seed=length) for length in (9, 70, 120)]
        pad = torch.tensor([120 - row.shape[1] for row in rows])
        batch = torch.cat([functional.pad(row, (120 - row.shape[1], 0)) for row in rows])
        step, cache = ids(3, 1, seed=9), ours.new_cache(3, 121)
        read = [logits(ours, batch, cache=cache, pad=pad), logits(ours, step, cache=cache, pad=pad)]
        for index, row in enumerate(rows):
            alone = logits(ours, torch.cat([row, step[index : index + 1]], 1))
            together = torch.cat(read, 1)[index : index + 1, int(pad[index]) :]
            assert_near(together, alone, 1e-5)

    def test_with_gradients_on_it_is_the_same(self, pairs, name: str) -> None:
        _, ours, _ = pairs(name)
        tokens = ids(2, LENGTH)
        assert_near(ours.head(ours(tokens)).detach(), logits(ours, tokens), 1e-5)

    def test_parameter_count(self, pairs, name: str) -> None:
        _, ours, _ = pairs(name)
        assert ours.config.parameter_count == sum(weight.numel() for weight in ours.parameters())


class _OnTheDeviceOnly(TorchDispatchMode):
    """Refuses what CUDA refuses while a graph is recorded: numbers that come from the host or go to it."""

    refused = frozenset({"aten::lift_fresh", "aten::item", "aten::_local_scalar_dense", "aten::nonzero"})

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        assert func.name() not in self.refused, f"{func} cannot be recorded"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_step_that_a_gpu_records_stays_on_the_device(pairs, monkeypatch, name: str, dtype) -> None:
    _, _, folder = pairs(name)
    ours = load_model(folder, dtype)
    assert isinstance(ours, Decoder)
    tokens, pad, computed = ids(2, 45), torch.tensor([0, 7]), cuda_graph._FixedStep._compute
    expected = logits_of(TorchEngine(ours), tokens, pad, prompt=42)
    rope._frequencies_on.cache_clear()

    def warm_up_and_record(step: Any) -> torch.Tensor:
        computed(step)
        with _OnTheDeviceOnly():
            return computed(step)

    monkeypatch.setattr(cuda_graph._FixedStep, "_compute", warm_up_and_record)
    assert_near(
        logits_of(GraphEngine(ours), tokens, pad, prompt=42),
        expected,
        1e-5 if dtype == torch.float32 else 0.05,
    )


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "gpt2"])
def test_a_record_among_others_equals_the_record_alone(pairs, name: str) -> None:
    """Rotary positions are relative, so where a record stands in the block does not matter."""
    _, ours, _ = pairs(name)
    lengths = [50, 1, 40]
    records = [ids(1, length, seed=length) for length in lengths]
    segments = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    packed = logits(ours, torch.cat(records, 1), segments=segments)
    assert_near(packed, torch.cat([logits(ours, record) for record in records], 1))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "gpt2"])
def test_records_are_learned_from_among_others_as_alone(pairs, name: str) -> None:
    _, ours, _ = pairs(name)
    lengths = torch.tensor([50, 1, 60, 40])
    records = [ids(1, int(length), seed=int(length)) for length in lengths]
    segments = torch.repeat_interleave(torch.arange(len(lengths)), lengths)[None]

    def learned(*rows: tuple[torch.Tensor, torch.Tensor | None]) -> dict[str, torch.Tensor]:
        ours.zero_grad(set_to_none=True)
        sum(ours(row, segments=of).square().sum() for row, of in rows).backward()
        return {name: weight.grad for name, weight in ours.named_parameters() if weight.grad is not None}

    alone = learned(*((record, None) for record in records))
    packed = learned((torch.cat(records, 1), segments))
    assert packed.keys() == alone.keys()
    for weight, gradient in packed.items():
        assert (gradient - alone[weight]).abs().max() <= 1e-4 * alone[weight].abs().max()


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_stays_near_float32(pairs, name: str) -> None:
    _, ours, folder = pairs(name)
    tokens = ids(2, 60)
    exact, rough = logits(ours, tokens), logits(load_model(folder, torch.bfloat16), tokens).float()
    assert (exact - rough).abs().mean() <= 0.02 * exact.abs().max()


OLD_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama's base": ("llama", {"rope_theta": 500.0}),
    "llama's scaling": (
        "llama",
        {
            "rope_theta": 5000.0,
            "rope_scaling": {
                "type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "qwen2's context as trained": (
        "qwen2",
        {
            "rope_theta": 1000.0,
            "rope_scaling": {"type": "yarn", "factor": 4.0},
            "original_max_position_embeddings": 40,
        },
    ),
    "gemma3's two bases": ("gemma3", {"rope_theta": 2000.0, "rope_local_base_freq": 50.0}),
    "gemma3's scaling": (
        "gemma3",
        {
            "rope_theta": 2000.0,
            "rope_local_base_freq": 50.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "gpt_neox's share": ("gpt_neox", {"rotary_pct": 0.5, "rotary_emb_base": 300}),
    "no names at all": ("llama", {}),
}


@pytest.mark.parametrize("case", OLD_NAMES)
def test_rotary_positions_by_their_old_names(pairs, tmp_path: Path, case: str) -> None:
    name, settings = OLD_NAMES[case]
    _, ours, folder = pairs(name)
    config = json.loads((folder / "config.json").read_text())
    for new in ("rope_parameters", "dtype", "transformers_version"):
        config.pop(new, None)
    save_checkpoint(tmp_path, ours, None)
    (tmp_path / "config.json").write_text(json.dumps({**config, **settings, "torch_dtype": "float32"}))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    old = load_model(tmp_path)
    tokens = ids(2, LENGTH)
    with torch.no_grad():
        expected = theirs(tokens).logits
    assert_near(logits(old, tokens), expected)
    save_checkpoint(tmp_path / "saved", old, None)
    says = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert says == {**config, **settings, "torch_dtype": "float32", "dtype": "float32"}


def test_ours_made_from_nothing_loads_in_transformers(pairs, tmp_path: Path) -> None:
    """A configuration that no file said is written out whole."""
    for name in CHECKPOINTS:
        theirs, ours, _ = pairs(name)
        assert isinstance(ours, Decoder)
        fresh = Decoder(replace(ours.config, settings={})).eval()
        fresh.load_state_dict(ours.state_dict())
        save_checkpoint(tmp_path / name, fresh, None)
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        with torch.no_grad():
            assert_near(again(ids(1, 60)).logits, theirs(ids(1, 60)).logits, 1e-6)
