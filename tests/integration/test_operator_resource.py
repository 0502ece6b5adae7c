"""The CRD in a real API server: what it refuses by rules that only the API server can check."""

import json
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from support.apiserver import ApiServer
from support.containers import ContainerEngine
from support.operated import operated_api_server, pipelines_path
from support.resources import pipeline_body

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def api_server(engine: ContainerEngine) -> Iterator[ApiServer]:
    """Start an API server that knows pipelines."""
    with operated_api_server(engine, rights=False) as server:
        yield server


def refusal(server: ApiServer, **timescale: Any) -> str | None:
    """Return why a resource with these fields of spec.timescale is refused, None where it is accepted."""
    body = pipeline_body(timescale={"connectionSecretRef": {"name": "timescaledb"}, **timescale})
    body["metadata"] = {"name": "plant", "namespace": "default"}
    try:
        server.call("POST", f"{pipelines_path('default')}?dryRun=All", body)
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
    assert refusal(api_server, **timescale) is None


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
    assert said in (refusal(api_server, **timescale) or "accepted")
