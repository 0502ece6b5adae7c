"""The statements about retention, compression and rollups. Identifiers go through psycopg.sql, never through format().

Those of the timescale license are chosen by version: see `features`. All of them may run inside of a transaction.
Source: TimescaleDB's documentation, API reference of 2.14 to 2.26.
"""

from psycopg.sql import SQL

# Chunks whose newest possible reading is older than the retention; those before year 1 go with the first of them.
# No more of each schema than the limit.
EXPIRED = SQL("""
SELECT schema, range_end FROM (
    SELECT c.hypertable_schema AS schema, c.range_end,
           row_number() OVER (PARTITION BY c.hypertable_schema ORDER BY c.range_end) AS number
    FROM timescaledb_information.chunks c
    JOIN unnest(%(schemas)s::text[], %(retentions)s::interval[]) AS wanted(schema, retention)
      ON c.hypertable_schema = wanted.schema
    WHERE c.hypertable_name = %(table)s
      AND c.range_end <= now() - wanted.retention AND c.range_end > '0001-01-02'
) AS chunk
WHERE number <= %(limit)s
ORDER BY range_end
""")

POLICIES = SQL("""
SELECT hypertable_schema AS schema, proc_name, scheduled, (config ->> 'drop_after')::interval AS drop_after,
       (config ->> 'compress_after')::interval AS compress_after
FROM timescaledb_information.jobs
WHERE hypertable_schema = ANY(%(schemas)s) AND hypertable_name = %(table)s
  AND proc_name IN ('policy_retention', 'policy_compression')
ORDER BY job_id
""")

# The view that both names of the feature share; no row with settings while it is off.
COMPRESSION = SQL("""
SELECT n.nspname AS schema, s.segmentby, s.orderby
FROM timescaledb_information.hypertable_compression_settings s
JOIN pg_class c ON c.oid = s.hypertable
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND c.relname = %(table)s AND s.segmentby IS NOT NULL
""")

# Policies of a continuous aggregate are listed under the hypertable that it is kept in, or else under its own name.
ROLLUPS = SQL("""
SELECT c.view_schema AS schema, c.view_name, c.materialized_only,
       r.job_id IS NOT NULL AS has_policy, r.scheduled, r.schedule_interval,
       (r.config ->> 'start_offset') IS NULL AS from_the_beginning,
       (r.config ->> 'end_offset')::interval AS end_offset,
       d.job_id IS NOT NULL AS has_retention, d.scheduled AS drop_scheduled,
       (d.config ->> 'drop_after')::interval AS drop_after,
       ARRAY(SELECT attname::text FROM pg_attribute
             WHERE attrelid = format('%%I.%%I', c.view_schema, c.view_name)::regclass
               AND attnum > 0 AND NOT attisdropped) AS columns
FROM timescaledb_information.continuous_aggregates c
LEFT JOIN timescaledb_information.jobs r
  ON r.proc_name = 'policy_refresh_continuous_aggregate'
 AND (r.hypertable_schema, r.hypertable_name) IN (
         (c.materialization_hypertable_schema, c.materialization_hypertable_name), (c.view_schema, c.view_name))
LEFT JOIN timescaledb_information.jobs d
  ON d.proc_name = 'policy_retention'
 AND (d.hypertable_schema, d.hypertable_name) IN (
         (c.materialization_hypertable_schema, c.materialization_hypertable_name), (c.view_schema, c.view_name))
WHERE c.hypertable_schema = ANY(%(schemas)s) AND c.hypertable_name = %(table)s AND c.view_schema = c.hypertable_schema
ORDER BY c.view_schema, c.view_name, r.job_id
""")

DROP_CHUNKS = SQL("SELECT drop_chunks({table}, older_than => {before}::timestamptz)")

ADD_RETENTION = SQL("SELECT add_retention_policy({table}, drop_after => {after}, if_not_exists => true)")
REMOVE_RETENTION = SQL("SELECT remove_retention_policy({table}, if_exists => true)")

ENABLE_COLUMNSTORE = SQL(
    "ALTER TABLE {table} SET (timescaledb.enable_columnstore = true, timescaledb.segmentby = 'sensor_id',"
    " timescaledb.orderby = 'time DESC')"
)
ADD_COLUMNSTORE = SQL("CALL add_columnstore_policy({table}, after => {after}, if_not_exists => true)")
REMOVE_COLUMNSTORE = SQL("CALL remove_columnstore_policy({table}, if_exists => true)")

# The same before 2.18.
ENABLE_COMPRESSION = SQL(
    "ALTER TABLE {table} SET (timescaledb.compress, timescaledb.compress_segmentby = 'sensor_id',"
    " timescaledb.compress_orderby = 'time DESC')"
)
ADD_COMPRESSION = SQL("SELECT add_compression_policy({table}, compress_after => {after}, if_not_exists => true)")
REMOVE_COMPRESSION = SQL("SELECT remove_compression_policy({table}, if_exists => true)")

# Without data: the refresh policy fills it in the background, where no lock of ours waits for it.
CREATE_ROLLUP = SQL("""
CREATE MATERIALIZED VIEW {view}
WITH (timescaledb.continuous, timescaledb.materialized_only = true) AS
SELECT time_bucket({interval}, {time}) AS {bucket}, {sensor}, count(*) AS {readings}, {partials}
FROM {table}
GROUP BY 1, 2
WITH NO DATA
""")
DROP_ROLLUP = SQL("DROP MATERIALIZED VIEW IF EXISTS {view}")
MATERIALIZED_ONLY = SQL("ALTER MATERIALIZED VIEW {view} SET (timescaledb.materialized_only = true)")

# From the beginning, so that readings of any age come into it; only what has changed is computed again.
ADD_REFRESH = SQL(
    "SELECT add_continuous_aggregate_policy({view}, start_offset => NULL, end_offset => {end_offset},"
    " schedule_interval => {schedule}, if_not_exists => true)"
)
REMOVE_REFRESH = SQL("SELECT remove_continuous_aggregate_policy({view}, if_exists => true)")
