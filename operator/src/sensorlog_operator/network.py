"""The NetworkPolicies of a pipeline: who may connect to its pods, and with mode Strict whereto they may connect.

Brokers and databases may be anywhere, so egress is limited by port, not by address. Policies look at what a connection
reaches behind a Service; source: Kubernetes documentation, "Network Policies".
"""

import contextlib
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from sensorlog_operator.manifests import (
    GRPC_PORT,
    TELEMETRY_PORT,
    Object,
    child_metadata,
    child_name,
    pod_selector,
)
from sensorlog_operator.models import Pipeline
from sensorlog_operator.settings import Settings

DNS_PORTS = (53, 5353)
"""5353 is where the DNS of some distributions listens behind its Service's 53."""

API_SERVER_PORTS = (443, 6443)
OTLP_PORT = 4317
POSTGRES_PORT = 5432


def build(pipeline: Pipeline, settings: Settings, database_ports: Iterable[int]) -> list[Object]:
    """Return a policy for ingest and one for query, none with mode None. `database_ports` are those of the URIs."""
    spec = pipeline.spec
    if spec.network_policy.mode == "None":
        return []
    telemetry = _rule("from", spec.network_policy.monitoring, [TELEMETRY_PORT])
    calls = _rule("from", _callers(pipeline, settings), [GRPC_PORT])
    common = {*database_ports, *spec.network_policy.egress_ports, *_tracing_ports(settings)}
    ingest = common | _broker_ports(spec.kafka.bootstrap_servers)
    query = common | set(API_SERVER_PORTS if spec.query.authentication else ())
    return [
        _policy(pipeline, "ingest", [telemetry], ingest),
        _policy(pipeline, "query", [calls, telemetry], query),
    ]


def _callers(pipeline: Pipeline, settings: Settings) -> list[Object]:
    """Return who may call the query service: the operator too, where it looks for its canaries there."""
    clients = list(pipeline.spec.network_policy.clients)
    if clients and pipeline.spec.canary and settings.namespace:
        clients.append({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.namespace}}})
    return clients


def _policy(pipeline: Pipeline, component: str, ingress: Sequence[Object], egress_ports: Iterable[int]) -> Object:
    strict = pipeline.spec.network_policy.mode == "Strict"
    dns = {"ports": [{"port": port, "protocol": protocol} for port in DNS_PORTS for protocol in ("UDP", "TCP")]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": child_metadata(pipeline, child_name(pipeline, component), component),
        "spec": {
            "podSelector": {"matchLabels": pod_selector(pipeline, component)},
            "policyTypes": ["Ingress", *(["Egress"] if strict else [])],
            "ingress": list(ingress),
            **({"egress": [dns, _rule("to", (), sorted(egress_ports))]} if strict else {}),
        },
    }


def _rule(side: str, peers: Sequence[Object], ports: Iterable[int]) -> Object:
    """Return a rule for TCP ports; without peers it is about everybody."""
    return {
        "ports": [{"port": port, "protocol": "TCP"} for port in ports],
        **({side: list(peers)} if peers else {}),
    }


def database_ports(uris: Iterable[str]) -> set[int]:
    """Return the ports that connection URIs name, libpq's default where they name none; nothing of one that is no URI.

    Such a URI is told of by who connects with it.
    """
    found: set[int] = set()
    for uri in uris:
        with contextlib.suppress(psycopg.ProgrammingError):
            text = str(conninfo_to_dict(uri).get("port") or POSTGRES_PORT)
            found |= {int(port or POSTGRES_PORT) for port in text.split(",")}
    return found or {POSTGRES_PORT}


def _broker_ports(bootstrap_servers: str) -> set[int]:
    return {int(server.rpartition(":")[2]) for server in bootstrap_servers.split(",")}


def _tracing_ports(settings: Settings) -> set[int]:
    return {urlsplit(settings.otlp_endpoint).port or OTLP_PORT} if settings.otlp_endpoint else set()
