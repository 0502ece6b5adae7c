"""What Prometheus sees of ingest. Every name starts with `sensorlog_ingest_`."""

import math
import time

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from sensorlog_ingest.batches import Batch
from sensorlog_ingest.dead_letters import DeadLetter

PREFIX = "sensorlog_ingest"
ROW_BUCKETS = (1, 10, 100, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000)
SECOND_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The process's metrics; counters count what was committed."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", meaning, labels, registry=registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", meaning, labels, registry=registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"{PREFIX}_{name}", meaning, buckets=buckets, registry=registry)

        self.rows = counter("rows", "Readings and sensors stored.")
        self.messages = counter("messages", "Messages whose content is stored, as rows or as dead letters.")
        self.bytes = counter("bytes", "Bytes of the values of these messages.")
        self.dead_letters = counter("dead_letters", "Dead letters stored, by reason.", "reason")
        self.batch_rows = histogram("batch_rows", "Rows in a committed batch.", ROW_BUCKETS)
        self.batch_age = histogram(
            "batch_age_seconds", "From a batch's first message until its commit.", SECOND_BUCKETS
        )
        self.commit_seconds = histogram(
            "commit_seconds", "Duration of a batch's transaction, from its first statement on.", SECOND_BUCKETS
        )
        self.lag = gauge("lag_messages", "Messages in a partition that are not stored yet.", "topic", "partition")
        self.assigned = gauge("assigned_partitions", "Partitions this process reads.")
        self.database_up = gauge("database_up", "1 while the database takes batches, 0 while it is away.")
        self.pauses = counter("pauses", "Times that fetching was paused because the database is slower.")
        self.reconnects = counter("reconnects", "Connections to the database that had to be made anew.")
        self.fenced = counter(
            "fenced_batches", "Times that stored offsets were others than expected: another process, or a failover."
        )
        self.lost = counter(
            "lost_messages", "Messages that the broker deleted before they were read (retention).", "topic"
        )
        self.restarts = counter(
            "partition_restarts", "Partitions read anew because the stored offset is beyond their end.", "topic"
        )
        self.unknown_fields = counter(
            "unknown_fields_sampled", "Undeclared fields seen in a sample: one message of each fetch."
        )
        self._newest_us = -math.inf
        gauge("freshness_seconds", "Now minus the newest stored time of a reading.").set_function(self._freshness)

    def committed(self, batch: Batch, letters: list[DeadLetter], seconds: float) -> None:
        """Count a batch whose transaction took `seconds`."""
        rows = len(batch.readings) + len(batch.sensors)
        self.rows.inc(rows)
        self.messages.inc(batch.messages)
        self.bytes.inc(batch.size_bytes)
        for letter in letters:
            self.dead_letters.labels(letter.reason).inc()
        self.batch_rows.observe(rows)
        self.batch_age.observe(time.monotonic() - batch.opened_at)
        self.commit_seconds.observe(seconds)
        self._newest_us = max(self._newest_us, batch.newest_us or -math.inf)

    def _freshness(self) -> float:
        return time.time() - self._newest_us / 1e6 if math.isfinite(self._newest_us) else math.nan
