"""How many pods run, where the resource leaves it to others: ingest to KEDA by lag, query to an HPA by load.

Where a scaler decides, the Deployment's manifest names no replicas, so that applying it leaves the scaler's number.
Sources: Kubernetes documentation, "Horizontal Pod Autoscaling"; KEDA documentation, "Apache Kafka" scaler.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sensorlog_operator.conditions import Condition
from sensorlog_operator.errors import Reason
from sensorlog_operator.manifests import Object, child_metadata, child_name, group_id
from sensorlog_operator.models import Pipeline
from sensorlog_operator.replicas import Bounds, ingest_bounds, ingest_replicas
from sensorlog_operator.secrets import kafka_projections
from sensorlog_operator.spec import IngestAutoscaling, QueryAutoscaling

POLLING_SECONDS = 15
"""How often KEDA asks the brokers for the lag: as often as the HPA that it drives looks."""

COOLDOWN_SECONDS = 300
"""How long a quiet topic waits before the last pod goes, with minReplicas 0."""

SASL = {"PLAIN": "plaintext", "SCRAM-SHA-256": "scram_sha256", "SCRAM-SHA-512": "scram_sha512"}
"""KEDA's words for the mechanisms."""

PARAMETERS = {
    "username": "username",
    "password": "password",
    "ca.crt": "ca",
    "tls.crt": "cert",
    "tls.key": "key",
}
"""KEDA's words for what ingest reads as files."""

SPOKEN_VERSION = "2.1.0"
"""Of Kafka's protocol. KEDA's default, 1.0.0, is not understood by brokers of version 4 and later, which want 2.1 or
newer (KIP-896; https://github.com/kedacore/keda/issues/6718)."""

KEDA_REMEDY = "Install KEDA (https://keda.sh), or take spec.ingest.autoscaling away."


def build(pipeline: Pipeline, *, keda: bool) -> list[Object]:
    """Return the scalers that the pipeline asks for. Paused ingest has none, which would wake it."""
    by_load, by_lag = pipeline.spec.query.autoscaling, pipeline.spec.ingest.autoscaling
    return [
        *([build_query_scaler(pipeline, by_load)] if by_load else []),
        *(build_ingest_scaler(pipeline, by_lag) if by_lag and keda and not pipeline.spec.paused else []),
    ]


def build_query_scaler(pipeline: Pipeline, wanted: QueryAutoscaling) -> Object:
    """Return the HorizontalPodAutoscaler of the query service."""
    name = child_name(pipeline, "query")
    target = {"type": "Utilization", "averageUtilization": wanted.target_cpu_utilization}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": child_metadata(pipeline, name, "query"),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": wanted.min_replicas,
            "maxReplicas": wanted.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def build_ingest_scaler(pipeline: Pipeline, wanted: IngestAutoscaling) -> list[Object]:
    """Return KEDA's ScaledObject, after the TriggerAuthentication that it names where brokers want credentials."""
    bounds = ingest_bounds(pipeline, wanted)
    name = child_name(pipeline, "ingest")
    authentication = build_authentication(pipeline)
    trigger = {
        "type": "kafka",
        "metadata": _trigger(pipeline, wanted),
        **({"authenticationRef": {"name": name}} if authentication else {}),
    }
    scaled = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": child_metadata(pipeline, name, "ingest"),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicaCount": bounds.least,
            "maxReplicaCount": bounds.most,
            "pollingInterval": POLLING_SECONDS,
            "cooldownPeriod": COOLDOWN_SECONDS,
            "triggers": [trigger],
        },
    }
    return [*([authentication] if authentication else []), scaled]


def build_authentication(pipeline: Pipeline) -> Object | None:
    """Return KEDA's TriggerAuthentication: the Secrets' names and keys, no value. None where there is none to name."""
    files = kafka_projections(pipeline.spec.kafka)
    if not files:
        return None
    references = [{"parameter": PARAMETERS[f.file], "name": f.secret, "key": f.key} for f in files]
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "TriggerAuthentication",
        "metadata": child_metadata(pipeline, child_name(pipeline, "ingest"), "ingest"),
        "spec": {"secretTargetRef": references},
    }


def _trigger(pipeline: Pipeline, wanted: IngestAutoscaling) -> dict[str, str]:
    kafka = pipeline.spec.kafka
    mechanism = kafka.security.sasl_mechanism
    return {
        "bootstrapServers": kafka.bootstrap_servers,
        "consumerGroup": group_id(pipeline),
        "topic": kafka.readings.topic,
        "lagThreshold": str(wanted.lag_threshold),
        # A group that has committed nothing yet reads from the beginning, as ingest does.
        "offsetResetPolicy": "earliest",
        "version": SPOKEN_VERSION,
        "sasl": SASL[mechanism] if mechanism else "none",
        "tls": "enable" if kafka.security.protocol.endswith("SSL") else "disable",
    }


def condition(pipeline: Pipeline, observed: Mapping[tuple[str, str], Object], *, keda: bool) -> Condition | None:
    """Return AutoscalingReady: what scales between what, or why something does not. None where nothing is to scale.

    `observed` are the children by kind and name.
    """
    found = [
        *_ingest_conditions(pipeline, observed.get(("ScaledObject", child_name(pipeline, "ingest"))), keda=keda),
        *_query_conditions(pipeline, observed.get(("HorizontalPodAutoscaler", child_name(pipeline, "query")))),
    ]
    failing = [one for one in found if one.status is not True]
    if failing or not found:
        return failing[0] if failing else None
    return replace(found[0], message=" ".join(one.message for one in found))


def _ingest_conditions(pipeline: Pipeline, scaler: Object | None, *, keda: bool) -> Iterator[Condition]:
    wanted = pipeline.spec.ingest.autoscaling
    if wanted is None:
        return
    bounds = ingest_bounds(pipeline, wanted)
    if not keda:
        stays = f"ingest stays at {ingest_replicas(pipeline, keda=False)} pods"
        yield _failing(Reason.KEDA_MISSING, f"The cluster does not serve keda.sh/v1alpha1, so {stays}. {KEDA_REMEDY}")
    elif complaint := _complaint(scaler, "Ready"):
        yield _failing(Reason.SCALER_FAILING, f"KEDA does not scale ingest: {complaint}")
    elif pipeline.spec.paused:
        yield _scaling("Ingest: paused.")
    else:
        capped = f" (maxReplicas {wanted.max_replicas} is more than there are partitions)"
        at_rest = _at_rest("ingest", pipeline.spec.ingest.replicas)
        yield _scaling(f"Ingest: {bounds}{capped if wanted.max_replicas > bounds.most else ''}.{at_rest}")


def _query_conditions(pipeline: Pipeline, scaler: Object | None) -> Iterator[Condition]:
    wanted = pipeline.spec.query.autoscaling
    if wanted is None:
        return
    if complaint := _complaint(scaler, "ScalingActive", calm=("ScalingDisabled",)):
        yield _failing(Reason.SCALER_FAILING, f"The HorizontalPodAutoscaler does not scale query: {complaint}")
    else:
        at_rest = _at_rest("query", pipeline.spec.query.replicas)
        yield _scaling(f"Query: {Bounds(wanted.min_replicas, wanted.max_replicas)}.{at_rest}")


def _at_rest(component: str, replicas: int) -> str:
    """Return what to say of a number that somebody wrote and that a scaler decides about; nothing of the default."""
    return f" spec.{component}.replicas ({replicas}) has no effect meanwhile." if replicas != 1 else ""


def _scaling(message: str) -> Condition:
    return Condition("AutoscalingReady", status=True, reason=Reason.READY, message=message)


def _failing(reason: Reason, message: str) -> Condition:
    return Condition("AutoscalingReady", status=False, reason=reason, message=message)


def _complaint(scaler: Object | None, kind: str, *, calm: tuple[str, ...] = ()) -> str | None:
    """Return what a scaler says is wrong, None when nothing or when it has not said anything yet."""
    status: Mapping[str, Any] = (scaler or {}).get("status") or {}
    for found in status.get("conditions") or ():
        if found["type"] == kind and found["status"] == "False" and found.get("reason") not in calm:
            return f"{found.get('reason', '')}: {found.get('message', '')}"
    return None
