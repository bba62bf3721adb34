"""Measure the experiments, or write the page.

python -m results                     write results/README.md from the files of the experiments
python -m results measure [NAME ...]  run the experiments that have no results, or the named ones
"""

from __future__ import annotations

import sys
from pathlib import Path

from llamavae.errors import UserError
from llamavae.files import write_text
from results.experiments import experiments
from results.page import PAGE, plots, render


def main(arguments: list[str]) -> None:
    """Measure, or write the page."""
    if arguments[:1] == ["measure"]:
        from results.measure import measure_all

        known = experiments()
        if unknown := [name for name in arguments[1:] if name not in known]:
            raise UserError(
                f"unknown experiment {unknown[0]!r}: expected one of {', '.join(known)}"
            )
        measure_all(arguments[1:], known, Path("runs/results"))
        return  # the page is tracked, and a change of it would mark the commit of the next values
    if arguments:
        raise UserError(f"expected nothing, or measure; got {arguments[0]!r}")
    write_text(PAGE, render())
    for name, picture in plots().items():
        write_text(PAGE.with_name(f"{name}.svg"), picture)
    print(PAGE)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
