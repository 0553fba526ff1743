"""GPT-2, whole, in one file: embeddings, pre-norm blocks, head, key/value cache.

Main entry: `GPT2`. Parameter names are the checkpoint's (``wte wpe h ln_f c_attn c_proj c_fc``), so that a
reader of the paper or of a checkpoint finds their way. Invariant: cached, padded and batched forward passes
give the logits of the plain one.

Tensor letters: B batch, T time (new tokens), S time (all tokens attended to), C channels, H heads,
D head size, V vocabulary. Source: Radford et al. 2019; parity: tests/parity/test_model.py.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from conjure.errors import ContextLengthError
from conjure.lm.models.gpt2_config import GPT2Config
from conjure.lm.nn.activation import ACTIVATIONS
from conjure.lm.nn.attention import causal_attention
from conjure.lm.nn.dropout import Dropout
from conjure.lm.nn.matmul import product


class KVCache:
    """Keys and values of every token seen so far, one preallocated pair of tensors per layer.

    Attributes:
        keys: One (B, H, S_max, D) tensor per layer.
        values: As `keys`.
        length: Tokens filled so far; the next token's keys go to index `length`.
    """

    def __init__(
        self,
        config: GPT2Config,
        batch_size: int,
        length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        shape = (batch_size, config.n_head, length, config.head_size)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layer)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layer)]
        self.length = 0

    @property
    def capacity(self) -> int:
        """Most tokens it can hold, S_max."""
        return self.keys[0].shape[2]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new (B, H, T, D) keys and values; return all (B, H, S, D) of them.

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


class Linear(nn.Linear):
    """A linear layer that draws no weights when it is made: they come from `GPT2.initialise` or a file."""

    def reset_parameters(self) -> None: ...

    def forward(self, input: Tensor) -> Tensor:
        return product(input, self.weight, self.bias)


class Embedding(nn.Embedding):
    """An embedding that draws no weights when it is made, likewise."""

    def reset_parameters(self) -> None: ...


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a token sees itself and what came before."""

    def __init__(self, config: GPT2Config, dropout: Dropout, layer: int) -> None:
        super().__init__()
        self.n_head, self.head_size = config.n_head, config.head_size
        self.query_scale = query_scale(config, layer)
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)
        self.dropout, self.dropout_p = dropout, config.attn_pdrop

    def forward(self, x: Tensor, mask: Tensor | None, cache: KVCache | None, layer: int) -> Tensor:
        B, T, C = x.shape
        heads = self.c_attn(x).view(B, T, 3, self.n_head, self.head_size)  # (B, T, 3, H, D)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if self.query_scale != 1.0:
            query = query * self.query_scale
        if cache is not None:
            key, value = cache.extend(layer, key, value)  # (B, H, S, D)
        mixed = self._mix(query, key, value, mask)  # (B, H, T, D)
        return self.c_proj(mixed.transpose(1, 2).reshape(B, T, C))

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        T, S = query.shape[2], key.shape[2]
        dropout_p = self.dropout_p if self.dropout.active(self.dropout_p) else 0.0
        query_blocks = torch.is_grad_enabled() or query.dtype == torch.bfloat16
        if mask is None and T == S > 1 and query.device.type == "cpu" and query_blocks:
            dropped = self.dropout.mask((*query.shape[:3], S), dropout_p, query) if dropout_p else None
            return causal_attention(query, key, value, mask=dropped, dropout=dropout_p)
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=dropout_p,
            # A single query may look at every key, so only longer plain passes need the triangle.
            is_causal=mask is None and T > 1,
        )


def query_scale(config: GPT2Config, layer: int) -> float:
    """What queries of a layer, counted from 0, are multiplied by before the usual 1/sqrt(D); 1 for GPT-2."""
    scale = 1.0 if config.scale_attn_weights else config.head_size**0.5
    return scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale


class FeedForward(nn.Module):
    """Two linear layers around GPT-2's tanh-approximated GELU, or what the configuration names."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, config.inner)
        self.c_proj = Linear(config.inner, config.n_embd)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.activation(self.c_fc(x)))


class Block(nn.Module):
    """One transformer layer: attention and feed-forward, each normed before and added after."""

    def __init__(self, config: GPT2Config, dropout: Dropout, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config, dropout, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = FeedForward(config)
        self.dropout, self.dropout_p = dropout, config.resid_pdrop

    def forward(self, x: Tensor, mask: Tensor | None, cache: KVCache | None, layer: int) -> Tensor:
        x = self.dropout.add(x, self.attn(self.ln_1(x), mask, cache, layer), self.dropout_p)
        return self.dropout.add(x, self.mlp(self.ln_2(x)), self.dropout_p)


class GPT2(nn.Module):
    """A GPT-2 language model.

    Calling it gives hidden states; `head` turns those one cares about into logits, so that nobody pays
    for a (B, T, V) tensor where the last position is all that is wanted. A new one has no weights yet:
    call `initialise`, or load a checkpoint.
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.context_length, config.n_embd)
        self.dropout = Dropout()  # one source of masks for the whole model
        self.h = nn.ModuleList(Block(config, self.dropout, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else Linear(config.n_embd, config.vocab_size, bias=False)

    @property
    def head_weight(self) -> Tensor:
        """The head's weight, (V, C): the token embedding's, unless the head has its own."""
        return self.wte.weight if self.lm_head is None else self.lm_head.weight

    def initialise(self, seed: int, std: float | None = None) -> "GPT2":
        """Draw fresh weights as GPT-2 did; the same seed gives the same weights.

        Args:
            seed: Of this model's own generator; global random state is not touched.
            std: Standard deviation of all matrices; None means the configuration's, with the projections
                into the residual stream scaled by 1/sqrt(2 * n_layer).
        """
        generator = torch.Generator().manual_seed(seed)
        deviation = std if std is not None else self.config.initializer_range
        residual = deviation if std is not None else deviation / (2 * self.config.n_layer) ** 0.5
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif ".ln_" in f".{name}":
                    parameter.fill_(1.0)
                else:
                    scale = residual if "c_proj" in name else deviation
                    parameter.normal_(0.0, scale, generator=generator)
        return self

    def forward(
        self,
        ids: Tensor,
        *,
        cache: KVCache | None = None,
        pad: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the final norm, (B, T, C).

        Args:
            ids: Token ids, int64, (B, T).
            cache: Filled by earlier calls and extended by this one; None attends within `ids` only.
            pad: Left-padding tokens in each row, int64, (B,): they are not attended to and positions count
                from the first real token. None means no row is padded.
            segments: Record number of each token, int64, (B, T): a token attends within its record only.

        Raises:
            ContextLengthError: More tokens than the model has positions for.
        """
        past = cache.length if cache is not None else 0
        total = past + ids.shape[1]
        if total > self.config.context_length:
            raise ContextLengthError(
                f"{total} tokens do not fit the model's context of {self.config.context_length} tokens"
            )
        positions = torch.arange(past, total, device=ids.device)  # (T,)
        if pad is not None:
            positions = (positions - pad[:, None]).clamp(min=0)  # (B, T)
        mask = _attention_mask(past, total, pad, segments, ids.device)
        hidden = self.read(ids, positions, mask, cache)
        if cache is not None:
            cache.advance(ids.shape[1])
        return hidden

    def read(self, ids: Tensor, positions: Tensor, mask: Tensor | None, cache: KVCache | None) -> Tensor:
        """Hidden states of tokens whose places the caller has worked out, (B, T, C).

        Args:
            ids: Token ids, int64, (B, T).
            positions: Of each token, int64, (T,) or (B, T).
            mask: Which keys each query may see, bool, (B or 1, 1, T, S); None means those up to its own.
            cache: Extended, but not moved on: that is `KVCache.advance`.
        """
        x = self.dropout(self.wte(ids) + self.wpe(positions), self.config.embd_pdrop)  # (B, T, C)
        for layer, block in enumerate(self.h):
            x = block(x, mask, cache, layer)
        return self.ln_f(x)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) of hidden states (…, C)."""
        return product(hidden, self.head_weight)


def _attention_mask(
    past: int, total: int, pad: Tensor | None, segments: Tensor | None, device: torch.device
) -> Tensor | None:
    """Which keys each query may see, bool, (B or 1, 1, T, S); None where plain causality says it all."""
    tokens = total - past
    if pad is None and segments is None and (past == 0 or tokens == 1):
        return None
    keys = torch.arange(total, device=device)  # (S,)
    queries = keys[past:]  # (T,)
    mask = (keys[None, :] <= queries[:, None])[None]  # (1, T, S)
    if pad is not None:
        # A padding query sees itself alone: a row of nothing but False would be NaN.
        real = keys[None, None, :] >= pad[:, None, None]
        itself = keys[None, None, :] == queries[None, :, None]
        mask = (mask & real) | itself
    if segments is not None:
        mask = mask & (segments[:, :, None] == segments[:, None, :])
    return mask[:, None]
