"""BERT for text classification in Flax NNX; `bert_weights` loads pretrained weights.

Shapes: B rows, L tokens, D hidden size, H heads, C classes, N layers.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from transformers import BertConfig

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
}


def _linear(inputs: int, outputs: int, config: BertConfig, rngs: nnx.Rngs):
    init = nnx.initializers.normal(config.initializer_range)
    return nnx.Linear(inputs, outputs, kernel_init=init, rngs=rngs)


def _norm(config: BertConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The fast variance, E[x^2] - E[x]^2, loses digits that the 1e-4 agreement needs.
    return nnx.LayerNorm(
        config.hidden_size,
        epsilon=config.layer_norm_eps,
        use_fast_variance=False,
        rngs=rngs,
    )


def _drop(dropout: nnx.Dropout, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
    return dropout(x, deterministic=rngs is None, rngs=rngs)


class Embeddings(nnx.Module):
    """Word + position + token type, normalised."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        def embed(size: int) -> nnx.Embed:
            init = nnx.initializers.normal(config.initializer_range)
            return nnx.Embed(size, config.hidden_size, embedding_init=init, rngs=rngs)

        self.word = embed(config.vocab_size)
        self.position = embed(config.max_position_embeddings)
        self.token_type = embed(config.type_vocab_size)
        self.norm = _norm(config, rngs)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob)

    def __call__(
        self, input_ids: jax.Array, token_type_ids: jax.Array, rngs: nnx.Rngs | None
    ) -> jax.Array:
        """[B, L] ids -> [B, L, D]."""
        positions = self.position(jnp.arange(input_ids.shape[1]))
        x = self.word(input_ids) + self.token_type(token_type_ids) + positions
        return _drop(self.dropout, self.norm(x), rngs)


class Attention(nnx.Module):
    """Multi-head self attention with its output projection."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        size = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.query = _linear(size, size, config, rngs)
        self.key = _linear(size, size, config, rngs)
        self.value = _linear(size, size, config, rngs)
        self.output = _linear(size, size, config, rngs)
        self.dropout = nnx.Dropout(config.attention_probs_dropout_prob)

    def __call__(
        self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None
    ) -> jax.Array:
        """[B, L, D], mask bool [B, L] -> [B, L, D]."""

        def heads(y: jax.Array) -> jax.Array:  # [B, L, H, D / H]
            return y.reshape(*y.shape[:2], self.num_heads, -1)

        query, key, value = map(heads, (self.query(x), self.key(x), self.value(x)))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(scores.dtype).min)
        weights = _drop(self.dropout, jax.nn.softmax(scores), rngs)  # [B, H, L, L]
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return self.output(mixed.reshape(x.shape))


class Layer(nnx.Module):
    """Attention and a two-layer network, each added to its input and normalised."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        size, wide = config.hidden_size, config.intermediate_size
        self.attention = Attention(config, rngs)
        self.attention_norm = _norm(config, rngs)
        self.intermediate = _linear(size, wide, config, rngs)
        self.output = _linear(wide, size, config, rngs)
        self.output_norm = _norm(config, rngs)
        self.dropout = nnx.Dropout(config.hidden_dropout_prob)
        self.activation = str(config.hidden_act)

    def __call__(
        self, x: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None
    ) -> jax.Array:
        """[B, L, D], mask bool [B, L] -> [B, L, D]."""
        mixed = _drop(self.dropout, self.attention(x, mask, rngs), rngs)
        x = self.attention_norm(x + mixed)
        inner = ACTIVATIONS[self.activation](self.intermediate(x))
        return self.output_norm(x + _drop(self.dropout, self.output(inner), rngs))


class BertClassifier(nnx.Module):
    """The encoder and a linear classifier over one vector a row.

    That vector is BERT's own pooler (a dense layer and tanh over the first token),
    or, for checkpoints saved without one, the mean of the last layer over the tokens.
    Dropout acts when `rngs` is given, and its masks depend on that key alone.
    """

    def __init__(
        self, config: BertConfig, num_classes: int, rngs: nnx.Rngs, pooler: bool = True
    ):
        size = config.hidden_size
        self.embeddings = Embeddings(config, rngs)
        self.layers = nnx.List(
            [Layer(config, rngs) for _ in range(config.num_hidden_layers)]
        )
        self.pooler = _linear(size, size, config, rngs) if pooler else None
        self.dropout = nnx.Dropout(config.hidden_dropout_prob)
        self.classifier = _linear(size, num_classes, config, rngs)

    def hidden_states(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        token_type_ids: jax.Array,
        rngs: nnx.Rngs | None = None,
    ) -> list[jax.Array]:
        """Three [B, L] integer arrays -> N + 1 arrays [B, L, D], embeddings first."""
        states = [self.embeddings(input_ids, token_type_ids, rngs)]
        for layer in self.layers:
            states.append(layer(states[-1], attention_mask > 0, rngs))
        return states

    def pool(self, last: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """[B, L, D] -> [B, D]."""
        if self.pooler is not None:
            return jnp.tanh(self.pooler(last[:, 0]))
        mask = attention_mask[..., None].astype(last.dtype)
        return (last * mask).sum(axis=1) / mask.sum(axis=1)

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        token_type_ids: jax.Array,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Three [B, L] integer arrays -> logits [B, C]."""
        states = self.hidden_states(input_ids, attention_mask, token_type_ids, rngs)
        pooled = self.pool(states[-1], attention_mask)
        return self.classifier(_drop(self.dropout, pooled, rngs))
