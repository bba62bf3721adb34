"""Forward passes of sentence encoders on a tape, written like the models of transformers."""

from __future__ import annotations

from dataclasses import dataclass

from llamavae.planning.decoders import lstm_layer
from llamavae.planning.parts import Kernel, Part
from llamavae.planning.sizes import Sizes
from llamavae.planning.tape import Array

_BUCKETS = 32  # of the relative positions of T5


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder.

    Attributes:
        part: Its weights.
        sizes: Sizes of its backbone.
        pooler: Whether the backbone has a pooler, whose output is not used.
        dense: Output size of a linear layer after the pooling; 0 for none.
        queries: Number of learned queries of attention pooling; 0 for another pooling.
        kernel: How attention is computed.
        checkpoints: Whether activations are recomputed.
    """

    part: Part
    sizes: Sizes
    pooler: bool = False
    dense: int = 0
    queries: int = 0
    kernel: Kernel = "fused"
    checkpoints: bool = False

    @property
    def dim(self) -> int:
        """Size H_enc of the sentence vector."""
        return self.dense or max(1, self.queries) * self.sizes.hidden

    def vectors(self, batch: int, tokens: int) -> Array:
        """Sentence vectors h (B, H_enc)."""
        part, tape, s = self.part, self.part.tape, self.sizes
        run = {"bert": self._bert, "t5": self._t5, "llamavae_lstm": self._lstm}[s.type]
        x = run(batch, tokens)
        if self.queries:
            return self._attention_pooling(x)
        h = tape.operation((batch, s.hidden), x.dtype, [tape.elementwise(x)])
        if self.dense:
            h = part.linear("dense", h, self.dense, adapts=False)
        return h

    def _attention_pooling(self, x: Array) -> Array:
        part, tape = self.part, self.part.tape
        batch, tokens, hidden = x.shape
        query = part.weight("attention.query", (self.queries, hidden), True)
        products = batch * tokens * self.queries * hidden
        scores = tape.matmul(x, tape.cast(query, x.dtype), (batch, tokens, self.queries), products)
        scores = tape.elementwise(tape.cast(scores, "float32"))
        scores = tape.keep(scores, scores)
        weights = tape.cast(scores, x.dtype)
        return tape.matmul(weights, x, (batch, self.queries, hidden), products).view(
            batch, self.queries * hidden
        )

    def _layers(self, x: Array, bias: Array | None = None) -> Array:
        layer = self._bert_layer if self.sizes.type == "bert" else self._t5_layer
        for number in range(self.sizes.layers):
            if self.checkpoints:
                x = self.part.tape.checkpoint(layer, x, number, bias)
            else:
                x = layer(x, number, bias)
        return x

    def _heads(self, x: Array) -> Array:
        batch, tokens, _ = x.shape
        return x.view(batch, self.sizes.heads, tokens, self.sizes.head_size)

    # ------------------------------------------------------------------ BERT

    def _bert(self, batch: int, tokens: int) -> Array:
        part, tape, s = self.part, self.part.tape, self.sizes
        x = part.embedding("embeddings", s.vocabulary, s.hidden, (batch, tokens))
        x = tape.add(x, part.embedding("types", 2, s.hidden, (batch, tokens)))
        x = tape.add(x, part.embedding("positions", s.positions, s.hidden, (1, tokens)))
        if self.pooler:
            part.weight("pooler", (s.hidden, s.hidden), False)
            part.weight("pooler.bias", (s.hidden,), False)
        return self._layers(part.layer_norm("norm", x))

    def _bert_layer(self, x: Array, layer: int, _: Array | None) -> Array:
        part, tape, s = self.part, self.part.tape, self.sizes
        q, k, v = (self._heads(part.linear(f"{layer}.{name}", x, s.hidden, True)) for name in "qkv")
        mask = tape.leaf((x.shape[0], 1, x.shape[1], x.shape[1]), "bool")
        y = part.attention(q, k, v, self.kernel, mask)
        y = part.linear(f"{layer}.o", y.view(*x.shape), s.hidden, True)
        x = part.layer_norm(f"{layer}.norm", tape.add(y, x))
        y = part.linear(f"{layer}.ffn.up", x, s.ffn, True)
        y = tape.elementwise(y, y)
        y = part.linear(f"{layer}.ffn.down", y, s.hidden, True)
        return part.layer_norm(f"{layer}.ffn.norm", tape.add(y, x))

    # ------------------------------------------------------------------ T5

    def _t5(self, batch: int, tokens: int) -> Array:
        part, s = self.part, self.sizes
        x = part.embedding("embeddings", s.vocabulary, s.hidden, (batch, tokens))
        bias = part.embedding("bias", _BUCKETS, s.heads, (tokens, tokens))
        return part.rms_norm("norm", self._layers(x, bias))

    def _t5_layer(self, x: Array, layer: int, bias: Array | None) -> Array:
        part, tape, s = self.part, self.part.tape, self.sizes
        y = part.rms_norm(f"{layer}.norm", x)
        inner = s.heads * s.head_size
        q, k, v = (self._heads(part.linear(f"{layer}.{name}", y, inner)) for name in "qkv")
        if bias is not None:  # with the mask of the sentences, one for each of them
            scores = (x.shape[0], s.heads, x.shape[1], x.shape[1])
            bias = tape.operation(scores, bias.dtype, [bias])
        y = part.attention(q, k, v, self.kernel, bias=bias).view(*x.shape[:2], inner)
        del bias
        x = tape.add(x, part.linear(f"{layer}.o", y, s.hidden))
        y = part.rms_norm(f"{layer}.ffn.norm", x)
        if s.gated:
            gate = part.gelu_new(part.linear(f"{layer}.ffn.gate", y, s.ffn))
            y = tape.multiply(gate, part.linear(f"{layer}.ffn.up", y, s.ffn))
        else:
            y = part.linear(f"{layer}.ffn.up", y, s.ffn)
            y = tape.elementwise(y)
            y = tape.keep(y, y)
        return tape.add(x, part.linear(f"{layer}.ffn.down", y, s.hidden))

    # ------------------------------------------------------------------ LSTM

    def _lstm(self, batch: int, tokens: int) -> Array:
        s = self.sizes
        x = self.part.embedding("embeddings", s.vocabulary, s.embedding, (batch, tokens))
        ways = []
        for way in ("rightwards", "leftwards"):
            y = x
            for layer in range(s.layers):
                y = lstm_layer(self.part, f"{way}.{layer}", y, s.hidden // 2)
            ways.append(y)
        return self.part.tape.concatenate(ways, (batch, tokens, s.hidden))
