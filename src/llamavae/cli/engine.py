"""Options of commands that process a large file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from llamavae.errors import UserError

if TYPE_CHECKING:
    from llamavae import LlaMaVAE
    from llamavae.bulk.task import Engine, ModelSource
    from llamavae.cli.options import ModelOptions


@dataclass
class EngineOptions:
    """Where a large file is processed, and whether its output replaces a file."""

    panel: ClassVar[str] = "Engine"

    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(
            help="local: this process. ray: workers of Ray on this machine or a cluster, for a "
            r"Parquet file; requires --output and `pip install 'llamavae\[ray]'`. Both write the "
            "same file."
        ),
    ] = "local"
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of workers of Ray. Default: one per GPU, or per core."),
    ] = None
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each worker of Ray. Default: 1.")
    ] = None
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="Cluster of Ray to use, such as auto or ray://HOST:10001. Default: RAY_ADDRESS, "
            "or else this machine."
        ),
    ] = None
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing Parquet file.")
    ] = False

    def model(self, options: ModelOptions) -> LlaMaVAE | ModelSource:
        """The model, or where the workers of Ray load it from."""
        return options.load() if self.engine == "local" else options.source_for_workers()

    def create(self, output: Path | None) -> Engine:
        """The engine; it must be local without an output."""
        if output is None and self.engine != "local":
            raise UserError(
                f"--engine {self.engine} requires a Parquet file to write. Use --output"
            )
        from llamavae.bulk.engine import find_engine

        return find_engine(
            self.engine, workers=self.workers, threads=self.threads, address=self.ray_address
        )
