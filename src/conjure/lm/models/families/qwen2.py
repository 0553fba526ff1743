"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values."""

from conjure.lm.models.families import llama

QWEN2 = llama.family("qwen2", "Qwen2ForCausalLM", llama.FACTS, qkv_bias=True)
