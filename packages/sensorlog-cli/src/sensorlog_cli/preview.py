"""What applying a file would do: the API server checks it in a dry run, the operator says what would follow."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sensorlog_cli.cluster import Cluster
from sensorlog_cli.errors import CliError, UnreachableError, UsageError
from sensorlog_cli.plans import Plan

STANDARD_INPUT = "-"
KIND = "SensorLogPipeline"
ANSWER_SECONDS = 120
"""The operator looks at brokers and a database, and waits for each that is away."""


def plans_of(cluster: Cluster, file: str, operator_namespace: str) -> list[Plan]:
    """Return what applying each pipeline of `file` would do; nothing is applied.

    Raises UsageError where the API server refuses the file, UnreachableError where the operator is not to be reached.
    """
    resources = dry_run(cluster, file)
    with cluster.operator(operator_namespace) as address:
        return [ask(address, resource) for resource in resources]


def dry_run(cluster: Cluster, file: str) -> list[Mapping[str, Any]]:
    """Return the pipelines of `file` as the API server would keep them: defaults filled in, rules checked.

    Raises UsageError where there is none, or the API server refuses it.
    """
    if file != STANDARD_INPUT and not Path(file).exists():
        raise UsageError(f"there is no file {file!r}")
    command = [
        *cluster.kubectl("it asks the API server what applying the file would make"),
        "apply",
        f"--namespace={cluster.namespace}",
        "--dry-run=server",
        "--output=json",
        "--filename",
        file,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise UsageError(f"the API server does not take {file}: {' '.join(done.stderr.split())}")
    document = json.loads(done.stdout)
    found = [item for item in document.get("items", [document]) if item["kind"] == KIND]
    if not found:
        raise UsageError(f"{file} holds no {KIND}")
    return found


def ask(address: str, resource: Mapping[str, Any]) -> Plan:
    """Return the operator's plan for a resource.

    CliError holds its words where it cannot plan; UnreachableError where it does not answer.
    """
    metadata = resource["metadata"]
    request = urllib.request.Request(
        f"http://{address}/plan", json.dumps(resource).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as reply:  # noqa: S310
            answer = json.loads(reply.read())
    except urllib.error.HTTPError as e:
        with e:
            raise CliError(f"the operator cannot plan it: {_message(e.read())}") from e
    except OSError as e:
        raise UnreachableError(f"the operator does not answer: {e}") from e
    return Plan.of_answer(f"{metadata['namespace']}/{metadata['name']}", answer)


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return "it gives no reason"
