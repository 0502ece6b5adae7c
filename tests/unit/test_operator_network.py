"""Who may connect to a pipeline's pods, and whereto they may connect."""

from typing import Any

import pytest

from sensorlog_operator import network
from sensorlog_operator.settings import Settings
from support.resources import a_pipeline, operator_settings

Object = dict[str, Any]

PEER = {"namespaceSelector": {"matchLabels": {"team": "blue"}}}


def policies(settings: Settings | None = None, **spec: Any) -> dict[str, Object]:
    """Return the policies' specs by component."""
    built = network.build(a_pipeline(**spec), settings or operator_settings(), [5432])
    return {policy["metadata"]["name"].removeprefix("plant-"): policy["spec"] for policy in built}


def ports(rules: list[Object]) -> list[list[int]]:
    """Return the ports of each rule."""
    return [[port["port"] for port in rule["ports"]] for rule in rules]


def test_by_default_pods_are_reached_at_the_ports_they_serve_and_no_others() -> None:
    """By everybody, because nobody has said who the clients are; where pods connect is not limited."""
    found = policies()
    assert {name: ports(spec["ingress"]) for name, spec in found.items()} == {
        "ingest": [[9090]],
        "query": [[50051], [9090]],
    }
    assert all(spec["policyTypes"] == ["Ingress"] and "egress" not in spec for spec in found.values())
    assert not [rule for spec in found.values() for rule in spec["ingress"] if "from" in rule]


def test_clients_and_monitoring_are_let_in_at_their_own_port() -> None:
    """A client reads no metrics, and monitoring no readings."""
    other = {"ipBlock": {"cidr": "10.0.0.0/8"}}
    query = policies(networkPolicy={"clients": [PEER], "monitoring": [other]})["query"]
    assert [(rule["from"], ports([rule])) for rule in query["ingress"]] == [([PEER], [[50051]]), ([other], [[9090]])]


def test_the_operator_is_let_in_where_it_looks_for_canaries() -> None:
    """It is a client then, where clients are named at all."""
    settings = operator_settings().model_copy(update={"namespace": "sensorlog"})
    operator = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "sensorlog"}}}
    query = policies(settings, canary={}, networkPolicy={"clients": [PEER]})["query"]
    assert query["ingress"][0]["from"] == [PEER, operator]
    assert "from" not in policies(settings, canary={})["query"]["ingress"][0]


def test_none_leaves_it_to_others() -> None:
    """Such as a mesh."""
    assert policies(networkPolicy={"mode": "None"}) == {}


def test_strict_limits_each_component_to_what_it_needs() -> None:
    """Ingest has no business with the API server, query none with Kafka."""
    found = policies(
        kafka={"bootstrapServers": "a:9092,b:9094"},
        networkPolicy={"mode": "Strict", "egressPorts": [9095]},
        query={"tls": {"secretRef": {"name": "x"}}, "authentication": {"type": "Kubernetes"}},
    )
    dns = [53, 53, 5353, 5353]
    assert ports(found["ingest"]["egress"]) == [dns, [5432, 9092, 9094, 9095]]
    assert ports(found["query"]["egress"]) == [dns, [443, 5432, 6443, 9095]]
    assert all(spec["policyTypes"] == ["Ingress", "Egress"] for spec in found.values())


def test_strict_without_authentication_keeps_query_from_the_api_server() -> None:
    """It has no token either."""
    assert ports(policies(networkPolicy={"mode": "Strict"})["query"]["egress"])[1] == [5432]


@pytest.mark.parametrize(
    ("uris", "ports"),
    [
        (["postgresql://u:p@h:5433/d"], {5433}),
        (["postgresql://u:p@h/d", "postgresql://u:p@a:6432,b:6433/d"], {5432, 6432, 6433}),
        (["postgresql://u:p@a:6432,b/d"], {6432, 5432}),
        (["nonsense"], {5432}),
        ([], {5432}),
    ],
)
def test_the_databases_ports_are_those_of_the_uris(uris: list[str], ports: set[int]) -> None:
    """Of every host that they name."""
    assert network.database_ports(uris) == ports


@pytest.mark.parametrize(("endpoint", "port"), [("http://jaeger:4320", 4320), ("http://jaeger", 4317)])
def test_strict_lets_traces_out(endpoint: str, port: int) -> None:
    """To where the operator's chart says."""
    settings = operator_settings().model_copy(update={"otlp_endpoint": endpoint})
    assert port in ports(policies(settings, networkPolicy={"mode": "Strict"})["ingest"]["egress"])[1]
