"""The roles of a pipeline in a real database: what they may, and what they may not, whoever provisions them."""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import InsufficientPrivilege

from sensorlog_operator import connections, role_changes, roles
from sensorlog_operator.connection_uri import with_login
from sensorlog_operator.errors import NeedsChangeError, PipelineError, Reason
from sensorlog_operator.plans import Refusal
from sensorlog_operator.roles import Component, RoleNames
from support.database import Database
from support.pipelines import MakePipeline, Pipeline
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration

PASSWORD = "a password of a test"  # noqa: S105
ALL_TABLES = ("sensor_data", "sensors", "ingest_offsets", "dead_letters", "ingest_batches")


@dataclass(frozen=True)
class Admin:
    """Who provisions."""

    uri: str

    def provision(self, pipeline: Pipeline) -> list[str]:
        """Bring the pipeline's roles to what they should be; return what was done, in words."""
        with connections.connect(self.uri) as connection:
            actions, _ = role_changes.provision(connection, pipeline.schema)
        return [f"refused: {a.summary}" if isinstance(a, Refusal) else a.summary for a in actions]

    def let_in(self, pipeline: Pipeline, component: Component) -> str:
        """Let the first login of a component in; return its connection."""
        with connections.connect(self.uri) as connection:
            observed = roles.observe(connection, pipeline.schema)
            login = observed.names.login(component, "a")
            role_changes.let_in(connection, observed, login, PASSWORD)
        return with_login(self.uri, login, PASSWORD)

    def shut_out(self, pipeline: Pipeline, component: Component) -> None:
        """Shut the first login of a component out."""
        with connections.connect(self.uri) as connection:
            observed = roles.observe(connection, pipeline.schema)
            role_changes.shut_out(connection, observed, [observed.names.login(component, "a")])


def names_of(pipeline: Pipeline) -> RoleNames:
    """Return how the pipeline's roles are called."""
    return RoleNames("sensorlog", pipeline.schema)


@pytest.fixture
def superuser(database: Database) -> Admin:
    """Return the user of a database of one's own."""
    return Admin(database.uri)


@pytest.fixture
def creator(database: Database) -> Iterator[Admin]:
    """Yield a user as managed services have it: no superuser, but one that may create roles and schemas."""
    name = f"creator_{secrets.token_hex(4)}"
    database.execute(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD '{PASSWORD}'")
    database.execute(f"GRANT CREATE ON DATABASE sensorlog TO {name}")
    yield Admin(with_login(database.uri, name, PASSWORD))
    database.execute(f"DROP OWNED BY {name}")
    database.execute(f"DROP ROLE {name}")


@pytest.fixture
def owned(make_pipeline: MakePipeline, database: Database, creator: Admin) -> Iterator[Pipeline]:
    """Yield a pipeline whose schema was made by `creator`."""
    pipeline = make_pipeline(create_topics=False, create_schema=False)
    pipeline.provision_schema(creator.uri)
    yield pipeline
    forget(database, pipeline)


@pytest.fixture
def plain(make_pipeline: MakePipeline, database: Database) -> Iterator[Pipeline]:
    """Yield a pipeline whose schema was made by the superuser."""
    pipeline = make_pipeline(create_topics=False)
    yield pipeline
    forget(database, pipeline)


def answers(uri: str) -> bool:
    """Return True where the operator gets a connection; PipelineError where it does not."""
    with connections.connect(uri):
        return True


def forget(database: Database, pipeline: Pipeline) -> None:
    """Drop what roles a pipeline has."""
    with connections.connect(database.uri) as connection:
        role_changes.drop(connection, pipeline.schema)


@contextlib.contextmanager
def session(uri: str, pipeline: Pipeline) -> Iterator[psycopg.Connection]:
    """Yield an autocommit connection with the pipeline's schema as search_path."""
    with psycopg.connect(uri, autocommit=True, connect_timeout=3) as connection:
        connection.execute(f"SET search_path TO {pipeline.schema}, public".encode())
        yield connection


def refused(connection: psycopg.Connection, *statements: str) -> None:
    """Show that each statement is refused for want of a right."""
    for statement in statements:
        with pytest.raises((InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)):
            connection.execute(statement.encode())


@pytest.mark.parametrize("who", ["superuser", "creator"])
def test_whoever_may_create_roles_can_provision_them(
    who: str, request: pytest.FixtureRequest, database: Database
) -> None:
    """As a superuser, and as managed services have it; a second time nothing is left to do."""
    admin: Admin = request.getfixturevalue(who)
    pipeline: Pipeline = request.getfixturevalue({"superuser": "plain", "creator": "owned"}[who])
    done = admin.provision(pipeline)
    assert not [step for step in done if step.startswith("refused")]
    assert admin.provision(pipeline) == []
    found = database.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", [names_of(pipeline).every()])
    assert len(found) == 6


def test_the_writer_may_do_what_ingest_does_and_no_more(owned: Pipeline, creator: Admin) -> None:
    """New chunks among it, although it owns none; but no DDL, and no look at another schema."""
    creator.provision(owned)
    with session(creator.let_in(owned, "ingest"), owned) as writer:
        writer.execute("INSERT INTO sensor_data SELECT now() - i * interval '1 day', i FROM generate_series(1, 5) i")
        assert writer.execute("SELECT count(*) FROM sensor_data").fetchone() == (5,)
        writer.execute("INSERT INTO sensors (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET type = 'a'")
        writer.execute("INSERT INTO ingest_offsets VALUES ('t', 0, 1)")
        writer.execute("UPDATE ingest_offsets SET next_offset = 2")
        refused(writer, "DELETE FROM sensor_data", "UPDATE sensor_data SET cpu = 1", "DELETE FROM sensors")
        refused(writer, "DELETE FROM ingest_offsets", "CREATE TABLE mine (i int)", "CREATE TABLE public.mine (i int)")
        refused(writer, f"DROP SCHEMA {owned.schema} CASCADE", "CREATE ROLE mine", "CREATE SCHEMA mine")
        for table in ALL_TABLES:
            refused(writer, f"TRUNCATE {table}", f"DROP TABLE {table}", f"ALTER TABLE {table} ADD COLUMN mine int")
        refused(writer, "SELECT drop_chunks('sensor_data', older_than => now())")
    assert owned.count() == 5


def test_the_reader_may_read_and_not_write_whatever_it_sets(owned: Pipeline, creator: Admin) -> None:
    """Its transactions are read-only; one that says otherwise still lacks the right."""
    creator.provision(owned)
    owned.query("INSERT INTO sensor_data VALUES (now(), 1)")
    with session(creator.let_in(owned, "query"), owned) as reader:
        assert reader.execute("SELECT count(*) FROM sensor_data").fetchone() == (1,)
        assert reader.execute("SHOW default_transaction_read_only").fetchone() == ("on",)
        refused(reader, "SELECT * FROM dead_letters")
        for mode in ("on", "off"):
            reader.execute(f"SET default_transaction_read_only = {mode}".encode())
            refused(reader, "INSERT INTO sensor_data VALUES (now(), 2)", "DELETE FROM sensor_data")
            refused(reader, "TRUNCATE sensor_data", "CREATE TABLE mine (i int)", "DROP TABLE sensor_data")


def test_neither_sees_another_pipeline(owned: Pipeline, creator: Admin, plain: Pipeline) -> None:
    """A schema of the same database."""
    creator.provision(owned)
    for component in roles.COMPONENTS:
        with session(creator.let_in(owned, component), owned) as connection:
            refused(connection, *(f"SELECT * FROM {plain.schema}.{table}" for table in ALL_TABLES))


def test_a_view_that_comes_later_can_be_read_at_once(owned: Pipeline, creator: Admin) -> None:
    """As rollups do: no reader meets one that it may not read."""
    creator.provision(owned)
    with session(creator.let_in(owned, "query"), owned) as reader:
        with psycopg.connect(creator.uri, autocommit=True) as connection:
            connection.execute(
                f"CREATE VIEW {owned.schema}.later AS SELECT count(*) FROM {owned.schema}.sensors".encode()
            )
        assert reader.execute("SELECT * FROM later").fetchone() == (0,)
    assert creator.provision(owned) == []


def test_a_view_of_somebody_else_can_be_read_after_the_next_reconcile(
    owned: Pipeline, creator: Admin, database: Database
) -> None:
    """What is to come is only what the operator makes."""
    creator.provision(owned)
    group = names_of(owned).group("query")
    database.execute(f"CREATE VIEW {owned.schema}.later AS SELECT 1 AS one")
    database.execute(f"ALTER VIEW {owned.schema}.later OWNER TO {creator_name(creator)}")
    assert creator.provision(owned) == [f"grant to {group}: SELECT on table {owned.schema}.later"]


def creator_name(admin: Admin) -> str:
    """Return who an admin is."""
    return str(conninfo_to_dict(admin.uri)["user"])


def test_rights_and_attributes_given_by_hand_are_taken_back(
    plain: Pipeline, superuser: Admin, database: Database
) -> None:
    """What an attacker, or a helpful colleague, has added."""
    superuser.provision(plain)
    names = names_of(plain)
    writer, login = names.group("ingest"), names.login("ingest", "a")
    database.execute(f"GRANT TRUNCATE, DELETE ON {plain.schema}.sensor_data TO {writer}")
    database.execute(f"ALTER ROLE {login} CREATEDB")
    assert superuser.provision(plain) == [
        f"take privileged attributes from {login}",
        f"revoke from {writer}: DELETE, TRUNCATE on table {plain.schema}.sensor_data",
    ]
    assert superuser.provision(plain) == []


def test_a_login_that_is_shut_out_loses_its_sessions_too(owned: Pipeline, creator: Admin, database: Database) -> None:
    """Who stole a password must not go on with a session that is open."""
    creator.provision(owned)
    uri = creator.let_in(owned, "query")
    with session(uri, owned) as reader:
        creator.shut_out(owned, "query")
        with pytest.raises(psycopg.OperationalError):
            reader.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match=r"not permitted to log in|password authentication failed"):
        psycopg.connect(uri, connect_timeout=3)
    count = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
    login = names_of(owned).login("query", "a")
    wait_for_value(lambda: database.execute(count, [login])[0][0], 0, deadline=5, what="sessions")


def test_passwords_do_not_reach_the_servers_log(owned: Pipeline, creator: Admin, database: Database) -> None:
    """It is told a verifier, also where it logs every statement."""
    creator.provision(owned)
    database.execute("ALTER SYSTEM SET log_statement = 'all'")
    database.execute("SELECT pg_reload_conf()")
    try:
        wait_for_value(lambda: database.execute("SHOW log_statement"), [("all",)], deadline=5, what="log_statement")
        creator.let_in(owned, "ingest")
    finally:
        database.execute("ALTER SYSTEM RESET log_statement")
        database.execute("SELECT pg_reload_conf()")
    log = database.container.logs(tail=200).decode()
    assert "SCRAM-SHA-256" in log
    assert PASSWORD not in log


def test_who_may_not_create_roles_is_refused_before_anything_is_done(plain: Pipeline, database: Database) -> None:
    """The owner of a schema and nothing else."""
    name = f"owner_{secrets.token_hex(4)}"
    database.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    try:
        (said,) = Admin(with_login(database.uri, name, PASSWORD)).provision(plain)
        assert said.startswith(f"refused: Database user {name!r} may not create the roles")
    finally:
        database.execute(f"DROP ROLE {name}")


def test_who_may_create_roles_but_does_not_own_the_schema_is_told(plain: Pipeline, creator: Admin) -> None:
    """Nothing is left half done."""
    with pytest.raises(NeedsChangeError, match="must own the schema") as caught:
        creator.provision(plain)
    assert caught.value.reason is Reason.ROLES_NOT_PERMITTED
    assert not plain.database.execute("SELECT 1 FROM pg_roles WHERE rolname = ANY(%s)", [names_of(plain).every()])


def test_roles_are_dropped_with_all_their_rights(owned: Pipeline, creator: Admin, database: Database) -> None:
    """Also those on chunks; a second time nothing is there."""
    creator.provision(owned)
    with session(creator.let_in(owned, "ingest"), owned) as writer:
        writer.execute("INSERT INTO sensor_data VALUES (now(), 1)")
        with connections.connect(creator.uri) as connection:
            assert role_changes.drop(connection, owned.schema) == names_of(owned).every()
            assert role_changes.drop(connection, owned.schema) == []
    assert not database.execute("SELECT 1 FROM pg_roles WHERE rolname = ANY(%s)", [names_of(owned).every()])


def test_a_strangers_role_is_neither_used_nor_dropped(plain: Pipeline, superuser: Admin, database: Database) -> None:
    """It has our name, but not our mark."""
    stranger = names_of(plain).login("query", "a")
    database.execute(f"CREATE ROLE {stranger}")
    try:
        (said,) = superuser.provision(plain)
        assert "is left alone" in said
        with connections.connect(superuser.uri) as connection:
            assert role_changes.drop(connection, plain.schema) == []
    finally:
        database.execute(f"DROP ROLE {stranger}")


def test_connecting_is_granted_by_name_where_it_is_not_everybodys(
    plain: Pipeline, superuser: Admin, database: Database
) -> None:
    """Hardened databases revoke it from PUBLIC."""
    database.execute("REVOKE CONNECT ON DATABASE sensorlog FROM PUBLIC")
    try:
        superuser.provision(plain)
        with session(superuser.let_in(plain, "query"), plain) as reader:
            reader.execute("SELECT count(*) FROM sensor_data")
    finally:
        database.execute("GRANT CONNECT ON DATABASE sensorlog TO PUBLIC")


def test_a_database_that_is_away_is_no_fault_of_rights(plain: Pipeline, database: Database) -> None:
    """The same errors as of schemas."""
    with database.stopped(), pytest.raises(PipelineError) as caught:
        Admin(database.uri).provision(plain)
    assert caught.value.reason is Reason.DATABASE_UNAVAILABLE
    # For a while it is remembered that nobody answers, and the tests to come are of the same process.
    wait_until(lambda: answers(database.uri), deadline=30, what="the database to be tried again")
