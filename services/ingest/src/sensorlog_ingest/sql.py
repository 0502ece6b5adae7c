"""Every statement ingest sends to a database; names of schemas and columns go through psycopg.sql."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composed, Identifier

# A server that waits for us is not to wait forever: a process that is frozen, or cut off, in mid-transaction holds
# locks that its successor needs.
SESSION = SQL("""
SELECT set_config('application_name', 'sensorlog-ingest', false),
       set_config('idle_in_transaction_session_timeout', '30s', false),
       set_config('statement_timeout', '120s', false)
""")

COPY_READINGS = SQL("COPY {table} ({columns}) FROM STDIN (FORMAT binary)")

UPSERT_SENSORS = SQL("""
INSERT INTO {table} AS s (id, type, location, updated_at)
SELECT id, type, location, now()
FROM unnest(%(ids)s::bigint[], %(types)s::text[], %(locations)s::text[]) AS new(id, type, location)
ON CONFLICT (id) DO UPDATE
SET type = excluded.type, location = excluded.location, updated_at = excluded.updated_at
WHERE (s.type, s.location) IS DISTINCT FROM (excluded.type, excluded.location)
""")

# The same offset again means that the topic was deleted and made anew: the new message is the one to keep.
INSERT_DEAD_LETTERS = SQL("""
INSERT INTO {table} (topic, partition, message_offset, key, value, headers, reason, detail)
VALUES (%(topic)s, %(partition)s, %(offset)s, %(key)s, %(value)s, %(headers)s::jsonb, %(reason)s, %(detail)s)
ON CONFLICT (topic, partition, message_offset) DO UPDATE
SET received_at = now(), key = excluded.key, value = excluded.value, headers = excluded.headers,
    reason = excluded.reason, detail = excluded.detail
""")

# Rows are locked in order, so that two processes never wait for each other, and compared once they are locked.
ADVANCE_OFFSETS = SQL("""
WITH wanted AS (
    SELECT * FROM unnest(%(topics)s::text[], %(partitions)s::int[], %(seen)s::bigint[], %(next)s::bigint[])
        AS w(topic, partition, seen, next)
), locked AS (
    SELECT o.topic, o.partition, w.next
    FROM {table} AS o JOIN wanted AS w ON o.topic = w.topic AND o.partition = w.partition
    WHERE o.next_offset = w.seen
    ORDER BY o.topic, o.partition
    FOR UPDATE OF o
)
UPDATE {table} AS o SET next_offset = locked.next
FROM locked WHERE o.topic = locked.topic AND o.partition = locked.partition
""")

CREATE_OFFSETS = SQL("""
INSERT INTO {table} (topic, partition, next_offset)
SELECT topic, partition, 0 FROM unnest(%(topics)s::text[], %(partitions)s::int[]) AS w(topic, partition)
ORDER BY topic, partition
ON CONFLICT (topic, partition) DO NOTHING
""")

READ_OFFSETS = SQL("""
SELECT o.topic, o.partition, o.next_offset
FROM {table} AS o
JOIN unnest(%(topics)s::text[], %(partitions)s::int[]) AS w(topic, partition)
  ON o.topic = w.topic AND o.partition = w.partition
""")


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements with the names of one pipeline filled in."""

    copy_readings: Composed
    upsert_sensors: Composed
    insert_dead_letters: Composed
    advance_offsets: Composed
    create_offsets: Composed
    read_offsets: Composed


def statements(schema: str, measurements: Sequence[str]) -> Statements:
    """Return the statements for a pipeline's schema and columns."""
    columns = SQL(", ").join(map(Identifier, ("time", "sensor_id", *measurements)))
    offsets = Identifier(schema, "ingest_offsets")
    return Statements(
        copy_readings=COPY_READINGS.format(table=Identifier(schema, "sensor_data"), columns=columns),
        upsert_sensors=UPSERT_SENSORS.format(table=Identifier(schema, "sensors")),
        insert_dead_letters=INSERT_DEAD_LETTERS.format(table=Identifier(schema, "dead_letters")),
        advance_offsets=ADVANCE_OFFSETS.format(table=offsets),
        create_offsets=CREATE_OFFSETS.format(table=offsets),
        read_offsets=READ_OFFSETS.format(table=offsets),
    )
