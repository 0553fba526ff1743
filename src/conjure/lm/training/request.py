"""What to fine-tune on what, and how.

Main entry: `FinetuneRequest`. Invariant: one that exists has every value within its bounds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from conjure.core.files import expand_user
from conjure.errors import option
from conjure.lm.bounds import Bound, ValueFault, bound_faults, python_number, refuse_faults
from conjure.lm.hardware import PRECISIONS
from conjure.lm.text.read_options import ReadOptions
from conjure.lm.text.split import DEDUP, DEFAULT_DEDUP, Dedup
from conjure.lm.training.schedule import SCHEDULE_KINDS, ScheduleKind

SPECIAL_TOKENS = ("text", "token")
LoRAOutput = Literal["merged", "adapter"]
LORA_OUTPUTS: tuple[LoRAOutput, ...] = ("merged", "adapter")

_CHAT_SETTINGS = ("prompt_loss_weight", "chat_date")

_BOUNDS = {
    "epochs": Bound(0, 1_000_000, above=True),
    "batch_size": Bound(1, whole=True),
    "block_size": Bound(2, whole=True),
    "learning_rate": Bound(0, 1, above=True),
    "warmup_ratio": Bound(0, 1),
    "weight_decay": Bound(0, 1),
    "max_grad_norm": Bound(0),
    "dropout": Bound(0, 0.95),
    "attention_dropout": Bound(0, 0.95),
    "grad_accumulation": Bound(1, whole=True),
    "distributed": Bound(1, whole=True),
    "nodes": Bound(1, whole=True),
    "patience": Bound(0, whole=True),
    "seed": Bound(0, 2**63 - 1, whole=True),
    "freeze": Bound(0, whole=True),
    "lora": Bound(1, whole=True),
    "max_steps": Bound(1, whole=True),
    "eval_every": Bound(1, whole=True),
    "save_every": Bound(0, whole=True),
    "sample_every": Bound(0, whole=True),
    "holdout": Bound(0, 0.9),
    "prompt_loss_weight": Bound(0, 1),
}
_CHOICES = {
    "schedule": SCHEDULE_KINDS,
    "special_tokens": SPECIAL_TOKENS,
    "lora_output": LORA_OUTPUTS,
    "dedup": DEDUP,
    "precision": PRECISIONS,
}


@dataclass(frozen=True, kw_only=True)
class FinetuneRequest:
    """Everything that decides a fine-tune, checked once. None means: decide it (`conjure.lm.training.plan`).

    Attributes:
        data: Files and folders; ``-`` is standard input.
        model: Name or folder of the model to start from.
        output: Checkpoint folder to write.
        column: Column of tables that holds the text.
        split: Cut texts into ``lines`` or ``paragraphs``.
        format: Kind of the files; see `conjure.lm.text.read_options.ReadOptions` for this and the next four.
        delimiter: What separates columns.
        header: Whether the first row names the columns.
        quoting: Whether fields may be in quotes.
        encoding: Of text files without a byte order mark.
        special_tokens: Whether special tokens written in a text are plain ``text`` or that ``token``.
        holdout: Share of the records to hold out.
        validation: File to measure on in place of a share of the records.
        prompt_loss_weight: What a token of a conversation counts that is not part of an answer.
        chat_date: What a chat template gets when it asks for the date, as 2026-03-01; None is today.
        dedup: What to train on where several records say the same (`conjure.lm.text.split.hold_out`).
        epochs: Passes over the text; fewer if the held-out loss stops falling (`patience`).
        batch_size: Blocks per forward pass.
        block_size: Tokens in a block.
        learning_rate: The peak.
        schedule: Shape of its way down.
        warmup_ratio: Share of all steps over which it rises.
        weight_decay: Of matrices, decoupled.
        max_grad_norm: Longer gradients are scaled down to this; 0 leaves them.
        dropout: After the embeddings and on each branch; None is as its ``config.json`` says.
        attention_dropout: On attention weights; slow on a CPU and of no measurable use here.
        grad_accumulation: Forward passes per optimizer step; more where memory does not hold `batch_size`.
        distributed: Processes that share each step's blocks, which they must divide; the losses do not depend
            on how many they are. None is one process that reads a batch at once.
        nodes: Machines that have so many processes each; one if None.
        mask_records: Keep attention within each record; None does so where positions are rotary.
        patience: Evaluations without a better held-out loss before it stops; 0 never stops early.
        seed: Of everything random.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        freeze: Leave the embeddings and this many first blocks as they are; 0 trains everything.
        lora: Rank of the corrections to learn instead of the weights (`conjure.lm.training.lora`), merged
            when saved; None trains the weights.
        lora_output: ``merged``: what LoRA learned is in the checkpoint alone. ``adapter``: it is also kept as
            a PEFT folder, beside the checkpoint.
        adapter: A PEFT folder to merge into the model before it is trained.
        max_steps: Most optimizer steps.
        eval_every: Optimizer steps between evaluations.
        save_every: Optimizer steps between saves of the training state; 0 saves when interrupted only.
        sample_every: Optimizer steps between samples, taken at the first evaluation after so many; None takes
            them at every evaluation, 0 takes none.
        resume: Go on from the training state beside `output`.
    """

    data: Sequence[str | Path]
    output: str | Path
    model: str | Path = "sprite"
    column: str | None = None
    split: str | None = None
    format: str | None = None
    delimiter: str | None = None
    header: bool = True
    quoting: str = "auto"
    encoding: str | None = None
    special_tokens: str = "text"
    holdout: float = 0.1
    validation: str | Path | None = None
    prompt_loss_weight: float = 0.0
    chat_date: str | date | None = None
    dedup: Dedup = DEFAULT_DEDUP
    epochs: float = 3
    batch_size: int = 8
    block_size: int | None = None
    learning_rate: float | None = None
    schedule: ScheduleKind = "cosine"
    warmup_ratio: float = 0.03
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    dropout: float | None = None
    attention_dropout: float = 0.0
    grad_accumulation: int = 1
    distributed: int | None = None
    nodes: int | None = None
    mask_records: bool | None = None
    patience: int = 3
    seed: int = 42
    precision: str = "auto"
    freeze: int = 0
    lora: int | None = None
    lora_output: LoRAOutput = "merged"
    adapter: str | Path | None = None
    max_steps: int | None = None
    eval_every: int | None = None
    save_every: int | None = None
    sample_every: int | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse every value out of bounds, in one error."""
        optional = [name for name in _BOUNDS if getattr(type(self), name) is None]
        faults = list(bound_faults(_BOUNDS, vars(self), may_be_none=optional))
        faults += self._distributed_faults(faults)
        for name, allowed in _CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                faults.append(ValueFault(name, f"is {value!r}; allowed: {', '.join(allowed)}"))
        if self.lora_output == "adapter" and self.lora is None:
            faults.append(ValueFault("lora_output", f"is 'adapter', which needs {option('lora', 8)}"))
        elif self.lora_output == "adapter" and self.adapter is not None:
            words = f"is 'adapter', which cannot be combined with {option('adapter')}"
            faults.append(ValueFault("lora_output", f"{words}: it would fit the merged model only"))
        if self.chat_date is not None and self.chat_day is None:
            faults.append(
                ValueFault("chat_date", f"must be a date such as 2026-03-01, not {self.chat_date!r}")
            )
        if not self.data:
            faults.append(ValueFault("data", "is empty: no data was given"))
        refuse_faults(faults)
        _ = self.layout  # refuses what cannot be followed
        self._as_python_numbers()
        object.__setattr__(self, "output", expand_user(self.output))

    def _as_python_numbers(self) -> None:
        """Make numbers Python's own: the state and the checkpoint store them as JSON."""
        for name in _BOUNDS:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, python_number(value))

    def _distributed_faults(self, before: Sequence[ValueFault]) -> list[ValueFault]:
        """Whether the processes can share the blocks of a step equally, once those numbers are right."""
        if before or self.processes is None:
            needs = f"needs {option('distributed', 'N')}: the processes on each node"
            return [ValueFault("nodes", needs)] if self.nodes is not None and not before else []
        blocks = self.batch_size * self.grad_accumulation
        if blocks % self.processes == 0:
            return []
        allowed = ", ".join(str(count) for count in range(1, min(blocks, 64) + 1) if blocks % count == 0)
        return [
            ValueFault(
                "distributed",
                f"is {self.distributed}{self._on_nodes}; the {blocks} blocks of a step"
                f" ({option('batch_size')} times {option('grad_accumulation')}) can be shared by {allowed}"
                " processes",
            )
        ]

    def refuse_chat_settings(self) -> None:
        """Refuse what only conversations have, of data without any.

        A training that is resumed may have had such a setting in a version that ignored it.

        Raises:
            UsageError: There is such a setting.
        """
        given = {name: getattr(self, name) for name in _CHAT_SETTINGS}
        refuse_faults(
            ValueFault(name, f"is {value}, but no record is a conversation")
            for name, value in given.items()
            if value != getattr(type(self), name) and not self.resume
        )

    @property
    def reads_special_tokens(self) -> bool:
        """Whether special tokens written out in a text are those tokens."""
        return self.special_tokens == "token"

    @property
    def processes(self) -> int | None:
        """Processes that share each step, on all nodes together; None where one trains by itself."""
        return None if self.distributed is None else self.distributed * (self.nodes or 1)

    @property
    def _on_nodes(self) -> str:
        return f" on each of {self.nodes} nodes" if self.nodes is not None and self.nodes > 1 else ""

    @property
    def chat_day(self) -> date | None:
        """The date for the chat template; None where none is given that is one."""
        try:
            return date.fromisoformat(str(self.chat_date))
        except ValueError:
            return None

    @property
    def layout(self) -> ReadOptions:
        """What was said about how the files are written."""
        return ReadOptions(self.format, self.delimiter, self.header, self.quoting, self.encoding)

    def settings(self) -> dict[str, Any]:
        """What a resumed run must agree with: everything but places, and how many processes there are."""
        others = ("data", "output", "resume", "distributed", "nodes")
        kept = {name: value for name, value in asdict(self).items() if name not in others}
        validation = str(self.validation) if self.validation is not None else None
        chat_date = str(self.chat_date) if self.chat_date is not None else None
        adapter = str(self.adapter) if self.adapter is not None else None
        places = {"model": str(self.model), "validation": validation, "adapter": adapter}
        return {**kept, **places, "chat_date": chat_date}
