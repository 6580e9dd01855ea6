"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

#: Bounds of the times that are counted, in seconds.
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "atrous_requests", "Answers, by route and status.", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "atrous_request_seconds",
            "From a picture's last byte to its answer.",
            ["model"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.network_seconds = Histogram(
            "atrous_network_seconds", "Of one run of a network.", buckets=SECONDS, registry=self._registry
        )
        self.together = Histogram(
            "atrous_pictures_together",
            "Pictures in one run of a network.",
            buckets=(1, 2, 4, 8, 16),
            registry=self._registry,
        )
        self.pixels = Counter("atrous_pixels", "Pixels of answered pictures.", ["model"], registry=self._registry)
        self.waiting = Gauge("atrous_waiting", "Pictures being decoded, in line or segmented.", registry=self._registry)
        self.abandoned = Counter("atrous_abandoned", "Pictures whose sender left.", registry=self._registry)
        self.reloads = Counter(
            "atrous_reloads", "Changed model files, taken or not.", ["model", "taken"], registry=self._registry
        )

    def ran(self, count: int, seconds: float) -> None:
        """Counts a run of a network.

        Args:
            count: of pictures in it.
            seconds: that it took.
        """
        self.together.observe(count)
        self.network_seconds.observe(seconds)

    def text(self) -> bytes:
        """All of them, in the text format of Prometheus."""
        return generate_latest(self._registry)
