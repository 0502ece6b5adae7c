"""Readings and sensors arrive, in every format a producer may send."""

import math
import time

import pytest
from confluent_kafka import Producer

from sensorlog.measurements import Measurement
from sensorlog.rpc.logger_pb2 import SensorData, SensorDataList
from support.database import Database
from support.kafka import KafkaBroker
from support.pipelines import SEED_TS, MakePipeline, Pipeline
from support.processes import StartService
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration

ARRIVAL_SECONDS = 30


def arrive(pipeline: Pipeline, count: int) -> None:
    """Wait until `count` readings are stored."""
    wait_for_value(pipeline.count, count, deadline=ARRIVAL_SECONDS, what="the number of readings")


def test_seed_message_arrives(pipeline: Pipeline, start_ingest: StartService) -> None:
    """The message of the README becomes one row."""
    start_ingest(pipeline)
    pipeline.produce([b'[{"ts": 1646409307, "sensor_id": 1, "temperature":30, "cpu":20}]'])
    arrive(pipeline, 1)
    assert pipeline.query("SELECT extract(epoch FROM time)::bigint, sensor_id, temperature, cpu FROM sensor_data") == [
        (1646409307, 1, 30.0, 20.0)
    ]


def test_null_and_extreme_values_arrive(pipeline: Pipeline, start_ingest: StartService) -> None:
    """PostgreSQL reads what the encoder writes: NULLs in any place, the largest integers, tiny doubles."""
    readings = [
        {"ts": 0, "sensor_id": -(2**63), "temperature": None, "cpu": 5e-324},
        {"ts": SEED_TS, "sensor_id": 2**63 - 1, "temperature": -0.5},
        {"ts": SEED_TS + 1, "sensor_id": 0},
    ]
    start_ingest(pipeline)
    pipeline.produce([readings])
    arrive(pipeline, 3)
    assert pipeline.query(
        "SELECT extract(epoch FROM time)::bigint, sensor_id, temperature, cpu FROM sensor_data ORDER BY time"
    ) == [(0, -(2**63), None, 5e-324), (SEED_TS, 2**63 - 1, -0.5, None), (SEED_TS + 1, 0, None, None)]


def test_sensors_are_upserted(pipeline: Pipeline, start_ingest: StartService) -> None:
    """The last announcement of a sensor counts, also where a batch holds several of the same sensor."""
    start_ingest(pipeline)
    pipeline.announce([{"id": 1, "type": "a", "location": "floor"}, {"id": 2, "type": "b"}])
    pipeline.announce([{"id": 1, "type": "a", "location": "roof"}, {"id": 1, "type": "a", "location": "cellar"}])
    wait_for_value(
        lambda: pipeline.query("SELECT id, type, location FROM sensors ORDER BY id"),
        [(1, "a", "cellar"), (2, "b", None)],
        deadline=ARRIVAL_SECONDS,
        what="the sensors",
    )


def test_other_measurements_have_their_own_columns(make_pipeline: MakePipeline, start_ingest: StartService) -> None:
    """A pipeline's measurements are its table's columns, whatever they are called."""
    pipeline = make_pipeline(
        measurements=(Measurement(name="humidity"), Measurement(name="class"), Measurement(name="select")),
        timestamp_unit="ms",
    )
    start_ingest(pipeline)
    pipeline.produce([{"ts": SEED_TS * 1000 + 5, "sensor_id": 1, "humidity": 40, "select": 2, "temperature": 1}])
    arrive(pipeline, 1)
    assert pipeline.query('SELECT extract(epoch FROM time)::text, humidity, class, "select" FROM sensor_data') == [
        (f"{SEED_TS}.005000", 40.0, None, 2.0)
    ]


def test_protobuf_and_json_share_a_topic(pipeline: Pipeline, start_ingest: StartService) -> None:
    """The header content-type decides for each message."""
    items = [SensorData(ts=SEED_TS, sensor_id=sensor, temperature=sensor) for sensor in (1, 2)]
    start_ingest(pipeline)
    pipeline.produce([{"ts": SEED_TS, "sensor_id": 3, "temperature": 3}])
    pipeline.produce(
        [SensorDataList(items=items).SerializeToString()], headers=[("content-type", b"application/x-protobuf")]
    )
    arrive(pipeline, 3)
    assert pipeline.query("SELECT sensor_id, temperature FROM sensor_data ORDER BY 1") == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_messages_arrive(codec: str, pipeline: Pipeline, start_ingest: StartService) -> None:
    """Producers may compress as they like."""
    start_ingest(pipeline)
    values = [{"ts": SEED_TS + i, "sensor_id": i, "temperature": 1} for i in range(1000)]
    pipeline.produce(values, compression_type=codec)
    arrive(pipeline, 1000)


def test_message_of_100000_readings_arrives(make_pipeline: MakePipeline, start_ingest: StartService) -> None:
    """A message larger than a batch is a batch of its own."""
    pipeline = make_pipeline(topic_config={"max.message.bytes": str(16 * 2**20)})
    start_ingest(pipeline)
    readings = [{"ts": SEED_TS + i, "sensor_id": i % 10, "temperature": 20.5, "cpu": 50.5} for i in range(100_000)]
    pipeline.produce([readings, readings[:1]], message_max_bytes=16 * 2**20)
    arrive(pipeline, 100_001)


def test_transactional_messages_arrive_and_aborted_ones_do_not(
    pipeline: Pipeline, broker: KafkaBroker, start_ingest: StartService
) -> None:
    """Transaction markers take offsets without being messages: the gaps they leave do not stop anything."""
    process = start_ingest(pipeline)
    producer: Producer = broker.producer(transactional_id=pipeline.schema)
    producer.init_transactions()
    for number in range(6):
        producer.begin_transaction()
        producer.produce(pipeline.config.kafka.readings_topic, b'{"ts": %d, "sensor_id": 1}' % (SEED_TS + number))
        producer.flush()  # or an aborted message would never have been sent
        if number % 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    arrive(pipeline, 3)
    stored = f"SELECT next_offset FROM ingest_offsets WHERE topic = '{pipeline.config.kafka.readings_topic}'"
    wait_for_value(lambda: pipeline.query(stored), [(12,)], deadline=20, what="the offset behind the last marker")
    wait_for_value(lambda: process.metric("sensorlog_ingest_lag_messages"), 0.0, deadline=10, what="the lag")
    assert process.stop() == 0
    start_ingest(pipeline)
    pipeline.produce([{"ts": SEED_TS + 100, "sensor_id": 1}])
    arrive(pipeline, 4)
    assert pipeline.query("SELECT extract(epoch FROM time)::bigint FROM sensor_data ORDER BY 1") == [
        (SEED_TS + offset,) for offset in (0, 2, 4, 100)
    ]


def test_sparse_offsets_are_read_on_from(pipeline: Pipeline, start_ingest: StartService) -> None:
    """A stored offset that no message has any more, as after compaction, is where reading goes on."""
    pipeline.produce([{"ts": SEED_TS + number, "sensor_id": 1} for number in range(10)])
    pipeline.query("INSERT INTO ingest_offsets VALUES (%s, 0, 4)", [pipeline.config.kafka.readings_topic])
    start_ingest(pipeline)
    arrive(pipeline, 6)


def test_topics_may_come_later(make_pipeline: MakePipeline, start_ingest: StartService) -> None:
    """Without its topics ingest is alive and not ready, says why, and starts when they are made."""
    pipeline = make_pipeline(create_topics=False)
    process = start_ingest(pipeline, wait=False)
    wait_until(
        lambda: process.get("/readyz"),
        lambda reply: reply[0] == 503 and "topics do not exist yet" in reply[1],
        deadline=30,
        what="readiness to name the missing topics",
    )
    assert process.get("/livez")[0] == 200
    pipeline.create_topics()
    pipeline.produce([{"ts": SEED_TS, "sensor_id": 1}])
    wait_for_value(pipeline.count, 1, deadline=60, what="the number of readings")
    process.wait_ready()


def test_topic_that_was_made_anew_is_read_from_its_beginning(
    pipeline: Pipeline, broker: KafkaBroker, start_ingest: StartService
) -> None:
    """A topic deleted and created again has other messages at the old offsets: they are all unread."""
    process = start_ingest(pipeline)
    pipeline.produce([{"ts": SEED_TS + number, "sensor_id": 1} for number in range(100)])
    arrive(pipeline, 100)
    assert process.stop() == 0
    topic = pipeline.config.kafka.readings_topic
    broker.delete_topic(topic)
    broker.create_topic(topic)
    pipeline.produce([{"ts": SEED_TS + number, "sensor_id": 2} for number in range(10)])
    process = start_ingest(pipeline)
    arrive(pipeline, 110)
    assert process.metric("sensorlog_ingest_partition_restarts_total") == 1


def test_messages_that_retention_deleted_are_counted(
    make_pipeline: MakePipeline, broker: KafkaBroker, start_ingest: StartService
) -> None:
    """What the broker deleted before it was read is gone: that is logged and counted, and reading goes on."""
    pipeline = make_pipeline()
    process = start_ingest(pipeline)
    pipeline.produce([{"ts": SEED_TS, "sensor_id": 1}])
    arrive(pipeline, 1)
    assert process.stop() == 0
    pipeline.produce([{"ts": SEED_TS + number, "sensor_id": 2} for number in range(10)])
    broker.delete_records(pipeline.config.kafka.readings_topic, 0, before=8)
    process = start_ingest(pipeline)
    arrive(pipeline, 4)
    assert process.metric("sensorlog_ingest_lost_messages_total") == 7


def test_metrics_tell_what_was_stored(pipeline: Pipeline, start_ingest: StartService) -> None:
    """Rows, messages, lag, freshness and the rest are there, with the right numbers."""
    process = start_ingest(pipeline)
    now = int(time.time())
    pipeline.produce([[{"ts": now, "sensor_id": 1}, {"ts": now, "sensor_id": 2, "oops": 1}], b"broken"])
    pipeline.announce([{"id": 1, "type": "a"}])
    wait_for_value(lambda: process.metric("sensorlog_ingest_rows_total"), 3.0, deadline=20, what="stored rows")
    assert process.metric("sensorlog_ingest_messages_total") == 3
    assert process.metric("sensorlog_ingest_dead_letters_total", {"reason": "not_json"}) == 1
    assert process.metric("sensorlog_ingest_database_up") == 1
    assert process.metric("sensorlog_ingest_assigned_partitions") == 2
    assert process.metric("sensorlog_ingest_commit_seconds_count") >= 1
    assert 0 <= process.metric("sensorlog_ingest_freshness_seconds") < 30
    topic = pipeline.config.kafka.readings_topic
    wait_for_value(
        lambda: process.metric("sensorlog_ingest_lag_messages", {"topic": topic}), 0.0, deadline=10, what="the lag"
    )
    assert not math.isnan(process.metric("sensorlog_ingest_lag_messages"))


def test_lag_grows_while_nothing_can_be_stored(
    pipeline: Pipeline, database: Database, start_ingest: StartService
) -> None:
    """Lag is no leftover of the last commit: whoever watches it sees an outage."""
    process = start_ingest(pipeline)
    labels = {"topic": pipeline.config.kafka.readings_topic}
    with database.stopped():
        pipeline.produce({"ts": SEED_TS + number, "sensor_id": 1} for number in range(500))
        wait_for_value(
            lambda: process.metric("sensorlog_ingest_lag_messages", labels), 500.0, deadline=30, what="the lag"
        )
    wait_for_value(lambda: process.metric("sensorlog_ingest_lag_messages", labels), 0.0, deadline=60, what="the lag")
