"""The compiled half of the native engine: finds it, says whether it can be used, and names its C types.

Main entries: `status`, `describe`. Invariant: a library is only used if it was built from these sources
(`ABI_VERSION`), with instructions that this processor has.

``CONJURE_NATIVE`` forces a choice: ``off``, or one of `INSTRUCTIONS`; empty or ``auto`` takes the best.
"""

import ctypes
import functools
import os
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from conjure.errors import UsageError

VARIABLE = "CONJURE_NATIVE"
INSTRUCTIONS = (
    "portable",
    "avx2",
    "avx512vnni",
    "amx",
)  # each includes those before it; numbers.h numbers them so
ABI_VERSION = 8  # as in forward.c
_AMX_UNUSED = {2: "Linux does not let this process use AMX", 3: "AMX gave other numbers in a check"}
"""What `conjure_tiles` says where the processor has AMX, and yet it is not used; as in forward.c."""

_pointer, _size = ctypes.c_void_p, ctypes.c_int64


class Matrix(ctypes.Structure):
    """A linear layer; see model.h, as for all of these."""

    _fields_ = (
        ("weights", _pointer),
        ("bias", _pointer),
        ("inputs", _size),
        ("outputs", _size),
    )


class Norm(ctypes.Structure):
    """A norm; without a gain there is none."""

    _fields_ = (("gain", _pointer), ("bias", _pointer))


class Layer(ctypes.Structure):
    """A transformer layer."""

    _fields_ = (
        ("attention_norm", Norm),
        ("attention_post_norm", Norm),
        ("mlp_norm", Norm),
        ("mlp_post_norm", Norm),
        ("query_norm", Norm),
        ("key_norm", Norm),
        ("qkv", Matrix),
        ("out", Matrix),
        ("up", Matrix),
        ("down", Matrix),
        ("window", _size),
        ("rope", _size),
        ("score_scale", ctypes.c_float),
    )


class Rope(ctypes.Structure):
    """Rotary positions."""

    _fields_ = (("frequencies", _pointer), ("pairs", _size), ("factor", ctypes.c_float))


class Model(ctypes.Structure):
    """A whole model."""

    _fields_ = (
        *((name, _size) for name in ("channels", "inner", "heads", "kv_heads", "head_size")),
        *((name, _size) for name in ("layers", "ropes", "vocab")),
        *((name, ctypes.c_float) for name in ("epsilon", "embedding_scale")),
        *((name, ctypes.c_int32) for name in ("format", "norm", "activation", "residual", "gated")),
        ("embedding", _pointer),
        ("positions", _pointer),
        ("layer", ctypes.POINTER(Layer)),
        ("rope", ctypes.POINTER(Rope)),
        ("final_norm", Norm),
        ("head", Matrix),
        ("head_mean", _pointer),
    )


class Call(ctypes.Structure):
    """One forward pass."""

    _fields_ = (
        *((name, _pointer) for name in ("ids", "tokens", "lengths", "memory", "capacities", "wanted")),
        ("rows", _size),
        ("outputs", _size),
        ("logits", _pointer),
        ("threads", ctypes.c_int32),
        ("instructions", ctypes.c_int32),
    )


class Part(ctypes.Structure):
    """Some rows of a stored matrix; see pack.c."""

    _fields_ = (
        ("numbers", _pointer),
        ("rows", _size),
        ("row_stride", _size),
        ("column_stride", _size),
        ("stored", ctypes.c_int32),
    )


class Packing(ctypes.Structure):
    """A matrix to be laid out; see pack.c."""

    _fields_ = (
        ("parts", ctypes.POINTER(Part)),
        ("count", _size),
        ("inputs", _size),
        ("outputs", _size),
        ("mean", _pointer),
        ("to", _pointer),
        ("format", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    )


class Pass(ctypes.Structure):
    """One pass over memory; see training.c."""

    _fields_ = (
        ("x", _pointer),
        ("grad", _pointer),
        ("y", _pointer),
        ("rows", _size),
        ("columns", _size),
        ("stride", _size),
        ("targets", _pointer),
        ("factors", _pointer),
        ("losses", _pointer),
        ("key", ctypes.c_uint64),
        ("start", _size),
        ("strip", _size),
        ("threshold", ctypes.c_int32),
        ("bfloat", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("instructions", ctypes.c_int32),
    )


class Update(ctypes.Structure):
    """A parameter and its gradient; see optimizer.c."""

    _fields_ = (
        *((name, _pointer) for name in ("master", "mean", "square_mean", "gradient", "rounded", "squares")),
        ("count", _size),
        ("key", ctypes.c_uint64),
        *((name, ctypes.c_float) for name in ("scale", "keep", "rate", "root", "epsilon")),
        *((name, ctypes.c_float) for name in ("mean_weight", "square_weight")),
        ("bfloat", ctypes.c_int32),
    )


class Step(ctypes.Structure):
    """An optimizer step; see optimizer.c."""

    _fields_ = (
        ("updates", ctypes.POINTER(Update)),
        ("count", _size),
        ("threads", ctypes.c_int32),
        ("instructions", ctypes.c_int32),
    )


class Summary(ctypes.Structure):
    """The sum and the largest of logits; see logits.c."""

    _fields_ = (
        ("logits", _pointer),
        ("rows", _size),
        ("vocab", _size),
        ("logsumexp", _pointer),
        ("argmax", _pointer),
        ("threads", ctypes.c_int32),
        ("instructions", ctypes.c_int32),
    )


class Selection(ctypes.Structure):
    """The largest few of logits; see logits.c."""

    _fields_ = (
        ("logits", _pointer),
        ("rows", _size),
        ("vocab", _size),
        ("count", _size),
        ("ids", _pointer),
        ("threads", ctypes.c_int32),
        ("instructions", ctypes.c_int32),
    )


class Summing(ctypes.Structure):
    """Bytes to be summed; see pack.c."""

    _fields_ = (("bytes", _pointer), ("size", _size), ("sums", _pointer), ("threads", ctypes.c_int32))


_FOLDER = Path(__file__).parent  # once: each pass of each layer asks for what is there

PASSES = (
    "conjure_gelu",
    "conjure_gelu_backward",
    "conjure_dropout_mask",
    "conjure_causal_softmax",
    "conjure_cross_entropy",
)

STEPS = ("conjure_square_sums", "conjure_adamw", "conjure_round")


@dataclass(frozen=True, slots=True)
class Status:
    """Whether the native engine can be used here.

    Attributes:
        library: The loaded library, or None.
        instructions: The ones it will use, from `INSTRUCTIONS`.
        reason: Why so, in words.
    """

    library: ctypes.CDLL | None
    instructions: str
    reason: str


def status() -> Status:
    """Whether the native engine can be used here, and with which instructions.

    Raises:
        UsageError: ``CONJURE_NATIVE`` is none of the allowed words, or asks for instructions that the
            processor does not have.
    """
    wanted = os.environ.get(VARIABLE, "") or "auto"
    if wanted not in ("auto", "off", *INSTRUCTIONS):
        raise UsageError(f"{VARIABLE} is {wanted!r}; allowed: auto, off, {', '.join(INSTRUCTIONS)}")
    if wanted == "off":
        return Status(None, "", f"{VARIABLE} is off")
    library = open_library(_FOLDER)
    if isinstance(library, str):
        return Status(None, "", library)
    best, amx_unused = library.conjure_instructions(), _AMX_UNUSED.get(library.conjure_tiles())
    if wanted == "auto":
        return Status(library, INSTRUCTIONS[best], amx_unused or "the best this processor has")
    if INSTRUCTIONS.index(wanted) > best:
        why = f"but {amx_unused}" if wanted == "amx" and amx_unused else "which this processor does not have"
        raise UsageError(
            f"{VARIABLE} is {wanted!r}, {why}; "
            f"allowed here are auto, off, {', '.join(INSTRUCTIONS[: best + 1])}"
        )
    return Status(library, wanted, f"{VARIABLE} asks for them")


def describe() -> str:
    """One line for people: which engine runs int8 models here, and why."""
    found = status()
    if found.library is None:
        return f"torch, because {found.reason}"
    return f"native, {found.instructions} instructions ({found.reason})"


@functools.cache
def open_library(folder: Path) -> ctypes.CDLL | str:
    """The library built into `folder`, or why there is none that can be used."""
    # Another Python that was installed from the same folder leaves its own beside this one's.
    candidates = (folder / f"_forward{suffix}" for suffix in EXTENSION_SUFFIXES)
    built = next(filter(Path.exists, candidates), None)
    if built is None:
        return "the native engine was not built: installing conjure found no C compiler it could use"
    try:
        library = ctypes.CDLL(str(built))
        abi = library.conjure_abi()
    except (OSError, AttributeError) as error:
        return f"the native engine could not be loaded: {error}"
    if abi != ABI_VERSION:
        return "the native engine was built from other sources; reinstall conjure"
    library.conjure_forward.argtypes = [ctypes.POINTER(kind) for kind in (Model, Call)]
    for name in PASSES:
        getattr(library, name).argtypes = [ctypes.POINTER(Pass)]
    for name in STEPS:
        getattr(library, name).argtypes = [ctypes.POINTER(Step)]
        getattr(library, name).restype = None
    library.conjure_summarise.argtypes = [ctypes.POINTER(Summary)]
    library.conjure_pack.argtypes = [ctypes.POINTER(Packing)]
    library.conjure_sums.argtypes = [ctypes.POINTER(Summing)]
    library.conjure_largest.argtypes = [ctypes.POINTER(Selection)]
    return library
