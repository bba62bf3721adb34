"""One optimiser step of a training run on a tape: parameters, memory and operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from llamavae.planning.decoders import Decoder, Steering
from llamavae.planning.encoders import Encoder
from llamavae.planning.parts import Kernel, Part, Weight
from llamavae.planning.sizes import Sizes
from llamavae.planning.tape import Array, Tape

_SMALL = 2**26  # logits up to this number are computed at once, as in modeling/cross_entropy.py
_CHUNK = 256  # otherwise logits of this number of tokens are in memory
_EVALUATED = 64  # sentences at a time, as in training/measure.py
_LONGER = 8  # tokens of a decoded sentence beyond those of a real one, as there
_GATHERED = 2  # layers that are whole at a time in FSDP2: one computes, and another is on its way
ADAM = 8  # bytes of the two moments of a weight that trains


@dataclass(frozen=True)
class Setup:
    """What determines the memory of a training step.

    Attributes:
        decoder: Sizes of the decoder.
        encoder: Sizes of the encoder; None with precomputed vectors.
        latent_dim: Size D of z.
        injection: Name of the injection.
        slots: Number M of memory slots or prompt embeddings.
        hidden: Hidden size of the MLP of the injection; 0 for a linear map.
        tied_kv: Whether a memory slot has one vector for key and value.
        scaled: Whether memory is scaled.
        standardise: Whether sentence vectors are standardised.
        decoder_training: What trains in the decoder.
        decoder_dtype: Type of its frozen weights.
        quantisation: `4bit` or `8bit`; None for none.
        attention: `sdpa` or `eager`.
        encoder_training: What trains in the encoder.
        encoder_dtype: Type of its frozen weights.
        pooler: See `Encoder`.
        dense: See `Encoder`.
        queries: See `Encoder`.
        vector_dim: Size of precomputed vectors.
        lora_rank: Rank of LoRA matrices.
        word_dropout: Whether input tokens are dropped.
        bag_of_words: Whether there is a bag-of-words loss.
        discriminator: Hidden size of a discriminator; 0 for none.
        batch: Sentences per optimiser step, over all devices.
        micro: Sentences of a micro-batch, on one device.
        devices: Number of devices, each with a copy of what is not `sharded`.
        tokens: Tokens of a sentence, with its end.
        evaluated: Held-out sentences that are evaluated, at most 64 at a time.
        decoded: Held-out sentences that are decoded, at most 64 at a time.
        precision: `float32` or `bfloat16`.
        checkpoints: Whether activations are recomputed.
        sharded: Whether the frozen layers of the decoder are distributed over the devices.
        offloaded: Whether their parts are in the memory of the CPU.
        embeds_encoder: Whether a checkpoint contains the encoder.
        embeds_decoder: Whether a checkpoint contains the decoder.
        cpu: Whether it runs on a CPU.
    """

    decoder: Sizes
    encoder: Sizes | None
    latent_dim: int = 128
    injection: str = "memory"
    slots: int = 1
    hidden: int = 256
    tied_kv: bool = False
    scaled: bool = False
    standardise: bool = False
    decoder_training: str = "frozen"
    decoder_dtype: str = "float32"
    quantisation: str | None = None
    attention: str = "sdpa"
    encoder_training: str = "frozen"
    encoder_dtype: str = "float32"
    pooler: bool = False
    dense: int = 0
    queries: int = 0
    vector_dim: int = 0
    lora_rank: int = 16
    word_dropout: bool = False
    bag_of_words: bool = False
    discriminator: int = 0
    batch: int = 32
    micro: int = 32
    devices: int = 1
    tokens: int = 64
    evaluated: int = 64
    decoded: int = 64
    precision: str = "float32"
    checkpoints: bool = False
    sharded: bool = False
    offloaded: bool = False
    embeds_encoder: bool = False
    embeds_decoder: bool = False
    cpu: bool = False


@dataclass(frozen=True)
class Step:
    """Numbers of one optimiser step on one device.

    Attributes:
        weights: Weights of each part of the model.
        held: Bytes by kind that are in use between steps.
        peak: Bytes at the peak.
        at_peak: Bytes by kind at the peak.
        evaluation: Bytes at the peak of an evaluation.
        layers: Bytes of the frozen weights of each layer of the decoder, which may be sharded.
        flops: Floating-point operations.
    """

    weights: Mapping[str, list[Weight]]
    held: Mapping[str, float]
    peak: float
    at_peak: Mapping[str, float]
    evaluation: float
    layers: tuple[float, ...]
    flops: float


class Model:
    """A VAE on a tape.

    Args:
        setup: Its settings.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup, s = setup, setup
        self.tape = tape = Tape(autocast=s.precision == "bfloat16")
        full = s.decoder_training == "full"
        adapts = s.decoder_training == "lora"
        part = Part(
            tape,
            s.decoder_dtype,
            full,
            s.lora_rank if adapts else 0,
            s.quantisation,
            dropout=full or adapts,
            share=0.0 if s.offloaded else 1 / s.devices if s.sharded else 1.0,
        )
        heads_train = s.decoder_training != "frozen"
        self.decoder = Decoder(part, s.decoder, heads_train, self._kernel(), s.checkpoints)
        self.encoder = None if s.encoder is None else self._encoder(s.encoder)
        self.parts = {
            "decoder": part,
            "posterior": Part(tape),
            "injection": Part(tape),
            "further losses": Part(tape),
        }
        if self.encoder is not None:
            self.parts = {"encoder": self.encoder.part, **self.parts}

    def _kernel(self) -> Kernel:
        s = self.setup
        if s.attention == "eager":
            return "eager"
        trained = s.decoder_training != "frozen"
        drops = s.decoder.dropout > 0 and s.decoder_training in ("lora", "full")
        # training on a CPU avoids the fused kernel for bfloat16, see modeling/backbones.py
        slow = s.decoder_dtype == "bfloat16" and not trained
        return "math" if s.cpu and (slow or drops) else "fused"

    def _encoder(self, sizes: Sizes) -> Encoder:
        s = self.setup
        mode = s.encoder_training
        dtype = s.encoder_dtype if mode == "frozen" else "float32"
        part = Part(self.tape, dtype, mode == "full", s.lora_rank if mode == "lora" else 0)
        biased = sizes.type == "t5" and mode == "full"
        kernel: Kernel = "math" if s.cpu and biased else "fused"
        return Encoder(part, sizes, s.pooler, s.dense, s.queries, kernel, s.checkpoints)

    @property
    def runs_encoder(self) -> bool:
        """Whether the encoder runs in a step; otherwise its vectors are cached."""
        return self.encoder is not None and (
            self.setup.encoder_training != "frozen" or self.setup.queries > 0
        )

    # ------------------------------------------------------------------ forward pass

    def loss(self, batch: int, tokens: int, building: bool = False) -> Array:
        """The loss of a micro-batch."""
        s, tape = self.setup, self.tape
        if self.encoder is not None and (building or self.runs_encoder):
            h = self.encoder.vectors(batch, tokens)
        else:
            dim = s.vector_dim if self.encoder is None else self.encoder.dim
            h = tape.leaf((batch, dim), "float32")
        z = self._posterior(h)
        steering = self._steering(z)
        states = self.decoder.states(batch, tokens, steering)
        slots = 0 if steering.prompt is None else steering.prompt.shape[1]
        del steering
        size = states.shape[-1]
        rows = tape.operation(
            (batch * tokens, size), states.dtype, [states], transient=states.bytes if slots else 0.0
        )
        del states
        loss = self._cross_entropy(rows)
        del rows
        tape.end_forward()
        if s.bag_of_words:
            loss = tape.add(loss, self._bag_of_words(z))
        if s.discriminator:
            loss = tape.add(loss, self._discriminate(z))
        return loss

    def _posterior(self, h: Array) -> Array:
        s, tape, part = self.setup, self.tape, self.parts["posterior"]
        h = tape.cast(h, "float32")
        if s.standardise:
            part.weight("mean", (h.shape[1],), False)
            part.weight("std", (h.shape[1],), False)
            h = tape.elementwise(h)
        autocast, tape.autocast = tape.autocast, False
        both = part.linear("linear", h, 2 * s.latent_dim, True)
        tape.autocast = autocast
        return tape.operation((h.shape[0], s.latent_dim), both.dtype, [both], [both])

    def _steering(self, z: Array) -> Steering:
        s, part, batch = self.setup, self.parts["injection"], z.shape[0]
        d = s.decoder
        steering = Steering(dropout=s.word_dropout)
        for name in s.injection.split("+"):
            if name == "add":
                steering.offset = part.linear("add", z, d.embedding)
            elif name == "soft_prompt":
                flat = self._mlp(name, z, s.slots * d.embedding)
                steering.prompt = flat.view(batch, s.slots, d.embedding)
            else:
                steering.memory = self._memory(z)
        return steering

    def _mlp(self, name: str, z: Array, outputs: int) -> Array:
        part, tape, hidden = self.parts["injection"], self.tape, self.setup.hidden
        if not hidden:
            return part.linear(name, z, outputs, True)
        h = part.linear(f"{name}.hidden", z, hidden, True)
        return part.linear(name, tape.elementwise(h, h), outputs, True)

    def _memory(self, z: Array) -> list[tuple[Array, Array]]:
        s, part, tape, batch = self.setup, self.parts["injection"], self.tape, z.shape[0]
        d = s.decoder
        each = 1 if s.tied_kv else 2
        pair = d.kv_heads * s.slots * d.head_size * each
        flat = self._mlp("memory", z, d.layers * pair)
        if s.scaled:
            part.weight("scales", (d.layers * pair // s.slots,), False)
        memory = []
        for _ in range(d.layers):
            shape = (batch, d.kv_heads, s.slots, d.head_size * each)
            own = Array(shape, flat.dtype, flat.storage, flat.node)
            if s.scaled:
                own = tape.operation(shape, "float32", [flat])
                if own.node is not None:  # the gradients of all layers make up that of the whole
                    own.node.inputs = [(node, 0.0, False) for node, _, _ in own.node.inputs]
            half = (batch, d.kv_heads, s.slots, d.head_size)
            memory.append((Array(half, own.dtype, own.storage, own.node),) * 2)
        return memory

    def cache(self, sentences: int) -> float:
        """Bytes of keys, values and logits of sentences that are decoded together."""
        s, d = self.setup, self.setup.decoder
        half = s.precision == "bfloat16" or s.decoder_dtype != "float32"
        # rotary positions make keys float32 again where the embeddings are
        size = 4 if not half else 2 if s.decoder_training == "frozen" else 3
        tokens = s.tokens + _LONGER + s.slots
        pair = 2 * d.layers * d.kv_heads * d.head_size * size
        return sentences * (tokens * pair + 2 * 4 * d.vocabulary)

    # ------------------------------------------------------------------ losses

    def _cross_entropy(self, rows: Array) -> Array:
        """See `llamavae.modeling.cross_entropy`."""
        tape = self.tape
        w, bias = self.decoder.head()
        count, vocabulary = rows.shape[0], w.shape[0]
        products = count * prod(w.shape)
        if count * vocabulary < _SMALL:
            logits = self.decoder.part.product(rows, w, bias, "logits")
            logits = tape.cast(logits, "float32", "logits")
            scores = tape.operation(logits.shape, "float32", [logits], kind="logits")
            scores = tape.keep(scores, scores)
            del logits
            return tape.operation((1,), "float32", [scores])
        if tape.autocast:
            rows = tape.cast(rows, "bfloat16")
        w = tape.cast(w, rows.dtype, "copies")
        trained = [a for a in (rows, w) if a.node]
        block = 4.0 * _CHUNK * vocabulary  # logits in float32
        if rows.dtype == "float32":  # the gradients are computed in the forward pass
            gradients = [tape.storage(a.bytes, "logits") for a in trained]
            work = tape.storage(block, "logits")
            del work
            flops = 2 * products * (1 + len(trained))
            loss = tape.operation((1,), "float32", trained, flops=flops)
            if loss.node is not None:
                nodes = [(node, size) for node, size, _ in loss.node.inputs]
                loss.node.inputs = [(*n, g) for n, g in zip(nodes, gradients, strict=True)]
            return loss
        # on a CPU, weights and their gradients are also copied to float32 and accumulated there
        dense = 4.0 * prod(w.shape) if self.setup.cpu else 0.0
        work = tape.storage(block + dense, "logits")
        del work
        block *= 1.0 if self.setup.cpu else 1.5
        return tape.operation(
            (1,),
            "float32",
            trained,
            [rows, w],
            flops=2 * products,
            backward_flops=2 * products * (1 + len(trained)),
            transient=block + dense * (4 if w.node else 1),
        )

    def _bag_of_words(self, z: Array) -> Array:
        tape, part = self.tape, self.parts["further losses"]
        w, _ = self.decoder.head()
        h = part.linear("bag_of_words", z, w.shape[1], True)
        w = tape.cast(w, "float32")
        logits = tape.matmul(h, w, (z.shape[0], w.shape[0]), z.shape[0] * prod(w.shape))
        scores = tape.elementwise(tape.cast(logits, "float32", "logits"))
        return tape.operation((1,), "float32", [tape.keep(scores, scores)])

    def _discriminate(self, z: Array) -> Array:
        tape, part = self.tape, self.parts["further losses"]
        loss = tape.leaf((1,), "float32")
        for _ in range(3):
            h = part.linear("discriminator.hidden", z, self.setup.discriminator, True)
            h = part.linear("discriminator", tape.elementwise(h, h), 1, True)
            loss = tape.add(loss, tape.operation((1,), "float32", [h]))
        return loss


def simulate(setup: Setup) -> Step:
    """Run one optimiser step of `setup` on a tape."""
    model = Model(setup)
    tape = model.tape
    tape.recording(False)
    model.loss(1, 2, building=True)  # creates the weights
    tape.recording(True)
    weights = {name: list(part.weights.values()) for name, part in model.parts.items()}
    trained = sum(w.numel for part in weights.values() for w in part if w.trains)
    held = [tape.storage(ADAM * trained, "optimiser")]
    if setup.devices > 1:  # the buckets in which gradients are averaged over processes
        held.append(tape.storage(4 * trained, "communication"))
    layers = model.parts["decoder"].frozen_layers()
    if setup.sharded:
        held.append(tape.storage(_GATHERED * max(layers), "gathered"))
    memory = tape.memory
    tape.flops, memory.peak = 0.0, memory.now
    before = dict(memory.kinds)
    count = setup.batch // (setup.micro * setup.devices)
    for _ in range(min(count, 2)):
        tape.backward(model.loss(setup.micro, setup.tokens))
    peak, at_peak, flops = memory.peak, dict(memory.at_peak), tape.flops
    memory.peak = memory.now
    tape.recording(False)
    model.loss(min(setup.evaluated, _EVALUATED), setup.tokens)
    cache = model.cache(min(setup.decoded, _EVALUATED))
    return Step(
        weights={name: part for name, part in weights.items() if part},
        held={kind: size for kind, size in before.items() if size},
        peak=peak,
        at_peak={kind: size for kind, size in at_peak.items() if size > 0.5},
        evaluation=max(memory.peak, memory.now + cache),
        layers=layers,
        flops=flops / min(count, 2) * count,
    )
