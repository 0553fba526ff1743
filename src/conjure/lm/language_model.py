"""`LanguageModel`: one object that computes logits, generates, scores and saves.

Main entries: `load`, `LanguageModel`. Everything is done by the modules around it; here values that come from
a user's own code are checked. Invariant: methods leave the weights as they are.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conjure.errors import ContextLengthError, ModelError, ShapeError, UsageError
from conjure.lm.checkpoints.adapters import apply_adapter
from conjure.lm.checkpoints.checkpoint_weights import load_tokenizer, missing_tokenizer
from conjure.lm.checkpoints.model_resolver import Lookup, ModelSource, resolve_model
from conjure.lm.checkpoints.pretrained import load_model, save_checkpoint
from conjure.lm.generation.generate import Sample, generate
from conjure.lm.generation.request import GenerationRequest, Overflow, SamplingSettings, draw_seed
from conjure.lm.generation.score import Score, score
from conjure.lm.generation.torch_scorer import TorchScorer
from conjure.lm.hardware import fast_dtype
from conjure.lm.models.base import CausalLM
from conjure.lm.models.shape import ModelConfig
from conjure.lm.text.tokenizer import Tokenizer


def load(
    name: str | Path,
    *,
    precision: str = "float32",
    adapter: str | Path | None = None,
    lookups: Iterable[Lookup] = (),
) -> "LanguageModel":
    """Load a model, ready to use.

    Args:
        name: ``sprite`` (comes with conjure), a local checkpoint folder, or a model on Hugging Face of
            a supported architecture (docs/models.md), ``name@revision`` for one revision.
        precision: Number format of the weights in memory: ``float32`` (exact), ``bfloat16``, or ``auto``.
        adapter: A PEFT folder whose LoRA weights to merge into the model.
        lookups: Tell the folders of names only the caller knows, such as ``runs/3``.

    Raises:
        NotFoundError: There is no such model here, and it cannot be fetched.
        CheckpointError: Its files are incomplete, damaged or of a refused kind.
        UsageError: The name or the precision cannot be one.
    """
    dtype = fast_dtype(torch.device("cpu"), precision)
    return load_source(apply_adapter(resolve_model(name, lookups=lookups), adapter), dtype)


def load_source(source: ModelSource, dtype: torch.dtype = torch.float32) -> "LanguageModel":
    """Load a model that was found already; errors as for `load`."""
    model = load_model(source.folder, dtype)
    return LanguageModel(model, load_tokenizer(source.folder, model.config), origin=str(source))


class LanguageModel:
    """A language model with its tokenizer.

    Attributes:
        model: The network itself, for code that goes deeper.
        origin: Where it came from, in words.
    """

    def __init__(self, model: CausalLM, tokenizer: Tokenizer | None, *, origin: str = "memory") -> None:
        self.model = model.eval()
        self.origin = origin
        self._tokenizer = tokenizer
        self._scorer: TorchScorer | None = None

    def __repr__(self) -> str:
        return f"<LanguageModel {self.origin}, {self.config.parameter_count:,} parameters>"

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.model.config

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to token ids and back.

        Raises:
            CheckpointError: The checkpoint came without one; `logits` and `save` still work.
        """
        if self._tokenizer is None:
            raise missing_tokenizer(self.origin)
        return self._tokenizer

    def logits(self, ids: Tensor) -> Tensor:
        """Unnormalised scores of every next token.

        Args:
            ids: Token ids, int64, (B, T), T from 1 to the model's context length.

        Returns:
            float32, (B, T, V): the scores at position t are for the token at t + 1.

        Raises:
            ShapeError: Not int64, or not (B, T).
            ContextLengthError: T is beyond the context length.
            ModelError: An id that the vocabulary does not have.
        """
        ids = self._checked(ids)
        with torch.no_grad():
            return self.model.head(self.model(ids)).float()

    def generate(
        self,
        prompt: str | Sequence[str] = "",
        *,
        max_new_tokens: int = 70,
        num_samples: int = 1,
        seed: int | None = None,
        stop: str | Sequence[str] | None = (),
        on_overflow: Overflow = "slide",
        **sampling: float,
    ) -> list[Sample]:
        """Write text that goes on from a prompt, or from several at once.

        Args:
            prompt: Encoded exactly; an empty one means the start of a document.
            max_new_tokens: Tokens to write per sample.
            num_samples: Samples per prompt.
            seed: Equal seeds give equal samples, alone or in a batch; None draws one (see `Sample.seed`).
            stop: A sample ends before the first occurrence of any of these texts; None is none.
            on_overflow: When prompt and text outgrow the context: ``slide`` the window, or ``error``.
            **sampling: ``temperature top_k top_p min_p repetition_penalty no_repeat_ngram``, as in
                `conjure.lm.generation.request.SamplingSettings`.

        Returns:
            By prompt, then by index; each with ``text``, ``token_ids`` (without the prompt), ``logprobs`` and
            ``finish_reason``.

        Raises:
            UsageError: A value is out of bounds; all faults are named at once. Or there is no such option.
            ContextLengthError: A prompt does not fit and `on_overflow` is ``error``.
            CheckpointError: The model has no tokenizer.
        """
        for name in sorted(sampling.keys() - SamplingSettings.BOUNDS.keys()):
            raise UsageError(
                f"there is no option {name!r}", hint="client.generate has those of conjure generate"
            )
        request = GenerationRequest(
            prompts=[prompt] if isinstance(prompt, str) else prompt,
            max_new_tokens=max_new_tokens,
            num_samples=num_samples,
            seed=seed if seed is not None else draw_seed(),
            stop=[stop] if isinstance(stop, str) else () if stop is None else stop,
            on_overflow=on_overflow,
            **sampling,  # pyright: ignore[reportArgumentType]
        )
        return generate(self.model, self.tokenizer, request)

    def score(self, text: str, *, context: int | None = None, stride: int | None = None) -> Score:
        """How likely the model finds a text, as a document of its own.

        Args:
            text: Encoded exactly as it is.
            context: Tokens seen at once; None means all the model can, at most 8,192.
            stride: Tokens between one window's start and the next one's; None means half of `context`.

        Returns:
            ``token_ids``, ``token_logprobs`` (nats), ``total`` (their sum) and ``perplexity``.

        Raises:
            UsageError: `context` or `stride` is out of range.
            CheckpointError: The model has no tokenizer.
        """
        if self._scorer is None or not self._scorer.fits(self.model):
            self._scorer = TorchScorer(self.model)
        return score(self._scorer, self.tokenizer, text, context=context, stride=stride)

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint folder that conjure, transformers, vLLM and llama.cpp's converter read.

        Args:
            folder: Where to; a checkpoint that is there is replaced, whole and at once.

        Raises:
            ConflictError: The folder holds something that is not part of a checkpoint.
            CheckpointError: It cannot be written; what was there is untouched.
        """
        save_checkpoint(folder, self.model, self._tokenizer)

    def _checked(self, ids: Any) -> Tensor:
        try:
            ids = torch.as_tensor(ids)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ShapeError(f"ids are {type(ids).__name__}, not an int64 tensor of shape (B, T)") from error
        if ids.dtype != torch.int64 or ids.dim() != 2:
            kind = str(ids.dtype).removeprefix("torch.")
            raise ShapeError(f"ids are {kind} of shape {tuple(ids.shape)}; int64 of shape (B, T) is needed")
        if ids.numel() == 0:
            raise ShapeError(f"ids of shape {tuple(ids.shape)} contain no token")
        limit = self.config.context_length
        if ids.shape[1] > limit:
            raise ContextLengthError(
                f"{ids.shape[1]} tokens do not fit the model's context of {limit}", hint=f"ids[:, -{limit}:]"
            )
        lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= self.config.vocab_size:
            wrong = lowest if lowest < 0 else highest
            raise ModelError(f"token id {wrong} is not from 0 to {self.config.vocab_size - 1}")
        return ids.to(self.model.device)
