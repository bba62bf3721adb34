"""The campaign of faults, at any size, as a table in Markdown.

    python -m tests.faults --kills 100 --signals 40 --disks 200 --flips 300 --removals 300 \
        --configs 1000 --inputs 500 --crowds 160 --seed 0 --output faults.json

--kills, --signals and --disks are the maximum numbers of changes of files of each writer; with
fewer changes, there is a case for each. The other sizes are numbers of cases.

The exit status is 1 if there is an outcome other than `right` and `refused`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults import configs, harness, inputs

from llamavae.files import write_json
from llamavae.markdown import markdown_table
from llamavae.provenance import provenance

GOOD = ("right", "refused")
KINDS: dict[str, tuple[int, Callable[[int, int], harness.Rows]]] = {
    "kills": (100, harness.kills),
    "signals": (40, partial(harness.kills, signals=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP))),
    "flips": (300, harness.damaged_files),
    "removals": (300, partial(harness.damaged_files, removed=True)),
    "disks": (200, harness.full_disks),
    "configs": (1000, configs.run),
    "inputs": (500, inputs.run),
    "crowds": (160, harness.crowds),
}


def main() -> int:
    """Run the campaign; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    for name, (size, _) in KINDS.items():
        parser.add_argument(f"--{name}", type=int, default=size, help=f"default: {size}; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file of all cases")
    given = parser.parse_args()
    found: dict[str, harness.Rows] = {}
    table: list[list[str]] = []
    for name, (_, run) in KINDS.items():
        if not (size := getattr(given, name)):
            continue
        start = time.perf_counter()
        rows = found[name] = run(size, given.seed)
        counts = Counter(row["outcome"] for row in rows)
        faults = {what: count for what, count in counts.items() if what not in GOOD}
        shown = ", ".join(f"{count} {what}" for what, count in faults.items()) or "0"
        table.append([name, str(len(rows)), *(str(counts[what]) for what in GOOD), shown])
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        for row in rows:
            if row["outcome"] not in GOOD:
                print(f"  {row['case']}: {row['outcome']}", file=sys.stderr)
        if given.output is not None:
            write_json(given.output, {**provenance(), "seed": given.seed, "cases": found})
    print(markdown_table(["kind", "cases", *GOOD, "faults"], table))
    return int(any(row[-1] != "0" for row in table))


if __name__ == "__main__":
    sys.exit(main())
