"""Prometheus metrics: requests and times by route; what each resident model holds."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .residents import Residents

MEASURES = ("entries", "bytes", "hits", "misses", "evictions")


class Metrics:
    """Counters that routes fill."""

    def __init__(self, registry: CollectorRegistry, residents: Residents) -> None:
        self.requests = Counter(
            "vlm_requests", "Requests by route and status.", ["method", "path", "status"], registry=registry
        )
        self.seconds = Histogram("vlm_request_seconds", "Time to the response's head.", ["path"], registry=registry)
        registry.register(_Held(residents))


class _Held(Collector):
    """Read when asked, so that nothing has to be kept in step."""

    def __init__(self, residents: Residents) -> None:
        self._residents = residents

    def collect(self) -> Iterator[GaugeMetricFamily]:
        models = self._residents.all
        size = GaugeMetricFamily("vlm_model_bytes", "Weights of a resident model.", labels=["model"])
        busy = GaugeMetricFamily("vlm_model_requests", "Requests a resident model is answering.", labels=["model"])
        for resident in models:
            size.add_metric([resident.name], self._residents.num_bytes(resident))
            busy.add_metric([resident.name], resident.in_use)
        yield size
        yield busy
        queue = GaugeMetricFamily("vlm_queue_length", "Requests that wait for a slot in the batch.", labels=["model"])
        rows = GaugeMetricFamily("vlm_running_rows", "Answers that prefill or decode.", labels=["model"])
        prefix = GaugeMetricFamily("vlm_prefix_cache", "Caches of earlier prompts.", labels=["model", "measure"])
        for resident in models:
            loads = [engine.load for engine in list(resident.processor.engines.values())]
            queue.add_metric([resident.name], sum(load.waiting for load in loads))
            rows.add_metric([resident.name], sum(load.running for load in loads))
            for measure in MEASURES:
                prefix.add_metric([resident.name, measure], sum(getattr(load.prefix, measure) for load in loads))
        yield queue
        yield rows
        yield prefix
        vision = GaugeMetricFamily("vlm_vision_cache", "Vision features.", labels=["model", "measure"])
        for resident in models:
            stats = resident.processor.vision_cache.stats
            for measure in MEASURES:
                vision.add_metric([resident.name, measure], getattr(stats, measure))
        yield vision
