"""A kind cluster of the tests' own with the whole product installed by Helm; each test has its own namespace.

SENSORLOG_KEEP_CLUSTER=1 leaves the cluster for the next run, which then starts in seconds.
"""

import itertools
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster import Cluster, CommandError, E2EPipeline, run, secret

CLUSTER = "sensorlog-e2e"
SERVICES = ("operator", "ingest", "query")
RESYNC_SECONDS = 5
"""Short, so that tests of drift that no watch shows (Kafka, the database) need not wait a minute."""

OF_A_TEST = "sensorlog.dev/of-a-test"
"""Label of the namespaces that tests make."""

MakePipeline = Callable[..., E2EPipeline]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Yield the cluster with the backing services and the operator running."""
    try:
        run("k8s/kind/cluster.sh", "up", CLUSTER, seconds=1800)
        path = run("k8s/kind/cluster.sh", "kubeconfig", CLUSTER).strip()
    except CommandError as e:
        pytest.fail(f"no cluster for the end-to-end tests; `make test-e2e` brings what is needed\n{e}", pytrace=False)
    cluster = Cluster(CLUSTER, Path(path))
    install(cluster)
    yield cluster
    if not os.environ.get("SENSORLOG_KEEP_CLUSTER"):
        run("k8s/kind/cluster.sh", "down", CLUSTER, seconds=120)


def install(cluster: Cluster) -> None:
    """Install both charts, with images of the present code."""
    run("k8s/images/build.sh", "services", seconds=900)
    run("k8s/images/build.sh", "load", CLUSTER, seconds=300)
    tags = json.loads(run("k8s/images/build.sh", "load-services", CLUSTER, seconds=300).splitlines()[-1])
    images = [option for name in SERVICES for option in ("--set", f"images.{name}.tag={tags[name]}")]
    helm = ("helm", "upgrade", "--install", "--create-namespace", "--timeout", "5m")
    cluster.run(*helm, "backing", "charts/backing-services", "-n", "backing", seconds=320)
    settings = ("--set", f"operator.resyncSeconds={RESYNC_SECONDS}", "--set", "operator.logLevel=DEBUG")
    cluster.run(*helm, "sensorlog", "charts/sensorlog", "-n", "sensorlog", "--wait", *images, *settings, seconds=320)
    for workload in ("statefulset/kafka", "statefulset/timescaledb"):
        cluster.kubectl("-n", "backing", "rollout", "status", workload, "--timeout=100s")


@pytest.fixture(scope="session")
def database_uri(cluster: Cluster) -> str:
    """Return the connection URI that the backing chart generated."""
    return cluster.database_uri()


@pytest.fixture
def namespace(cluster: Cluster, database_uri: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield a namespace under the restricted Pod Security Standard, with the database's Secret."""
    name = f"e2e-{next(_numbers)}-{secrets.token_hex(2)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted", OF_A_TEST: ""}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    cluster.apply(secret(name, uri=database_uri))
    failures = request.session.testsfailed
    yield name
    if request.session.testsfailed > failures:
        explain(cluster, name)
    # Query pods drain for longer than most tests take. That they do so is the business of the tests of rollouts.
    cluster.kubectl("-n", name, "delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false")
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session", autouse=True)
def no_namespace_stays(cluster: Cluster) -> Iterator[None]:
    """Wait at the end for the namespaces that tests left behind: each would take seconds, and all take hardly more."""
    yield
    cluster.kubectl("wait", "--for=delete", "namespace", "-l", OF_A_TEST, "--timeout=180s")


def explain(cluster: Cluster, namespace: str) -> None:
    """Print what a person would look at after a failure."""
    for command in (
        ("-n", namespace, "describe", "slp"),
        ("-n", namespace, "get", "pods,deployments,events"),
        ("-n", namespace, "logs", "-l", "app.kubernetes.io/name=sensorlog", "--tail=40", "--prefix"),
        ("-n", "sensorlog", "logs", "deployment/sensorlog-operator", "--tail=80"),
    ):
        try:
            print(f"$ kubectl {' '.join(command)}\n{cluster.kubectl(*command)}")  # noqa: T201 -- shown by pytest
        except CommandError as e:
            print(e)  # noqa: T201


@pytest.fixture
def make_pipeline(cluster: Cluster, namespace: str) -> Iterator[MakePipeline]:
    """Yield a factory of pipelines in the test's namespace; all are deleted with their data at the end."""
    made: list[E2EPipeline] = []

    def make(name: str = "plant", **spec: Any) -> E2EPipeline:
        pipeline = E2EPipeline(cluster, namespace, name, spec)
        made.append(pipeline)
        return pipeline

    yield make
    for pipeline in made:
        pipeline.delete()
        cluster.psql(f"DROP SCHEMA IF EXISTS {pipeline.schema} CASCADE")


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> E2EPipeline:
    """Return a pipeline that is ready."""
    pipeline = make_pipeline()
    pipeline.apply()
    return pipeline.wait_ready()


@pytest.fixture(scope="session")
def shared(cluster: Cluster, database_uri: str) -> Iterator[E2EPipeline]:
    """Yield one ready pipeline for all tests that leave a pipeline as they found it."""
    name = "e2e-shared"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    cluster.apply(secret(name, uri=database_uri))
    pipeline = E2EPipeline(cluster, name)
    pipeline.apply()
    yield pipeline.wait_ready()
    cluster.kubectl("delete", "namespace", name, "--timeout=120s")
    cluster.psql(f"DROP SCHEMA IF EXISTS {pipeline.schema} CASCADE")
