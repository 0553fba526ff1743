"""A decoder-only transformer, whole, in one file: embeddings, pre-norm blocks, head, key/value cache.

Main entry: `Decoder`. GPT-2, Llama, Qwen, Gemma and NeoX are all this model; a `Shape` says which. Each of
its facts is read in one place here, by the module that it is about. Parameter names are our own; a family
knows a checkpoint's. Invariant: cached, padded and batched forward passes give the logits of the plain one.

Tensor letters: B batch, T time (new tokens), S time (all tokens attended to), C channels, H query heads,
K heads of keys and values, D head size, F inner size, V vocabulary. Sources: Radford et al. 2019 for the
whole; Shazeer 2020 for gates (arXiv:2002.05202); Ainslie et al. 2023 for K < H (arXiv:2305.13245). Parity:
tests/parity/test_model.py, test_families.py.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from conjure.errors import ContextLengthError
from conjure.lm.models.base import CausalLM
from conjure.lm.models.shape import Rope, Shape
from conjure.lm.nn.activation import ACTIVATIONS
from conjure.lm.nn.attention import causal_attention
from conjure.lm.nn.dropout import Dropout
from conjure.lm.nn.linear import linear
from conjure.lm.nn.norm import RMSNorm
from conjure.lm.nn.rope import RotaryTables, apply_rotary, rotary_tables


class KVCache:
    """Keys and values of every token seen so far, one preallocated pair of tensors per layer.

    Attributes:
        keys: One (B, K, S_max, D) tensor per layer.
        values: As `keys`.
        length: Tokens filled so far; the next token's keys go to index `length`.
    """

    def __init__(
        self,
        shape: Shape,
        rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        sizes = (rows, shape.n_kv_head, capacity, shape.head_size)
        self.keys = [torch.zeros(sizes, dtype=dtype, device=device) for _ in range(shape.n_layer)]
        self.values = [torch.zeros(sizes, dtype=dtype, device=device) for _ in range(shape.n_layer)]
        self.length = 0

    @property
    def capacity(self) -> int:
        """Most tokens it can hold, S_max."""
        return self.keys[0].shape[2]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new (B, K, T, D) keys and values; return all (B, K, S, D) of them.

        `length` moves on once per forward pass, in `advance`, not once per layer.
        """
        end = self.length + keys.shape[2]
        self.keys[layer][:, :, self.length : end] = keys
        self.values[layer][:, :, self.length : end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def advance(self, tokens: int) -> None:
        """Count `tokens` more tokens as filled."""
        self.length += tokens

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, int64 indices, (B',), in this order; repeats copy a row."""
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                tensors[layer] = old.new_zeros((len(rows), *old.shape[1:]))
                tensors[layer][:, :, : self.length] = old[rows, :, : self.length]


class AttentionContext(NamedTuple):
    """What a layer's attention has to know of a forward pass.

    Attributes:
        mask: Which keys each query sees, bool, (B or 1, 1, T, S); None where those up to its own are seen.
        plain: Whether nothing but its position and the window decides what a query sees.
        rotary: Cosines and sines for the new tokens' positions; None where nothing is rotated.
        cache: Extended by the layer; None where nothing is remembered.
    """

    mask: Tensor | None
    plain: bool
    rotary: RotaryTables | None
    cache: KVCache | None


class Linear(nn.Linear):
    """A linear layer that draws no weights when it is made: they come from `Decoder.initialise` or a file."""

    def reset_parameters(self) -> None: ...

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class Embedding(nn.Embedding):
    """An embedding that draws no weights when it is made, likewise."""

    def reset_parameters(self) -> None: ...


def new_norm(shape: Shape, channels: int) -> nn.Module:
    """A norm over so many channels, of the kind that the model has everywhere."""
    if shape.norm == "rms":
        return RMSNorm(channels, shape.norm_epsilon, shape.norm_offset)
    return nn.LayerNorm(channels, eps=shape.norm_epsilon)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a token sees itself and what came before."""

    def __init__(self, shape: Shape, dropout: Dropout, layer: int) -> None:
        super().__init__()
        kind = shape.layers[layer]
        self.layer, self.scale, self.window = layer, kind.score_scale, kind.window
        self.head_counts = (shape.n_head, shape.n_kv_head, shape.n_kv_head)  # of queries, keys, values
        self.head_size = shape.head_size
        self.qkv = Linear(shape.n_embd, sum(shape.qkv_rows), bias=shape.qkv_bias)
        self.out = Linear(shape.qkv_rows[0], shape.n_embd, bias=shape.out_bias)
        self.query_norm = new_norm(shape, shape.head_size) if shape.query_key_norm else nn.Identity()
        self.key_norm = new_norm(shape, shape.head_size) if shape.query_key_norm else nn.Identity()
        self.dropout, self.dropout_p = dropout, shape.attention_dropout

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        B, T, _ = x.shape
        heads = self.qkv(x).view(B, T, -1, self.head_size).transpose(1, 2)  # (B, H + 2K, T, D)
        query, key, value = heads.split(self.head_counts, dim=1)
        query, key = self.query_norm(query), self.key_norm(key)
        if context.rotary is not None:
            query, key = apply_rotary(query, context.rotary), apply_rotary(key, context.rotary)
        if context.cache is not None:
            key, value = context.cache.extend(self.layer, key, value)  # (B, K, S, D)
        attended = self._attend(query, key, value, context)  # (B, H, T, D)
        return self.out(attended.transpose(1, 2).reshape(B, T, -1))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, context: AttentionContext) -> Tensor:
        T, S = query.shape[2], key.shape[2]
        dropout_p = self.dropout_p if self.dropout.active(self.dropout_p) else 0.0
        query_blocks = torch.is_grad_enabled() or (context.plain and query.dtype == torch.bfloat16)
        # torch would draw masks from its global state, and keep several float32 matrices for each head.
        if T == S > 1 and query.device.type == "cpu" and (query_blocks or dropout_p):
            return causal_attention(
                query,
                key,
                value,
                scale=self.scale,
                window=self.window,
                visible=None if context.plain else context.mask,
                mask=self.dropout.mask((*query.shape[:3], S), dropout_p, query) if dropout_p else None,
                dropout=dropout_p,
            )
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=context.mask,
            dropout_p=dropout_p,
            # A single query may look at every key, so only longer plain passes need the triangle.
            is_causal=context.mask is None and T > 1,
            scale=self.scale,
            enable_gqa=query.shape[1] > key.shape[1],
        )


class FeedForward(nn.Module):
    """Two linear layers around an activation; the first may make a gate as well, in its first F outputs."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gated, self.activation = shape.gated, ACTIVATIONS[shape.activation]
        self.up = Linear(shape.n_embd, sum(shape.up_rows), bias=shape.mlp_bias)
        self.down = Linear(shape.inner, shape.n_embd, bias=shape.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.up(x)
        if not self.gated:
            return self.down(self.activation(inner))
        gate, inner = inner.chunk(2, dim=-1)
        return self.down(self.activation(gate) * inner)


class Block(nn.Module):
    """One transformer layer: attention and feed-forward, each normed before and added after.

    In the sandwich form each is normed once more before it is added; in the parallel form both read the same.
    """

    def __init__(self, shape: Shape, dropout: Dropout, layer: int) -> None:
        super().__init__()
        sandwich, self.parallel = shape.residual == "sandwich", shape.residual == "parallel"
        self.attention_norm = new_norm(shape, shape.n_embd)
        self.attention = CausalSelfAttention(shape, dropout, layer)
        self.attention_post_norm = new_norm(shape, shape.n_embd) if sandwich else nn.Identity()
        self.mlp_norm = new_norm(shape, shape.n_embd)
        self.mlp = FeedForward(shape)
        self.mlp_post_norm = new_norm(shape, shape.n_embd) if sandwich else nn.Identity()
        self.dropout, self.dropout_p = dropout, shape.residual_dropout

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        branch = self.attention_post_norm(self.attention(self.attention_norm(x), context))
        after_attention = self.dropout.add(x, branch, self.dropout_p)
        branch = self.mlp_post_norm(self.mlp(self.mlp_norm(x if self.parallel else after_attention)))
        return self.dropout.add(after_attention, branch, self.dropout_p)


class Decoder(CausalLM):
    """A language model of any `Shape`."""

    config: Shape

    def __init__(self, config: Shape) -> None:
        super().__init__(config)
        self.embedding = Embedding(config.vocab_size, config.n_embd)
        learned = config.learned_positions
        self.position_embedding = Embedding(config.context_length, config.n_embd) if learned else None
        self.blocks = nn.ModuleList(Block(config, self.dropout, layer) for layer in range(config.n_layer))
        self.final_norm = new_norm(config, config.n_embd)
        self.lm_head = None if config.tied else Linear(config.n_embd, config.vocab_size, bias=False)

    def embeddings(self) -> list[nn.Module]:
        """Of tokens, and of positions if they have one."""
        return [self.embedding, *([self.position_embedding] if self.position_embedding is not None else [])]

    @property
    def head_weight(self) -> Tensor:
        """The head's weight, (V, C): the token embedding's, unless the head has its own."""
        return self.embedding.weight if self.lm_head is None else self.lm_head.weight

    def initialise(self, seed: int, std: float | None = None) -> Self:
        """Draw fresh weights as GPT-2 did; see `CausalLM.initialise`.

        Unless `std` is given, the projections into the residual stream are scaled by 1/sqrt(2 * n_layer).
        """
        generator = torch.Generator().manual_seed(seed)
        deviation = std if std is not None else self.config.initializer_range
        residual = deviation if std is not None else deviation / (2 * self.n_layer) ** 0.5
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif "norm" in name:
                    parameter.fill_(1.0 - self.config.norm_offset)
                else:
                    scale = residual if name.endswith(("out.weight", "down.weight")) else deviation
                    parameter.normal_(0.0, scale, generator=generator)
        return self

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        """An empty cache for so many rows of at most so many tokens."""
        return KVCache(self.config, rows, capacity, self.dtype, self.device)

    @property
    def cache_bytes_per_token(self) -> int:
        """Keys and values of all layers for one token."""
        return 2 * self.n_layer * self.config.n_kv_head * self.config.head_size * self.dtype.itemsize

    def activations_per_token(self, block_size: int) -> int:
        """What each layer keeps: inputs of norms and products, queries, keys and values twice, weights.

        Half of the weights, as no token sees a later one, but all of dropout's mask for them.
        """
        shape = self.config
        norms = 4 if shape.residual == "sandwich" else 2
        inner = (4 if shape.gated else 2) * shape.inner
        per_layer = (4 + 2 * norms) * shape.n_embd + 2 * sum(shape.qkv_rows) + inner
        weights = shape.n_head * block_size // 2
        mask = shape.n_head * block_size if shape.attention_dropout > 0 else 0
        return self.n_layer * (per_layer + weights + mask)

    def forward(
        self,
        ids: Tensor,
        *,
        cache: KVCache | None = None,
        pad: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the final norm, (B, T, C); see `CausalLM.forward`.

        Positions count from a row's first real token, and run on from record to record.
        """
        past = cache.length if cache is not None else 0
        total = past + ids.shape[1]
        if total > self.context_length:
            raise ContextLengthError(
                f"{total} tokens do not fit the model's context of {self.context_length} tokens"
            )
        keys = torch.arange(total, device=ids.device)  # (S,)
        queries = positions = keys[past:]  # (T,)
        if pad is not None:
            positions = (queries - pad[:, None]).clamp(min=0)  # (B, T)
        plain = pad is None and segments is None and (past == 0 or ids.shape[1] == 1)
        masks: dict[int | None, Tensor | None] = {}
        for window in {layer.window for layer in self.config.layers}:
            if plain and (window is None or window >= total):
                masks[window] = None
            else:
                masks[window] = attention_mask(queries, keys, pad=pad, segments=segments, window=window)
        hidden = self.read(ids, positions, masks, cache, plain=plain)
        if cache is not None:
            cache.advance(ids.shape[1])
        return hidden

    def read(
        self,
        ids: Tensor,
        positions: Tensor,
        masks: Mapping[int | None, Tensor | None],
        cache: KVCache | None,
        *,
        plain: bool = False,
    ) -> Tensor:
        """Hidden states of tokens whose positions the caller has worked out, (B, T, C).

        Args:
            ids: Token ids, int64, (B, T).
            positions: Of each token, int64, (T,) or (B, T).
            masks: For each window that a layer has, None included, the mask of `AttentionContext`.
            cache: Extended, but not moved on: that is `KVCache.advance`.
            plain: As in `AttentionContext`.
        """
        x = self.embedding(ids)  # (B, T, C)
        if self.config.embedding_scale != 1.0:
            x = x * _rounded(self.config.embedding_scale, x.dtype)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        x = self.dropout(x, self.config.embedding_dropout)
        ropes = {layer.rope for layer in self.config.layers}
        tables = {rope: _tables(rope, positions) for rope in ropes}
        for layer, block in zip(self.config.layers, self.blocks, strict=True):
            x = block(x, AttentionContext(masks[layer.window], plain, tables[layer.rope], cache))
        return self.final_norm(x)


def _tables(rope: Rope | None, positions: Tensor) -> RotaryTables | None:
    if rope is None:
        return None
    return rotary_tables(positions, rope.channels, rope.base, rope.scaling, rope.settings)


@functools.cache
def _rounded(value: float, dtype: torch.dtype) -> float:
    """As a tensor of that number format has it; a tensor would have to be copied to a GPU."""
    return torch.tensor(value, dtype=dtype).item()


def attention_mask(
    queries: Tensor,
    keys: Tensor,
    *,
    pad: Tensor | None = None,
    segments: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """Which keys each query may see, bool, (B or 1, 1, T, S).

    Args:
        queries: Indices of the new tokens in the row, padding counted, int64, (T,).
        keys: Indices of all tokens, int64, (S,).
        pad: Left-padding tokens in each row, int64, (B,).
        segments: Record number of each token, int64, (B, T); only where T = S.
        window: A query sees so many keys, its own included.
    """
    distance = queries[:, None] - keys  # (T, S)
    mask = (distance >= 0)[None]  # (1, T, S)
    if window is not None:
        mask = mask & (distance < window)
    if pad is not None:
        # A padding query sees itself alone: a row of nothing but False would be NaN.
        mask = (mask & (keys >= pad[:, None])[:, None]) | (distance == 0)
    if segments is not None:
        mask = mask & (segments[:, :, None] == segments[:, None, :])
    return mask[:, None]
