"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values."""

from conjure.lm.models.families import llama
from conjure.lm.models.family import Family

QWEN2 = Family(
    "qwen2",
    "Qwen2ForCausalLM",
    lambda settings: llama.read(settings, llama.FACTS, family="qwen2", qkv_bias=True),
    lambda shape: llama.write(shape, llama.FACTS),
    llama.MODULES,
    llama.PREFIX,
    llama.BUFFERS,
)
