"""What happened, for Prometheus: requests as they come, the rest read when it is asked."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from hypert5_jax.serving.service import Service

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_PATHS = ("/adapt", "/generate", "/tasks", "/healthz", "/metrics", "/docs")


class Metrics:
    """A registry of its own, so that several servers of one process do not mix."""

    def __init__(self, service: Service):
        self._registry = CollectorRegistry()
        self._registry.register(_Inside(service))
        self._requests = Counter(
            "hypert5_requests",
            "Requests by path and status; 499 is a caller that went away.",
            ("path", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "hypert5_request_seconds",
            "From a request's head to its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self._registry,
        )

    def observe(self, path: str, status: int, seconds: float) -> None:
        """Counts a request."""
        known = _known(path)
        self._requests.labels(known, str(status)).inc()
        self._seconds.labels(known).observe(seconds)

    def text(self) -> bytes:
        """Prometheus's text format."""
        return generate_latest(self._registry)


def _known(path: str) -> str:
    """One of few labels, whatever callers ask for."""
    if path.startswith("/tasks/"):
        return "/tasks/{name}"
    return path if path in _PATHS else "other"


class _Inside(Collector):
    """The batcher's and the seats' own numbers."""

    def __init__(self, service: Service):
        self._service = service

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        batcher, seats = self._service.batcher, self._service.engine.seats
        counts = batcher.counts
        per_kind: dict[str, tuple[str, Mapping[str, float]]] = {
            "hypert5_batches": ("Batches run.", counts.batches),
            "hypert5_batch_rows": ("Rows in batches.", counts.rows),
            "hypert5_batch_padding": ("Rows that filled up.", counts.padding),
            "hypert5_batch_seconds": ("Seconds in batches.", counts.seconds),
        }
        for name, (about, values) in per_kind.items():
            family = CounterMetricFamily(name, about, labels=("kind",))
            for kind, value in values.items():
                family.add_metric((kind,), value)
            yield family
        dropped = CounterMetricFamily(
            "hypert5_rows_dropped", "Rows that no batch saw.", labels=("why",)
        )
        dropped.add_metric(("cancelled",), counts.cancelled)
        dropped.add_metric(("late",), counts.late)
        dropped.add_metric(("refused",), counts.refused)
        yield dropped
        yield GaugeMetricFamily(
            "hypert5_queue_rows", "Rows that wait.", value=batcher.waiting
        )
        yield GaugeMetricFamily(
            "hypert5_phi_on_device", "φ that have a seat.", value=len(seats)
        )
        yield CounterMetricFamily(
            "hypert5_phi_loads", "φ read from files.", value=seats.loads
        )
        yield CounterMetricFamily(
            "hypert5_phi_evictions", "φ that gave up a seat.", value=seats.evictions
        )
