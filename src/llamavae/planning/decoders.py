"""Forward passes of decoders on a tape, written like the models of transformers.

What a line allocates and keeps has to be what the model allocates and keeps there. The tests
compare the parameters with those of the real modules, and the memory with measurements.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamavae.planning.parts import Kernel, Part
from llamavae.planning.sizes import Sizes
from llamavae.planning.tape import Array

KeyValue = tuple[Array, Array]


@dataclass
class Steering:
    """How z reaches the decoder, see `llamavae.modeling.injection.Steering`.

    Attributes:
        memory: Key and value (B, G, M, C) of each layer.
        prompt: Embeddings (B, M, H) before the text.
        offset: Vector (B, H) that is added to each embedding.
        dropout: Whether input tokens are dropped.
    """

    memory: list[KeyValue] | None = None
    prompt: Array | None = None
    offset: Array | None = None
    dropout: bool = False

    def memory_of(self, layer: int) -> KeyValue | None:
        """The memory of a layer."""
        return None if self.memory is None else self.memory[layer]


class Decoder:
    """A causal language model.

    Args:
        part: Its weights.
        sizes: Its sizes.
        heads_train: Whether token embeddings and LM head train.
        kernel: How attention is computed.
        checkpoints: Whether activations are recomputed.
    """

    def __init__(
        self, part: Part, sizes: Sizes, heads_train: bool, kernel: Kernel, checkpoints: bool
    ) -> None:
        self.part, self.sizes, self.heads_train = part, sizes, heads_train
        self.kernel: Kernel = kernel
        self.checkpoints = checkpoints
        self.tape = part.tape

    def states(self, batch: int, tokens: int, steering: Steering) -> Array:
        """Inputs of the LM head (B, T, H)."""
        x = self._embed(batch, tokens, steering)
        if self.sizes.type == "llamavae_lstm":
            return self._lstm(x)
        for layer in range(self.sizes.layers):
            function = self._gpt2_layer if self.sizes.type == "gpt2" else self._llama_layer
            memory = steering.memory_of(layer)
            if self.checkpoints:
                x = self.tape.checkpoint(function, x, layer, memory)
            else:
                x = function(x, layer, memory)
        if self.sizes.type == "gpt2":
            return self.part.layer_norm("norm", x)
        return self.part.rms_norm("norm", x, offset=self.sizes.type == "gemma3_text")

    def head(self) -> tuple[Array, Array | None]:
        """Weight (V, H) and bias of the LM head."""
        s, part = self.sizes, self.part
        name = "embeddings" if s.tied else "head"
        bias = part.weight("head.bias", (s.vocabulary,)) if s.type == "llamavae_lstm" else None
        return part.weight(name, (s.vocabulary, s.hidden), self.heads_train), bias

    def _embed(self, batch: int, tokens: int, steering: Steering) -> Array:
        s, tape = self.sizes, self.tape
        size = s.embedding
        x = self.part.embedding("embeddings", s.vocabulary, size, (batch, tokens), self.heads_train)
        if s.type == "gemma3_text":
            x = tape.elementwise(x)  # scaled
        if s.type == "llamavae_lstm":
            x = self.part.drop(x, s.dropout)
        if steering.dropout:
            x = tape.elementwise(x)
        if steering.offset is not None:
            x = tape.add(x, tape.cast(steering.offset.view(batch, 1, size), x.dtype))
        if steering.prompt is not None:
            slots = steering.prompt.shape[1]
            prompt = tape.cast(steering.prompt, x.dtype)
            x = tape.concatenate([prompt, x], (batch, slots + tokens, size))
        if s.positions:
            place = self.part.embedding("positions", s.positions, size, (1, x.shape[1]))
            x = self.part.drop(tape.add(x, place), s.dropout)
        return x

    # ------------------------------------------------------------------ LLaMA and its relatives

    def _llama_layer(self, x: Array, layer: int, memory: KeyValue | None) -> Array:
        part, tape, gemma = self.part, self.tape, self.sizes.type == "gemma3_text"
        residual = x
        x = part.rms_norm(f"{layer}.norm", x, gemma)
        x = self._llama_attention(x, layer, memory)
        if gemma:
            x = part.rms_norm(f"{layer}.norm_after", x, gemma)
        x = tape.add(residual, x)
        residual = x
        x = part.rms_norm(f"{layer}.ffn.norm", x, gemma)
        x = self._llama_ffn(x, layer)
        if gemma:
            x = part.rms_norm(f"{layer}.ffn.norm_after", x, gemma)
        return tape.add(residual, x)

    def _llama_ffn(self, x: Array, layer: int) -> Array:
        part, tape, s = self.part, self.tape, self.sizes
        gate = part.linear(f"{layer}.ffn.gate", x, s.ffn, s.mlp_bias)
        gate = tape.elementwise(gate, gate)
        up = part.linear(f"{layer}.ffn.up", x, s.ffn, s.mlp_bias)
        return part.linear(f"{layer}.ffn.down", tape.multiply(gate, up), s.hidden, s.mlp_bias)

    def _llama_attention(self, x: Array, layer: int, memory: KeyValue | None) -> Array:
        part, s = self.part, self.sizes
        batch, tokens, _ = x.shape
        dtype = x.dtype
        q = part.linear(f"{layer}.q", x, s.heads * s.head_size, s.attention_bias)
        k = part.linear(f"{layer}.k", x, s.kv_heads * s.head_size, s.attention_bias)
        v = part.linear(f"{layer}.v", x, s.kv_heads * s.head_size, s.attention_bias)
        q = q.view(batch, s.heads, tokens, s.head_size)
        k, v = (a.view(batch, s.kv_heads, tokens, s.head_size) for a in (k, v))
        if s.type in ("qwen3", "gemma3_text"):
            q, k = (
                part.rms_norm(f"{layer}.{name}_norm", a, s.type == "gemma3_text")
                for name, a in (("q", q), ("k", k))
            )
        q, k = self._rotate(q, k, dtype)
        y = self._attend(q, k, v, memory)
        y = y.view(batch, tokens, s.heads * s.head_size)
        return part.linear(f"{layer}.o", y, s.hidden, s.output_bias)

    def _rotate(self, q: Array, k: Array, dtype: str) -> tuple[Array, Array]:
        """Rotary positions (arXiv 2104.09864); their tables have the type of the layer's input."""
        tape = self.tape
        tables = [tape.leaf((1, 1, *q.shape[2:]), dtype) for _ in range(2)]

        def rotated(x: Array) -> Array:
            half = tape.operation(x.shape, x.dtype, [x], transient=x.bytes)
            return tape.add(tape.multiply(x, tables[0]), tape.multiply(half, tables[1]))

        return rotated(q), rotated(k)

    def _attend(self, q: Array, k: Array, v: Array, memory: KeyValue | None) -> Array:
        tape, s = self.tape, self.sizes
        batch, _, tokens, _ = q.shape
        mask = None
        slots = 0
        if memory is not None:
            slots = memory[0].shape[2]
            shape = (batch, s.kv_heads, slots + tokens, s.head_size)
            k, v = (
                tape.concatenate([tape.cast(m, a.dtype), a], shape)
                for m, a in zip(memory, (k, v), strict=True)
            )
        windowed = bool(s.window) and tokens > s.window
        if memory is not None or windowed or self.kernel != "fused":
            mask = tape.leaf((tokens, slots + tokens), "bool")
        if s.heads != s.kv_heads and (mask is not None or s.head_size > 256):
            shape = (batch, s.heads, slots + tokens, s.head_size)
            k, v = (tape.operation(shape, a.dtype, [a]) for a in (k, v))
        return self.part.attention(q, k, v, self.kernel, mask, dropout=s.dropout)

    # ------------------------------------------------------------------ GPT-2

    def _gpt2_layer(self, x: Array, layer: int, memory: KeyValue | None) -> Array:
        part, tape, s = self.part, self.tape, self.sizes
        batch, tokens, _ = x.shape
        residual = x
        x = part.layer_norm(f"{layer}.norm", x)
        x = part.linear(f"{layer}.qkv", x, 3 * s.hidden, True)
        q, k, v = tape.split(x, (batch, s.heads, tokens, s.head_size), 3)
        del x
        y = self._attend(q, k, v, memory).view(batch, tokens, s.hidden)
        y = part.drop(part.linear(f"{layer}.o", y, s.hidden, True), s.dropout)
        x = tape.add(y, residual)
        residual = x
        x = part.layer_norm(f"{layer}.ffn.norm", x)
        x = part.linear(f"{layer}.ffn.up", x, s.ffn, True)
        x = part.gelu_new(x)
        x = part.drop(part.linear(f"{layer}.ffn.down", x, s.hidden, True), s.dropout)
        return tape.add(residual, x)

    # ------------------------------------------------------------------ LSTM

    def _lstm(self, x: Array) -> Array:
        for layer in range(self.sizes.layers):
            x = lstm_layer(self.part, f"lstm.{layer}", x, self.sizes.hidden)
        return self.part.drop(x, self.sizes.dropout)


def lstm_layer(part: Part, name: str, x: Array, hidden: int) -> Array:
    """One layer of an LSTM in one direction.

    What it keeps for each token is not that of the formulas, but measured: 15.5 numbers per hidden
    unit on a CPU, where torch runs it token by token. cuDNN keeps less.
    """
    tape = part.tape
    batch, tokens, size = x.shape
    w = part.weight(f"{name}.input", (4 * hidden, size))
    u = part.weight(f"{name}.recurrent", (4 * hidden, hidden))
    biases = [part.weight(f"{name}.bias.{i}", (4 * hidden,)) for i in range(2)]
    kept = tape.leaf((batch, tokens, 31 * hidden // 2), x.dtype)
    products = batch * tokens * 4 * hidden * (size + hidden)
    y = tape.operation(
        (batch, tokens, hidden),
        x.dtype,
        [x, w, u, *biases],
        [x, w, u, kept],
        flops=2 * products,
        backward_flops=4 * products,
        transient=7 * kept.bytes / 15.5,
    )
    return tape.keep(y, y)
