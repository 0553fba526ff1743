"""Who competes in what, and at which settings.

Main entry: `contenders`. Invariant: every contender of a group gets the same weights, the same tokens and
the same number of threads. A peer takes part at its defaults, which most people run, and at the best settings
found for it, which is what conjure is compared with.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conjure.lm.hardware import cpu_flags

HERE = Path(__file__).parent
OURS = HERE.parent / ".venv" / "bin"
PEERS = HERE / ".venv" / "bin"
LLAMA_SKIPPED = HERE / ".venv" / "llama-cpp-python.skipped"
GROUPS = ("train", "train_short", "decode", "score", "cold_start")
GAINS = (
    "memory kept between steps",
    "attention of matrix products",
    "chunked cross-entropy",
    "compiled passes",
)
# Large freed blocks stay with the process, as conjure asks glibc for itself.
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}

_TRAINING = {"precision": "auto", "dropout": 0.1, "attention_dropout": 0.0}  # conjure's
_TUNED = {"bf16": True, "optim": "adamw_torch_fused"}  # the Trainer's best


@dataclass(frozen=True)
class Contender:
    """One program at one setting.

    Attributes:
        name: For tables.
        group: One of `GROUPS`.
        script: In workers/; empty where `command` is run as it is.
        python: Of the environment it runs in.
        task: What the worker is told.
        command: The whole command line, of cold starts.
        variables: Environment variables.
        role: ``ours`` is the headline, ``variant`` another setting of conjure, ``peer``, ``gain`` conjure
            with one part taken out, ``first_step`` or ``limit``.
        once: In the first round only, and not in a quick run: there to be seen beside others.
        slow: Not in a quick run: it takes long, or long to install.
    """

    name: str
    group: str
    script: str = ""
    python: Path = OURS / "python"
    task: dict[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    role: str = "peer"
    once: bool = False
    slow: bool = False

    @property
    def missing(self) -> str | None:
        """Why it cannot take part; None where it can."""
        if not self.python.exists():
            return "the peers' environment is not there: benchmarks/setup makes it"
        if self.name.startswith("llama.cpp") and LLAMA_SKIPPED.exists():
            return LLAMA_SKIPPED.read_text(encoding="utf-8").strip()
        return None


def contenders(folder: Path, common: dict[str, Any]) -> list[Contender]:
    """Everybody, in the order of the tables.

    Args:
        folder: Where workers/prepare.py put the model.
        common: Parts of every task: paths, sizes and the number of threads.
    """
    everybody = [
        *_training(),
        *_training_in_short_blocks(common["short_block"]),
        *_decoding(folder),
        *_scoring(),
        *_starting(folder),
    ]
    return [_with_task(contender, common) for contender in everybody]


def gguf_file(folder: Path, kind: str) -> Path:
    """Where workers/prepare.py put the GGUF file of this number format."""
    return folder / "gguf" / f"checkpoint-{kind}.gguf"


def _with_task(contender: Contender, common: dict[str, Any]) -> Contender:
    return Contender(**{**vars(contender), "task": {**common, "group": contender.group, **contender.task}})


def _training() -> Iterator[Contender]:
    def ours(name: str, role: str, **task: Any) -> Contender:
        settings = {**_TRAINING, **task}
        return Contender(name, "train", "conjure_train.py", task=settings, role=role, slow=role != "ours")

    yield ours("conjure", "ours")
    yield ours("conjure, float32", "variant", precision="float32")
    yield ours("conjure, attention dropout", "variant", attention_dropout=0.1)
    yield _trainer("Trainer, defaults", dropout=True)
    yield _trainer("Trainer, bf16", dropout=True, slow=True, bf16=True)
    yield _trainer("Trainer, bf16, no dropout, memory kept", dropout=False, **_TUNED)
    yield _trainer(
        "Trainer, bf16, no dropout, memory kept, compiled",
        dropout=False,
        once=True,
        torch_compile=True,
        **_TUNED,
    )
    yield Contender("conjure finetune", "train", "first_step.py", role="first_step", once=True)
    for gain in GAINS:
        yield Contender(
            gain,
            "train",
            "conjure_train.py",
            task={**_TRAINING, "without": gain},
            role="gain",
            once=True,
        )


def _training_in_short_blocks(block: int) -> Iterator[Contender]:
    """Steps of few tokens, as records of a line give: what a step costs whatever is in it weighs more."""
    group, steps = "train_short", {"block": block, "steps": 40}
    yield Contender("conjure", group, "conjure_train.py", task={**_TRAINING, **steps}, role="ours")
    for trainer in (
        _trainer("Trainer, defaults", dropout=True, slow=True),
        _trainer("Trainer, bf16, no dropout, memory kept", dropout=False, slow=True, **_TUNED),
    ):
        yield replace(trainer, group=group, task={**trainer.task, **steps})


def _trainer(
    name: str, *, dropout: bool, once: bool = False, slow: bool = False, **arguments: Any
) -> Contender:
    return Contender(
        name,
        "train",
        "transformers_train.py",
        PEERS / "python",
        {"dropout": dropout, "arguments": arguments},
        variables={} if dropout else _KEPT_MEMORY,
        once=once,
        slow=slow,
    )


def _decoding(folder: Path) -> Iterator[Contender]:
    def ours(name: str, role: str, precision: str, **variables: str) -> Contender:
        task = {"precision": precision}
        return Contender(
            name,
            "decode",
            "conjure_decode.py",
            task=task,
            variables=variables,
            role=role,
            once=role != "ours",
        )

    def peer(name: str, script: str, *, once: bool = False, slow: bool = False, **task: Any) -> Contender:
        return Contender(name, "decode", script, PEERS / "python", task, once=once, slow=slow)

    yield ours("conjure", "ours", "auto")
    yield ours("conjure, bfloat16", "variant", "bfloat16")
    yield ours("conjure, float32", "variant", "float32")
    if "amx_int8" in cpu_flags():
        yield ours("conjure, int8, AVX512-VNNI", "variant", "int8", CONJURE_NATIVE="avx512vnni")
    yield ours("conjure, int8, AVX2", "variant", "int8", CONJURE_NATIVE="avx2")
    yield ours("conjure, int8, portable C", "variant", "int8", CONJURE_NATIVE="portable")
    yield peer("transformers, float32", "transformers_decode.py", dtype="float32")
    yield peer("transformers, bfloat16", "transformers_decode.py", dtype="bfloat16", once=True)
    yield peer("CTranslate2, float32", "ctranslate2_decode.py", compute_type="float32", once=True)
    for kind in ("int8", "int8_bfloat16"):
        yield peer(f"CTranslate2, {kind}", "ctranslate2_decode.py", compute_type=kind)
    for name, kind in (("f16", "float16"), ("q8_0", "q8_0")):
        yield peer(f"llama.cpp, {name}", "llama_cpp_decode.py", slow=True, gguf=str(gguf_file(folder, kind)))


def _scoring() -> Iterator[Contender]:
    yield Contender("conjure", "score", "conjure_score.py", role="ours")
    task = {"dtype": "bfloat16"}
    yield Contender("conjure, bfloat16", "score", "conjure_score.py", task=task, role="variant", once=True)
    for name, way, dtype in (
        ("transformers, a record at a time", "one", "float32"),
        ("transformers, sorted batches", "batch", "float32"),
        ("transformers, sorted batches, bfloat16", "batch", "bfloat16"),
    ):
        task = {"way": way, "dtype": dtype}
        yield Contender(name, "score", "transformers_score.py", PEERS / "python", task)
    task = {"compute_type": "float32"}
    yield Contender("CTranslate2, float32", "score", "ctranslate2_score.py", PEERS / "python", task)


def _starting(folder: Path) -> Iterator[Contender]:
    prompt = "I bought a"
    checkpoint, gguf = str(folder / "checkpoint"), str(gguf_file(folder, "float16"))

    def peer(name: str, function: str, path: str, *, slow: bool = False) -> Contender:
        command = (str(PEERS / "python"), str(HERE / "workers" / "first_token.py"), function, path, prompt)
        return Contender(name, "cold_start", python=PEERS / "python", command=command, slow=slow)

    command = (str(OURS / "conjure"), "generate", "--model", checkpoint, "--length", "1", "--stream", prompt)
    yield Contender("conjure generate", "cold_start", command=command, role="ours")
    yield peer("transformers", "transformers", checkpoint)
    yield peer("CTranslate2", "ctranslate2", str(folder / "ctranslate2"))
    yield peer("llama.cpp, f16", "llama_cpp", gguf, slow=True)
    command = (str(OURS / "python"), str(HERE / "workers" / "first_token.py"), "reading", checkpoint, "-")
    yield Contender("Python and reading the file", "cold_start", command=command, role="limit")
