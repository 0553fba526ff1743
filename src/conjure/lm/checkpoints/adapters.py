"""LoRA adapters as the PEFT library keeps them: written from a training, and merged into a base model.

Main entries: `save_adapter`, `apply_adapter`. A model with an adapter is a checkpoint folder in conjure's
home, made once from both. Invariant: its weights, in float32, compute what PEFT computes with both.

Source: the format is that of peft 0.21 (``adapter_config.json``, ``adapter_model.safetensors``).
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from conjure.core.files import expand_user, locked, real_path, replace_folder, sha256_bytes, sha256_file
from conjure.core.home import Home
from conjure.errors import CheckpointError, NotFoundError
from conjure.lm.checkpoints.base_model import different_weights, how_to_restore
from conjure.lm.checkpoints.checkpoint_folder import ADAPTER_FILE, EMBEDDING, HEAD, read_json_object
from conjure.lm.checkpoints.checkpoint_weights import load_tokenizer
from conjure.lm.checkpoints.model_resolver import ModelSource
from conjure.lm.checkpoints.pretrained import (
    FolderKind,
    load_model,
    refuse_replacing,
    save_checkpoint,
    saving,
)
from conjure.lm.checkpoints.safetensors_reader import StoredTensor, TensorFile
from conjure.lm.checkpoints.tensor_layout import assemble, file_names, split_rows, stored_names
from conjure.lm.checkpoints.weights_digest import weights_digest
from conjure.lm.models.base import CausalLM
from conjure.lm.models.registry import build
from conjure.lm.models.shape import ModelConfig, Shape
from conjure.lm.text.special_tokens import read_tokenizer_settings
from conjure.lm.text.tokenizer import Tokenizer

CONFIG_FILE, WEIGHTS_FILE = ADAPTER_FILE, "adapter_model.safetensors"
ADAPTER = FolderKind("an adapter", (CONFIG_FILE, WEIGHTS_FILE), CONFIG_FILE)
_PREFIX = "base_model.model."
_BASE_DIGEST = "base_sha256"  # in the metadata of the weights' file, which PEFT passes over
_DOWN, _UP, _BASE = ".lora_A.weight", ".lora_B.weight", ".base_layer.weight"
_LARGEST_ALPHA = 1e30  # float32 numbers reach 3e38
_FORMAT = 3  # of a merged folder; a change makes old ones be made anew

# Settings that change what an adapter computes, with the values under which it computes what is done here.
_PLAIN = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "modules_to_save": (None, []),
    "alpha_pattern": ({}, None),
    "trainable_token_indices": (None, []),
    "lora_bias": (False, None),
    # Other ways of making the first matrices change the base model's.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "mica"),
    "alora_invocation_tokens": (None, []),
    "layer_replication": (None, []),
    "ensure_weight_tying": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
}
# Files that may decide what tokens a text becomes, beside those in JSON.
_TOKENIZER_FILES = ("chat_template.jinja", "merges.txt", "vocab.bpe")
# And those in JSON of an adapter, whose folder may hold many others.
_TOKENIZER_JSON = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "encoder.json",
    "added_tokens.json",
    "special_tokens_map.json",
)
_HARD_TO_CUT = "It's  NOT 12345,678 naïve e\u0301…\n\n\t-- x=[1]; 'LL 猫 🙂\r\n  end "


@dataclass(frozen=True, slots=True)
class Correction:
    """What an adapter adds to one matrix: `factor` times ``up @ down``.

    Attributes:
        down: (rank, in).
        up: (out, rank).
        factor: The scale.
        base: The matrix itself, where the adapter brings it along, as PEFT has it do with a head.
    """

    down: Tensor
    up: Tensor
    factor: float
    base: Tensor | None = None

    def delta(self, folder: Path, name: str, matrix: Tensor) -> Tensor:
        """What is added to a matrix of this name.

        Raises:
            CheckpointError: The matrix has another shape.
        """
        shape = (self.up.shape[0], self.down.shape[1])
        based = self.base if self.base is not None else matrix
        fits = shape == tuple(matrix.shape) == tuple(based.shape)
        if not fits or self.up.shape[1] != self.down.shape[0]:
            raise CheckpointError(
                f"the adapter {folder} does not fit the model: it is for a {name} of shape {shape}, and the"
                f" model's has {tuple(matrix.shape)}"
            )
        return (based - matrix) + (self.up @ self.down) * self.factor


def save_adapter(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    *,
    alpha: float,
    base: str,
    base_sha256: str | None = None,
) -> None:
    """Write what a LoRA training learned as a PEFT folder, in place of one that is there.

    Args:
        folder: Where to.
        config: Of the model that was trained.
        weights: ``lora_a`` and ``lora_b`` of our modules, by our names; others are left alone.
        alpha: The scale is this divided by the root of the rank.
        base: What the adapter is for, for ``base_model_name_or_path``.
        base_sha256: Of that model's weights, so that the adapter is not used with others.

    Raises:
        ConflictError: The folder holds something else, or is the current one.
        CheckpointError: It cannot be written.
    """
    refuse_replacing(real_path(folder), ADAPTER)
    tensors: dict[str, Tensor] = {}
    ranks, layers = set[int](), set[int]()
    for name, down in weights.items():
        module, _, kind = name.rpartition(".")
        if kind != "lora_a":
            continue
        ranks.add(down.shape[0])
        layers.update(int(part) for part in module.split(".") if part.isdigit())
        rows = split_rows(config, f"{module}.weight", weights[f"{module}.lora_b"])
        for stored, up in zip(file_names(config, f"{module}.weight"), rows, strict=True):
            key = f"{_PREFIX}{stored.removesuffix('.weight')}"
            tensors[f"{key}{_DOWN}"] = down.to("cpu", torch.float32).clone()
            tensors[f"{key}{_UP}"] = up.to("cpu", torch.float32).contiguous().clone()
    (rank,) = ranks
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": True,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": config.family == "gpt2",
        "inference_mode": True,
        "target_modules": sorted({key.removesuffix(_UP).rpartition(".")[2] for key in tensors if _UP in key}),
        "layers_to_transform": sorted(layers) if len(layers) < config.n_layer else None,
    }
    with saving(folder), replace_folder(folder) as fresh:
        noted = {_BASE_DIGEST: base_sha256} if base_sha256 is not None else {}
        metadata = {"format": "pt", "conjure": version("conjure"), **noted}
        save_file(tensors, fresh / WEIGHTS_FILE, metadata=metadata)
        (fresh / WEIGHTS_FILE).chmod(0o644)
        text = json.dumps(settings, indent=2, sort_keys=True)
        (fresh / CONFIG_FILE).write_text(f"{text}\n", encoding="utf-8")


def apply_adapter(source: ModelSource, adapter: str | Path | None) -> ModelSource:
    """A model with an adapter merged into it; the model as it is where none is given.

    Args:
        source: The base model.
        adapter: A PEFT folder.

    Raises:
        NotFoundError: There is no such folder.
        CheckpointError: It is no adapter for this model, damaged, or computes something else than LoRA.
        StoreError: The home cannot be used.
    """
    if adapter is None:
        return source
    folder = expand_user(adapter)
    if not (folder / CONFIG_FILE).is_file():
        raise NotFoundError(f"{adapter} is not an adapter folder: it has no {CONFIG_FILE}")
    root = Home.from_environment().create().models
    digest = _digest(source.folder, folder)
    merged = root / digest
    with saving(merged):
        root.mkdir(exist_ok=True)
    with locked(root / f".{merged.name}.lock"):
        if not (merged / "config.json").is_file():
            model = load_model(source.folder)
            tokenizer = _tokenizer(source.folder, folder, model.config)
            with _open_corrections(folder, source) as corrections:
                model = _merge(model, corrections, folder)
            if _digest(source.folder, folder) != digest:
                raise CheckpointError(f"{source.folder} or {folder} was changed while it was read")
            save_checkpoint(merged, model, tokenizer, dtype=torch.float32)
    return replace(source, name=f"{source.name} with {adapter}", folder=merged)


def _digest(base: Path, adapter: Path) -> str:
    """Of what decides the merged weights."""
    parts = [f"adapter {_FORMAT}"]
    parts += [
        sha256_file(adapter / name) for name in (CONFIG_FILE, WEIGHTS_FILE) if (adapter / name).exists()
    ]
    parts.append(weights_digest(base))
    files = [*sorted(base.glob("*.json")), *(base / name for name in _TOKENIZER_FILES)]
    files += [adapter / name for name in (*_TOKENIZER_JSON, *_TOKENIZER_FILES)]
    parts += [f"{path.parent == adapter} {path.name} {sha256_file(path)}" for path in files if path.exists()]
    return sha256_bytes("\n".join(parts).encode())


def _tokenizer(base: Path, adapter: Path, config: ModelConfig) -> Tokenizer | None:
    """The base model's tokenizer, with the chat template of the adapter where that has one.

    Raises:
        CheckpointError: The adapter was trained with other token ids.
    """
    tokenizer, tuned = load_tokenizer(base, config), load_tokenizer(adapter, config)
    if tokenizer is None or tuned is None:
        tokenizer = tokenizer or tuned
    elif not tuned.gives_the_ids_of(tokenizer, _HARD_TO_CUT):
        raise CheckpointError(
            f"the adapter {adapter} has another tokenizer than its base model",
            hint="remove its tokenizer files if it was trained with the base model's tokenizer",
        )
    template = read_tokenizer_settings(adapter).get("chat_template")
    if tokenizer is None or template is None:
        return tokenizer
    return tokenizer.with_chat_template(template)


@contextmanager
def _open_corrections(folder: Path, source: ModelSource) -> Iterator[dict[str, Correction]]:
    """An adapter's corrections by the stored names of the matrices of a model.

    Raises:
        CheckpointError: It is damaged, is for another model, or computes something else than LoRA.
    """
    settings = read_json_object(folder / CONFIG_FILE)
    _refuse_other_kinds(folder, settings)
    if not (folder / WEIGHTS_FILE).is_file():
        raise CheckpointError(f"{folder} contains no {WEIGHTS_FILE}; only safetensors are loaded")
    alpha = settings.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= _LARGEST_ALPHA:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} has lora_alpha {repr(alpha)[:40]}, which is not a number up to 1e30"
        )
    with TensorFile(folder / WEIGHTS_FILE) as file:
        _refuse_other_base(folder, source, file.metadata, settings)
        found = {}
        for name in file.tensors:
            stored, is_down, _ = name.removeprefix(_PREFIX).partition(_DOWN)
            if is_down and name.startswith(_PREFIX) and f"{_PREFIX}{stored}{_UP}" in file.tensors:
                down = _read_matrix(folder, file.tensors[name])
                up = _read_matrix(folder, file.tensors[f"{_PREFIX}{stored}{_UP}"])
                rank = down.shape[0]
                factor = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
                brought = file.tensors.get(f"{_PREFIX}{stored}{_BASE}")
                matrix = _read_matrix(folder, brought) if brought is not None else None
                found[f"{stored}.weight"] = Correction(down, up, factor, matrix)
        known = {
            f"{_PREFIX}{name.removesuffix('.weight')}{kind}" for name in found for kind in (_DOWN, _UP, _BASE)
        }
        foreign = sorted(set(file.tensors) - known)
        if foreign or not found:
            what = f"tensor {foreign[0]}, which is not part of one" if foreign else "no LoRA matrices"
            raise CheckpointError(f"{folder} is not a LoRA adapter that conjure can use: it contains {what}")
        yield found


def _read_matrix(folder: Path, tensor: StoredTensor) -> Tensor:
    """One of an adapter's matrices.

    Raises:
        CheckpointError: It is none.
    """
    if len(tensor.shape) != 2 or 0 in tensor.shape or not tensor.is_floating_point:
        raise CheckpointError(
            f"the adapter {folder} is damaged: tensor {tensor.name} contains {tensor.dtype} numbers of shape"
            f" {tensor.shape}; a matrix of floating-point numbers is needed"
        )
    return tensor.read(torch.float32)


def _refuse_other_base(
    folder: Path, source: ModelSource, noted: Mapping[str, str], settings: Mapping[str, Any]
) -> None:
    then, name = noted.get(_BASE_DIGEST), str(settings.get("base_model_name_or_path"))
    difference = different_weights(name, then, source) if then is not None else None
    if difference is not None:
        raise CheckpointError(
            f"the adapter {folder} was trained on {difference}",
            hint=f"{how_to_restore(source, name, noted.get('conjure'))}, or train the adapter again",
        )


def _refuse_other_kinds(folder: Path, settings: Mapping[str, Any]) -> None:
    for name, plain in _PLAIN.items():
        if settings.get(name, plain[0]) not in plain:
            raise CheckpointError(
                f"{folder / CONFIG_FILE} has {name} {settings[name]!r}, which conjure does not support",
                hint="merge it into its base model with peft, and use the merged model",
            )


def _merge(model: CausalLM, corrections: dict[str, Correction], folder: Path) -> CausalLM:
    """The model with the corrections added to its weights.

    Raises:
        CheckpointError: One is for no matrix of the model, or has another shape.
    """
    left = dict(corrections)
    if isinstance(model.config, Shape):
        (stored,) = file_names(model.config, HEAD)
        head = left.pop(HEAD, None) or left.get(stored)  # transformers 5 calls every head lm_head
        if head is not None:
            left[stored] = head
            model = _with_own_head(model, head.base) if model.config.tied else model
    with torch.no_grad():
        for name, weight in model.named_parameters():
            files = file_names(model.config, name)
            if left.keys().isdisjoint(files):
                continue
            deltas: dict[str, Tensor] = {}
            parts = split_rows(model.config, name, weight)
            for ours, stored, part in zip(stored_names(model.config, name), files, parts, strict=True):
                found = left.pop(stored, None)
                deltas[ours] = torch.zeros_like(part) if found is None else found.delta(folder, stored, part)
            weight.add_(assemble(model.config, name, lambda each, _, deltas=deltas: deltas[each]))
    if left:
        raise CheckpointError(
            f"the adapter {folder} does not fit the model, which has no matrix {min(left)}",
            hint="use the model that it was trained on",
        )
    return model


def _with_own_head(model: CausalLM, brought: Tensor | None) -> CausalLM:
    """A model whose head is no longer its embedding, for an adapter changes the one without the other.

    Args:
        model: The model.
        brought: What the adapter says that both were.
    """
    weights = model.state_dict()
    if brought is not None and brought.shape == weights[EMBEDDING].shape:
        weights[EMBEDDING] = brought
    untied = build(replace(model.config, tied=False))
    untied.load_state_dict({**weights, HEAD: weights[EMBEDDING].clone()}, assign=True)
    return untied.eval()
