"""The command `plan`: what a training run needs, before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamavae.cli.options import Json
from llamavae.cli.output import note, write, write_table, write_text
from llamavae.cli.training import Overrides, Start, chosen_recipe

if TYPE_CHECKING:
    from llamavae.planning import Change, Plan

_MIB, _GIB = 2**20, 2**30
_KINDS = {
    "weights": "weights",
    "gathered": "layers of the sharded decoder that are gathered",
    "copies": "bfloat16 copies of float32 weights",
    "gradients": "gradients",
    "optimiser": "optimiser state",
    "communication": "buckets of gradients for communication",
    "activations": "activations",
    "logits": "logits",
}


def plan(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="Bundled recipe, or a YAML file."),
    ] = None,
    option: Annotated[
        str | None,
        typer.Option("--recipe", "-r", metavar="NAME_OR_FILE", help="The same, as for train."),
    ] = None,
    overrides: Overrides = None,
    start: Start = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            "-d",
            help="Device, such as rtx-4090, a100-40gb, h100-80gb, or cpu for this machine. "
            "Default: none; the devices on which the run fits are listed.",
        ),
    ] = None,
    devices: Annotated[
        int, typer.Option(min=1, help="Number of devices, which share the batch.")
    ] = 1,
    memory: Annotated[
        str | None,
        typer.Option(help="Memory of a device, such as 24GB, instead of that of --device."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens per sentence. Default: decoder.max_tokens, the maximum."),
    ] = None,
    sentences: Annotated[
        int | None,
        typer.Option(min=1, help="Number of training sentences, for the time of a run of epochs."),
    ] = None,
    utilisation: Annotated[
        float, typer.Option(help="Assumed share of the peak FLOP/s of the device.")
    ] = 0.4,
    json: Json = False,
) -> None:
    """Show what a training run needs: parameters, memory, time, and whether it fits.

    Nothing is loaded or downloaded. The sizes of the backbones are built in, or read from the
    config.json of a folder.
    """
    from llamavae.errors import UserError
    from llamavae.planning import plan as planned

    if recipe is not None and option is not None:
        raise UserError("expected RECIPE or --recipe, not both")
    settings = chosen_recipe(recipe or option, start, overrides)
    found = planned(
        settings,
        device=device,
        devices=devices,
        memory=memory,
        tokens=tokens,
        sentences=sentences,
        utilisation=utilisation,
    )
    if json:
        write(True, **_record(found))
        return
    _show(found)


def _record(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values; sizes are in bytes."""
    setup = asdict(plan.setup)
    step = plan.step
    return {
        "recipe": plan.name,
        "device": None if plan.device is None else plan.device.name,
        "devices": plan.setup.devices,
        "memory": plan.memory,
        "parameters": {
            name: {"trained": trained, "frozen": frozen}
            for name, (trained, frozen) in plan.parameters().items()
        },
        "peak": step.peak,
        "at_peak": dict(step.at_peak),
        "evaluation": step.evaluation,
        "offloaded": plan.offloaded,
        "needed": plan.needed,
        "fits": plan.fits,
        "fits_on": list(plan.fitting),
        "largest_micro_batch": plan.largest,
        "changes": [_change(change) for change in plan.changes],
        "together": None if plan.together is None else _change(plan.together),
        "model_bytes": plan.model_bytes,
        "checkpoint_bytes": plan.checkpoint_bytes,
        "flops_per_step": step.flops * plan.setup.devices,
        "seconds_per_step": plan.seconds,
        "steps": plan.steps,
        "utilisation": plan.utilisation,
        "setup": setup,
    }


def _change(change: Change) -> dict[str, Any]:
    return {"settings": dict(change.settings), "needed": change.needed}


def _size(size: float) -> str:
    return f"{size / _GIB:,.2f} GiB" if size >= _GIB / 10 else f"{size / _MIB:,.2f} MiB"


def _show(plan: Plan) -> None:
    s, step = plan.setup, plan.step
    parameters = plan.parameters()
    count = s.batch // (s.micro * s.devices)
    name = "a device" if plan.device is None else plan.device.name
    if plan.device is None and plan.memory is not None:
        name = f"a device with {_size(plan.memory)}"
    place = name if s.devices == 1 else f"{s.devices} x {name}"
    batch = (
        f"{s.batch} sentences"
        if count * s.devices == 1
        else f"{s.batch} = "
        + " x ".join(
            f"{number} {what}"
            for number, what in (
                (s.devices, "devices"),
                (count, "micro-batches"),
                (s.micro, "sentences"),
            )
            if number > 1 or what == "sentences"
        )
    )
    write_text(
        f"{plan.name} on {place}, {s.precision}\na step: {batch}, of {s.tokens} tokens each\n\n"
    )
    rows = [(name, f"{a:,}", f"{b:,}") for name, (a, b) in parameters.items()]
    total = (f"{sum(x):,}" for x in zip(*parameters.values(), strict=True))
    write_table(_right([("parameters", "trained", "frozen"), *rows, ("total", *total)]))
    write_text("\n")
    kinds = [
        (text, _size(step.at_peak[kind])) for kind, text in _KINDS.items() if kind in step.at_peak
    ]
    write_table(
        _right(
            [
                ("memory of a device", ""),
                *kinds,
                ("peak of a step", _size(step.peak)),
                ("peak of an evaluation", _size(step.evaluation)),
                ("needed, with 5 % for fragmentation and 1 GiB for libraries", _size(plan.needed)),
            ]
        )
    )
    write_text("\n")
    lines = []
    if plan.offloaded:
        lines.append(("weights on the CPU, for each device", _size(plan.offloaded)))
    lines += [
        ("saved model", _size(plan.model_bytes)),
        ("checkpoint to resume from", _size(plan.checkpoint_bytes)),
        ("operations per step", f"{step.flops * s.devices / 1e12:,.2f} TFLOP"),
        *_time(plan),
    ]
    if plan.largest is not None:
        lines.append(("largest micro-batch that fits", f"{plan.largest:,}"))
    write_table(lines)
    write_text("\n")
    for line in _verdict(plan):
        write_text(f"{line}\n")
    if plan.device is None and plan.memory is None:
        note("pass --device or --memory for what to change, the largest micro-batch and the time")


def _right(rows: list[tuple[str, ...]]) -> list[list[str]]:
    """The rows with right-aligned numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [row[0], *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))] for row in rows
    ]


def _time(plan: Plan) -> list[tuple[str, str]]:
    if plan.seconds is None:
        return []
    assumed = f"at {plan.utilisation:.0%} of the device's peak (assumed)"
    if plan.setup.devices > 1:
        assumed += ", without communication"
    rows = [("time per step", f"{plan.seconds:.3g} s {assumed}")]
    if plan.steps is not None:
        hours = plan.steps * plan.seconds / 3600
        rows.append((f"time of {plan.steps:,} steps", f"{hours:,.2g} h, without evaluations"))
    return rows


def _verdict(plan: Plan) -> list[str]:
    if plan.memory is None:
        names = ", ".join(plan.fitting)
        return [f"fits on {names}" if names else "fits on none of the known devices"]
    sizes = f"{_size(plan.needed)} of {_size(plan.memory)} on each device"
    if plan.fits:
        return [f"fits: {sizes}"]
    lines = [f"does not fit: {sizes}"]
    if plan.changes:
        lines.append("each of these changes is enough:")
        lines += [f"  {_as_options(c.settings)}  ({_size(c.needed)})" for c in plan.changes]
    elif plan.together is not None:
        lines.append("no single change is enough; these together are:")
        lines.append(f"  {_as_options(plan.together.settings)}  ({_size(plan.together.needed)})")
    else:
        lines.append("no change of these settings is enough; use a smaller decoder")
    if plan.fitting:
        lines.append(f"it fits unchanged on {', '.join(plan.fitting)}")
    return lines


def _as_options(settings: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    return " ".join(f"--set {key}={text(value)}" for key, value in settings.items())
