"""Small models with large random weights, so that a wrong function anywhere moves the logits.

At GPT-2's own standard deviation of 0.02 a wrong GELU moves them by a millionth; from 0.15 on it shows.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

from conjure.lm.checkpoints.pretrained import save_checkpoint
from conjure.lm.models.decoder import Decoder
from conjure.lm.models.registry import read_model_config
from conjure.lm.models.shape import Shape
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


def tiny_config(**changes: object) -> Shape:
    """A GPT-2 of some ten thousand weights, without dropout; `changes` are settings of ``config.json``."""
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
    settings |= changes
    settings["n_positions"] = settings.pop("context_length")
    config = read_model_config(settings)
    assert isinstance(config, Shape)
    return replace(config, settings={})  # as if it had not come from a file


def tiny_model(seed: int = 0, std: float = STD, **changes: object) -> Decoder:
    """A fresh tiny model in `eval` mode; norms and biases are random too."""
    import torch

    model = Decoder(tiny_config(**changes)).initialise(seed, std)
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
