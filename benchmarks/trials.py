"""What every contender goes through, with the same code: speed, kills, malformed messages, a database that is away."""

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import psutil

from benchmarks.contenders import Contender
from benchmarks.stage import Stage
from benchmarks.workload import PARTITIONS, SENSORS, Workload
from support.pipelines import SEED_TS, Pipeline
from support.processes import peak_memory

POLL_SECONDS = 0.02
SETTLE_POLL_SECONDS = 0.5

STALLED_SECONDS = 30
"""A contender that has not read everything and stores nothing for so long is stalled."""

QUIET_SECONDS = 5
"""One that has read everything and stores nothing for so long has nothing left to store."""

SPEED_UNTIL = 0.95
"""Speed is measured until this part of the rows is there: what is too little for a batch waits for a timer."""

KILL_DELAY_SECONDS = 0.2
"""A kill comes up to so long after progress was seen, lest all kills come right after a COMMIT."""

OUTAGE_SECONDS = 20

POISON_ROWS = 10_000

MALFORMED: Mapping[str, bytes] = {
    "not JSON": b'{"ts": 1646409307, "sensor_id"',
    "no sensor_id": b'{"ts": 1646409307, "temperature": 15.0, "cpu": 0.0}',
    "no ts": b'{"sensor_id": 0, "temperature": 15.0, "cpu": 0.0}',
    "wrong type": b'{"ts": 1646409307, "sensor_id": 0, "temperature": "warm", "cpu": 0.0}',
    "NaN": b'{"ts": 1646409307, "sensor_id": 0, "temperature": NaN, "cpu": 0.0}',
}
"""What a broken device sends, one message of each kind. None of them is a reading of the workload."""

LARGE_SENSOR_ID = 2**53 + 1
"""The first integer that a double cannot hold."""

CHECK = """
WITH numbered AS (
    SELECT *, (extract(epoch FROM time)::bigint - %(seed)s) * %(sensors)s + sensor_id - %(first)s AS n FROM sensor_data
), judged AS (
    SELECT n, coalesce(
        n >= 0 AND n < %(rows)s AND sensor_id - %(first)s BETWEEN 0 AND %(sensors)s - 1
        AND time = date_trunc('second', time)
        AND temperature = 15 + (n %% 200) / 10::float8 AND cpu = (n %% 1000) / 10::float8, false) AS is_good
    FROM numbered
)
SELECT count(DISTINCT n) FILTER (WHERE is_good), count(*) FILTER (WHERE is_good),
    count(*) FILTER (WHERE NOT is_good), (SELECT count(*) FROM dead_letters)
FROM judged
"""
"""Every row is held against the workload's reading of its time and sensor; see Workload.readings."""


@dataclass(frozen=True, slots=True)
class Topic:
    """What is in a topic: the readings of a workload, perhaps of other sensors, in so many messages."""

    rows: int
    messages: int
    first_sensor_id: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """What is in the table when nothing moves any more."""

    sent: int
    """Good readings in the topic."""
    stored: int
    """How many of them are there, with their values."""
    doubled: int
    """Rows of good readings that are there already."""
    damaged: int
    """Rows that nobody sent like that."""
    dead_letters: int
    has_read_everything: bool
    restarts: int
    """How often the process ended by itself and was started again."""
    seconds: float
    written_at_kills: tuple[int, ...] = ()
    """Rows written when it was killed, doubled ones too: whether the kills met it at work."""

    @property
    def lost(self) -> int:
        """Good readings that will never be there: what a stalled contender has not read is not lost."""
        return self.sent - self.stored if self.has_read_everything else 0

    @property
    def end(self) -> str:
        """How the trial ended."""
        return "finished" if self.has_read_everything else f"stalled at {self.stored:,}"


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast the workload was stored, from the first commit on: the start of a process is no speed."""

    rows_per_second: float
    peak_memory_mib: float
    cpu_seconds_per_million_rows: float
    table: Table


def speed(pipeline: Pipeline, contender: Contender, workload: Workload) -> Speed:
    """Let a contender store the whole workload."""
    contender.start()
    try:
        rate = write_rate(contender, workload.rows)
        table = settle(pipeline, contender, Topic(workload.rows, workload.messages))
        times = psutil.Process(contender.pid).cpu_times()
        return Speed(
            rows_per_second=rate,
            peak_memory_mib=peak_memory(contender.pid) / 2**20,
            cpu_seconds_per_million_rows=(times.user + times.system) / workload.rows * 1e6,
            table=table,
        )
    finally:
        contender.stop()


def write_rate(contender: Contender, rows: int) -> float:
    """Return the rows per second from the first commit until nearly all are written; 0 when it stalls before."""
    first = wait_written(contender, 1)
    started = time.monotonic()
    last = wait_written(contender, int(rows * SPEED_UNTIL))
    return (last - first) / (time.monotonic() - started) if last >= rows * SPEED_UNTIL else 0.0


def kills(pipeline: Pipeline, contender: Contender, workload: Workload, number: int) -> Table:
    """Kill the process so often while it works through the topic, start it again at once, and let it finish.

    A kill comes when another equal part of the rows has been written since the last one.
    """
    dice = random.Random(1)  # noqa: S311 -- the same delays for everyone
    written = []
    contender.start()
    try:
        for _ in range(number):
            wait_written(contender, contender.written_rows() + workload.rows // (number + 1))
            time.sleep(dice.uniform(0, KILL_DELAY_SECONDS))
            written.append(contender.written_rows())
            contender.kill()
            contender.start()
        table = settle(pipeline, contender, Topic(workload.rows, workload.messages))
        return replace(table, written_at_kills=tuple(written))
    finally:
        contender.stop()


def outage(stage: Stage, pipeline: Pipeline, contender: Contender, workload: Workload) -> Table:
    """Stop the database for a while when a quarter of the rows is there; a process that ends is started again."""
    contender.start()
    try:
        wait_written(contender, workload.rows // 4)
        restarts = 0
        with stage.database.stopped():
            end = time.monotonic() + OUTAGE_SECONDS
            while time.monotonic() < end:
                restarts += _revive(contender)
                time.sleep(SETTLE_POLL_SECONDS)
        return settle(pipeline, contender, Topic(workload.rows, workload.messages), restarts)
    finally:
        contender.stop()


def produce_poison(stage: Stage, name: str, malformed: Sequence[bytes]) -> Topic:
    """Create a topic of POISON_ROWS good readings with malformed messages in their midst."""
    values = list(Workload(POISON_ROWS, 1).values())
    values[POISON_ROWS // 2 : POISON_ROWS // 2] = malformed
    return _produce(stage, name, values, Topic(POISON_ROWS, len(values)))


def produce_large_ids(stage: Stage, name: str) -> Topic:
    """Create a topic of POISON_ROWS good readings whose sensors have numbers of more than 53 bits."""
    readings = [json.loads(value) for value in Workload(POISON_ROWS, 1).values()]
    values = [json.dumps(r | {"sensor_id": LARGE_SENSOR_ID + r["sensor_id"]}).encode() for r in readings]
    return _produce(stage, name, values, Topic(POISON_ROWS, len(values), LARGE_SENSOR_ID))


def _produce(stage: Stage, name: str, values: Sequence[bytes], topic: Topic) -> Topic:
    stage.broker.create_topic(name, PARTITIONS)
    stage.broker.produce(name, values, partitions=PARTITIONS)
    return topic


def reading(pipeline: Pipeline, contender: Contender, topic: Topic) -> Table:
    """Let a contender read a topic to its end, undisturbed."""
    contender.start()
    try:
        return settle(pipeline, contender, topic)
    finally:
        contender.stop()


def wait_written(contender: Contender, rows: int) -> int:
    """Wait until so many rows are written, or none were for STALLED_SECONDS; return how many there are."""
    seen, changed = -1, time.monotonic()
    while seen < rows and time.monotonic() - changed < STALLED_SECONDS:
        written = contender.written_rows()
        if written != seen:
            seen, changed = written, time.monotonic()
        time.sleep(POLL_SECONDS)
    return seen


def settle(pipeline: Pipeline, contender: Contender, topic: Topic, restarts: int = 0) -> Table:
    """Wait until everything is read and stored, or nothing moves any more, and return what is there."""
    started = changed = time.monotonic()
    seen, has_read_everything = (-1, -1), False
    while time.monotonic() - changed < (QUIET_SECONDS if has_read_everything else STALLED_SECONDS):
        time.sleep(SETTLE_POLL_SECONDS)
        restarts += _revive(contender)
        consumed = contender.consumed_messages()
        now = (pipeline.count(), consumed)
        if now != seen:
            seen, changed = now, time.monotonic()
        has_read_everything = consumed >= topic.messages
    stored, good, damaged, dead_letters = check(pipeline, topic)
    return Table(
        sent=topic.rows,
        stored=stored,
        doubled=good - stored,
        damaged=damaged,
        dead_letters=dead_letters,
        has_read_everything=has_read_everything,
        restarts=restarts,
        seconds=round(changed - started, 1),
    )


def check(pipeline: Pipeline, topic: Topic) -> tuple[int, int, int, int]:
    """Return how many good readings of a topic are stored, how many rows they are, other rows, and dead letters."""
    parameters = {"seed": SEED_TS, "sensors": SENSORS, "rows": topic.rows, "first": topic.first_sensor_id}
    stored, good, damaged, dead_letters = pipeline.query(CHECK, parameters)[0]
    return int(stored), int(good), int(damaged), int(dead_letters)


def _revive(contender: Contender) -> int:
    """Start a process that has ended, as a kubelet does; return how often."""
    if contender.is_running:
        return 0
    contender.start()
    return 1
