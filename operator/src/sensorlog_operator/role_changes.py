"""What is done to roles in a database: provisioned, let in with a password, shut out, dropped. Each step is repeatable.

Errors are PipelineErrors as in `schema`; one about missing rights says which rights over roles it takes.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import structlog
from psycopg import sql as pgsql

from sensorlog_operator import roles_sql, schema
from sensorlog_operator.connections import Connection
from sensorlog_operator.errors import NeedsChangeError, Reason
from sensorlog_operator.plans import Action, Refusal
from sensorlog_operator.roles import ObservedRoles, RoleNames, fingerprint, marked, observe, plan
from sensorlog_operator.schema import Execute

MOST_ROUNDS = 3
"""What a new role lacks of what everybody may is seen once it exists; then nothing is left to do."""

log = structlog.get_logger(__name__)


@contextmanager
def explained(admin: str) -> Iterator[None]:
    """Say of a refused statement about roles what it takes, which is something else than for a schema."""
    try:
        yield
    except NeedsChangeError as e:
        if e.reason is not Reason.DATABASE_PERMISSION_DENIED:
            raise
        raise NeedsChangeError(
            Reason.ROLES_NOT_PERMITTED,
            f"Database user {admin!r} may not change the pipeline's roles ({e.__cause__}). It needs CREATEROLE and"
            " ADMIN OPTION on roles that another user made, and must own the schema or have its rights with GRANT"
            " OPTION. Or set spec.timescale.access to Shared.",
        ) from e


def provision(connection: Connection, name: str) -> tuple[list[Action], ObservedRoles]:
    """Bring the roles of schema `name` to what they should be; return what was planned, refusals among it, and saw."""
    actions: list[Action] = []
    for _ in range(MOST_ROUNDS):
        observed = observe(connection, name)
        steps = plan(observed)
        actions += steps
        if not steps or any(isinstance(step, Refusal) for step in steps):
            break
        with explained(observed.admin):
            schema.apply(connection, name, steps)
    return actions, observed


def let_in(connection: Connection, observed: ObservedRoles, login: str, password: str) -> list[Action]:
    """Let a login in with `password`; return what was done."""
    verifier = connection.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256").decode()
    statement = roles_sql.LET_IN.format(role=pgsql.Identifier(login), verifier=pgsql.Literal(verifier))
    steps = [
        Execute(f"let {login} in with the password of its Secret", statement),
        marked(observed.names, login, fingerprint(login, password)),
    ]
    with explained(observed.admin):
        schema.apply(connection, observed.names.schema, steps)
    return [steps[0]]


def shut_out(connection: Connection, observed: ObservedRoles, logins: Iterable[str]) -> list[Action]:
    """Let these logins in no more, and end what sessions they have; return what was done."""
    done: list[Action] = []
    for login in logins:
        statement = roles_sql.SHUT_OUT.format(role=pgsql.Identifier(login))
        steps = [Execute(f"shut {login} out: nothing uses it any more", statement), marked(observed.names, login)]
        with explained(observed.admin):
            schema.apply(connection, observed.names.schema, steps)
        done.append(steps[0])
        _end_sessions(connection, observed, login)
    return done


def _end_sessions(connection: Connection, observed: ObservedRoles, login: str) -> None:
    ending = roles_sql.END_SESSIONS.format(name=pgsql.Literal(login))
    try:
        schema.apply(connection, observed.names.schema, _as_members([login], [Execute("end its sessions", ending)]))
    except NeedsChangeError as e:
        # They belong to no pod of ours. Whoever may not end them can neither be asked nor helped by trying again.
        log.warning("sessions of a former login may go on", login=login, error=e.message)


def drop(connection: Connection, name: str) -> list[str]:
    """Drop the roles of schema `name` with all their rights; return which there were. Strangers' are left alone."""
    observed = observe(connection, name)
    names = observed.names
    ours = [role for role in names.every() if role in observed.roles and _ours(observed, role)]
    steps = [
        *_as_members(ours, [_on_role("drop the rights of", roles_sql.DROP_RIGHTS, role) for role in ours]),
        *(_on_role("drop role", roles_sql.DROP_ROLE, role) for role in ours),
    ]
    with explained(observed.admin):
        schema.apply(connection, name, steps)
    return ours


def _ours(observed: ObservedRoles, role: str) -> bool:
    mark = observed.roles[role].mark
    return mark is not None and RoleNames(mark.database, mark.schema) == observed.names


def _as_members(roles: Iterable[str], steps: Iterable[Execute]) -> list[Execute]:
    """Return the steps with memberships around them that they need, for a user who is no superuser."""
    join = [_on_role("join", roles_sql.JOIN_OURSELVES, role) for role in roles]
    leave = [_on_role("leave", roles_sql.LEAVE_OURSELVES, role) for role in roles]
    return [*join, *steps, *leave]


def _on_role(verb: str, statement: pgsql.SQL, role: str) -> Execute:
    return Execute(f"{verb} {role}", statement.format(role=pgsql.Identifier(role)))
