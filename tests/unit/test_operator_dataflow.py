"""How canaries get to a pipeline's topic and query service, by its resource and its Secrets."""

import base64
from typing import Any, cast

import pytest

from sensorlog_operator import dataflow
from sensorlog_operator.canary_probe import ClientCertificate, Endpoint, Route, Tls
from sensorlog_operator.kube import Kube
from sensorlog_operator.secrets import Credentials
from support.resources import a_pipeline

ADDRESS = "plant-query.default.svc:50051"
AUDIENCE = "plant-query.default.svc"
TLS = {"secretRef": {"name": "plant-tls"}}
ASKS = {"type": "Kubernetes"}
CANARY = {"interval": "1m"}
SECRETS = {
    "timescaledb": {"uri": "postgresql://u:p@db/x"},
    "plant-tls": {"tls.crt": "c", "tls.key": "k", "ca.crt": "authority"},
    "public-tls": {"tls.crt": "c", "tls.key": "k"},
    "plant-canary": {"tls.crt": "certificate", "tls.key": "confidential-key"},
    "plant-kafka": {"username": "u", "password": "confidential-password"},
}


class Stored:
    """The Secrets as the API server hands them out."""

    def get(self, _kind: Any, _namespace: str, name: str) -> dict[str, Any]:
        """Return the Secret of this name."""
        return {"data": {key: base64.b64encode(value.encode()).decode() for key, value in SECRETS[name].items()}}


def route(**spec: Any) -> Route:
    """Return the route of a pipeline's canaries."""
    pipeline = a_pipeline(**{"canary": CANARY, **spec})
    return dataflow._route(pipeline, Credentials(cast("Kube", Stored()), pipeline))


@pytest.mark.parametrize(
    ("spec", "endpoint"),
    [
        ({}, Endpoint(ADDRESS)),
        ({"query": {"tls": TLS}}, Endpoint(ADDRESS, Tls(b"authority"))),
        ({"query": {"tls": {"secretRef": {"name": "public-tls"}}}}, Endpoint(ADDRESS, Tls(None))),
        ({"query": {"tls": TLS, "authentication": ASKS}}, Endpoint(ADDRESS, Tls(b"authority"), AUDIENCE)),
        (
            {"query": {"tls": TLS, "authentication": {**ASKS, "audience": "readers"}}},
            Endpoint(ADDRESS, Tls(b"authority"), "readers"),
        ),
        (
            {
                "query": {"tls": {**TLS, "clientAuth": "Require"}},
                "canary": {"clientCertificateSecretRef": {"name": "plant-canary"}},
            },
            Endpoint(ADDRESS, Tls(b"authority", ClientCertificate(b"certificate", b"confidential-key"))),
        ),
    ],
    ids=["plaintext", "tls", "public authority", "token", "audience", "certificate"],
)
def test_the_query_service_is_called_as_it_asks_to_be(spec: dict[str, Any], endpoint: Endpoint) -> None:
    """With its own authority, the audience that its tokens must have, and the certificate that the resource names."""
    assert route(**spec).endpoint == endpoint


def test_a_route_shows_no_secret() -> None:
    """A traceback or a log line may show it whole."""
    security = {
        "protocol": "SASL_PLAINTEXT",
        "saslMechanism": "PLAIN",
        "credentialsSecretRef": {"name": "plant-kafka"},
    }
    found = route(
        kafka={"bootstrapServers": "kafka:9092", "security": security},
        query={"tls": TLS},
        canary={"clientCertificateSecretRef": {"name": "plant-canary"}},
    )
    assert found.kafka_options["sasl.password"] == "confidential-password"
    assert found.interval == 30
    assert "confidential" not in repr(found)
