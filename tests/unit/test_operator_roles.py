"""The plan of a pipeline's roles: what is said and done for each state of the database."""

from dataclasses import replace
from typing import Any

import pytest

from sensorlog_operator import roles
from sensorlog_operator.errors import Reason
from sensorlog_operator.plans import Refusal
from sensorlog_operator.roles import Mark, ObservedRole, ObservedRoles, RoleNames

NAMES = RoleNames("readings", "plant")
TABLES = frozenset({"sensor_data", "sensors", "ingest_offsets", "dead_letters", "ingest_batches"})
EMPTY = ObservedRoles(NAMES, "admin", may_create=True, relations=TABLES)
WRITER, READER = NAMES.group("ingest"), NAMES.group("query")
WRITER_A, READER_A = NAMES.login("ingest", "a"), NAMES.login("query", "a")


def provisioned(**changes: Any) -> ObservedRoles:
    """Return a database in which everything is as it should be, but for `changes`."""
    comment = Mark("readings", "plant").to_comment()
    found = {name: ObservedRole(comment=comment) for name in NAMES.every()}
    for component in roles.COMPONENTS:
        for login in NAMES.logins(component).values():
            groups = frozenset({NAMES.group(component)})
            found[login] = replace(
                found[login], member_of=groups, settings=frozenset({"default_transaction_read_only=on"})
            )
    complete = replace(EMPTY, roles=found, may_connect=frozenset(NAMES.every()))
    complete = replace(complete, privileges=roles.desired_privileges(complete))
    return replace(complete, **changes)


def summaries(observed: ObservedRoles) -> list[str]:
    """Return the plan in words."""
    return [action.summary for action in roles.plan(observed)]


def refusal(observed: ObservedRoles) -> Refusal:
    """Return the only action of a plan, which must be a refusal."""
    (action,) = roles.plan(observed)
    assert isinstance(action, Refusal)
    return action


def with_role(name: str, **changes: Any) -> ObservedRoles:
    """Return a database in which one role is not as it should be."""
    complete = provisioned()
    return replace(complete, roles={**complete.roles, name: replace(complete.roles[name], **changes)})


def test_nothing_is_planned_where_everything_is_there() -> None:
    """A reconcile without a change does nothing."""
    assert summaries(provisioned()) == []


def test_an_empty_database_gets_six_roles_and_their_rights() -> None:
    """Each is marked as soon as it is there."""
    plan = summaries(EMPTY)
    assert [step for step in plan if step.startswith("create")] == [
        f"create role {name}"
        for component in roles.COMPONENTS
        for name in (NAMES.group(component), *NAMES.logins(component).values())
    ]
    details = [action.detail for action in roles.plan(EMPTY)]
    assert sum("COMMENT ON ROLE" in detail for detail in details) == len(NAMES.every())
    assert plan[-1] == (
        f"grant to {WRITER}: USAGE on schema plant; DELETE, INSERT, SELECT, UPDATE on table plant.dead_letters;"
        " DELETE, INSERT, SELECT, UPDATE on table plant.ingest_batches;"
        " INSERT, SELECT, UPDATE on table plant.ingest_offsets; INSERT, SELECT on table plant.sensor_data;"
        " INSERT, SELECT, UPDATE on table plant.sensors"
    )
    assert plan[-2] == (
        f"grant to {READER}: SELECT on tables to come of schema plant; USAGE on schema plant;"
        " SELECT on table plant.ingest_batches; SELECT on table plant.ingest_offsets;"
        " SELECT on table plant.sensor_data; SELECT on table plant.sensors"
    )


def test_a_new_table_can_be_read_but_not_written() -> None:
    """A rollup, for instance: its rights come with the next reconcile."""
    observed = provisioned(relations=TABLES | {"sensor_data_30m"})
    assert summaries(observed) == [f"grant to {READER}: SELECT on table plant.sensor_data_30m"]


def test_readers_do_not_see_dead_letters() -> None:
    """They hold what strangers sent."""
    assert not [p for p in provisioned().privileges if p[1:3] == ("dead_letters", READER)]


def test_a_right_granted_by_hand_is_taken_away() -> None:
    """So that least privilege lasts."""
    extra = provisioned().privileges | {("table", "sensor_data", WRITER, "TRUNCATE")}
    assert summaries(provisioned(privileges=extra)) == [f"revoke from {WRITER}: TRUNCATE on table plant.sensor_data"]


def test_a_right_granted_to_a_login_itself_is_taken_away() -> None:
    """Rights are the group's."""
    extra = provisioned().privileges | {("schema", "plant", READER_A, "CREATE")}
    assert summaries(provisioned(privileges=extra)) == [f"revoke from {READER_A}: CREATE on schema plant"]


def test_a_right_taken_away_comes_back() -> None:
    """And is named."""
    less = provisioned().privileges - {("table", "sensors", WRITER, "UPDATE")}
    assert summaries(provisioned(privileges=less)) == [f"grant to {WRITER}: UPDATE on table plant.sensors"]


@pytest.mark.parametrize(
    ("name", "changes", "step"),
    [
        (WRITER_A, {"elevated": True}, f"take privileged attributes from {WRITER_A}"),
        (WRITER_A, {"member_of": frozenset({WRITER, "owners"})}, f"take {WRITER_A} out of owners"),
        (WRITER_A, {"member_of": frozenset()}, f"make {WRITER_A} a member of {WRITER}"),
        (READER_A, {"settings": frozenset()}, f"let {READER_A} read only"),
        (READER, {"can_login": True}, f"let nobody log in as {READER}"),
    ],
)
def test_a_role_changed_by_hand_is_set_back(name: str, changes: dict[str, Any], step: str) -> None:
    """The plan says what it was."""
    assert summaries(with_role(name, **changes)) == [step]


def test_connecting_is_granted_where_not_everybody_may() -> None:
    """The right is PUBLIC's unless somebody took it away."""
    observed = provisioned(may_connect=frozenset({READER}))
    assert summaries(observed) == [f"grant to {WRITER}: CONNECT on database readings"]


@pytest.mark.parametrize("comment", [None, "ours!", Mark("readings", "another").to_comment()])
def test_a_strangers_role_is_left_alone(comment: str | None) -> None:
    """Whatever its name."""
    refused = refusal(with_role(READER, comment=comment))
    assert refused.reason is Reason.ROLE_CONFLICT
    assert READER in refused.summary


def test_who_may_not_create_roles_is_told_what_to_do() -> None:
    """Both remedies are named."""
    refused = refusal(replace(EMPTY, may_create=False))
    assert refused.reason is Reason.ROLES_NOT_PERMITTED
    assert 'ALTER ROLE "admin" CREATEROLE' in refused.summary
    assert "spec.timescale.access" in refused.summary


def test_who_may_not_create_roles_is_not_bothered_once_they_exist() -> None:
    """The right may be lent for the first time only."""
    assert summaries(provisioned(may_create=False)) == []


def test_names_of_long_schemas_fit_and_differ() -> None:
    """PostgreSQL cuts identifiers at 63 bytes without a word."""
    long = ["s" * 62 + letter for letter in "ab"]
    names = [name for schema in long for name in RoleNames("readings", schema).every()]
    assert max(map(len, names)) <= 63
    assert len(set(names)) == len(names)


def test_names_differ_between_databases_of_a_server() -> None:
    """Roles belong to the server."""
    assert set(RoleNames("one", "plant").every()).isdisjoint(RoleNames("two", "plant").every())


def test_a_mark_survives_the_way_through_a_comment() -> None:
    """With the fingerprint of a password and without."""
    for mark in (Mark("readings", "plant"), Mark("readings", "plant", "0123")):
        assert Mark.from_comment(mark.to_comment()) == mark
