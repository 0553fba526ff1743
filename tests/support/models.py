"""Small models with large random weights, so that a wrong function anywhere moves the logits.

At GPT-2's own standard deviation of 0.02 a wrong GELU moves them by a millionth; from 0.15 on it shows.
"""

from functools import cache
from pathlib import Path

from conjure.lm.checkpoints.pretrained import save_checkpoint
from conjure.lm.models.gpt2 import GPT2
from conjure.lm.models.gpt2_config import GPT2Config
from conjure.lm.text.tokenizer import Tokenizer

STD = 0.2
TINY_VOCAB_SIZE = 300  # 256 bytes, end of text and 43 merges
TEXTS = [
    "My dog ate the clock; now he is a watch dog, and he ticks.",
    "The baker quit. He could not make enough dough.",
    "Why did the scarecrow win a prize? He was outstanding in his field.",
    "Времени нет, а часы идут.",
    "猫は寝ている。 😀 The cat sleeps, naïvely.",
]


def tiny_config(**changes: object) -> GPT2Config:
    """A model of some ten thousand weights, without dropout; any setting can be changed."""
    settings = {
        "vocab_size": TINY_VOCAB_SIZE,
        "context_length": 32,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": TINY_VOCAB_SIZE - 1,
        "eos_token_id": TINY_VOCAB_SIZE - 1,
    }
    return GPT2Config(**{**settings, **changes})


def tiny_model(seed: int = 0, std: float = STD, **changes: object) -> GPT2:
    """A fresh tiny model in `eval` mode; norms and biases are random too."""
    import torch

    model = GPT2(tiny_config(**changes)).initialise(seed, std)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.empty_like(parameter).normal_(0.0, std, generator=generator))
    return model.eval()


@cache
def tiny_tokenizer() -> Tokenizer:
    """A byte-level tokenizer of `TINY_VOCAB_SIZE` tokens, trained on `TEXTS`; end of text is the last id."""
    return Tokenizer.train(TEXTS, TINY_VOCAB_SIZE)


def tiny_checkpoint(folder: Path, seed: int = 0, **changes: object) -> Path:
    """A checkpoint folder of a tiny model with the tiny tokenizer; returns `folder`."""
    save_checkpoint(folder, tiny_model(seed, **changes), tiny_tokenizer())
    return folder
