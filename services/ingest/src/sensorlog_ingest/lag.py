"""How far what is stored lags behind what is in Kafka, per partition: after each commit, and while nothing commits."""

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition

from sensorlog_ingest.messages import Partition
from sensorlog_ingest.metrics import Metrics

REFRESH_SECONDS = 5.0
"""How often the brokers are asked for the ends of the partitions: a lag that grows because nothing can be stored, or
because fetching is paused, would not show otherwise."""

ANSWER_SECONDS = 3.0
"""How long that question may take. The consumer's thread waits for it, and librdkafka drops a connection on which an
answer does not come in time, so this is more than a broker's hiccup."""


class Lag:
    """Keeps the gauge of the assigned partitions."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._stored: dict[Partition, int] = {}
        self._next_refresh = 0.0

    def stored(self, consumer: Consumer, offsets: Mapping[Partition, int]) -> None:
        """Note that everything before `offsets` is stored, and show it against the ends that librdkafka knows of."""
        self._stored |= offsets
        for partition, offset in offsets.items():
            _, end = consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
            if end >= 0:
                self._show(partition, end - offset)

    def refresh(self, consumer: Consumer) -> None:
        """Ask the brokers how far the partitions reach now, if it is time to; no answer leaves the gauge as it is."""
        if not self._stored or time.monotonic() < self._next_refresh:
            return
        self._next_refresh = time.monotonic() + REFRESH_SECONDS
        asked = [TopicPartition(*partition, OFFSET_END) for partition in self._stored]
        try:
            ends = consumer.offsets_for_times(asked, timeout=ANSWER_SECONDS)
        except KafkaException:
            return  # the consumer itself reports brokers that are away
        for end in ends:
            if end.error is None and end.offset >= 0:
                partition = Partition(end.topic, end.partition)
                self._show(partition, end.offset - self._stored[partition])

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Show nothing of partitions that are somebody else's now."""
        for partition in partitions:
            self._stored.pop(partition, None)
            self._metrics.lag.remove(partition.topic, str(partition.partition))

    def _show(self, partition: Partition, messages: int) -> None:
        self._metrics.lag.labels(partition.topic, str(partition.partition)).set(max(0, messages))
