"""Every child of a pipeline: what runs it, who scales it, who may connect to it."""

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sensorlog_operator import autoscaling, manifests, network
from sensorlog_operator.errors import NeedsChangeError
from sensorlog_operator.kube import KEDA, Kube
from sensorlog_operator.manifests import Object
from sensorlog_operator.models import Pipeline
from sensorlog_operator.secrets import Credentials, Mount
from sensorlog_operator.settings import Settings

RECHECK_SECONDS = 30.0
"""How long KEDA may be installed before it is noticed."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What children depend on beside the resource."""

    mounts: Mapping[str, Mount]
    """How each component gets into the database; one that cannot yet is left out, and so is its Deployment."""
    database_ports: frozenset[int]
    keda: bool
    """Whether the cluster has KEDA."""


def build(pipeline: Pipeline, settings: Settings, around: Surroundings) -> list[Object]:
    """Return every child, in the order to apply them: policies before the pods that they are about, scalers after."""
    return [
        *network.build(pipeline, settings, around.database_ports),
        *manifests.build_all(pipeline, settings, around.mounts, keda=around.keda),
        *autoscaling.build(pipeline, keda=around.keda),
    ]


def database_ports(credentials: Credentials) -> frozenset[int]:
    """Return the ports of the pipeline's databases; of a Secret that is missing, libpq's default."""
    uris: list[str] = []
    for component in ("ingest", "query"):
        with contextlib.suppress(NeedsChangeError):  # told of by who needs it to connect
            uris.append(credentials.database_uri(component))
    return frozenset(network.database_ports(uris))


class Keda:
    """Whether the cluster has KEDA; safe to ask from several threads, and asked of the API server only now and then."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._lock = threading.Lock()
        self._answer = False
        self._good_until = 0.0

    def is_there(self) -> bool:
        """Return whether its API is served. PipelineErrors, as Kube's."""
        with self._lock:
            if time.monotonic() >= self._good_until:
                self._answer = self._kube.serves(KEDA)
                self._good_until = time.monotonic() + RECHECK_SECONDS
            return self._answer
