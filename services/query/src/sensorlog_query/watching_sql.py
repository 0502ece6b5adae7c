"""The statements of watches. The readings of a batch are those whose xmin is its transaction's id.

That id has 32 bits in a row and 64 in `ingest_batches`. Rows of four billion transactions ago could be taken for a
batch's if they lay in its range of times too, which ends as soon as the batch does.
"""

from psycopg.sql import SQL, Composed, Identifier

from sensorlog_query.sql import Statements

# One statement is one snapshot: the xmin it tells is of the same moment as the batches it finds.
LOOK = SQL("""
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, clock_timestamp(), pg_is_in_recovery(),
       (SELECT committed_at FROM {batches} WHERE xid = %(mark)s::text::xid8),
       b.xid::text::bigint, b.committed_at, b.rows, b.first_time, b.last_time
FROM (SELECT) AS always
LEFT JOIN {batches} AS b ON {unseen}
ORDER BY b.xid
""")

UNSEEN = SQL("b.xid >= %(floor)s::text::xid8 AND b.xid <> ALL(%(seen)s::text[]::xid8[])")

# Of a watch that begins: everything there is counts as seen, of which those need be named that are above the floor.
NEWEST = SQL("""
b.xid >= pg_snapshot_xmin(pg_current_snapshot()) OR b.xid = (SELECT xid FROM {batches} ORDER BY xid DESC LIMIT 1)
""")

# By the only index there is, sensor by sensor: a batch spans little time, a chunk much more.
READINGS = SQL("""
SELECT reading.*
FROM {wanted} AS wanted(sensor_id)
CROSS JOIN LATERAL (
    SELECT time, sensor_id, {columns}
    FROM {readings} AS r
    WHERE r.sensor_id = wanted.sensor_id AND time >= %(first)s AND time <= %(last)s AND r.xmin = %(xid)s::text::xid
) AS reading
ORDER BY {order}
""")

CHOSEN = SQL("unnest(%(sensor_ids)s::bigint[])")

# Ingest stores the id of every sensor before its first reading.
EVERY = SQL("(SELECT id FROM {sensors})")


def look(schema: str) -> Composed:
    """Return one row a batch that is not in `floor` and `seen`, one without a batch where there is none.

    (xmin, now, whether it is a replica, committed_at of the batch `mark`, xid, committed_at, rows, first, last).
    """
    return LOOK.format(batches=Identifier(schema, "ingest_batches"), unseen=UNSEEN)


def start(schema: str) -> Composed:
    """Return the same of the batches that a new watch must know of."""
    batches = Identifier(schema, "ingest_batches")
    return LOOK.format(batches=batches, unseen=NEWEST.format(batches=batches))


def readings(statements: Statements, *, of_sensors: bool) -> Composed:
    """Return the packed readings of the batch `xid` between `first` and `last`, by time, sensor and values."""
    wanted = CHOSEN if of_sensors else EVERY.format(sensors=Identifier(statements.schema, "sensors"))
    return statements.packed(
        READINGS.format(
            wanted=wanted,
            columns=SQL(", ").join(map(Identifier, statements.measurements)),
            readings=Identifier(statements.schema, "sensor_data"),
            order=SQL(", ").join(map(Identifier, ("time", "sensor_id", *statements.measurements))),
        )
    )
