"""Every statement the operator sends to a database. Identifiers go through psycopg.sql, never through format()."""

from psycopg.sql import SQL

DATABASE = SQL("""
SELECT current_setting('server_version_num')::int AS server_version,
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescaledb_version,
       EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') AS timescaledb_available,
       current_setting('timescaledb.license', true) AS license
""")

# What is observed of schemas is asked for many at once.
SCHEMAS = SQL("""
SELECT nspname AS schema, obj_description(oid, 'pg_namespace') AS comment
FROM pg_namespace WHERE nspname = ANY(%(schemas)s)
""")

COLUMNS = SQL("""
SELECT n.nspname AS schema, c.relname AS table_name, a.attname AS column_name,
       format_type(a.atttypid, a.atttypmod) AS type
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'p')
ORDER BY n.nspname, c.relname, a.attnum
""")

INDEXES = SQL("""
SELECT n.nspname AS schema, c.relname AS table_name, i.indisprimary AS is_primary,
       array_agg(a.attname || CASE WHEN i.indoption[k.n - 1] & 1 = 1 THEN ' DESC' ELSE '' END ORDER BY k.n)
         AS columns
FROM pg_index i
JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
WHERE n.nspname = ANY(%(schemas)s) AND i.indisvalid
GROUP BY n.nspname, c.relname, i.indexrelid, i.indisprimary
""")

HYPERTABLES = SQL("""
SELECT hypertable_schema AS schema, time_interval FROM timescaledb_information.dimensions
WHERE hypertable_schema = ANY(%(schemas)s) AND hypertable_name = %(table)s AND dimension_number = 1
""")

# Of one schema; of many they are tied together by UNION_ALL.
UNION_ALL = SQL(" UNION ALL ")
NEXT_OFFSETS = SQL("SELECT {schema} AS schema, partition, next_offset FROM {table} WHERE topic = {topic}")

# Dead letters are found by their index on received_at; the batches' table holds an hour.
FIGURES = SQL("""
SELECT {schema} AS schema,
       (SELECT coalesce(sum(rows), 0) FROM {batches}
        WHERE committed_at > now() - make_interval(secs => %(seconds)s)) AS rows,
       (SELECT max(last_time) FROM {batches}) AS newest,
       (SELECT count(*) FROM {letters} WHERE received_at > now() - interval '1 hour') AS dead_letters,
       hypertable_size({table})::bigint AS size_bytes,
       (SELECT count(*) FROM show_chunks({table})) AS chunks
""")

# What is asked only of a schema that somebody else made.
NO_TABLES = SQL("""
SELECT c.relname AS name, c.relkind::text AS kind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = ANY(%(tables)s) AND c.relkind <> 'r'
""")

DEMANDED_COLUMNS = SQL("""
SELECT c.relname AS name, a.attname AS column_name
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname = %(schema)s AND c.relname = ANY(%(tables)s) AND c.relkind = 'r'
  AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
ORDER BY c.relname, a.attnum
""")

DIMENSIONS = SQL("""
SELECT column_name FROM timescaledb_information.dimensions
WHERE hypertable_schema = %(schema)s AND hypertable_name = %(readings)s AND dimension_number = 1
""")

# Whatever is in a schema beside the pipeline's own tables and the rollups that depend on them.
STRANGERS = SQL("""
SELECT c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND c.relname <> ALL(%(tables)s) AND NOT starts_with(c.relname, %(rollups)s)
UNION ALL
SELECT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = %(schema)s
LIMIT 1
""")
DROP_TABLE = SQL("DROP TABLE IF EXISTS {table} CASCADE")

HURRY = SQL("SET lock_timeout = '500ms'")

CREATE_EXTENSION = SQL("CREATE EXTENSION IF NOT EXISTS timescaledb")
CREATE_SCHEMA = SQL("CREATE SCHEMA IF NOT EXISTS {schema}")
COMMENT_ON_SCHEMA = SQL("COMMENT ON SCHEMA {schema} IS {comment}")
DROP_SCHEMA = SQL("DROP SCHEMA IF EXISTS {schema} CASCADE")
CREATE_TABLE = SQL("CREATE TABLE IF NOT EXISTS {table} ({columns})")
ADD_COLUMN = SQL("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column}")
CREATE_INDEX = SQL("CREATE INDEX IF NOT EXISTS {index} ON {table} ({columns})")
CREATE_HYPERTABLE = SQL(
    "SELECT create_hypertable({table}, 'time', chunk_time_interval => {interval},"
    " create_default_indexes => false, if_not_exists => true, migrate_data => true)"
)
SET_CHUNK_INTERVAL = SQL("SELECT set_chunk_time_interval({table}, {interval})")

# One reconcile at a time may change a schema, also when an old operator is still ending; released at commit.
LOCK_SCHEMA = SQL("SELECT pg_advisory_xact_lock(hashtextextended('sensorlog:' || {schema}, 0))")
