#!/bin/bash
# Makes the database when the volume is empty, then runs postgres with the arguments
# given (`-c name=value`). Settings, as in the official images:
#   POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE   required when the volume is empty
#   POSTGRES_USER                                 superuser, default postgres
#   POSTGRES_DB                                   database, default the user's name
#   PGDATA                                        default /var/lib/postgresql/data
set -euo pipefail

user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}
# Made here and moved up when complete: a start that was cut off begins anew.
draft=$PGDATA/.draft

password() {
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
        cat "$POSTGRES_PASSWORD_FILE"
    else
        printf '%s' "${POSTGRES_PASSWORD:-}"
    fi
}

make_database() {
    if [ -z "$(password)" ]; then
        echo "error: set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE" >&2
        exit 1
    fi
    mkdir -p "$PGDATA"
    # PostgreSQL accepts no folder that others may read.
    chmod 0700 "$PGDATA" 2>/dev/null || true
    if [ -d "$draft" ]; then
        # Its own trace says that no database was ever complete here.
        find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found -exec rm -rf {} +
    fi
    # Nothing needs to be on disk before it is all moved into place, hence --no-sync.
    initdb --pgdata="$draft" --username="$user" --pwfile=<(password) --no-sync \
        --auth=scram-sha-256 --encoding=UTF8 --locale-provider=builtin --locale=C.UTF-8 >/dev/null
    cat >>"$draft/postgresql.conf" <<EOF
listen_addresses = '*'
shared_preload_libraries = 'timescaledb'
timescaledb.telemetry_level = off
EOF
    echo 'host all all all scram-sha-256' >>"$draft/pg_hba.conf"
    create_extension
    sync -f "$draft"
    find "$draft" -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec mv -t "$PGDATA" {} +
    # The file that says "there is a database here" goes last.
    mv "$draft/PG_VERSION" "$PGDATA/"
    rmdir "$draft"
}

# In single-user mode, because it needs no password and opens no port. template1 too:
# a database made later has the extension as well.
create_extension() {
    local -a single=(postgres --single -D "$draft" -c fsync=off)
    echo "CREATE EXTENSION timescaledb" | "${single[@]}" -j template1 >/dev/null
    if [ "$database" != postgres ]; then
        echo "CREATE DATABASE \"${database//\"/\"\"}\"" | "${single[@]}" postgres >/dev/null
    else
        echo "CREATE EXTENSION timescaledb" | "${single[@]}" -j postgres >/dev/null
    fi
}

if [ "${1:-postgres}" != postgres ] && [ "${1#-}" = "$1" ]; then
    exec "$@"
fi
if [ "${1:-}" = postgres ]; then shift; fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    make_database
    echo "made the database $database in $PGDATA"
fi
exec postgres -D "$PGDATA" "$@"
