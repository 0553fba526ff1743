"""A checkpoint folder's weights and tokenizer, checked against its configuration, before any model is built.

Main entries: `open_weights`, `load_tokenizer`. Nothing here needs torch. Invariant: the tensors that
`open_weights` yields are those of the model, each of the shape it needs.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from conjure.core.quoting import shell_words
from conjure.errors import CheckpointError, ModelError
from conjure.lm.checkpoints.checkpoint_folder import (
    CONFIG_FILE,
    EMBEDDING,
    HEAD,
    has_tokenizer,
    open_tensors,
    read_config,
)
from conjure.lm.checkpoints.safetensors_reader import StoredTensor
from conjure.lm.checkpoints.tensor_layout import stored_names, stored_shapes
from conjure.lm.models.registry import family_of
from conjure.lm.models.shape import ModelConfig, Shape
from conjure.lm.text.tokenizer import Tokenizer

_FAULTS_SHOWN = 3


class NotFiniteError(Exception):
    """A weight, by our name, holds NaN or infinity; `open_weights` tells it by the file's name."""

    def __init__(self, weight: str) -> None:
        super().__init__(weight)
        self.weight = weight


@dataclass(frozen=True, slots=True)
class Weights:
    """A decoder's weights in their files.

    Attributes:
        config: The model's shape.
        tensors: By the family's names.
    """

    config: Shape
    tensors: Mapping[str, StoredTensor]

    def parts(self, name: str) -> list[np.ndarray]:
        """Our tensor of this name as it is stored: arrays whose rows, below one another, are its own.

        They lie in the files. bfloat16 numbers are uint16, their bits.
        """
        stored, names = family_of(self.config).stored(name)
        arrays = [self._array(each) for each in names]
        if stored.layout == "transposed":
            return [array.T for array in arrays]
        if stored.layout == "by_head":
            (array,) = arrays
            by_head = array.reshape(self.config.n_head, 3, -1, *array.shape[1:])
            return [heads[number] for number in range(3) for heads in by_head]
        return arrays

    def forget(self, name: str) -> None:
        """Give back the memory that reading a tensor took."""
        for each in stored_names(self.config, name):
            self.tensors[each].forget()

    def damaged_part(self, name: str) -> str:
        """The file's name of the tensor, of those that one of ours is made of, that holds NaN or infinity."""
        names = stored_names(self.config, name)
        damaged = (each for each in names if not _is_finite(self._array(each)))
        return self.tensors[next(damaged, names[0])].name

    @property
    def matrices_are_bfloat16(self) -> bool:
        """Whether every matrix is stored in bfloat16."""
        return all(len(tensor.shape) == 1 or tensor.dtype == "bfloat16" for tensor in self.tensors.values())

    def _array(self, name: str) -> np.ndarray:
        numbers = self.tensors[name].view()
        return numbers.astype(np.float32) if numbers.dtype == np.float64 else numbers


@contextmanager
def open_weights(folder: Path) -> Iterator[Weights]:
    """A decoder's stored weights, readable while the block lasts.

    Raises:
        NotFoundError: There is no such folder.
        CheckpointError: It is incomplete, damaged or of a refused kind.
        ModelError: Inside the block, a weight was found to be NaN or infinite.
    """
    config = read_config(folder)
    with open_tensors(folder, family_of(config)) as tensors:
        config = settle_head(config, tensors)
        assert isinstance(config, Shape), "only a decoder is read like this"
        check_fit(folder, config, config.parameter_shapes(), tensors)
        weights = Weights(config, tensors)
        try:
            yield weights
        except NotFiniteError as error:
            raise ModelError(
                f"the weights are damaged: tensor {weights.damaged_part(error.weight)} contains NaN or"
                " infinity",
                hint="use another copy of the model",
            ) from error


def load_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer | None:
    """The tokenizer beside a model's weights; None where there is none.

    Raises:
        CheckpointError: It is damaged, or gives text ids that the model does not have.
    """
    if not has_tokenizer(folder):
        return None
    tokenizer = Tokenizer.from_folder(folder)
    usable = tokenizer.limited_to(config.vocab_size)
    if usable is None:
        raise CheckpointError(
            f"the tokenizer in {folder} has {tokenizer.vocab_size:,} tokens and the model only"
            f" {config.vocab_size:,}: they do not match"
        )
    return usable


def missing_tokenizer(origin: str) -> CheckpointError:
    """What to say where text is wanted of a model that came without a tokenizer."""
    return CheckpointError(
        f"the model {origin} has no tokenizer files, so it cannot read or write text",
        hint="put its tokenizer.json into its folder",
    )


def settle_head(config: ModelConfig, tensors: dict[str, StoredTensor]) -> ModelConfig:
    """Decide whether the head is tied, as transformers does: by what is stored, where that is telling.

    A stored head equal to the embedding is left out of `tensors`; one that differs is a head of its own,
    whatever the configuration says; one without an embedding beside it is the embedding.
    """
    if not config.tied or not family_of(config).has_head:
        return config
    (head,), (embedding,) = stored_names(config, HEAD), stored_names(config, EMBEDDING)
    if head not in tensors:
        return config
    if embedding not in tensors:
        tensors[embedding] = tensors.pop(head)
    elif tensors[head].same_as(tensors[embedding]):
        del tensors[head]
    else:
        return replace(config, tied=False)
    return config


def check_fit(
    folder: Path,
    config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, StoredTensor],
) -> None:
    """Refuse, all at once, what keeps the stored tensors from being the weights of a model with these shapes.

    Raises:
        CheckpointError: Something does.
    """
    needed = {
        name: shape
        for ours, wanted in shapes.items()
        for name, shape in stored_shapes(config, ours, wanted).items()
    }
    known = {name: tensor for name, tensor in tensors.items() if name in needed}
    faults = [
        f"tensor {tensor.name} has shape {tensor.shape} and {needed[name]} is needed"
        for name, tensor in known.items()
        if tensor.shape != needed[name]
    ]
    faults += [
        f"tensor {tensor.name} contains {tensor.dtype} numbers, which are not weights"
        for tensor in known.values()
        if not tensor.is_floating_point
    ]
    faults += [f"tensor {name} {needed[name]} is missing" for name in needed if name not in tensors]
    faults += [
        f"tensor {tensor.name} {tensor.shape} is not part of the model"
        for name, tensor in tensors.items()
        if name not in needed
    ]
    if faults:
        more = len(faults) - _FAULTS_SHOWN
        listed = "; ".join(faults[:_FAULTS_SHOWN]) + (f"; and {more} more such errors" if more > 0 else "")
        extra = [name for name in tensors if name not in needed]
        raise CheckpointError(
            f"the weights in {folder} do not fit its {CONFIG_FILE}: {listed}{_prefix_hint(needed, extra)}",
            fix=_without_head(folder) if len(faults) == len(extra) else None,
        )


def _prefix_hint(needed: Mapping[str, tuple[int, ...]], extra: Sequence[str]) -> str:
    """That names would fit without what is put before them, where that is so."""
    for name in extra:
        whole = next((each for each in needed if name.endswith(f".{each}")), None)
        if whole is not None:
            return f"; the names begin with {name.removesuffix(whole)!r}, and would match without it"
    return ""


def _without_head(folder: Path) -> str:
    """A command that leaves out tensors for other tasks (a classifier, a value head) beside the model."""
    target = folder.resolve().name + "-lm"
    code = (
        "import sys; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T;"
        " [k.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2]) for k in (M, T)]"
    )
    return shell_words("python", "-c", code, str(folder), target)


def _is_finite(numbers: np.ndarray) -> bool:
    """Whether all are finite; of bfloat16 numbers as bits, whether none has all bits of its exponent set."""
    if numbers.dtype == np.uint16:
        return not bool((numbers & 0x7F80 == 0x7F80).any())
    return bool(np.isfinite(numbers).all())
