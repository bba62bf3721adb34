from __future__ import annotations

import pytest

from llamavae.planning.parts import Part
from llamavae.planning.tape import Tape


def test_memory_is_freed_with_the_last_reference():
    tape = Tape()
    x = tape.leaf((10, 10), "float32")
    assert tape.memory.now == 400
    y = tape.elementwise(x)
    assert tape.memory.now == 800
    del x, y
    assert tape.memory.now == 0
    assert tape.memory.peak == 800


def test_a_frozen_linear_layer_keeps_its_weight_and_not_its_input():
    tape = Tape()
    frozen, trained = Part(tape, trains=False), Part(tape)
    x = frozen.linear("a", tape.leaf((8, 4), "float32"), 4)
    assert x.node is None
    y = trained.linear("b", x, 4)
    held = tape.memory.now
    z = frozen.linear("c", y, 4)
    del y
    assert tape.memory.now == held + 4 * 4 * 4  # the result instead of y, and the weight of c
    tape.backward(z)
    assert tape.memory.kinds["gradients"] == 4 * 4 * 4
    # each product costs two operations, c has one derivative, and b that of its weight
    assert tape.flops == 2 * 8 * 4 * 4 * (3 + 1 + 1)


def test_autocast_copies_a_trained_weight_once():
    tape = Tape(autocast=True)
    part = Part(tape)
    x = tape.leaf((8, 4), "bfloat16")
    kept = [part.linear("a", x, 4) for _ in range(3)]
    assert kept[0].dtype == "bfloat16"
    assert tape.memory.kinds["copies"] == 2 * 4 * 4
    tape.end_forward()
    tape.backward(kept[-1])
    assert tape.memory.kinds["copies"] == 0
    assert tape.memory.kinds["gradients"] == 4 * 4 * 4


def test_a_checkpoint_keeps_its_input_and_computes_again():
    def run(checkpoints: bool) -> Tape:
        tape = Tape()
        part = Part(tape)

        def block(x, name):
            return tape.elementwise(part.linear(name, tape.elementwise(x, x), 64))

        x = part.linear("first", tape.leaf((1000, 64), "float32"), 64)
        for name in "abcdefgh":
            x = tape.checkpoint(block, x, name) if checkpoints else block(x, name)
        tape.backward(x)
        return tape

    plain, lean = run(False), run(True)
    assert lean.memory.peak < 0.8 * plain.memory.peak
    assert lean.memory.now == pytest.approx(plain.memory.now)
    forward = 8 * 2 * 1000 * 64 * 64
    assert lean.flops == plain.flops + forward
