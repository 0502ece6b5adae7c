"""TLS and authentication of the query service on a real cluster: the operator's RBAC, real mounts, real tokens."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc.logger_pb2_grpc import LoggerStub
from support.cluster import Cluster, E2EPipeline, secret
from support.containers import free_port
from support.query import refused
from support.tls import Authority
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.e2e

SEED = {"ts": 1646409307, "sensor_id": 1, "temperature": 30, "cpu": 20}
BINDING = "sensorlog-operator-token-reviewers"
SECURED = {"tls": {"secretRef": {"name": "plant-tls"}}, "authentication": {"type": "Kubernetes"}}


def _certificate(pipeline: E2EPipeline, authority: Authority) -> None:
    issued = authority.issue(f"plant-query.{pipeline.namespace}.svc")
    files = {
        "tls.crt": issued.certificate.decode(),
        "tls.key": issued.key.decode(),
        "ca.crt": authority.certificate.decode(),
    }
    pipeline.cluster.apply(secret(pipeline.namespace, "plant-tls", **files))


@contextmanager
def _stub(pipeline: E2EPipeline, authority: Authority) -> Iterator[LoggerStub]:
    """Yield a stub through a forwarded port."""
    port = free_port()
    command = ("kubectl", "--kubeconfig", str(pipeline.cluster.kubeconfig), "-n", pipeline.namespace, "port-forward")
    forward = subprocess.Popen(
        [*command, "service/plant-query", f"{port}:50051"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    credentials = grpc.ssl_channel_credentials(authority.certificate)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500)]
    try:
        with grpc.secure_channel(f"localhost:{port}", credentials, options) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
            yield LoggerStub(channel)
    finally:
        forward.terminate()
        forward.wait(10)


def _read(stub: LoggerStub, token: str) -> int:
    metadata = (("authorization", f"Bearer {token}"),)
    return len(stub.ListSensorData(pb.ListSensorDataReq(), timeout=20, metadata=metadata).results)


def _token(pipeline: E2EPipeline, account: str, *options: str) -> str:
    return pipeline.cluster.kubectl("-n", pipeline.namespace, "create", "token", account, *options).strip()


def _reviewers(cluster: Cluster) -> list[Any]:
    binding = cluster.get("clusterrolebinding", BINDING, "default")
    return [f"{subject['namespace']}/{subject['name']}" for subject in binding.get("subjects", [])]


def test_tokens_decide_who_reads_over_tls(make_pipeline: Any, cluster: Cluster) -> None:
    """A reader reads; one without the right and one with a token for somebody else do not; the right goes again.

    The operator's canaries come through too.
    """
    authority = Authority()
    pipeline: E2EPipeline = make_pipeline(query=SECURED, canary={"interval": "5s"})
    _certificate(pipeline, authority)
    pipeline.apply()
    pipeline.wait_ready()
    pipeline.wait_condition("DataFlowing", "Ready", status="True", deadline=60)
    assert f"{pipeline.namespace}/plant-query" in _reviewers(cluster)
    pipeline.publish([SEED])
    wait_for_value(pipeline.stored, 1, deadline=30, what="rows")
    inside = ("-n", pipeline.namespace)
    for account in ("reader", "stranger"):
        cluster.kubectl(*inside, "create", "serviceaccount", account)
    role = ("--clusterrole=sensorlog-operator-data-reader", f"--serviceaccount={pipeline.namespace}:reader")
    cluster.kubectl(*inside, "create", "rolebinding", "reader", *role)
    audience = ("--audience", f"plant-query.{pipeline.namespace}.svc")
    with _stub(pipeline, authority) as stub:
        assert _read(stub, _token(pipeline, "reader", *audience)) == 1
        with refused(grpc.StatusCode.PERMISSION_DENIED):
            _read(stub, _token(pipeline, "stranger", *audience))
        with refused(grpc.StatusCode.UNAUTHENTICATED):
            _read(stub, _token(pipeline, "reader"))
    pipeline.delete()
    gone = f"{pipeline.namespace}/plant-query"
    wait_until(lambda: gone not in _reviewers(cluster), deadline=60, what="the right to review tokens to go")


def test_a_missing_certificate_is_told_and_holds_up_no_ingest(make_pipeline: Any) -> None:
    """Once it is there the service starts; a key that is missing is told by name."""
    authority = Authority()
    pipeline: E2EPipeline = make_pipeline(query={"tls": SECURED["tls"]})
    pipeline.apply()
    condition = pipeline.wait_condition("QueryReady", "SecretNotFound")
    assert "spec.query.tls.secretRef" in condition["message"]
    pipeline.wait_condition("IngestReady", "Ready", status="True", deadline=120)
    pipeline.cluster.apply(secret(pipeline.namespace, "plant-tls", **{"tls.crt": "hello"}))
    assert "tls.key" in pipeline.wait_condition("QueryReady", "SecretKeyMissing")["message"]
    _certificate(pipeline, authority)
    pipeline.wait_ready(deadline=300)


def test_a_rotated_certificate_needs_no_new_pod(make_pipeline: Any, cluster: Cluster) -> None:
    """The kubelet brings it within about a minute."""
    before, after = Authority("before"), Authority("after")
    pipeline: E2EPipeline = make_pipeline(query={"tls": SECURED["tls"]})
    _certificate(pipeline, before)
    pipeline.apply()
    pipeline.wait_ready()
    pods = [pod["metadata"]["uid"] for pod in cluster.list("pods", pipeline.namespace)]
    _certificate(pipeline, after)

    def read() -> int:
        with _stub(pipeline, after) as stub:
            return len(stub.ListSensorData(pb.ListSensorDataReq(), timeout=10).results)

    wait_for_value(read, 0, deadline=180, what="the readings over the new certificate")
    assert [pod["metadata"]["uid"] for pod in cluster.list("pods", pipeline.namespace)] == pods
