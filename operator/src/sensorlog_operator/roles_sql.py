"""The statements about roles and their rights. Identifiers go through psycopg.sql, never through format()."""

from psycopg.sql import SQL

ADMIN = SQL("""
SELECT current_database() AS database, rolname AS name, rolsuper OR rolcreaterole AS may_create
FROM pg_roles WHERE rolname = current_user
""")

ROLES = SQL("""
SELECT r.rolname AS name, r.rolcanlogin AS can_login, shobj_description(r.oid, 'pg_authid') AS comment,
       r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls AS elevated,
       ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
             WHERE m.member = r.oid) AS member_of,
       ARRAY(SELECT unnest(s.setconfig) FROM pg_db_role_setting s
             WHERE s.setrole = r.oid AND s.setdatabase = 0) AS settings
FROM pg_roles r WHERE r.rolname = ANY(%(names)s)
""")

RELATIONS = SQL("""
SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
""")

# The owner's own rights are not among them: a role of ours owns nothing.
PRIVILEGES = SQL("""
WITH granted(schema, kind, object, entry) AS (
    SELECT n.nspname, 'table', c.relname, aclexplode(c.relacl)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    UNION ALL
    SELECT nspname, 'schema', nspname, aclexplode(nspacl) FROM pg_namespace WHERE nspname = ANY(%(schemas)s)
    UNION ALL
    SELECT n.nspname, 'later', n.nspname, aclexplode(d.defaclacl)
    FROM pg_default_acl d JOIN pg_namespace n ON n.oid = d.defaclnamespace JOIN pg_roles o ON o.oid = d.defaclrole
    WHERE n.nspname = ANY(%(schemas)s) AND d.defaclobjtype = 'r' AND o.rolname = current_user
)
SELECT g.schema, g.kind, g.object, r.rolname AS role, (g.entry).privilege_type AS privilege
FROM granted g JOIN pg_roles r ON r.oid = (g.entry).grantee
WHERE r.rolname = ANY(%(names)s)
""")

# Mostly a right of everybody's; where it was taken away, our roles need it by name.
MAY_CONNECT = SQL("""
SELECT rolname AS name FROM pg_roles
WHERE rolname = ANY(%(names)s) AND has_database_privilege(oid, current_database(), 'CONNECT')
""")

CREATE_GROUP = SQL("CREATE ROLE {role} NOLOGIN")
CREATE_LOGIN = SQL("CREATE ROLE {role} NOLOGIN IN ROLE {group}")
COMMENT_ON_ROLE = SQL("COMMENT ON ROLE {role} IS {comment}")
LOWER = SQL("ALTER ROLE {role} NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS")
NO_LOGIN = SQL("ALTER ROLE {role} NOLOGIN")
JOIN = SQL("GRANT {group} TO {role}")
LEAVE = SQL("REVOKE {group} FROM {role}")
READ_ONLY = SQL("ALTER ROLE {role} SET default_transaction_read_only = on")
GRANT = SQL("GRANT {privileges} ON {kind} {object} TO {role}")
REVOKE = SQL("REVOKE {privileges} ON {kind} {object} FROM {role}")
# On what we ourselves make in the schema from now on.
GRANT_LATER = SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {object} GRANT {privileges} ON TABLES TO {role}")
REVOKE_LATER = SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {object} REVOKE {privileges} ON TABLES FROM {role}")

# The verifier is computed here, so that no password comes into a log of the server.
LET_IN = SQL("ALTER ROLE {role} LOGIN PASSWORD {verifier}")
SHUT_OUT = SQL("ALTER ROLE {role} NOLOGIN PASSWORD NULL")

# Ending a session takes membership in its role, which whoever creates a role may give to themselves.
JOIN_OURSELVES = SQL("GRANT {role} TO CURRENT_USER")
LEAVE_OURSELVES = SQL("REVOKE {role} FROM CURRENT_USER")
END_SESSIONS = SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {name}")

# What a role was granted goes first, also on objects that TimescaleDB keeps in schemas of its own. It owns nothing.
DROP_RIGHTS = SQL("DROP OWNED BY {role}")
DROP_ROLE = SQL("DROP ROLE {role}")
