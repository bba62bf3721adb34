"""Metrics of the service in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of requests and batches, and the length of the queue."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("path", "method", "status")
        self._requests = Counter("llamavae_requests", "Requests.", labels, registry=self.registry)
        self._seconds = Histogram(
            "llamavae_request_seconds",
            "Duration of requests.",
            ("path",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batches = Histogram(
            "llamavae_batch_items",
            "Texts and codes that are encoded or decoded together, at each call of the model.",
            buckets=_SIZES,
            registry=self.registry,
        )
        self._waiting = Gauge(
            "llamavae_waiting_items",
            "Texts and codes that wait for the model.",
            registry=self.registry,
        )

    def request(self, path: str, method: str, status: int, seconds: float) -> None:
        """Count a finished request; status 0 is one whose client has gone."""
        method = method if method in ("GET", "POST") else "other"
        self._requests.labels(path, method, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, items: int) -> None:
        """Count a call of the model."""
        self._batches.observe(items)

    def watch(self, waiting: Callable[[], int]) -> None:
        """Show the number of waiting items."""
        self._waiting.set_function(waiting)

    def text(self) -> bytes:
        """The current values."""
        return generate_latest(self.registry)
