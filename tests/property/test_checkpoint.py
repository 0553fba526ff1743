"""Whatever the shape, a checkpoint gives back the model that was saved, bit for bit."""

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conjure.lm.checkpoints.pretrained import load_model, save_checkpoint
from support.models import tiny_model

SHAPES = st.fixed_dictionaries(
    {
        "vocab_size": st.integers(1, 40),
        "context_length": st.integers(1, 9),
        "n_layer": st.integers(1, 3),
        "n_inner": st.none() | st.integers(1, 20),
        "tie_word_embeddings": st.booleans(),
        "activation_function": st.sampled_from(["gelu_new", "gelu", "relu", "silu"]),
        "scale_attn_weights": st.booleans(),
        "scale_attn_by_inverse_layer_idx": st.booleans(),
        "bos_token_id": st.none() | st.integers(0, 39),
    }
)


@settings(max_examples=25)
@given(SHAPES, st.integers(1, 4), st.integers(1, 4), st.sampled_from([torch.float32, torch.bfloat16]))
def test_saved_is_loaded(shape: dict, heads: int, head_size: int, dtype: torch.dtype) -> None:
    model = tiny_model(n_head=heads, n_embd=heads * head_size, **shape).to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / "model", model, None)
        again = load_model(Path(folder) / "model", dtype)
    assert again.config == model.config
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
