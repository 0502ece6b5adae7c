"""The physical limit: COPY documents that are ready in memory, sent on one connection, nothing else."""

import time
from collections.abc import Sequence

from psycopg.sql import SQL, Identifier

from benchmarks.workload import Workload
from sensorlog_ingest.encode import encode
from support.pipelines import Pipeline


def documents(workload: Workload, rows_per_transaction: int, *, is_sorted: bool) -> list[memoryview]:
    """Return the workload as binary COPY documents of one transaction each.

    In the order in which the readings were sent, or each document sorted by (sensor_id, time).
    """
    parts = (
        workload.readings(start, min(start + rows_per_transaction, workload.rows))
        for start in range(0, workload.rows, rows_per_transaction)
    )
    return [encode(part.sorted() if is_sorted else part) for part in parts]


def copy_rate(pipeline: Pipeline, documents: Sequence[memoryview], rows: int) -> float:
    """Return the rows per second at which the database takes the documents."""
    columns = SQL(", ").join(Identifier(m.name) for m in pipeline.config.measurements)
    statement = SQL("COPY {} (time, sensor_id, {}) FROM STDIN (FORMAT binary)").format(
        Identifier(pipeline.schema, "sensor_data"), columns
    )
    with pipeline.database.connect() as connection:
        started = time.monotonic()
        for document in documents:
            with connection.transaction(), connection.cursor().copy(statement) as copy:
                copy.write(document)
        seconds = time.monotonic() - started
    assert pipeline.count() == rows
    return rows / seconds
