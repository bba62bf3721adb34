"""Engines of bulk runs: this process, or the workers of Ray on one machine or a cluster."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from llamavae.bulk.parts import PartFolder
from llamavae.bulk.task import ModelTask, Task, Tell
from llamavae.errors import UserError, check_int
from llamavae.modeling import LlaMaVAE

logger = logging.getLogger(__name__)

_BLOCKS = 2000  # maximum number of blocks of parts, which Ray Data schedules
_ATTEMPTS = 10  # at a part; a worker that is killed by chance does not die so often
_STORE = 80_000_000  # bytes of Ray's object store, which carries numbers of parts alone


_LESS = "If memory is short, use fewer workers (--workers) or smaller batches (--batch-size)"


def write_part(
    task: Task, folder: PartFolder, part: int, rows: list[Any], tell: Tell
) -> dict[str, Any]:
    """Compute and write a part; returns its facts."""
    table, counts = task.compute(part, rows, tell)
    return folder.write(part, table, counts)


class LocalEngine:
    """Computes the parts one after the other in this process."""

    def session(self) -> AbstractContextManager[None]:
        """See `Engine`."""
        return nullcontext()

    def facts(self, task: Task) -> dict[str, Any]:
        """See `Engine`."""
        return task.facts()

    def run(
        self, task: Task, folder: PartFolder, done: set[int], tell: Tell
    ) -> Iterator[dict[str, Any]]:
        """See `Engine`."""
        for part, rows in groupby(task.read(), lambda row: task.part_of(row[0])):
            if part not in done:
                yield write_part(task, folder, part, list(rows), tell)


def find_engine(name: str, **options: Any) -> LocalEngine | RayEngine:
    """The engine of a name, local or ray.

    Args:
        name: Its name.
        **options: Options of `RayEngine`; those that are None are skipped.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if name == "ray":
        return RayEngine(**given)
    if given:
        names = " and ".join(given)
        raise UserError(f"{names} requires the engine ray (--engine ray); got the engine {name}")
    return LocalEngine()


@dataclass(frozen=True)
class RayEngine:
    """Computes the parts on the workers of Ray Data; requires the extra `ray`.

    The source and the folder of the output must be visible under the same path on all machines,
    and each must have the library and the model. Parts of workers that are killed or lost are
    computed again by others, at most 10 times.

    Args:
        workers: Number of workers; None for one per GPU, or without GPUs one per `threads` cores.
        threads: CPU threads of each worker.
        address: Address of an existing cluster, such as `auto` or `ray://HOST:10001`. None for
            the environment variable `RAY_ADDRESS`, or else this machine alone.

    Raises:
        UserError: Ray is not installed, or a number is below 1.
    """

    workers: int | None = None
    threads: int = 1
    address: str | None = None

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise UserError("the engine ray needs Ray: pip install 'llamavae[ray]'")
        check_int("threads", self.threads)
        if self.workers is not None:
            check_int("workers", self.workers)

    def facts(self, task: Task) -> dict[str, Any]:
        """See `Engine`; a worker loads the model, since this machine may be too small for it."""
        if isinstance(task, ModelTask) and isinstance(task.given, LlaMaVAE):
            raise UserError(
                "each worker of Ray loads the model. Pass its folder, hub id or name instead of "
                "the model"
            )
        if task.length() is None:
            raise UserError(
                f"{task.source}: workers of Ray read rows anywhere in a file; expected Parquet. "
                "Convert it to Parquet, or use the engine local"
            )
        import ray
        from ray.exceptions import OutOfMemoryError, WorkerCrashedError

        remote = ray.remote(_facts).options(**self._resources())
        try:
            found = _result(ray.get(remote.remote(task, self.threads)))
        except (OutOfMemoryError, WorkerCrashedError) as error:
            raise UserError(f"workers of Ray die when they load the model. {_LESS}") from error
        for warning in found["warnings"]:
            logger.warning("%s", warning)
        return found["facts"]

    def run(
        self, task: Task, folder: PartFolder, done: set[int], tell: Tell
    ) -> Iterator[dict[str, Any]]:
        """See `Engine`."""
        length = task.length() or 0
        missing = sorted(set(range(-(-length // task.part_size))) - done)
        if not missing:
            return
        import ray
        import ray.data

        each, available = self._resources(), ray.cluster_resources()
        maximum = available["GPU"] if each["num_gpus"] else available["CPU"] // self.threads
        size = min(self.workers or max(1, int(maximum)), len(missing))
        parts = ray.data.from_items(
            [{"part": part} for part in missing],
            override_num_blocks=min(len(missing), _BLOCKS),
        ).map(
            cast(Any, _Worker),
            fn_constructor_args=(
                task,
                folder,
                task.source.stat().st_size,
                self.threads,
                _ATTEMPTS,
            ),
            compute=ray.data.ActorPoolStrategy(size=size),
            **each,
        )
        rows = len(done) * task.part_size
        for row in parts.iter_rows():
            found = _result(row["result"])
            rows += task.part_size
            tell(min(rows, length))
            yield found

    def _resources(self) -> dict[str, Any]:
        """What a worker takes."""
        import ray

        gpus = ray.cluster_resources().get("GPU", 0)
        return {"num_cpus": self.threads, "num_gpus": 1 if gpus else 0}

    @contextmanager
    def session(self) -> Iterator[None]:
        """Connect to the cluster, or start Ray here; a connection of the caller's is kept."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        os.environ.setdefault("RAY_worker_niceness", "0")  # the workers are what is waited for
        os.environ.setdefault("RAY_task_oom_retries", "3")  # not without end
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors are raised
        import ray
        import ray.data

        before = ray.is_initialized()
        if not before:
            address = self.address or os.environ.get("RAY_ADDRESS") or "local"
            options: dict[str, Any] = {}
            if address == "local":
                cores = max(os.cpu_count() or 1, (self.workers or 1) * self.threads)
                options = {"num_cpus": cores, "object_store_memory": _STORE}
            try:
                ray.init(
                    address,
                    include_dashboard=False if options else None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **options,
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(
                    f"no cluster of Ray at {address}: {reason}. Start one with `ray start --head`, "
                    "or omit the address"
                ) from error
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        try:
            yield
        finally:
            if not before:
                ray.shutdown()


def _result(text: str) -> dict[str, Any]:
    """What a worker found, or its error."""
    found = json.loads(text)
    if "error" in found:
        raise UserError(found["error"])
    return found


def _facts(task: Task, threads: int) -> str:
    """The facts of a task and warnings about it as JSON, computed by a worker."""
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())
    library = logging.getLogger("llamavae")
    library.addHandler(handler)
    try:
        _quiet(threads)
        return json.dumps({"facts": task.facts(), "warnings": warnings})
    except UserError as error:
        return json.dumps({"error": str(error)})
    finally:
        library.removeHandler(handler)


def _quiet(threads: int) -> None:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(threads)
    logging.disable_progress_bar()


class _Worker:
    """Computes parts of a task in a process of Ray.

    Args:
        task: What is computed.
        folder: Where the parts are written.
        size: Bytes of the source.
        threads: CPU threads of the worker.
        attempts: Maximum number of attempts at a part.
    """

    def __init__(
        self, task: Task, folder: PartFolder, size: int, threads: int, attempts: int
    ) -> None:
        self.task, self.folder, self.size, self.threads = task, folder, size, threads
        self.attempts = attempts

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The facts of a part as JSON; an error of the user's is returned, since it is final."""
        try:
            found = self._run(int(row["part"]))
        except UserError as error:
            found = {"error": str(error)}
        return {"result": json.dumps(found)}

    def _run(self, part: int) -> dict[str, Any]:
        self._check_files()
        if found := self.folder.facts(part):  # of a worker that was lost after it
            return found
        if self.folder.attempt(part) > self.attempts:
            raise UserError(
                f"workers of Ray died {self.attempts} times at part {part} of {self.task.source}. "
                f"{_LESS}, then run the same again: complete parts are kept"
            )
        self._ready  # noqa: B018
        return write_part(self.task, self.folder, part, self.task.rows_of(part), lambda _: None)

    def _check_files(self) -> None:
        """Check that this machine sees the files."""
        import socket

        source, host = Path(self.task.source), socket.gethostname()
        if not source.is_file() or source.stat().st_size != self.size:
            raise UserError(
                f"{source} is missing or differs on {host}. Put it where all machines see it "
                "under this path"
            )
        if not self.folder.path.is_dir():
            raise UserError(
                f"{self.folder.path} is missing on {host}. Choose an output that all machines see "
                "under the same path"
            )

    @cached_property
    def _ready(self) -> bool:
        """Load the model once, and check that it is the same."""
        _quiet(self.threads)
        self.folder.check(self.task.facts())
        return True
