"""Every statement ingest sends to a database; names of schemas and columns go through psycopg.sql."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composed, Identifier, Literal

# A server that waits for us is not to wait forever: a process that is frozen, or cut off, in mid-transaction holds
# locks that its successor needs.
SESSION = SQL("""
SELECT set_config('application_name', 'sensorlog-ingest', false),
       set_config('idle_in_transaction_session_timeout', '30s', false),
       set_config('statement_timeout', '120s', false),
       set_config('tcp_keepalives_idle', '10', false),  -- statement_timeout does not end a COPY that waits for us
       set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false)
""")

COPY_READINGS = SQL("COPY {table} ({columns}) FROM STDIN (FORMAT binary)")

UPSERT_SENSORS = SQL("""
INSERT INTO {table} AS s (id, type, location, updated_at)
SELECT id, type, location, now()
FROM unnest(%(ids)s::bigint[], %(types)s::text[], %(locations)s::text[]) AS new(id, type, location)
ON CONFLICT (id) DO UPDATE
SET type = excluded.type, location = excluded.location, updated_at = excluded.updated_at
WHERE (s.type, s.location) IS DISTINCT FROM (excluded.type, excluded.location) OR s.updated_at = '-infinity'
""")

# Its commit waits for no disk and no standby. The batch's comes later in the log: where that is kept, this is too.
REGISTER_SENSORS = SQL("""
WITH commit AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS mode)
INSERT INTO {table} (id, updated_at)
SELECT id, '-infinity' FROM commit, unnest(%(ids)s::bigint[]) AS new(id)
WHERE commit.mode = 'off'
ORDER BY id
ON CONFLICT (id) DO NOTHING
""")

# Kept among the offsets, under a name that no topic can have. Who has lost all sensors has lost their ids too.
WANTS_COMPLETION = SQL("""
SELECT pg_try_advisory_xact_lock(hashtextextended('sensorlog sensors of ' || {schema}, 0))
   AND NOT (EXISTS (SELECT FROM {offsets} WHERE topic = {mark}) AND EXISTS (SELECT FROM {table}))
""")

MARK_COMPLETE = SQL("""
INSERT INTO {offsets} (topic, partition, next_offset) VALUES ({mark}, 0, 0)
ON CONFLICT (topic, partition) DO NOTHING
""")

COMPLETION_MARK = "sensors of stored readings"

LONG_STATEMENT = SQL("SELECT set_config('statement_timeout', '10min', true)")

# Each turn jumps to the next id by the index, a loose index scan: https://wiki.postgresql.org/wiki/Loose_indexscan
# ORDER BY has all ids found before the first is stored, so that nobody waits for it meanwhile.
REGISTER_STORED = SQL("""
WITH RECURSIVE jump(sensor_id) AS (
    (SELECT sensor_id FROM {readings} ORDER BY sensor_id LIMIT 1)
    UNION ALL
    SELECT (SELECT r.sensor_id FROM {readings} AS r WHERE r.sensor_id > jump.sensor_id ORDER BY r.sensor_id LIMIT 1)
    FROM jump
    WHERE jump.sensor_id IS NOT NULL
)
INSERT INTO {table} (id, updated_at)
SELECT sensor_id, '-infinity' FROM jump WHERE sensor_id IS NOT NULL
ORDER BY sensor_id
ON CONFLICT (id) DO NOTHING
""")

# The same offset again means that the topic was deleted and made anew: the new message is the one to keep.
INSERT_DEAD_LETTERS = SQL("""
INSERT INTO {table} (topic, partition, message_offset, key, value, headers, reason, detail)
VALUES (%(topic)s, %(partition)s, %(offset)s, %(key)s, %(value)s, %(headers)s::jsonb, %(reason)s, %(detail)s)
ON CONFLICT (topic, partition, message_offset) DO UPDATE
SET received_at = now(), key = excluded.key, value = excluded.value, headers = excluded.headers,
    reason = excluded.reason, detail = excluded.detail
""")

# What a watch of the query service goes by: which transaction stored readings, and of which times. Their xmin is that
# transaction's id. 64 bits of microseconds are exact this way, whatever the session's time zone.
RECORD_BATCH = SQL("""
INSERT INTO {batches} (rows, first_time, last_time)
SELECT %(rows)s::int,
       'epoch'::timestamptz + %(first_us)s::bigint * interval '1 microsecond',
       'epoch'::timestamptz + %(last_us)s::bigint * interval '1 microsecond'
WHERE %(rows)s::int > 0
""")

# The newest stays, whatever its age: it proves to a watch that the database is still the one it was. One process at a
# time does this, and the others do not wait for it.
PRUNE_BATCHES = SQL("""
DELETE FROM {batches}
WHERE (SELECT pg_try_advisory_xact_lock(hashtextextended('sensorlog batches of ' || {schema}, 0)))
  AND committed_at < clock_timestamp() - interval '1 hour'
  AND xid < (SELECT xid FROM {batches} ORDER BY xid DESC LIMIT 1)
""")

UPSERT_CANARIES = SQL("""
INSERT INTO {table} AS c (partition, token, stored_at)
SELECT partition, token, clock_timestamp()
FROM unnest(%(partitions)s::int[], %(tokens)s::text[]) AS new(partition, token)
ON CONFLICT (partition) DO UPDATE SET token = excluded.token, stored_at = excluded.stored_at
""")

# Rows are locked in order, so that two processes never wait for each other, and compared once they are locked. The
# batch is recorded on the way, which saves a round trip; where an offset is not as expected, it is rolled back too.
ADVANCE_OFFSETS = SQL("""
WITH recorded AS ({record_batch}), wanted AS (
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

# Dead letters that are looked at, replayed or discarded

SESSION_OF_LETTERS = SQL("SELECT set_config('application_name', 'sensorlog-dead-letters', false)")

# What the statements on letters that are not named one by one have in common.
FITTING = SQL("""
    (%(reason)s::text IS NULL OR reason = %(reason)s::text)
    AND (%(topic)s::text IS NULL OR topic = %(topic)s::text)
    AND (%(since)s::timestamptz IS NULL OR received_at >= %(since)s::timestamptz)
    AND received_at <= %(until)s::timestamptz
""")

NOW = SQL("SELECT clock_timestamp()")

COUNT_LETTERS = SQL("""
SELECT reason, count(*), coalesce(sum(octet_length(value)), 0)::bigint, max(received_at)
FROM {table} WHERE {fitting}
GROUP BY reason ORDER BY 2 DESC, 1
""")

LIST_LETTERS = SQL("""
SELECT topic, partition, message_offset, received_at, reason, detail, octet_length(value)
FROM {table} WHERE {fitting}
ORDER BY received_at DESC, topic, partition, message_offset DESC LIMIT %(limit)s
""")

# By the primary key, whatever the number of letters. octet_length does not fetch a value that is stored apart.
PEEK_FITTING = SQL("""
SELECT topic, partition, message_offset, received_at, coalesce(octet_length(value), 0)
FROM {table}
WHERE {fitting} AND (topic, partition, message_offset)
    > (%(after_topic)s::text, %(after_partition)s::int, %(after_offset)s::bigint)
ORDER BY topic, partition, message_offset LIMIT %(limit)s
""")

PEEK_NAMED = SQL("""
SELECT d.topic, d.partition, d.message_offset, d.received_at, coalesce(octet_length(d.value), 0)
FROM {table} AS d
JOIN unnest(%(topics)s::text[], %(partitions)s::int[], %(offsets)s::bigint[]) AS w(topic, partition, message_offset)
  ON d.topic = w.topic AND d.partition = w.partition AND d.message_offset = w.message_offset
ORDER BY d.topic, d.partition, d.message_offset
""")

READ_LETTER = SQL("""
SELECT received_at, reason, detail, key, headers, value
FROM {table} WHERE topic = %(topic)s AND partition = %(partition)s AND message_offset = %(offset)s
""")

# Locked in order, so that two processes never wait for each other. A letter that was replaced since it was peeked at
# has another received_at, and is another letter.
DELETE_LETTERS = SQL("""
WITH wanted AS (
    SELECT * FROM unnest(%(topics)s::text[], %(partitions)s::int[], %(offsets)s::bigint[], %(received)s::timestamptz[])
        AS w(topic, partition, message_offset, received_at)
), locked AS (
    SELECT d.topic, d.partition, d.message_offset
    FROM {table} AS d
    JOIN wanted AS w ON d.topic = w.topic AND d.partition = w.partition AND d.message_offset = w.message_offset
    WHERE d.received_at = w.received_at
    ORDER BY d.topic, d.partition, d.message_offset
    FOR UPDATE OF d
)
DELETE FROM {table} AS d USING locked
WHERE d.topic = locked.topic AND d.partition = locked.partition AND d.message_offset = locked.message_offset
""")

RETURNING_IDS = SQL("RETURNING d.topic, d.partition, d.message_offset")

RETURNING_LETTERS = SQL("RETURNING d.topic, d.partition, d.message_offset, d.received_at, d.key, d.value, d.headers")

# No conflict: the row of that key was deleted in the same transaction, and whoever wants the key waits for its end.
RESTORE_LETTERS = SQL("""
INSERT INTO {table} (topic, partition, message_offset, received_at, key, value, headers, reason, detail)
VALUES (%(topic)s, %(partition)s, %(offset)s, %(received_at)s,
        %(key)s, %(value)s, %(headers)s::jsonb, %(reason)s, %(detail)s)
""")

# What is known of a sensor stays unless it is older than the letter. Where both are of the same time, they came in
# one batch, and what landed of it is kept. Without a time, a sensor has reported and not announced itself: only its id
# is new, if anything; and it is in the same statement so that all rows are locked in one order.
UPSERT_OLDER_SENSORS = SQL("""
INSERT INTO {table} AS s (id, type, location, updated_at)
SELECT id, type, location, coalesce(received_at, '-infinity')
FROM unnest(%(ids)s::bigint[], %(types)s::text[], %(locations)s::text[], %(received)s::timestamptz[])
    AS new(id, type, location, received_at)
WHERE received_at IS NOT NULL OR NOT EXISTS (SELECT FROM {table} AS known WHERE known.id = new.id)
ORDER BY id
ON CONFLICT (id) DO UPDATE
SET type = excluded.type, location = excluded.location, updated_at = excluded.updated_at
WHERE s.updated_at < excluded.updated_at
RETURNING s.updated_at > '-infinity'
""")


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements with the names of one pipeline filled in."""

    copy_readings: Composed
    upsert_sensors: Composed
    insert_dead_letters: Composed
    upsert_canaries: Composed
    advance_offsets: Composed
    record_batch: Composed
    prune_batches: Composed
    create_offsets: Composed
    read_offsets: Composed


def statements(schema: str, measurements: Sequence[str]) -> Statements:
    """Return the statements for a pipeline's schema and columns."""
    columns = SQL(", ").join(map(Identifier, ("time", "sensor_id", *measurements)))
    offsets = Identifier(schema, "ingest_offsets")
    batches = Identifier(schema, "ingest_batches")
    record_batch = RECORD_BATCH.format(batches=batches)
    return Statements(
        copy_readings=COPY_READINGS.format(table=Identifier(schema, "sensor_data"), columns=columns),
        upsert_sensors=UPSERT_SENSORS.format(table=Identifier(schema, "sensors")),
        insert_dead_letters=INSERT_DEAD_LETTERS.format(table=Identifier(schema, "dead_letters")),
        upsert_canaries=UPSERT_CANARIES.format(table=Identifier(schema, "canaries")),
        advance_offsets=ADVANCE_OFFSETS.format(table=offsets, record_batch=record_batch),
        record_batch=record_batch,
        prune_batches=PRUNE_BATCHES.format(batches=batches, schema=Literal(schema)),
        create_offsets=CREATE_OFFSETS.format(table=offsets),
        read_offsets=READ_OFFSETS.format(table=offsets),
    )


@dataclass(frozen=True, slots=True)
class RegistryStatements:
    """The statements on sensors that report, with the names of one pipeline filled in."""

    register: Composed
    wants_completion: Composed
    long_statement: SQL
    register_stored: Composed
    mark_complete: Composed


def registry_statements(schema: str) -> RegistryStatements:
    """Return the statements on sensors that report for a pipeline's schema."""
    table, offsets = Identifier(schema, "sensors"), Identifier(schema, "ingest_offsets")
    mark = Literal(COMPLETION_MARK)
    return RegistryStatements(
        register=REGISTER_SENSORS.format(table=table),
        wants_completion=WANTS_COMPLETION.format(schema=Literal(schema), offsets=offsets, mark=mark, table=table),
        long_statement=LONG_STATEMENT,
        register_stored=REGISTER_STORED.format(readings=Identifier(schema, "sensor_data"), table=table),
        mark_complete=MARK_COMPLETE.format(offsets=offsets, mark=mark),
    )


@dataclass(frozen=True, slots=True)
class LetterStatements:
    """The statements on dead letters with the names of one pipeline filled in."""

    count: Composed
    list: Composed
    peek_fitting: Composed
    peek_named: Composed
    read: Composed
    delete: Composed
    take: Composed
    restore: Composed
    upsert_older_sensors: Composed


def letter_statements(schema: str) -> LetterStatements:
    """Return the statements on dead letters for a pipeline's schema."""
    table = Identifier(schema, "dead_letters")
    delete = DELETE_LETTERS.format(table=table)
    return LetterStatements(
        count=COUNT_LETTERS.format(table=table, fitting=FITTING),
        list=LIST_LETTERS.format(table=table, fitting=FITTING),
        peek_fitting=PEEK_FITTING.format(table=table, fitting=FITTING),
        peek_named=PEEK_NAMED.format(table=table),
        read=READ_LETTER.format(table=table),
        delete=delete + RETURNING_IDS,
        take=delete + RETURNING_LETTERS,
        restore=RESTORE_LETTERS.format(table=table),
        upsert_older_sensors=UPSERT_OLDER_SENSORS.format(table=Identifier(schema, "sensors")),
    )
