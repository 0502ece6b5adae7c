"""The CRD in a real API server: every way of being wrong that can be told without looking at the world.

Each is refused with the field and with what to write instead, and nothing is stored.
"""

import json
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from support.apiserver import ApiServer
from support.cluster import merged
from support.containers import ContainerEngine
from support.operated import operated_api_server, pipelines_path
from support.resources import pipeline_body

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def api_server(engine: ContainerEngine) -> Iterator[ApiServer]:
    """Start an API server that knows pipelines."""
    with operated_api_server(engine, rights=False) as server:
        yield server


def refusal(server: ApiServer, name: str = "plant", **spec: Any) -> str | None:
    """Return why a resource with these fields of spec over the least that works is refused, None where it is not."""
    body = pipeline_body()
    body["metadata"] = {"name": name, "namespace": "default"}
    body["spec"] = merged(body["spec"], spec)
    try:
        server.call("POST", f"{pipelines_path('default')}?dryRun=All&fieldValidation=Strict", body)
    except urllib.error.HTTPError as e:
        with e:
            return str(json.loads(e.read())["message"])
    return None


@pytest.mark.parametrize(
    "timescale",
    [
        {},
        {"retention": "90d"},
        {"retention": "1d"},
        {"retention": "24h", "chunkInterval": "23h60m"},
        {"retention": "36600d", "compressAfter": "36599d23h59m59s"},
        {"compressAfter": "7d", "rollups": []},
        {"rollups": [{"interval": "1m"}, {"interval": "1h30m"}, {"interval": "1d"}, {"interval": "366d"}]},
    ],
)
def test_what_makes_sense_is_accepted(api_server: ApiServer, timescale: dict[str, Any]) -> None:
    """Also at the very limits."""
    assert refusal(api_server, timescale=timescale) is None


@pytest.mark.parametrize(
    "spec",
    [
        {"kafka": {"bootstrapServers": "a:1,b.c-d:65535"}},
        {"kafka": {"readings": {"retention": "1d12h30m", "config": {"retention.ms": "-1"}}}},
        {"kafka": {"sensors": {"config": {"cleanup.policy": "compact"}}}},
        {"kafka": {"readings": {"replicationFactor": 3, "config": {"min.insync.replicas": "2"}}}},
        {"kafka": {"security": {"protocol": "SSL", "caSecretRef": {"name": "ca"}}}},
        {"timescale": {"schema": "public"}},
        {"measurements": [{"name": "a" * 63, "unit": "m/s2", "min": 0, "max": 0}]},
        {"ingest": {"batch": {"maxDelay": "1ms"}}},
        {"ingest": {"batch": {"maxDelay": "1m"}}},
        {"ingest": {"resources": {"requests": {"cpu": 1, "memory": "1.5Gi"}}}},
        # A scaler may take over and give back the number that the resource says.
        {"ingest": {"replicas": 5, "autoscaling": {"maxReplicas": 3}}},
        {"networkPolicy": {"mode": "None"}},
        {"ingest": {"image": f"registry:5000/a/b@sha256:{'0' * 64}"}, "query": {"image": "a/b:c@sha256:" + "f" * 64}},
        {
            "canary": {"clientCertificateSecretRef": {"name": "client"}},
            "query": {"tls": {"secretRef": {"name": "plant-tls"}, "clientAuth": "Require"}},
        },
    ],
)
def test_what_makes_sense_elsewhere_is_accepted(api_server: ApiServer, spec: dict[str, Any]) -> None:
    """The rules refuse no more than they should."""
    assert refusal(api_server, **spec) is None


def readings(**fields: Any) -> dict[str, Any]:
    """Return a spec with these fields of the topic of readings."""
    return {"kafka": {"readings": fields}}


def measured(**fields: Any) -> dict[str, Any]:
    """Return a spec with one measurement of these fields."""
    return {"measurements": [{"name": "a", **fields}]}


SASL_WITHOUT_PASSWORD = {"protocol": "SASL_SSL", "saslMechanism": "PLAIN"}
DURATION = "write numbers with units, days first, like 250ms, 30m, 7d or 1d12h"

MUTUAL_TLS = {"tls": {"secretRef": {"name": "plant-tls"}, "clientAuth": "Require"}}

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"kafka": None}, "spec.kafka", "Required value"),
    ({"kafka": {"bootstrapServers": None}}, "spec.kafka.bootstrapServers", "Required value"),
    ({"kafka": {"bootstrapServers": "kafka"}}, "spec.kafka.bootstrapServers", "name brokers as host:port"),
    ({"kafka": {"bootstrapServers": "kafka:70000"}}, "spec.kafka.bootstrapServers", "with ports up to 65535"),
    (readings(topic="no spaces"), "spec.kafka.readings.topic", "name a topic by letters, digits"),
    (readings(topic="a" * 250), "spec.kafka.readings.topic", "may not be more than 249"),
    (readings(topic=".."), "spec.kafka.readings.topic", "choose another name"),
    ({"kafka": {"sensors": {"topic": "__consumer_offsets"}}}, "spec.kafka.sensors.topic", "are Kafka's own"),
    ({"kafka": {"readings": {"topic": "t"}, "sensors": {"topic": "t"}}}, "spec.kafka", "must differ"),
    (readings(partitions=0), "spec.kafka.readings.partitions", "greater than or equal to 1"),
    (readings(partitions=10_001), "spec.kafka.readings.partitions", "less than or equal to 10000"),
    (readings(partitions="six"), "spec.kafka.readings.partitions", "must be of type integer"),
    (readings(replicationFactor=0), "spec.kafka.readings.replicationFactor", "greater than or equal to 1"),
    (readings(retention="1 week"), "spec.kafka.readings.retention", DURATION),
    (readings(retention="1h1d"), "spec.kafka.readings.retention", DURATION),
    (readings(retention="0s"), "spec.kafka.readings", "retention must be between 1m and 36600d"),
    (readings(config={"retention.ms": "7 days"}), "spec.kafka.readings", "config retention.ms must be a whole number"),
    (readings(config={"retention.bytes": "1G"}), "spec.kafka.readings", "config retention.bytes must be a whole"),
    (readings(config={"retention.ms": 5}), "spec.kafka.readings.config.retention.ms", "must be of type string"),
    (readings(config={"cleanup.policy": "compact,delete"}), "spec.kafka.readings", "must not be compact"),
    (readings(config={"min.insync.replicas": "2"}), "spec.kafka.readings", "must not be above replicationFactor"),
    ({"kafka": {"security": {"protocol": "TLS"}}}, "spec.kafka.security.protocol", '"PLAINTEXT", "SSL"'),
    ({"kafka": {"security": {"protocol": "SASL_SSL"}}}, "spec.kafka.security", "saslMechanism goes with protocol"),
    ({"kafka": {"security": SASL_WITHOUT_PASSWORD}}, "spec.kafka.security", "credentialsSecretRef go together"),
    ({"kafka": {"security": {"caSecretRef": {"name": "ca"}}}}, "spec.kafka.security", "need protocol SSL or SASL_SSL"),
    ({"timescale": {"connectionSecretRef": None}}, "spec.timescale.connectionSecretRef", "Required value"),
    ({"timescale": {"connectionSecretRef": {"name": "A_B"}}}, "connectionSecretRef.name", "name a Secret, by a-z"),
    ({"timescale": {"schema": "Robert'); DROP TABLE"}}, "spec.timescale.schema", "name a schema by at most 63"),
    ({"timescale": {"schema": "pg_catalog"}}, "spec.timescale.schema", "choose another schema"),
    ({"timescale": {"schema": "_timescaledb_catalog"}}, "spec.timescale.schema", "choose another schema"),
    ({"timescale": {"schema": "public"}, "deletionPolicy": "Delete"}, "spec", "name another timescale.schema"),
    ({"timestampUnit": "hours"}, "spec.timestampUnit", '"s", "ms", "us", "ns"'),
    ({"measurements": []}, "spec.measurements", "at least 1 items"),
    ({"measurements": [{"name": "a"}, {"name": "a"}]}, "spec.measurements[1]", "Duplicate value"),
    (measured(name="Temp"), "spec.measurements[0]", "name a measurement by at most 63"),
    (measured(name="ts"), "spec.measurements[0]", "name is a part of every reading already; choose another"),
    (measured(name="xmin"), "spec.measurements[0]", "column which PostgreSQL keeps in every table; choose another"),
    (measured(unit="°C"), "spec.measurements[0]", "unit must be a UCUM code"),
    (measured(unit="degrees C"), "spec.measurements[0]", "unit must be a UCUM code"),
    (measured(min=2, max=1), "spec.measurements[0]", "min must not be above max"),
    (measured(min="low"), "spec.measurements[0].min", "must be of type number"),
    ({"ingest": {"replicas": -1}}, "spec.ingest.replicas", "greater than or equal to 0"),
    ({"ingest": {"batch": {"maxRows": 0}}}, "spec.ingest.batch.maxRows", "greater than or equal to 1"),
    ({"ingest": {"batch": {"maxDelay": "fast"}}}, "spec.ingest.batch.maxDelay", DURATION),
    ({"ingest": {"batch": {"maxDelay": "0ms"}}}, "spec.ingest.batch", "maxDelay must be between 1ms and 60s"),
    ({"ingest": {"batch": {"maxDelay": "1d"}}}, "spec.ingest.batch", "maxDelay must be between 1ms and 60s"),
    ({"ingest": {"resources": {"requests": {"cpu": "lots"}}}}, "spec.ingest.resources.requests", "write a quantity"),
    ({"ingest": {"image": "sensorlog/ingest@sha256:0123"}}, "spec.ingest.image", "the digest whole"),
    ({"query": {"image": "sensorlog/query: latest"}}, "spec.query.image", "name an image as REPOSITORY:TAG"),
    ({"ingest": {"autoscaling": {}}}, "spec.ingest.autoscaling.maxReplicas", "Required value"),
    ({"query": {"replicaFallback": "Primary"}}, "spec", "needs timescale.readConnectionSecretRef"),
    ({"query": {"authentication": {"type": "Kubernetes"}}}, "spec.query", "authentication needs tls"),
    ({"query": {"authentication": {"type": "Basic"}}}, "spec.query.authentication.type", 'values: "Kubernetes"'),
    ({"networkPolicy": {"mode": "None", "clients": [{}]}}, "spec.networkPolicy", "need mode Ingress or Strict"),
    ({"networkPolicy": {"egressPorts": [9094]}}, "spec.networkPolicy", "egressPorts needs mode Strict"),
    ({"canary": {"interval": "1s"}}, "spec.canary.interval", "write whole seconds from 5s on or minutes"),
    ({"canary": {"clientCertificateSecretRef": {}}}, "spec.canary.clientCertificateSecretRef.name", "Required value"),
    ({"canary": {}, "query": MUTUAL_TLS}, "spec", "canary needs clientCertificateSecretRef"),
    ({"deletionPolicy": "Maybe"}, "spec.deletionPolicy", '"Retain", "Delete"'),
    ({"driftPolicy": "Fix"}, "spec.driftPolicy", '"Repair", "Report"'),
    ({"approval": "yes"}, "spec.approval", '"Automatic", "Manual"'),
    ({"paused": "yes"}, "spec.paused", "must be of type boolean"),
    ({"nonsense": True}, "spec.nonsense", "unknown field"),
    (readings(partition=6), "spec.kafka.readings.partition", "unknown field"),
]


@pytest.mark.parametrize(("spec", "field", "remedy"), REFUSED, ids=[f"{field}: {said}" for _, field, said in REFUSED])
def test_what_cannot_be_meant_is_refused(api_server: ApiServer, spec: dict[str, Any], field: str, remedy: str) -> None:
    """With the field, and with what to write instead; no rule stumbles over what another one refuses."""
    said = refusal(api_server, **spec) or "accepted"
    assert field in said
    assert remedy in said
    assert "evaluating rule" not in said


@pytest.mark.parametrize("name", ["9lives", "a" * 53, "a.b"])
def test_a_name_that_makes_no_service_is_refused(api_server: ApiServer, name: str) -> None:
    """The children's names derive from it."""
    assert "metadata.name must be at most 52" in (refusal(api_server, name) or "accepted")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kafka": {"readings": {"topic": "another"}}}, "readings.topic"),
        ({"kafka": {"sensors": {"topic": "another"}}}, "sensors.topic"),
        ({"timescale": {"schema": "another"}}, "schema"),
        ({"timestampUnit": "ms"}, "timestampUnit"),
    ],
)
def test_what_cannot_change_is_refused(api_server: ApiServer, change: dict[str, Any], field: str) -> None:
    """The message says to create another pipeline instead."""
    path = f"{pipelines_path('default')}/fixed"
    if api_server.find(path) is None:
        body = pipeline_body()
        body["metadata"] = {"name": "fixed", "namespace": "default"}
        api_server.call("POST", pipelines_path("default"), body)
    with pytest.raises(urllib.error.HTTPError) as refused:
        api_server.merge(path, {"spec": change})
    with refused.value as answer:
        assert f"{field} cannot be changed after creation; create another" in json.loads(answer.read())["message"]


@pytest.mark.parametrize(
    ("timescale", "said"),
    [
        ({"retention": "0d"}, "retention must be between 1m and 36600d"),
        ({"retention": "36601d"}, "retention must be between"),
        ({"retention": "forever"}, "spec.timescale.retention"),
        ({"retention": "23h59m59s"}, "retention must not be shorter than chunkInterval"),
        ({"retention": "6d", "chunkInterval": "1d120h1m"}, "retention must not be shorter than chunkInterval"),
        ({"chunkInterval": "0s"}, "chunkInterval must be between"),
        ({"compressAfter": "59s"}, "compressAfter must be between"),
        ({"rotateCredentialsEvery": "9m59s"}, "rotateCredentialsEvery must be between"),
        ({"access": "Everybody"}, "spec.timescale.access"),
        ({"access": "Shared", "rotateCredentialsEvery": "30d"}, "rotateCredentialsEvery needs access Managed"),
        ({"compressAfter": "90d", "retention": "90d"}, "compressAfter must be shorter than retention"),
        ({"compressAfter": "2160h1ms", "retention": "90d"}, "compressAfter must be shorter than retention"),
        ({"rollups": [{"interval": "30s"}]}, "interval must be between"),
        ({"rollups": [{"interval": "1h"}, {"interval": "1h"}]}, "Duplicate value"),
        ({"rollups": [{"interval": "1h"}, {"interval": "60m"}]}, "rollups must have different intervals"),
        ({"rollups": [{"interval": f"{n}m"} for n in range(1, 6)]}, "must have at most 4 items"),
        ({"rollups": [{}]}, "spec.timescale.rollups[0].interval"),
    ],
)
def test_what_makes_no_sense_is_refused(api_server: ApiServer, timescale: dict[str, Any], said: str) -> None:
    """With the field and what is accepted: what deletes data must not be mistaken."""
    assert said in (refusal(api_server, timescale=timescale) or "accepted")
