"""transformers' GPT-2, the oracle of the parity tests, with weights large enough to show a fault."""

from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config as ReferenceConfig
from transformers import GPT2LMHeadModel
from transformers.utils import logging

from conjure.lm.models.registry import config_settings
from conjure.lm.models.shape import Shape

logging.disable_progress_bar()


def reference_model(config: Shape, *, seed: int = 0, std: float = 0.2, **settings: Any) -> GPT2LMHeadModel:
    """transformers' model of the same shape with weights of its own, in `eval` mode."""
    shape = {name: value for name, value in config_settings(config).items() if name != "architectures"}
    model = GPT2LMHeadModel(ReferenceConfig(**{**shape, **settings})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            centre = 1.0 if parameter.dim() == 1 else 0.0
            parameter.copy_(torch.empty_like(parameter).normal_(centre, std, generator=generator))
    return model


def random_ids(config: Shape, rows: int, length: int, seed: int = 0) -> Tensor:
    """Token ids, int64, (rows, length)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (rows, length), generator=generator)


def assert_logits_equal(ours: Tensor, reference: Tensor) -> None:
    """Equal to 1e-5 of the largest logit, the measure this project promises."""
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max().item() <= 1e-5 * reference.abs().max().item()
