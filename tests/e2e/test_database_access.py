"""Logins of their own in a real cluster. That a rotation fails nothing: see test_rollout."""

import pytest

from sensorlog_operator.manifests import DATABASE_LOGIN
from support.cluster import Cluster, E2EPipeline
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.e2e

COMPONENTS = ("ingest", "query")


def logins(pipeline: E2EPipeline) -> list[str]:
    """Return the login that the pod template of each component names."""
    templates = [pipeline.deployment(component)["spec"]["template"] for component in COMPONENTS]
    return [str(template["metadata"]["annotations"][DATABASE_LOGIN]) for template in templates]


def may_log_in(pipeline: E2EPipeline) -> set[str]:
    """Return those of the pipeline's roles that may log in."""
    names = pipeline.cluster.psql(
        f"SELECT string_agg(rolname, ',') FROM pg_roles WHERE rolcanlogin AND rolname LIKE '{pipeline.schema}%'"
    )
    return set(names.split(","))


def sessions(pipeline: E2EPipeline) -> set[str]:
    """Return program=role of each session of the pipeline's pods that stays."""
    found = pipeline.cluster.psql(
        "SELECT DISTINCT application_name || '=' || usename FROM pg_stat_activity"
        f" WHERE application_name IN ('sensorlog-ingest', 'sensorlog-query') AND usename LIKE '{pipeline.schema}%'"
    )
    return set(found.splitlines())


def test_pods_connect_as_roles_of_their_own(pipeline: E2EPipeline) -> None:
    """And nobody else's sessions are there but the operator's."""
    ingest, query = logins(pipeline)
    wait_for_value(
        lambda: sessions(pipeline),
        {f"sensorlog-ingest={ingest}", f"sensorlog-query={query}"},
        deadline=30,
        what="who is connected as whom",
    )


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_deleted_secret_of_logins_comes_back(cluster: Cluster, pipeline: E2EPipeline, component: str) -> None:
    """With the other login; the pods go over to it."""
    before = dict(zip(COMPONENTS, logins(pipeline), strict=True))
    cluster.kubectl("-n", pipeline.namespace, "delete", "secret", f"{pipeline.name}-{component}-database")
    wait_until(
        lambda: dict(zip(COMPONENTS, logins(pipeline), strict=True))[component] != before[component],
        deadline=60,
        what="another login",
    )
    wait_for_value(lambda: may_log_in(pipeline), set(logins(pipeline)), deadline=180, what="the roles that may log in")
    pipeline.wait_ready()
