"""The straight line: fetch, decode, encode, write. One loop here, one writer thread beside it."""

import time
from collections.abc import Callable

import structlog

from sensorlog.telemetry import Heartbeat, StopSignal
from sensorlog_ingest.batches import Batch, BatchBuilder
from sensorlog_ingest.consumer import MessageSource, RebalanceListener
from sensorlog_ingest.messages import Message
from sensorlog_ingest.metrics import Metrics
from sensorlog_ingest.writer import Committed, Fenced, Offsets, Outcome, Writer

log = structlog.get_logger(__name__)

MAX_WAIT = 0.1
"""Seconds that one turn waits for messages at most."""

PATIENCE = 1.0
"""Seconds to wait for a busy writer before fetching is paused, which throws away what librdkafka has in advance."""

REVOKE_SECONDS = 10.0
"""How long a rebalance may wait for what was read to be stored; after that others read it again."""

STOP_SECONDS = 12.0
"""How long the end may wait for the same. Kubernetes kills 30 s after SIGTERM; leaving the group takes its part."""

GAP_SECONDS = 1.0
"""How long offsets that are no messages may wait for a batch to take them along; then they get one of their own."""

MAX_UNKNOWN_FIELDS = 100
"""Names of undeclared fields that are remembered, each to be logged once."""


class Ingest:
    """Moves messages from the source to the writer until it is told to stop."""

    def __init__(
        self,
        make_source: Callable[[RebalanceListener], MessageSource],
        builder: BatchBuilder,
        writer: Writer,
        metrics: Metrics,
        heartbeat: Heartbeat,
    ) -> None:
        self.source = make_source(self)
        self._builder = builder
        self._writer = writer
        self._metrics = metrics
        self._heartbeat = heartbeat
        self._epoch = 0
        self._held: Batch | None = None
        self._asked = False
        self._unknown_fields: set[str] = set()

    def run(self, stop: StopSignal) -> None:
        """Turn until `stop`, then store what was read, as far as the database lets us in time."""
        self._writer.start()
        while not stop.is_set():
            self.turn()
        self._finish()

    def turn(self) -> None:
        """Do one round: what the writer has done, messages that came, a batch that is due."""
        self._heartbeat.beat()
        self._take_outcomes()
        self._ask_for_offsets()
        self._submit_held()
        messages = self.source.fetch(self._builder.fetch_size(), min(MAX_WAIT, self._builder.seconds_left()))
        if messages:
            self._add(messages)
        if self._held is None and (self._builder.is_due() or self._is_gap_due()):
            self._close_batch()

    def _is_gap_due(self) -> bool:
        return self._builder.is_empty and self.source.gap_age() > GAP_SECONDS

    def _add(self, messages: list[Message]) -> None:
        self._builder.add(messages, time.time())
        unknown = self._builder.unknown_fields(messages)
        if unknown:
            self._metrics.unknown_fields.inc(len(unknown))
            self._log_once(unknown)

    def _log_once(self, fields: set[str]) -> None:
        new = fields - self._unknown_fields
        if new and len(self._unknown_fields) < MAX_UNKNOWN_FIELDS:
            self._unknown_fields |= new
            log.warning("fields that are no measurement of this pipeline are ignored", fields=sorted(new))

    # Batches

    def _close_batch(self) -> None:
        batch = self._builder.build(self.source.advances(), self._epoch)
        if not self._writer.submit(batch, PATIENCE):
            self._held = batch
            self.source.hold()

    def _submit_held(self) -> None:
        if self._held is not None and self._writer.submit(self._held, timeout=0):
            self._held = None
            self.source.release()

    # What the writer has done

    def _take_outcomes(self) -> None:
        for outcome in self._writer.outcomes():
            self._take(outcome)

    def _take(self, outcome: Outcome) -> None:
        match outcome:
            case Committed(offsets):
                self.source.commit(offsets)
                self.source.show_lag(offsets)
            case Offsets(epoch, next_offsets):
                self._asked = False
                if epoch >= self._epoch:
                    self.source.start_at(next_offsets)
                    self.source.show_lag(next_offsets)
            case Fenced(epoch):
                self._forget(epoch)

    def _ask_for_offsets(self) -> None:
        waiting = self.source.waiting()
        if waiting and not self._asked:
            self._writer.ask_offsets(waiting)
            self._asked = True

    # Rebalances; the source calls these inside of fetch()

    def before_revoke(self) -> None:
        """Store everything that was read; what takes too long is dropped, and read again by whoever owns it."""
        if not self._store_everything(REVOKE_SECONDS):
            log.warning("the database is too slow for this rebalance; what is not stored will be read again")
            self.start_over()
        self._take_outcomes()

    def start_over(self) -> None:
        """Forget everything that was read and is not stored; it will be read again."""
        self._forget(self._writer.drop())

    def _forget(self, epoch: int) -> None:
        self._epoch = max(epoch, self._epoch)
        self._builder.clear()
        self._asked = False
        self.source.forget_positions()
        if self._held is not None:
            self._held = None
            self.source.release()

    def _store_everything(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        if self._held is not None:
            if not self._writer.submit(self._held, seconds):
                return False
            self._held = None
            self.source.release()
        if not self._builder.is_empty:
            batch = self._builder.build(self.source.advances(), self._epoch)
            if not self._writer.submit(batch, deadline - time.monotonic()):
                return False
        return self._writer.drain(max(0.0, deadline - time.monotonic()))

    def _finish(self) -> None:
        log.info("stopping")
        stored = self._store_everything(STOP_SECONDS)
        self._take_outcomes()
        self._writer.close(timeout=1.0)
        self.source.close()
        log.info("stopped" if stored else "stopped; what is not stored will be read again")
