"""The layers that models are made of, on a `Tape`: their weights, arithmetic and memory."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import Literal

from llamavae.planning.tape import SIZES, Array, Shape, Tape

Kernel = Literal["fused", "math", "eager"]
"""Attention: one kernel without the matrix of attention weights, or with it, by torch or by
transformers."""

QUANTISED = {"4bit": 0.5 + 4 / 64, "8bit": 1.0}
"""Bytes of a quantised weight in bitsandbytes; in 4 bits with a float32 scale for 64 weights."""


@dataclass(frozen=True)
class Weight:
    """A weight of a part.

    Attributes:
        array: The weight.
        size: Bytes that it takes.
        trains: Whether it trains.
        adapter: Whether it is a LoRA matrix.
    """

    array: Array
    size: float
    trains: bool
    adapter: bool = False

    @property
    def numel(self) -> int:
        """Number of parameters."""
        return prod(self.array.shape)


class Part:
    """A part of a model: its weights, which are created when a layer first uses them.

    Args:
        tape: What its layers run on.
        dtype: Data type of frozen weights; weights that train are float32.
        trains: Whether its weights train.
        lora: Rank of the LoRA matrices of its linear layers; 0 for none.
        quantisation: Of its linear layers, `4bit` or `8bit`.
        dropout: Whether dropout is active.
        share: Share of the frozen weights of its layers that this device holds, see
            `llamavae.modeling.sharding`.
    """

    def __init__(
        self,
        tape: Tape,
        dtype: str = "float32",
        trains: bool = True,
        lora: int = 0,
        quantisation: str | None = None,
        dropout: bool = False,
        share: float = 1.0,
    ) -> None:
        self.tape, self.dtype, self.trains, self.dropout = tape, dtype, trains, dropout
        self.lora, self.quantisation, self.share = lora, quantisation, share
        self.weights: dict[str, Weight] = {}

    def weight(
        self,
        name: str,
        shape: Shape,
        trains: bool | None = None,
        *,
        adapter: bool = False,
        quantised: bool = False,
    ) -> Array:
        """A weight by name."""
        if name not in self.weights:
            trains = self.trains if trains is None else trains
            dtype, kind = "float32" if trains else self.dtype, "weights"
            size = prod(shape) * SIZES[dtype]
            if quantised and self.quantisation:
                dtype, size = "bfloat16", prod(shape) * QUANTISED[self.quantisation]
            share = self.share if name[0].isdecimal() and not trains else 1.0
            array = Array(shape, dtype, self.tape.storage(share * size, kind), None)
            if trains:
                array.require_gradient()
            self.weights[name] = Weight(array, size, trains, adapter)
        return self.weights[name].array

    def frozen_layers(self) -> tuple[float, ...]:
        """Bytes of the frozen weights of each layer, whose names begin with its number."""
        sizes: defaultdict[str, float] = defaultdict(float)
        for name, weight in self.weights.items():
            if name[0].isdecimal() and not weight.trains:
                sizes[name.partition(".")[0]] += weight.size
        return tuple(sizes.values())

    # ------------------------------------------------------------------ linear layers

    def linear(
        self,
        name: str,
        x: Array,
        outputs: int,
        bias: bool = False,
        *,
        adapts: bool = True,
        trains: bool | None = None,
        kind: str = "activations",
    ) -> Array:
        """A linear map of `x` (..., inputs) to (..., outputs), with its LoRA matrices.

        Args:
            name: Name of the layer.
            x: Its input.
            outputs: Size of its output.
            bias: Whether it has a bias.
            adapts: Whether it can be quantised and have LoRA matrices.
            trains: Whether it trains; None for the part's setting.
            kind: Kind of memory of its output.
        """
        tape, inputs = self.tape, x.shape[-1]
        quantised = adapts and self.quantisation is not None
        w = self.weight(name, (outputs, inputs), trains, quantised=quantised)
        b = self.weight(f"{name}.bias", (outputs,), trains) if bias else None
        dense = tape.storage(prod(w.shape) * 2.0) if quantised else None  # dequantised for a moment
        y = self.product(x, w, b, kind, quantised)
        del dense
        if not (self.lora and adapts):
            return y
        down = self.weight(f"{name}.lora_a", (self.lora, inputs), True, adapter=True)
        up = self.weight(f"{name}.lora_b", (outputs, self.lora), True, adapter=True)
        low = self.product(tape.cast(x, "float32"), down)
        y2 = tape.add(y, tape.elementwise(self.product(low, up)))
        return tape.cast(y2, y.dtype)

    def product(
        self,
        x: Array,
        w: Array,
        bias: Array | None = None,
        kind: str = "activations",
        quantised: bool = False,
    ) -> Array:
        """A product of `x` (..., inputs) and a weight (outputs, inputs), with a bias if given.

        Args:
            x: Left factor.
            w: The weight.
            bias: A bias (outputs,).
            kind: Kind of memory of the result.
            quantised: Whether the weight is dequantised for the product.
        """
        tape = self.tape
        x, w = tape.half(x), tape.weight(w)
        products = prod(x.shape) * w.shape[0]
        saved = [a for a, other in ((x, w), (w, x)) if other.node]
        trained = [a for a in (x, w) if a.node]
        return tape.operation(
            (*x.shape[:-1], w.shape[0]),
            x.dtype,
            [x, w] if bias is None else [x, w, tape.weight(bias)],
            saved,
            flops=2 * products,
            backward_flops=2 * products * len(trained),
            transient=prod(w.shape) * 2.0 if quantised else 0.0,
            kind=kind,
        )

    def embedding(
        self, name: str, count: int, size: int, shape: Shape, trains: bool | None = None
    ) -> Array:
        """Embeddings (..., size) of ids (...) of a table with `count` entries."""
        table = self.weight(name, (count, size), trains)
        return self.tape.operation((*shape, size), table.dtype, [table])

    # ------------------------------------------------------------------ normalisation, dropout

    def rms_norm(self, name: str, x: Array, offset: bool = False) -> Array:
        """RMSNorm (arXiv 1910.07467) in float32, as LLaMA's.

        Args:
            name: Name of the layer.
            x: Its input.
            offset: Gemma's variant, which multiplies by 1 + weight in float32.
        """
        tape = self.tape
        w = self.weight(name, (x.shape[-1],))
        h = tape.cast(x, "float32")
        square = tape.operation(h.shape, h.dtype, [h], [h], transient=h.bytes)
        mean = tape.operation((*h.shape[:-1], 1), h.dtype, [square])
        if mean.node is not None:  # the gradient of a mean is an expanded view
            mean.node.inputs = [(node, 0.0, False) for node, _, _ in mean.node.inputs]
        del square
        root = tape.operation(mean.shape, mean.dtype, [mean])
        h = tape.multiply(h, tape.keep(root, root))
        if offset:
            return tape.cast(tape.multiply(h, tape.cast(w, "float32")), x.dtype)
        return tape.multiply(w, tape.cast(h, x.dtype))

    def layer_norm(self, name: str, x: Array) -> Array:
        """LayerNorm (arXiv 1607.06450) with weight and bias."""
        w, b = (self.weight(f"{name}.{which}", (x.shape[-1],)) for which in ("weight", "bias"))
        return self.tape.operation(x.shape, x.dtype, [x, w, b], [x, w])

    def drop(self, x: Array, p: float) -> Array:
        """Dropout with probability `p`."""
        if not (self.dropout and p):
            return x
        return self.tape.multiply(x, self.tape.leaf(x.shape, x.dtype))

    def gelu_new(self, x: Array) -> Array:
        """The GELU of GPT-2 and T5 (arXiv 1606.08415), as a formula of seven operations."""
        tape = self.tape
        inner = tape.add(x, tape.elementwise(tape.elementwise(x, x)))
        curve = tape.elementwise(tape.elementwise(inner))
        curve = tape.elementwise(tape.keep(curve, curve))
        return tape.multiply(tape.elementwise(x), curve)

    # ------------------------------------------------------------------ attention

    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        kernel: Kernel,
        mask: Array | None = None,
        bias: Array | None = None,
        dropout: float = 0.0,
    ) -> Array:
        """Attention of queries (B, h, T, C) over keys and values (B, h, S, C), (B, h, T, C).

        Args:
            q: Queries.
            k: Keys.
            v: Values.
            kernel: How it is computed.
            mask: Which keys a query sees, (T, S); None for all, or for the causal mask of a kernel.
            bias: What is added to the scores, (B, h, T, S).
            dropout: Dropout of the attention weights; a fused kernel keeps no mask of it.
        """
        tape = self.tape
        batch, heads, queries, size = q.shape
        keys = k.shape[2]
        scores, products = (batch, heads, queries, keys), batch * heads * queries * keys * size
        if kernel == "fused":
            q, k, v = (tape.half(x) for x in (q, k, v))
            mask = mask and tape.leaf(mask.shape, q.dtype)
            sums = tape.leaf((batch, heads, queries), "float32")
            saved = [x for x in (q, k, v, mask, bias, sums) if x is not None]
            inputs = [x for x in (q, k, v, bias) if x is not None]
            y = tape.operation(
                (*q.shape[:3], v.shape[3]),
                q.dtype,
                inputs,
                saved,
                flops=4 * products,
                backward_flops=10 * products,
            )
            return tape.keep(y, y)
        if kernel == "math":
            dtype = q.dtype
            q, k, v = (tape.cast(x, "float32") for x in (q, k, v))
            q, k = tape.elementwise(q), tape.elementwise(k)  # both are scaled
            a = tape.matmul(q, k, scores, products)
            if mask is not None or bias is not None:
                a = tape.elementwise(a) if bias is None else tape.add(a, bias)
            a = tape.elementwise(a)
            a = self.drop(tape.keep(a, a), dropout)
            y = tape.matmul(a, v, (*q.shape[:3], v.shape[3]), products)
            return tape.cast(y, dtype)
        dtype = q.dtype
        a = tape.matmul(q, k, scores, products)
        a = tape.elementwise(a)  # scaled
        if bias is not None:
            a = tape.add(a, bias)
        if mask is not None:
            a = tape.elementwise(a)
        a = tape.cast(a, "float32")
        a = tape.elementwise(a)
        a = self.drop(tape.cast(tape.keep(a, a), dtype), dropout)
        return tape.matmul(a, v, (*q.shape[:3], v.shape[3]), products)
