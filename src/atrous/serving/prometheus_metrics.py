"""Counters of a server, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

#: Upper bounds of the histogram buckets for times, in seconds.
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "atrous_requests", "Responses, by route and status.", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "atrous_request_seconds",
            "Time from the last byte of a picture to its response.",
            ["model"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.network_seconds = Histogram(
            "atrous_network_seconds", "Time of one run of a network.", buckets=SECONDS, registry=self._registry
        )
        self.together = Histogram(
            "atrous_pictures_together",
            "Pictures in one run of a network.",
            buckets=(1, 2, 4, 8, 16),
            registry=self._registry,
        )
        self.pixels = Counter("atrous_pixels", "Pixels of segmented pictures.", ["model"], registry=self._registry)
        self.waiting = Gauge(
            "atrous_waiting", "Pictures queued, being decoded or being segmented.", registry=self._registry
        )
        self.abandoned = Counter(
            "atrous_abandoned", "Pictures whose client disconnected before the response.", registry=self._registry
        )
        self.reloads = Counter(
            "atrous_reloads", "Changed model files, loaded or refused.", ["model", "taken"], registry=self._registry
        )

    def ran(self, count: int, seconds: float) -> None:
        """Counts a run of a network.

        Args:
            count: number of pictures in the batch.
            seconds: time of the run, in seconds.
        """
        self.together.observe(count)
        self.network_seconds.observe(seconds)

    def text(self) -> bytes:
        """Returns all counters, in the text format of Prometheus."""
        return generate_latest(self._registry)
