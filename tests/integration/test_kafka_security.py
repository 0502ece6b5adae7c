"""Kafka that demands a proof: each mechanism from the resource to the database, and each refusal with what to do.

The operator and ingest are real processes; the operator has the chart's rights in a real API server, the broker's user
only the rights that docs/security.md asks for.
"""

import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AclOperation, ResourceType

from support.apiserver import ApiServer
from support.containers import ContainerEngine
from support.database import Database
from support.operated import (
    OperatedPipeline,
    login,
)
from support.pipelines import SEED_TS, Pipeline, PipelineOptions, make_pipeline
from support.pods import Pods
from support.processes import ServiceProcess, StartService
from support.secured import PASSWORD, STRANGER, USER, SecuredBroker, secured_broker
from support.tls import Authority, Issued, MountedSecret
from support.waiting import wait_for_value, wait_until

pytestmark = pytest.mark.integration

READING = {"ts": SEED_TS, "sensor_id": 1, "temperature": 30, "cpu": 20}
TOPICS = (
    AclOperation.CREATE,
    AclOperation.DESCRIBE,
    AclOperation.ALTER,
    AclOperation.DESCRIBE_CONFIGS,
    AclOperation.ALTER_CONFIGS,
    AclOperation.READ,
)
"""What the operator and ingest do to topics together; docs/security.md."""

UNPROTECTED = "SASL_PLAINTEXT"
WRONG = "not-this-one"
ROTATED = "rotated-secret"


@dataclass(frozen=True)
class Proof:
    """What a pipeline shows to a listener: the fields of spec.kafka.security, and the Secrets' contents."""

    listener: str
    protocol: str
    mechanism: str | None = None
    user: str = USER
    password: str = PASSWORD
    ca: bytes | None = None
    certificate: Issued | None = None

    @property
    def contents(self) -> dict[str, dict[str, bytes]]:
        """The Secrets' values, by the field that names the Secret."""
        login = {"username": self.user.encode(), "password": self.password.encode()}
        pair = self.certificate and {"tls.crt": self.certificate.certificate, "tls.key": self.certificate.key}
        every = {
            "credentialsSecretRef": login if self.mechanism else None,
            "caSecretRef": {"ca.crt": self.ca} if self.ca else None,
            "clientCertificateSecretRef": pair,
        }
        return {name: values for name, values in every.items() if values}

    @property
    def files(self) -> dict[str, bytes]:
        """The values as a pod has them mounted."""
        return {key: value for values in self.contents.values() for key, value in values.items()}

    def security(self) -> dict[str, Any]:
        """Return spec.kafka.security."""
        mechanism = {"saslMechanism": self.mechanism} if self.mechanism else {}
        return {"protocol": self.protocol, **mechanism, **{name: {"name": name.lower()} for name in self.contents}}


@pytest.fixture(scope="module")
def secured(engine: ContainerEngine) -> Iterator[SecuredBroker]:
    """Yield the broker; its user has the rights that a pipeline needs, on topics that begin with plants- or t."""
    with secured_broker(engine) as secured:
        for prefix in ("plants-", "t"):
            secured.allow(ResourceType.TOPIC, prefix, *TOPICS)
        secured.allow(ResourceType.GROUP, "sensorlog.", AclOperation.READ)
        yield secured


@dataclass
class Plant:
    """One pipeline of a namespace of its own, whose Secrets hold a proof."""

    pipeline: OperatedPipeline
    proof: Proof
    pods: list[Pods] = field(default_factory=list)

    @property
    def topic(self) -> str:
        """The topic of readings."""
        return f"{self.pipeline.namespace}.plant.readings"

    @property
    def table(self) -> str:
        """The table of readings."""
        return f"{self.pipeline.schema}.sensor_data"

    def put(self, proof: Proof) -> None:
        """Write the Secrets."""
        for name, values in proof.contents.items():
            put_secret(self.pipeline.server, self.pipeline.namespace, name.lower(), values)

    def refused(self, reason: str) -> str:
        """Wait until TopicReady is false for a reason; return its message."""
        return str(self.pipeline.wait_condition("TopicReady", "False", reason)["message"])


def put_secret(server: ApiServer, namespace: str, name: str, values: dict[str, bytes]) -> None:
    """Create a Secret, or give the one of that name these values."""
    path = f"/api/v1/namespaces/{namespace}/secrets"
    data = {key: base64.b64encode(value).decode() for key, value in values.items()}
    if server.find(f"{path}/{name}"):
        server.merge(f"{path}/{name}", {"data": data})
    else:
        server.call("POST", path, {"metadata": {"name": name}, "data": data})


MakePlant = Callable[[Proof], Plant]


@pytest.fixture
def make_plant(
    api_server: ApiServer, operator: ServiceProcess, secured: SecuredBroker, database: Database, tmp_path: Path
) -> Iterator[MakePlant]:
    """Yield a factory of pipelines; all that they started ends with the test."""
    assert operator.is_running
    made: list[Plant] = []

    def make(proof: Proof) -> Plant:
        namespace = f"plants-{secrets.token_hex(3)}"
        api_server.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        put_secret(api_server, namespace, "timescaledb", {"uri": login(database).uri.encode()})
        plant = Plant(OperatedPipeline(api_server, secured.broker, namespace), proof)
        plant.put(proof)
        kafka = {"bootstrapServers": secured.address(proof.listener), "security": proof.security()}
        plant.pipeline.create(kafka=kafka)
        plant.pods.append(Pods(plant.pipeline, tmp_path / namespace))
        made.append(plant)
        return plant

    yield make
    for plant in made:
        print(json.dumps(plant.pipeline.status(), indent=1))  # noqa: T201 -- shown by pytest
        for pods in plant.pods:
            pods.clean_up()
        plant.pipeline.delete()


def proofs(secured: SecuredBroker) -> dict[str, Proof]:
    """Return one good proof for each way to connect."""
    ca = secured.authority.certificate
    intermediate = Authority("intermediate", parent=secured.authority)
    mutual = Proof("MUTUAL", "SSL", ca=ca, certificate=secured.authority.issue(USER))
    return {
        "PLAIN": Proof("PLAIN", UNPROTECTED, "PLAIN"),
        "SCRAM-SHA-256": Proof("SCRAM", UNPROTECTED, "SCRAM-SHA-256"),
        "SCRAM-SHA-512": Proof("SCRAM", UNPROTECTED, "SCRAM-SHA-512"),
        "PLAIN over TLS": Proof("TLS", "SASL_SSL", "PLAIN", ca=ca),
        "SCRAM over TLS": Proof("TLS", "SASL_SSL", "SCRAM-SHA-512", ca=ca),
        "client certificate": mutual,
        "client certificate of an intermediate authority": replace(mutual, certificate=intermediate.issue(USER)),
    }


WAYS = (
    "PLAIN",
    "SCRAM-SHA-256",
    "SCRAM-SHA-512",
    "PLAIN over TLS",
    "SCRAM over TLS",
    "client certificate",
    "client certificate of an intermediate authority",
)


@pytest.mark.parametrize("way", WAYS)
def test_readings_flow_by_each_way_to_connect(
    way: str, secured: SecuredBroker, make_plant: MakePlant, database: Database
) -> None:
    """The operator makes the topics with no more rights than documented; ingest reads from the files it has mounted."""
    plant = make_plant(proofs(secured)[way])
    plant.pipeline.wait_condition("TopicReady", "True", "Ready")
    plant.pipeline.wait_child("/apis/apps/v1", "deployments", "ingest")
    plant.pods[0].start("ingest")
    secured.broker.produce(plant.topic, [READING])
    wait_for_value(
        lambda: database.execute(f"SELECT count(*) FROM {plant.table}"), [(1,)], deadline=30, what="what is stored"
    )


def refusals(secured: SecuredBroker) -> dict[str, tuple[Proof, str]]:
    """Return proofs that the broker, or we, refuse, with what the condition has to quote of it."""
    good = proofs(secured)
    mutual, stranger = good["client certificate"], Authority("stranger")
    expired = secured.authority.issue(USER, lifetime=timedelta(minutes=-1))
    return {
        "wrong password, PLAIN": (replace(good["PLAIN"], password=WRONG), "Invalid username or password"),
        "wrong password, SCRAM": (replace(good["SCRAM-SHA-512"], password=WRONG), "invalid credentials"),
        "wrong password, TLS": (replace(good["SCRAM over TLS"], password=WRONG), "invalid credentials"),
        "mechanism of another listener": (replace(good["PLAIN"], listener="SCRAM"), "Unsupported SASL mechanism"),
        "wrong authority": (replace(good["SCRAM over TLS"], ca=stranger.certificate), "certificate verify failed"),
        "no client certificate": (replace(mutual, certificate=None), "certificate required"),
        "expired client certificate": (replace(mutual, certificate=expired), "certificate"),
        "client certificate of a stranger": (replace(mutual, certificate=stranger.issue(USER)), "certificate"),
        "no rights": (replace(good["PLAIN"], user=STRANGER), "authorization failed"),
    }


REFUSALS = (
    "wrong password, PLAIN",
    "wrong password, SCRAM",
    "wrong password, TLS",
    "mechanism of another listener",
    "wrong authority",
    "no client certificate",
    "expired client certificate",
    "client certificate of a stranger",
    "no rights",
)


@pytest.mark.parametrize("what", REFUSALS)
def test_a_refusal_is_told_with_what_to_do(what: str, secured: SecuredBroker, make_plant: MakePlant) -> None:
    """TopicReady quotes the broker and names the field; the password is nowhere."""
    proof, quoted = refusals(secured)[what]
    message = make_plant(proof).refused("KafkaAuthenticationFailed")
    assert quoted in message
    assert "Check spec.kafka.security, the Secrets it names" in message
    assert proof.password not in message


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"ca": b"no certificate"}, "ca.crt of spec.kafka.security.caSecretRef"),
        ({"certificate": "key of another"}, "tls.key of spec.kafka.security.clientCertificateSecretRef"),
        ({"certificate": "no certificate"}, "tls.crt of spec.kafka.security.clientCertificateSecretRef"),
    ],
)
def test_a_secret_that_holds_no_certificate_is_named(
    broken: dict[str, Any], field: str, secured: SecuredBroker, make_plant: MakePlant
) -> None:
    """Before any connection: the message says which key of which Secret cannot be used."""
    good = proofs(secured)["client certificate"]
    assert good.certificate
    pairs = {
        "key of another": Issued(good.certificate.certificate, Authority("stranger").issue(USER).key),
        "no certificate": Issued(b"no certificate", good.certificate.key),
    }
    values: dict[str, Any] = {name: pairs[value] if name == "certificate" else value for name, value in broken.items()}
    assert field in make_plant(replace(good, **values)).refused("KafkaCredentialsInvalid")


def test_a_protocol_that_is_not_the_listeners_is_told(secured: SecuredBroker, make_plant: MakePlant) -> None:
    """Nobody says anything on such a connection: the message asks for the field."""
    proof = replace(proofs(secured)["SCRAM over TLS"], protocol=UNPROTECTED, ca=None)
    message = make_plant(proof).refused("KafkaUnavailable")
    assert "spec.kafka.security.protocol is that of their listener" in message


def test_a_corrected_secret_is_taken_at_once(secured: SecuredBroker, make_plant: MakePlant) -> None:
    """The operator watches the Secrets that resources name."""
    good = proofs(secured)["SCRAM over TLS"]
    plant = make_plant(replace(good, password=WRONG))
    plant.refused("KafkaAuthenticationFailed")
    plant.put(good)
    plant.pipeline.wait_condition("TopicReady", "True", "Ready")


# Ingest alone: its files change while it runs, as the kubelet changes them


@pytest.fixture
def make_reader(
    secured: SecuredBroker, database: Database, tmp_path: Path, start_service: StartService
) -> Iterator[Callable[[Proof], tuple[Pipeline, ServiceProcess, MountedSecret]]]:
    """Yield a factory of ingest processes that hold a proof in a mounted Secret."""
    made: list[Pipeline] = []

    def make(proof: Proof) -> tuple[Pipeline, ServiceProcess, MountedSecret]:
        pipeline = make_pipeline(secured.broker, database, tmp_path, PipelineOptions())
        made.append(pipeline)
        changed = {
            "bootstrap_servers": secured.address(proof.listener),
            "security_protocol": proof.protocol,
            "sasl_mechanism": proof.mechanism,
        }
        config = pipeline.config.model_copy(update={"kafka": pipeline.config.kafka.model_copy(update=changed)})
        replace(pipeline, config=config).write_files(database.uri)
        mounted = MountedSecret(tmp_path / f"{config.name}-kafka", **_keywords(proof))
        process = start_service("sensorlog_ingest", pipeline, SENSORLOG_KAFKA_DIR=str(mounted.directory))
        return pipeline, process, mounted

    yield make
    for pipeline in made:
        pipeline.drop()


def _keywords(proof: Proof) -> dict[str, bytes]:
    return {name.replace(".", "_"): value for name, value in proof.files.items()}


MakeReader = Callable[[Proof], tuple[Pipeline, ServiceProcess, MountedSecret]]


def wait_refused(process: ServiceProcess, *words: str) -> str:
    """Wait until readiness says that Kafka refuses, with these words; return all it says."""

    def says() -> str:
        assert process.is_running, process.logs[-4000:]
        return process.get("/readyz")[1]

    return wait_until(
        says,
        lambda text: "Kafka refuses" in text and all(word in text for word in words),
        deadline=45,
        what="readiness to tell of the refusal",
    )


@pytest.mark.parametrize(
    "what",
    ["wrong password, SCRAM", "wrong authority", "no client certificate", "expired client certificate"],
)
def test_ingest_tells_of_a_refusal_and_takes_the_corrected_files(
    what: str, secured: SecuredBroker, make_reader: MakeReader
) -> None:
    """It stays alive, readiness and log say what to correct, and it goes on by itself once the kubelet has done so."""
    wrong, quoted = refusals(secured)[what]
    good = next(proof for proof in proofs(secured).values() if proof.listener == wrong.listener)
    good = replace(good, mechanism=wrong.mechanism)
    pipeline, process, mounted = make_reader(wrong)
    assert "correct the Secrets that spec.kafka.security names" in wait_refused(process, quoted)
    assert process.get("/livez")[0] == 200
    assert quoted in process.logs
    mounted.update(**_keywords(good))
    process.wait_ready()
    pipeline.produce([READING])
    wait_for_value(pipeline.count, 1, deadline=30, what="what is stored")


def test_a_password_rotated_under_way_loses_and_doubles_nothing(
    secured: SecuredBroker, make_reader: MakeReader
) -> None:
    """Open connections go on; refused when it connects anew, ingest takes the new password and reads on."""
    old = proofs(secured)["SCRAM-SHA-512"]
    pipeline, process, mounted = make_reader(old)
    process.wait_ready()
    pipeline.produce([READING])
    wait_for_value(pipeline.count, 1, deadline=30, what="what is stored")
    try:
        secured.set_password(USER, ROTATED)
        secured.broker.restart()
        wait_refused(process, "invalid credentials")
        mounted.update(**_keywords(replace(old, password=ROTATED)))
        process.wait_ready()
        pipeline.produce([{**READING, "sensor_id": 2}])
        wait_for_value(pipeline.counts, (2, 2), deadline=30, what="readings, and distinct ones")
    finally:
        secured.set_password(USER, PASSWORD)
    assert ROTATED not in process.logs


def test_a_right_that_is_missing_is_told_and_taken_when_it_comes(
    secured: SecuredBroker, make_reader: MakeReader
) -> None:
    """A user who may not read is told so; no restart is needed once the ACL is there."""
    stranger = replace(proofs(secured)["PLAIN"], user=STRANGER)
    pipeline, process, _ = make_reader(stranger)
    wait_until(
        lambda: process.get("/readyz"),
        lambda reply: reply[0] == 503 and "by this user" in reply[1],
        deadline=45,
        what="readiness to tell of the missing right",
    )
    topics = pipeline.config.kafka
    for topic in (topics.readings_topic, topics.sensors_topic):
        secured.allow(ResourceType.TOPIC, topic, AclOperation.READ, AclOperation.DESCRIBE, user=STRANGER)
    secured.allow(ResourceType.GROUP, topics.group_id, AclOperation.READ, user=STRANGER)
    process.wait_ready()


# What `sensorlog publish` runs inside the ingest pod


def published(pipeline: Pipeline, mounted: MountedSecret) -> list[dict[str, Any]]:
    """Send one reading as the command does; return what became of it."""
    record = {"topic": pipeline.config.kafka.readings_topic, "value": json.dumps([READING])}
    done = subprocess.run(
        [sys.executable, "-m", "sensorlog.produce"],
        input=json.dumps(record) + "\n\n",
        env={**os.environ, **pipeline.environment, "SENSORLOG_KAFKA_DIR": str(mounted.directory)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=90,
        check=False,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("way", ["SCRAM over TLS", "client certificate"])
def test_a_reading_is_published_with_the_pods_credentials(
    way: str, secured: SecuredBroker, make_reader: MakeReader
) -> None:
    """The right to write is all that it needs besides."""
    pipeline, process, mounted = make_reader(proofs(secured)[way])
    process.wait_ready()
    secured.allow(ResourceType.TOPIC, pipeline.config.kafka.readings_topic, AclOperation.WRITE)
    assert published(pipeline, mounted) == [{"index": 0, "error": None}]
    wait_for_value(pipeline.count, 1, deadline=30, what="what is stored")


def test_a_reading_that_is_refused_says_why(secured: SecuredBroker, make_reader: MakeReader) -> None:
    """Not only that its time was up."""
    pipeline, _, mounted = make_reader(replace(proofs(secured)["SCRAM-SHA-512"], password=WRONG))
    (outcome,) = published(pipeline, mounted)
    assert "invalid credentials" in outcome["error"]
