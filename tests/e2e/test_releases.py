"""The operator's release: uninstalled in every order with pipelines of every kind, installed again, upgraded."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.cluster import Cluster, E2EPipeline, Object, secret
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.e2e

MakePipeline = Callable[..., E2EPipeline]

SEED = {"ts": 1646409307, "sensor_id": 1, "temperature": 30, "cpu": 20}
AT_REST: dict[str, Any] = {"ingest": {"replicas": 0}, "query": {"replicas": 0}}
"""Of pipelines whose pods are not what a test is about."""


@dataclass
class Release:
    """The operator's release, as an administrator handles it."""

    cluster: Cluster
    values: str = field(init=False)

    def __post_init__(self) -> None:
        self.values = self.cluster.run("helm", "get", "values", "sensorlog", "-n", "sensorlog", "-o", "json")

    def install(self, *options: str) -> None:
        """Install or upgrade it with the values that it had, and with these options over them; wait until it runs."""
        command = ("helm", "upgrade", "--install", "sensorlog", "charts/sensorlog", "-n", "sensorlog", "--wait")
        self.cluster.run(*command, "--timeout", "2m", "-f", "-", *options, stdin=self.values, seconds=150)

    def uninstall(self) -> None:
        """Uninstall it; Helm waits for what is to be done last."""
        self.cluster.run("helm", "uninstall", "sensorlog", "-n", "sensorlog", "--wait", "--timeout", "3m", seconds=200)

    def scale(self, replicas: int) -> None:
        """Take the operator away, and wait until it is gone, or bring it back."""
        deployment = ("-n", "sensorlog", "deployment/sensorlog-operator")
        self.cluster.kubectl("scale", f"--replicas={replicas}", *deployment)
        self.cluster.kubectl("rollout", "status", *deployment, "--timeout=90s")
        wait_for_value(lambda: len(self.pods()), replicas, deadline=60, what="the operator's pods")

    def pods(self) -> list[Object]:
        """Return the operator's pods."""
        return self.cluster.list("pods", "sensorlog", "app.kubernetes.io/name=sensorlog-operator")


@pytest.fixture
def release(cluster: Cluster) -> Iterator[Release]:
    """Yield the release, and leave it as it was."""
    release = Release(cluster)
    yield release
    release.install()


@pytest.fixture
def doomed_namespace(cluster: Cluster, namespace: str, database_uri: str) -> str:
    """Return a namespace that the test deletes."""
    name = f"{namespace}-doomed"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    cluster.apply(secret(name, uri=database_uri))
    return name


def at_rest(make: MakePipeline, name: str, namespace: str | None = None, **spec: Any) -> E2EPipeline:
    """Return a pipeline without pods that is ready, with topics of its own."""
    pipeline = make(name, **AT_REST, **spec)
    pipeline.namespace = namespace or pipeline.namespace
    topics = {kind: {"topic": f"{pipeline.namespace}.{name}.{kind}"} for kind in ("readings", "sensors")}
    pipeline.apply(kafka=topics)
    return pipeline.wait_ready()


def armed(make: MakePipeline, name: str, namespace: str | None = None) -> E2EPipeline:
    """Return one whose deletion is approved to take its data along."""
    pipeline = at_rest(make, name, namespace, deletionPolicy="Delete")
    pipeline.approve_deletion()
    return pipeline


def finalizers(pipeline: E2EPipeline) -> list[str]:
    """Return what holds the resource."""
    return list(pipeline.get()["metadata"].get("finalizers", ()))


def exists(pipeline: E2EPipeline) -> bool:
    """Return whether the resource is there."""
    return pipeline.cluster.exists("slp", pipeline.name, pipeline.namespace)


def has_schema(pipeline: E2EPipeline) -> bool:
    """Return whether the database has the pipeline's schema."""
    found = f"SELECT count(*) FROM pg_namespace WHERE nspname = '{pipeline.schema}'"
    return pipeline.cluster.psql(found) == "1"


def pods(pipeline: E2EPipeline) -> dict[str, int]:
    """Return how often each pod of a pipeline was restarted, by its uid."""
    return {
        pod["metadata"]["uid"]: sum(c["restartCount"] for c in pod["status"]["containerStatuses"])
        for pod in pipeline.cluster.list("pods", pipeline.namespace)
    }


def generations(pipeline: E2EPipeline) -> dict[str, int]:
    """Return how often the spec of each Deployment of a pipeline was written."""
    return {name: int(pipeline.deployment(name)["metadata"]["generation"]) for name in ("ingest", "query")}


def wait_seen(pipeline: E2EPipeline) -> None:
    """Wait until the operator that runs now has brought all of a pipeline to what it thinks is right."""
    service = ("service", f"{pipeline.name}-query")
    patch = '{"spec":{"selector":{"touched":"by-hand"}}}'
    pipeline.cluster.kubectl("-n", pipeline.namespace, "patch", *service, "-p", patch)
    wait_until(
        lambda: "touched" not in pipeline.cluster.get(*service, pipeline.namespace)["spec"]["selector"],
        deadline=60,
        what="the operator to come by",
    )
    pipeline.wait_ready()


def left_of_release(cluster: Cluster) -> str:
    """Return the objects of the release that exist; the CRD stays, by its annotation."""
    kinds = "deployments,jobs,pods,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,networkpolicies"
    selected = ("-l", "app.kubernetes.io/instance=sensorlog", "-o", "name", "--ignore-not-found")
    return cluster.kubectl("-n", "sensorlog", "get", kinds, *selected).strip()


def test_uninstalling_holds_up_nothing_and_installing_again_restarts_nothing(
    release: Release, pipeline: E2EPipeline, make_pipeline: MakePipeline, doomed_namespace: str
) -> None:
    """Whatever a pipeline's deletionPolicy: afterwards it, its namespace and what it was in the middle of can go."""
    cluster = release.cluster
    kept, going = armed(make_pipeline, "kept"), armed(make_pipeline, "going")
    doomed = armed(make_pipeline, "doomed", doomed_namespace)
    unapproved = at_rest(make_pipeline, "unapproved", doomed_namespace, deletionPolicy="Delete")
    before = pods(pipeline)
    assert len(before) == 2

    release.scale(0)
    cluster.kubectl("-n", going.namespace, "delete", "slp", going.name, "--wait=false")
    assert finalizers(going), "a deletion that is to take the data along waits for the operator"
    release.uninstall()
    wait_until(lambda: left_of_release(cluster), lambda left: not left, deadline=60, what="all of the release to go")

    assert not exists(going)
    assert [finalizers(one) for one in (pipeline, kept, doomed, unapproved)] == [[]] * 4
    assert any(e["reason"] == "DataStays" and e["involvedObject"]["name"] == "kept" for e in kept.events())
    cluster.kubectl("delete", "namespace", doomed_namespace, "--timeout=90s")
    assert [has_schema(one) for one in (going, doomed, unapproved)] == [True] * 3

    release.install()
    wait_seen(pipeline)
    assert pods(pipeline) == before
    wait_until(lambda: finalizers(kept), deadline=60, what="the approved deletion to be armed again")
    kept.delete()
    assert not has_schema(kept)


def test_what_is_deleted_while_the_operator_is_away_goes_when_it_is_back(
    release: Release, make_pipeline: MakePipeline, doomed_namespace: str
) -> None:
    """A resource with its data, as was approved; a namespace whose Secret went first without it."""
    cluster = release.cluster
    going, doomed = armed(make_pipeline, "going"), armed(make_pipeline, "doomed", doomed_namespace)
    release.scale(0)
    cluster.kubectl("-n", going.namespace, "delete", "slp", going.name, "--wait=false")
    cluster.kubectl("delete", "namespace", doomed_namespace, "--wait=false")
    wait_until(
        lambda: not cluster.exists("secret", "timescaledb", doomed_namespace), deadline=60, what="the Secret to go"
    )
    assert exists(going)
    assert exists(doomed)
    release.scale(1)
    wait_until(lambda: not exists(going), deadline=60, what="the resource to go")
    assert not has_schema(going)
    cluster.kubectl("wait", "--for=delete", f"namespace/{doomed_namespace}", "--timeout=90s")
    assert has_schema(doomed)


def deployed(cluster: Cluster, name: str) -> str:
    """Return the tag of one of the product's images that the release was installed with."""
    values = json.loads(cluster.run("helm", "get", "values", "sensorlog", "-n", "sensorlog", "-o", "json"))
    return str(values["images"][name]["tag"])


def tag_on_node(cluster: Cluster, name: str, tag: str) -> str:
    """Give one of the product's images another tag on the cluster's node; return the option that installs it."""
    image = f"docker.io/sensorlog/{name}"
    node = ("docker", "exec", f"{cluster.name}-control-plane")
    tags = ("ctr", "-n", "k8s.io", "images", "tag", "--force", f"{image}:{deployed(cluster, name)}", f"{image}:{tag}")
    cluster.run(*node, *tags)
    return f"images.{name}.tag={tag}"


def test_an_upgrade_of_the_operator_restarts_no_pod(release: Release, pipeline: E2EPipeline) -> None:
    """Another image and other settings of the operator are no business of the pipelines that run."""
    before = pods(pipeline), generations(pipeline)
    operators = {pod["metadata"]["uid"] for pod in release.pods()}
    image = tag_on_node(release.cluster, "operator", "next")
    release.install("--set", f"{image},operator.logLevel=INFO,operator.resyncSeconds=7,operator.podAnnotations.a=b")
    assert operators.isdisjoint(pod["metadata"]["uid"] for pod in release.pods())
    wait_seen(pipeline)
    assert (pods(pipeline), generations(pipeline)) == before


def test_an_upgrade_of_a_service_rolls_its_pods_once_and_no_others(release: Release, pipeline: E2EPipeline) -> None:
    """Each reading before, during and after it is there once."""
    pipeline.publish([SEED])
    wait_for_value(pipeline.stored, 1, deadline=30, what="rows")
    before = generations(pipeline)
    query = pipeline.cluster.list("pods", pipeline.namespace, "app.kubernetes.io/component=query")
    release.install("--set", tag_on_node(release.cluster, "ingest", "next"))
    wait_until(
        lambda: pipeline.deployment("ingest")["spec"]["template"]["spec"]["containers"][0]["image"],
        lambda image: image.endswith(":next"),
        deadline=60,
        what="the new image",
    )
    wait_seen(pipeline)
    pipeline.publish([{**SEED, "ts": SEED["ts"] + 1}])
    wait_for_value(pipeline.stored, 2, deadline=30, what="rows")
    assert generations(pipeline) == {"ingest": before["ingest"] + 1, "query": before["query"]}
    selected = (pipeline.namespace, "app.kubernetes.io/component=query")
    assert [p["metadata"]["uid"] for p in pipeline.cluster.list("pods", *selected)] == [
        p["metadata"]["uid"] for p in query
    ]
