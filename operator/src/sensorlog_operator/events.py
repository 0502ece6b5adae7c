"""Kubernetes Events of a pipeline: what `kubectl describe` shows of the past hour."""

import uuid
from datetime import UTC, datetime

import structlog

from sensorlog_operator.errors import PipelineError
from sensorlog_operator.kube import EVENT, Kube
from sensorlog_operator.models import GROUP, KIND, VERSION, Resource

MAX_MESSAGE_LENGTH = 1024
"""The API server refuses longer messages."""

log = structlog.get_logger(__name__)


class Events:
    """Writes Events; one that cannot be written is logged, because no reconcile should fail for it."""

    def __init__(self, kube: Kube, instance: str) -> None:
        self._kube = kube
        self._instance = instance

    def emit(self, pipeline: Resource, reason: str, message: str, *, warning: bool = False) -> None:
        """Write one Event about the pipeline."""
        now = datetime.now(UTC)
        seconds = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{pipeline.name}.{uuid.uuid4().hex[:16]}", "namespace": pipeline.namespace},
            "involvedObject": {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": KIND,
                "name": pipeline.name,
                "namespace": pipeline.namespace,
                "uid": pipeline.uid,
            },
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": message[:MAX_MESSAGE_LENGTH],
            "action": "Reconcile",
            "source": {"component": "sensorlog-operator"},
            "reportingComponent": "sensorlog-operator",
            "reportingInstance": self._instance,
            "firstTimestamp": seconds,
            "lastTimestamp": seconds,
            "count": 1,
        }
        try:
            self._kube.create(EVENT, body)
        except PipelineError as e:
            log.warning("event not written", pipeline=pipeline.key, event_reason=reason, error=e.message)
