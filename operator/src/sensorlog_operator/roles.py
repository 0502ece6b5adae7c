"""The database roles of a pipeline: one group that may write, one that may read, and two logins of each in turn.

Rights are the groups'; a login has none of its own. Of the two logins of a group one is in use; the other is there so
that a password can change without a moment in which neither the old nor the new one is good: see `logins`.

A role belongs to a server, not to a database, so its name holds a hash of database and schema, and its COMMENT says of
which schema it is: whoever owns the schema owns its roles. One of our name without that mark is a stranger's.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from psycopg import sql as pgsql

from sensorlog_operator import roles_sql
from sensorlog_operator.connections import Connection, mapped_errors
from sensorlog_operator.errors import Reason
from sensorlog_operator.models import POSTGRES_IDENTIFIER_BYTES
from sensorlog_operator.plans import Action, Refusal
from sensorlog_operator.schema import Execute

Component = Literal["ingest", "query"]
Slot = Literal["a", "b"]

COMPONENTS: tuple[Component, ...] = ("ingest", "query")
SLOTS: tuple[Slot, ...] = ("a", "b")

GROUPS: Mapping[Component, str] = {"ingest": "writer", "query": "reader"}

MARK = "sensorlog.dev/role"

WRITES: Mapping[str, frozenset[str]] = {
    "sensor_data": frozenset({"SELECT", "INSERT"}),
    "sensors": frozenset({"SELECT", "INSERT", "UPDATE"}),
    "ingest_offsets": frozenset({"SELECT", "INSERT", "UPDATE"}),
    "dead_letters": frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"}),
    "canaries": frozenset({"SELECT", "INSERT", "UPDATE"}),
    "ingest_batches": frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"}),  # locked before they are deleted
}
"""What ingest does with each table, its commands for dead letters among it."""

UNREAD = frozenset({"dead_letters"})
"""What the query service never reads: messages as strangers sent them."""

Privilege = tuple[str, str, str, str]
"""Kind of object, its name, the role, and the right.

The kind "later" is of the tables that a schema will have: a rollup can be read in the moment it is there.
"""


@dataclass(frozen=True, slots=True)
class RoleNames:
    """How the roles of one schema in one database are called."""

    database: str
    schema: str

    def group(self, component: Component) -> str:
        """Return the role that has a component's rights."""
        return self._name(GROUPS[component])

    def login(self, component: Component, slot: Slot) -> str:
        """Return a role that a component connects as."""
        return self._name(f"{GROUPS[component]}_{slot}")

    def logins(self, component: Component) -> dict[Slot, str]:
        """Return both of them."""
        return {slot: self.login(component, slot) for slot in SLOTS}

    def every(self) -> list[str]:
        """Return all six, logins first: so they can be dropped in this order."""
        logins = [self.login(component, slot) for component in COMPONENTS for slot in SLOTS]
        return [*logins, *map(self.group, COMPONENTS)]

    def _name(self, suffix: str) -> str:
        digest = hashlib.sha256(f"{self.database}\0{self.schema}".encode()).hexdigest()[:8]
        ending = f"_{digest}_{suffix}"
        return f"{self.schema[: POSTGRES_IDENTIFIER_BYTES - len(ending)]}{ending}"


@dataclass(frozen=True, slots=True)
class Mark:
    """What the COMMENT of a role says. `password` is a fingerprint, empty where the role cannot log in."""

    database: str
    schema: str
    password: str = ""

    def to_comment(self) -> str:
        """Return the COMMENT text."""
        fields = {"database": self.database, "schema": self.schema}
        return json.dumps({MARK: fields | ({"password": self.password} if self.password else {})}, sort_keys=True)

    @staticmethod
    def from_comment(comment: str | None) -> "Mark | None":
        """Return what a COMMENT says, None where it is not ours."""
        try:
            return Mark(**json.loads(comment or "")[MARK])
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True, slots=True)
class ObservedRole:
    """A role as the catalogs have it. `elevated`: it may do what no role of ours needs, such as create roles."""

    can_login: bool = False
    comment: str | None = None
    elevated: bool = False
    member_of: frozenset[str] = frozenset()
    settings: frozenset[str] = frozenset()

    @property
    def mark(self) -> Mark | None:
        """What its COMMENT says."""
        return Mark.from_comment(self.comment)


@dataclass(frozen=True, slots=True)
class ObservedRoles:
    """What a database has of a schema's roles. `admin` is the user we are, `may_create` whether it may create roles."""

    names: RoleNames
    admin: str
    may_create: bool
    roles: Mapping[str, ObservedRole] = field(default_factory=dict)
    relations: frozenset[str] = frozenset()
    privileges: frozenset[Privilege] = frozenset()
    may_connect: frozenset[str] = frozenset()

    @property
    def complete(self) -> bool:
        """Whether all six roles are there, and ours."""
        return len(self.roles) == len(self.names.every()) and not list(_strangers(self))

    def fingerprints(self, component: Component) -> dict[Slot, str]:
        """Return of each login that is let in which password it has."""
        logins = {slot: self.roles.get(name) for slot, name in self.names.logins(component).items()}
        let_in = {slot: role for slot, role in logins.items() if role and role.can_login}
        return {slot: role.mark.password if role.mark else "" for slot, role in let_in.items()}


def fingerprint(login: str, password: str) -> str:
    """Return what tells two passwords apart and tells neither: they are random, of 256 bits."""
    return hashlib.sha256(f"{login}\0{password}".encode()).hexdigest()[:16]


def observe(connection: Connection, schema: str) -> ObservedRoles:
    """Return what the database of `connection` has of the roles of `schema`. PipelineErrors as `schema.observe`."""
    return observe_each(connection, [schema])[schema]


def observe_each(connection: Connection, schemas: Sequence[str]) -> dict[str, ObservedRoles]:
    """Return the same of each of `schemas`, in as many statements as for one."""
    with mapped_errors():
        admin = connection.execute(roles_sql.ADMIN).fetchone() or {}
        names = {schema: RoleNames(admin["database"], schema) for schema in schemas}
        every = {schema: frozenset(names[schema].every()) for schema in schemas}
        wanted = {"schemas": schemas, "names": sorted(frozenset[str]().union(*every.values()))}
        roles = {row.pop("name"): _role(row) for row in connection.execute(roles_sql.ROLES, wanted)}
        may_connect = frozenset(row["name"] for row in connection.execute(roles_sql.MAY_CONNECT, wanted))
        relations: dict[str, set[str]] = {schema: set() for schema in schemas}
        for row in connection.execute(roles_sql.RELATIONS, wanted):
            relations[row["schema"]].add(row["name"])
        privileges: dict[str, set[Privilege]] = {schema: set() for schema in schemas}
        for row in connection.execute(roles_sql.PRIVILEGES, wanted):
            if row["role"] in every[row["schema"]]:  # another pipeline's role is a stranger here
                privileges[row["schema"]].add((row["kind"], row["object"], row["role"], row["privilege"]))
    return {
        schema: ObservedRoles(
            names[schema],
            admin["name"],
            admin["may_create"],
            roles={name: roles[name] for name in every[schema] & roles.keys()},
            relations=frozenset(relations[schema]),
            privileges=frozenset(privileges[schema]),
            may_connect=every[schema] & may_connect,
        )
        for schema in schemas
    }


def _role(row: dict[str, object]) -> ObservedRole:
    sets = {name: frozenset(value) for name, value in row.items() if isinstance(value, list)}
    return ObservedRole(**{**row, **sets})  # type: ignore[arg-type]  # the columns are its fields


def desired_privileges(observed: ObservedRoles) -> frozenset[Privilege]:
    """Return every right that the groups should have on what is there now."""
    names = observed.names
    writer, reader = names.group("ingest"), names.group("query")
    written = observed.relations & WRITES.keys()
    writes = {("table", table, writer, privilege) for table in written for privilege in WRITES[table]}
    reads = {("table", table, reader, "SELECT") for table in observed.relations - UNREAD}
    reads.add(("later", names.schema, reader, "SELECT"))
    return frozenset(writes | reads | {("schema", names.schema, group, "USAGE") for group in (writer, reader)})


def plan(observed: ObservedRoles) -> list[Action]:
    """Return the steps to roles with exactly their rights, refusals among them. Nobody is let in or shut out."""
    if strangers := list(_strangers(observed)):
        return list(strangers)
    steps = [*_roles(observed), *_rights(observed)]
    if steps and not observed.may_create and not observed.complete:
        return [_not_permitted(observed)]
    return list(steps)


def _strangers(observed: ObservedRoles) -> Iterator[Refusal]:
    names = observed.names
    for name, role in observed.roles.items():
        mark = role.mark
        if mark is None or (mark.database, mark.schema) != (names.database, names.schema):
            yield Refusal(
                f"Database role {name!r} exists without the mark of schema {names.schema!r}, so it is left alone."
                f" Rename it, or choose another spec.timescale.schema.",
                Reason.ROLE_CONFLICT,
            )


def _not_permitted(observed: ObservedRoles) -> Refusal:
    return Refusal(
        f"Database user {observed.admin!r} may not create the roles that ingest and query are to connect as. Let a"
        f' superuser run ALTER ROLE "{observed.admin}" CREATEROLE; or set spec.timescale.access to Shared, so that the'
        " pods use the connection Secrets themselves.",
        Reason.ROLES_NOT_PERMITTED,
    )


def _roles(observed: ObservedRoles) -> Iterator[Execute]:
    names = observed.names
    for component in COMPONENTS:
        group = names.group(component)
        yield from _group(observed, group)
        for login in names.logins(component).values():
            yield from _login(observed, group, login, read_only=component == "query")


def _group(observed: ObservedRoles, group: str) -> Iterator[Execute]:
    role = observed.roles.get(group)
    if role is None:
        yield _created(observed.names, group, roles_sql.CREATE_GROUP.format(role=pgsql.Identifier(group)))
        role = ObservedRole()
    if role.can_login:
        yield Execute(f"let nobody log in as {group}", roles_sql.NO_LOGIN.format(role=pgsql.Identifier(group)))
    yield from _modest(group, role, frozenset())


def _login(observed: ObservedRoles, group: str, login: str, *, read_only: bool) -> Iterator[Execute]:
    identifiers = {"role": pgsql.Identifier(login), "group": pgsql.Identifier(group)}
    restriction = roles_sql.READ_ONLY.format(**identifiers)
    role = observed.roles.get(login)
    if role is None:
        statements = (roles_sql.CREATE_LOGIN.format(**identifiers), *((restriction,) if read_only else ()))
        yield _created(observed.names, login, *statements)
        return
    if group not in role.member_of:
        yield Execute(f"make {login} a member of {group}", roles_sql.JOIN.format(**identifiers))
    yield from _modest(login, role, frozenset({group}))
    if read_only and "default_transaction_read_only=on" not in role.settings:
        yield Execute(f"let {login} read only", restriction)


def _created(names: RoleNames, role: str, *statements: pgsql.Composed) -> Execute:
    """Return the step that makes a role and marks it: one without its mark is taken for a stranger's."""
    mark = marked(names, role).statement
    return Execute(f"create role {role}", pgsql.SQL("; ").join((*statements, mark)), creates=True)


def marked(names: RoleNames, role: str, password: str = "") -> Execute:
    """Return the step that writes on a role what it is for, and the fingerprint of its password."""
    comment = Mark(names.database, names.schema, password).to_comment()
    return Execute(
        f"mark role {role} as of schema {names.schema}",
        roles_sql.COMMENT_ON_ROLE.format(role=pgsql.Identifier(role), comment=pgsql.Literal(comment)),
    )


def _modest(name: str, role: ObservedRole, groups: frozenset[str]) -> Iterator[Execute]:
    """Take away what a role was given by hand."""
    if role.elevated:
        yield Execute(f"take privileged attributes from {name}", roles_sql.LOWER.format(role=pgsql.Identifier(name)))
    for group in sorted(role.member_of - groups):
        yield Execute(
            f"take {name} out of {group}",
            roles_sql.LEAVE.format(role=pgsql.Identifier(name), group=pgsql.Identifier(group)),
        )


def _rights(observed: ObservedRoles) -> Iterator[Execute]:
    desired = desired_privileges(observed)
    names = observed.names
    without = [g for c in COMPONENTS if (g := names.group(c)) in observed.roles and g not in observed.may_connect]
    connect = {("database", names.database, group, "CONNECT") for group in without}
    yield from _changes("grant to", names, (desired - observed.privileges) | connect)
    yield from _changes("revoke from", names, observed.privileges - desired)


_STATEMENTS = {
    ("grant to", False): roles_sql.GRANT,
    ("grant to", True): roles_sql.GRANT_LATER,
    ("revoke from", False): roles_sql.REVOKE,
    ("revoke from", True): roles_sql.REVOKE_LATER,
}


def _changes(
    verb: Literal["grant to", "revoke from"], names: RoleNames, privileges: AbstractSet[Privilege]
) -> Iterator[Execute]:
    """Yield a step for each role whose rights change."""
    for role in sorted({entry[2] for entry in privileges}):
        texts, statements = [], []
        for kind, name in sorted({entry[:2] for entry in privileges if entry[2] == role}):
            rights = sorted(entry[3] for entry in privileges if entry[:3] == (kind, name, role))
            path = (names.schema, name) if kind == "table" else (name,)
            what = "tables to come of schema" if kind == "later" else kind
            texts.append(f"{', '.join(rights)} on {what} {'.'.join(path)}")
            statements.append(
                _STATEMENTS[verb, kind == "later"].format(
                    # Privileges and kinds are the server's own words, not a person's.
                    privileges=pgsql.SQL(", ").join(map(pgsql.SQL, rights)),
                    kind=pgsql.SQL(kind),
                    object=pgsql.Identifier(*path),
                    role=pgsql.Identifier(role),
                )
            )
        yield Execute(f"{verb} {role}: {'; '.join(texts)}", pgsql.SQL("; ").join(statements))
