"""Arrays without values: what a forward and a backward pass allocate, keep and compute.

A miniature of torch's autograd in plain Python. An operation allocates its result, keeps what its
derivative needs, and counts its floating-point operations; `Tape.backward` replays the derivatives
in reverse order and frees what they kept. Storage is freed when Python drops its last reference, as
in torch, so that code which is written like that of a model has the same peak. Nothing heavy is
imported, and a model of any size takes milliseconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

Shape = tuple[int, ...]

SIZES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int64": 8.0, "bool": 1.0}
"""Bytes of a number."""


class Memory:
    """Bytes in use, by kind, and at the moment of the peak."""

    def __init__(self) -> None:
        self.now = self.peak = 0.0
        self.kinds: defaultdict[str, float] = defaultdict(float)
        self.at_peak: dict[str, float] = {}

    def add(self, kind: str, size: float) -> None:
        """Allocate, or with a negative size free."""
        self.kinds[kind] += size
        self.now += size
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, dict(self.kinds)


class Storage:
    """Memory of an array; it is in use as long as there is a reference to this object."""

    __slots__ = ("kind", "memory", "size")

    def __init__(self, memory: Memory, kind: str, size: float) -> None:
        self.memory, self.kind, self.size = memory, kind, size
        memory.add(kind, size)

    def __del__(self) -> None:
        self.memory.add(self.kind, -self.size)

    def relabel(self, kind: str) -> None:
        """Count it as another kind from now on."""
        self.memory.kinds[self.kind] -= self.size
        self.memory.kinds[kind] += self.size
        self.kind = kind


class Node:
    """How the gradient of an array is passed on to its inputs.

    Attributes:
        inputs: Nodes of the inputs, the bytes of their gradients, and whether such a gradient is
            the array's own, without a copy, or the memory that already holds it.
        saved: What the derivative needs.
        flops: Floating-point operations of the derivative.
        transient: Bytes that are in use only while it is computed.
        replay: Recomputes a checkpointed part before its derivative.
        grad: The gradient of the array, once there is one.
        parameter: Whether it is a weight, whose gradient is kept.
    """

    __slots__ = ("flops", "grad", "inputs", "parameter", "replay", "saved", "transient")

    def __init__(
        self,
        inputs: Sequence[tuple[Node, float, bool | Storage]] = (),
        saved: Sequence[Storage] = (),
        flops: float = 0,
        transient: float = 0,
    ) -> None:
        self.inputs, self.saved, self.flops, self.transient = inputs, saved, flops, transient
        self.replay: Callable[[Node], None] | None = None
        self.grad: Storage | None = None
        self.parameter = False


class Array:
    """An array without values.

    Attributes:
        shape: Its shape.
        dtype: Name of its data type.
        storage: Its memory.
        node: None if it has no gradient.
    """

    __slots__ = ("dtype", "node", "shape", "storage")

    def __init__(self, shape: Shape, dtype: str, storage: Storage, node: Node | None) -> None:
        self.shape, self.dtype, self.storage, self.node = shape, dtype, storage, node

    @property
    def bytes(self) -> float:
        """Size of its values, and of its gradient."""
        return prod(self.shape) * SIZES[self.dtype]

    def require_gradient(self) -> None:
        """Make it a weight that trains."""
        self.node = Node()
        self.node.parameter = True

    def view(self, *shape: int) -> Array:
        """The same values in another shape."""
        return Array(shape, self.dtype, self.storage, self.node)


class Tape:
    """Arrays, their memory, and the derivatives to compute.

    Args:
        autocast: Matrix products read float32 inputs as bfloat16, as under `torch.autocast`.

    Attributes:
        memory: What is in use.
        flops: Floating-point operations so far.
    """

    def __init__(self, autocast: bool = False) -> None:
        self.autocast = autocast
        self.memory = Memory()
        self.flops = 0.0
        self._nodes: list[Node] = []
        self._records = True
        self._casts: dict[int, Array] = {}  # copies of trained weights, until a forward pass ends

    # ------------------------------------------------------------------ making arrays

    def storage(self, size: float, kind: str = "activations") -> Storage:
        """Memory of `size` bytes."""
        return Storage(self.memory, kind, size)

    def leaf(self, shape: Shape, dtype: str, kind: str = "activations") -> Array:
        """An array that is not computed, such as an input or a mask."""
        return Array(shape, dtype, self.storage(prod(shape) * SIZES[dtype], kind), None)

    def operation(
        self,
        shape: Shape,
        dtype: str,
        inputs: Sequence[Array],
        saved: Sequence[Array] = (),
        *,
        flops: float = 0,
        backward_flops: float = 0,
        shares: bool = False,
        transient: float = 0,
        kind: str = "activations",
    ) -> Array:
        """The result of an operation.

        Args:
            shape: Shape of the result.
            dtype: Data type of the result.
            inputs: Arrays that it is computed from.
            saved: Arrays that its derivative needs; not the result itself.
            flops: Floating-point operations.
            backward_flops: Those of the derivative.
            shares: The gradients of inputs of this size are that of the result, without a copy.
            transient: Bytes in use only during the derivative.
            kind: Kind of memory.
        """
        self.flops += flops
        result = self.leaf(shape, dtype, kind)
        if self._records and any(x.node for x in inputs):
            edges = [
                (x.node, x.bytes, shares and x.bytes == result.bytes) for x in inputs if x.node
            ]
            storages = [x.storage for x in saved]
            result.node = Node(edges, storages, backward_flops, transient)
            self._nodes.append(result.node)
        return result

    def keep(self, result: Array, *saved: Array) -> Array:
        """Keep more arrays for the derivative of `result`, such as the result itself."""
        if result.node is not None and self._records:
            result.node.saved = [*result.node.saved, *(x.storage for x in saved)]
        return result

    # ------------------------------------------------------------------ element-wise operations

    def cast(self, x: Array, dtype: str, kind: str = "activations") -> Array:
        """A copy in another data type; `x` itself if it has that type."""
        return x if x.dtype == dtype else self.operation(x.shape, dtype, [x], kind=kind)

    def elementwise(self, x: Array, *saved: Array) -> Array:
        """A function of each element of `x`, whose derivative needs `saved`."""
        return self.operation(x.shape, x.dtype, [x], saved)

    def add(self, a: Array, b: Array) -> Array:
        """The sum of both, in the wider type and the larger shape."""
        return self.operation(max(a, b, key=_extent).shape, wider(a, b), [a, b], shares=True)

    def multiply(self, a: Array, b: Array) -> Array:
        """The product of both, in the wider type and the larger shape."""
        small, big = sorted((a, b), key=_extent)
        saved = [x for x, other in ((a, b), (b, a)) if other.node]
        summed = small.node is not None and prod(small.shape) < prod(big.shape)
        transient = prod(big.shape) * SIZES[wider(a, b)] if summed else 0.0
        return self.operation(big.shape, wider(a, b), [a, b], saved, transient=transient)

    def concatenate(self, parts: Sequence[Array], shape: Shape) -> Array:
        """One array of several; their gradients are parts of its own."""
        result = self.operation(shape, parts[0].dtype, parts)
        if result.node:
            result.node.inputs = [(node, 0.0, False) for node, _, _ in result.node.inputs]
        return result

    def split(self, x: Array, shape: Shape, count: int) -> list[Array]:
        """Parts of `x`, each of a shape, that share its memory."""
        parts = [Array(shape, x.dtype, x.storage, None) for _ in range(count)]
        if self._records and x.node is not None:
            for part in parts:  # one of them allocates the gradient of the whole
                part.node = Node([(x.node, x.bytes if part is parts[-1] else 0.0, False)])
                self._nodes.append(part.node)
        return parts

    # ------------------------------------------------------------------ matrix products

    def half(self, x: Array) -> Array:
        """An input of a matrix product: in bfloat16 under autocast, unchanged otherwise."""
        if not self.autocast or x.dtype != "float32":
            return x
        if x.node is None or not x.node.parameter:
            return self.cast(x, "bfloat16")
        if id(x) not in self._casts:
            self._casts[id(x)] = self.cast(x, "bfloat16", "copies")
        return self._casts[id(x)]

    def weight(self, w: Array) -> Array:
        """A weight in a matrix product; copies of weights are counted as such."""
        if self.autocast and w.dtype == "float32" and w.node is None:
            return self.cast(w, "bfloat16", "copies")
        return self.half(w)

    def recording(self, on: bool) -> None:
        """Whether derivatives are recorded, as with `torch.no_grad`."""
        self._records = on

    def end_forward(self) -> None:
        """Drop the copies of trained weights that no derivative needs."""
        self._casts = {}

    def matmul(self, a: Array, b: Array, shape: Shape, products: float) -> Array:
        """A batch of matrix products with `products` multiplications."""
        a, b = self.half(a), self.half(b)
        saved = [x for x, other in ((a, b), (b, a)) if other.node]
        back = 2 * products * sum(x.node is not None for x in (a, b))
        return self.operation(
            shape, wider(a, b), [a, b], saved, flops=2 * products, backward_flops=back
        )

    # ------------------------------------------------------------------ checkpoints, backward

    def checkpoint(self, part: Callable[..., Array], x: Array, *others: Any) -> Array:
        """part(x, ...) that keeps its inputs only, and is computed again for the derivative."""
        if not self._records:
            return part(x, *others)
        self._records = False
        result = part(x, *others)
        self._records = True
        node = Node(saved=[x.storage])

        def replay(own: Node) -> None:
            nodes, self._nodes = self._nodes, []
            again = part(x, *others).node
            self._casts = {}
            if again is not None:
                again.grad, own.grad = own.grad, None
                self._run()
            self._nodes = nodes

        node.replay = replay
        result.node = node
        self._nodes.append(node)
        return result

    def backward(self, loss: Array) -> None:
        """Compute the gradients of all weights that train."""
        if loss.node is not None:
            loss.node.grad = self.storage(loss.bytes)
        self._run()

    def _run(self) -> None:
        while self._nodes:
            node = self._nodes.pop()
            if node.grad is None:
                continue
            if node.replay is not None:
                node.replay(node)
                continue
            own, node.grad = node.grad, None
            self.flops += node.flops
            work = self.storage(node.transient) if node.transient else None
            pairs = [
                (source, self._gradient(own, size, same)) for source, size, same in node.inputs
            ]
            node.saved = node.inputs = ()
            del own, work
            for source, grad in pairs:
                if source.grad is None:  # otherwise it is added to the one that exists
                    source.grad = grad
                    if source.parameter:
                        grad.relabel("gradients")
            del pairs

    def _gradient(self, own: Storage, size: float, same: bool | Storage) -> Storage:
        """The memory of the gradient of an input of a node whose gradient is `own`."""
        if isinstance(same, Storage):
            return same
        return own if same else self.storage(size)


def wider(a: Array, b: Array) -> str:
    """The data type of a + b."""
    return a.dtype if SIZES[a.dtype] >= SIZES[b.dtype] else b.dtype


def _extent(x: Array) -> tuple[int, int]:
    """What orders arrays by size; at the same size, a weight (H,) is below a state (1, 1, H)."""
    return prod(x.shape), len(x.shape)
