"""The Kubernetes objects of a pipeline as dicts: pure functions of the resource, nothing observed.

Pods satisfy the restricted Pod Security Standard; source: Kubernetes documentation, "Pod Security Standards".
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensorlog import durations
from sensorlog.pipeline import BatchConfig, KafkaConfig, PipelineConfig
from sensorlog_operator.kube import MANAGED_BY
from sensorlog_operator.models import GROUP, KIND, VERSION, Pipeline
from sensorlog_operator.replicas import ingest_replicas, query_replicas
from sensorlog_operator.secrets import Mount, Projection, kafka_projections, tls_projections
from sensorlog_operator.settings import Settings
from sensorlog_operator.spec import IngestSpec, QuerySpec, Resources

Object = dict[str, Any]

CONFIG_CHECKSUM = f"{GROUP}/config-checksum"
DATABASE_LOGIN = f"{GROUP}/database-login"
"""Says on a pod which database role it connects as."""

GRPC_PORT = 50051
TELEMETRY_PORT = 9090
CONFIG_FILE = "pipeline.json"
CONFIG_DIRECTORY = "/etc/sensorlog/pipeline"
DATABASE_DIRECTORY = "/etc/sensorlog/database"
PRIMARY_DIRECTORY = "/etc/sensorlog/primary"
KAFKA_DIRECTORY = "/etc/sensorlog/kafka"
TLS_DIRECTORY = "/etc/sensorlog/tls"
RUN_AS = 65532

TERMINATION_GRACE_SECONDS = 60
"""Longer than a service needs to finish what is in flight, after it has drained."""

SPREAD_OVER = ("topology.kubernetes.io/zone", "kubernetes.io/hostname")

ENDPOINT_DRAIN_SECONDS = 25
"""Time for kube-proxy to stop choosing a pod, and then for its callers to connect anew, before it stops answering.

The query service asks them to after SENSORLOG_CONNECTION_SECONDS, give or take a tenth.
"""


@dataclass(frozen=True, slots=True)
class Component:
    """One of the two Deployments: what differs between them."""

    name: str
    spec: IngestSpec | QuerySpec
    replicas: int | None
    """None where a scaler decides."""
    image: str
    ports: tuple[tuple[str, int], ...]
    readiness_probe: Object
    volumes: tuple[tuple[str, str, tuple[Projection, ...]], ...]
    """Of each: name, mount path, files."""
    drain_seconds: int = 0
    environment: tuple[tuple[str, str], ...] = ()
    login: str | None = None
    """The database role of its own that it connects as."""
    reviews_tokens: bool = False
    """Whether its pods ask the API server about callers, and so need a token of their own."""


def labels(pipeline: Pipeline, component: str | None = None) -> dict[str, str]:
    """Return the labels of a child, in Kubernetes' recommended names."""
    return {
        "app.kubernetes.io/name": "sensorlog",
        "app.kubernetes.io/instance": pipeline.name,
        "app.kubernetes.io/managed-by": MANAGED_BY,
        **({"app.kubernetes.io/component": component} if component else {}),
    }


def pod_selector(pipeline: Pipeline, component: str) -> dict[str, str]:
    """Return the labels that select a component's pods; never changes, because a Deployment's cannot."""
    return {
        "app.kubernetes.io/name": "sensorlog",
        "app.kubernetes.io/instance": pipeline.name,
        "app.kubernetes.io/component": component,
    }


def selector_text(pipeline: Pipeline, component: str) -> str:
    """Return what selects a component's pods, as the API's labelSelector spells it."""
    return ",".join(f"{key}={value}" for key, value in pod_selector(pipeline, component).items())


def child_name(pipeline: Pipeline, component: str) -> str:
    """Return the name of a component's objects."""
    return f"{pipeline.name}-{component}"


def endpoint(pipeline: Pipeline) -> str:
    """Return where clients in the cluster find the query service."""
    return f"{child_name(pipeline, 'query')}.{pipeline.namespace}.svc:{GRPC_PORT}"


def group_id(pipeline: Pipeline) -> str:
    """Return the consumer group of ingest."""
    return f"sensorlog.{pipeline.namespace}.{pipeline.name}"


def pipeline_config(pipeline: Pipeline) -> PipelineConfig:
    """Return the document that the services read."""
    spec = pipeline.spec
    return PipelineConfig(
        namespace=pipeline.namespace,
        name=pipeline.name,
        db_schema=pipeline.schema_name,
        kafka=KafkaConfig(
            bootstrap_servers=spec.kafka.bootstrap_servers,
            security_protocol=spec.kafka.security.protocol,
            sasl_mechanism=spec.kafka.security.sasl_mechanism,
            readings_topic=spec.kafka.readings.topic,
            sensors_topic=spec.kafka.sensors.topic,
            group_id=group_id(pipeline),
        ),
        timestamp_unit=spec.timestamp_unit,
        measurements=spec.measurements,
        batch=BatchConfig(
            max_rows=spec.ingest.batch.max_rows,
            max_delay_ms=durations.milliseconds(spec.ingest.batch.max_delay),
        ),
    )


def build_all(
    pipeline: Pipeline, settings: Settings, mounts: Mapping[str, Mount], *, keda: bool = False
) -> list[Object]:
    """Return the children that every pipeline has, in the order to apply them. With `keda` it may scale ingest.

    `mounts` says of "ingest" and "query" how they get into the database; one that cannot yet is left out.
    """
    document = pipeline_config(pipeline).to_json()
    children = [build_config_map(pipeline, document)]
    components = []
    if mount := mounts.get("ingest"):
        components.append((ingest_component(pipeline, settings, mount, keda=keda), mount))
    if mount := mounts.get("query"):
        components.append((query_component(pipeline, settings, mount), mount))
    for component, mount in components:
        checksum = hashlib.sha256(f"{document}\0{mount.digest}".encode()).hexdigest()[:16]
        children += [
            build_service_account(pipeline, component),
            build_disruption_budget(pipeline, component),
            build_deployment(pipeline, component, settings, checksum),
        ]
    return [*children, build_query_service(pipeline), build_query_pods_service(pipeline)]


def ingest_component(pipeline: Pipeline, settings: Settings, mount: Mount, *, keda: bool = False) -> Component:
    """Return what is particular to ingest."""
    spec = pipeline.spec.ingest
    return Component(
        name="ingest",
        spec=spec,
        replicas=ingest_replicas(pipeline, keda=keda),
        image=spec.image or settings.ingest_image,
        ports=(("telemetry", TELEMETRY_PORT),),
        readiness_probe={"httpGet": {"path": "/readyz", "port": "telemetry"}},
        volumes=(
            ("database", DATABASE_DIRECTORY, (mount.projection,)),
            *((("kafka", KAFKA_DIRECTORY, files),) if (files := kafka_projections(pipeline.spec.kafka)) else ()),
        ),
        login=mount.login,
    )


def query_component(pipeline: Pipeline, settings: Settings, mount: Mount) -> Component:
    """Return what is particular to query."""
    spec = pipeline.spec.query
    return Component(
        name="query",
        spec=spec,
        replicas=query_replicas(pipeline),
        image=spec.image or settings.query_image,
        ports=(("grpc", GRPC_PORT), ("telemetry", TELEMETRY_PORT)),
        # Not gRPC's: the kubelet's speaks no TLS, and one call more is refused by a service that has all it can take,
        # which would send its callers to the next pod until that has too much as well.
        readiness_probe={"httpGet": {"path": "/readyz", "port": "telemetry"}},
        volumes=(
            ("database", DATABASE_DIRECTORY, (mount.projection,)),
            *((("primary", PRIMARY_DIRECTORY, (mount.primary,)),) if mount.primary else ()),
            *((("tls", TLS_DIRECTORY, files),) if (files := tls_projections(spec)) else ()),
        ),
        drain_seconds=ENDPOINT_DRAIN_SECONDS,
        environment=_query_environment(pipeline, mount),
        reviews_tokens=spec.authentication is not None,
        login=mount.login,
    )


def _query_environment(pipeline: Pipeline, mount: Mount) -> tuple[tuple[str, str], ...]:
    """Return the settings of sensorlog_query that spec.query decides."""
    spec = pipeline.spec.query
    settings = {"SENSORLOG_PROCESSES": str(spec.processes)}
    if mount.primary:
        settings["SENSORLOG_PRIMARY_DIR"] = PRIMARY_DIRECTORY
    if spec.tls:
        settings["SENSORLOG_TLS_DIR"] = TLS_DIRECTORY
        settings["SENSORLOG_TLS_CLIENT_AUTH"] = spec.tls.client_auth.lower()
    if spec.authentication:
        settings["SENSORLOG_AUTH"] = spec.authentication.type.lower()
        settings["SENSORLOG_AUTH_AUDIENCE"] = audience(pipeline)
    return tuple(settings.items())


def audience(pipeline: Pipeline) -> str:
    """Return what tokens must be issued for: by default the service's name, so that none holds at another pipeline."""
    wanted = pipeline.spec.query.authentication
    return (wanted and wanted.audience) or f"{child_name(pipeline, 'query')}.{pipeline.namespace}.svc"


def child_metadata(pipeline: Pipeline, name: str, component: str | None = None) -> Object:
    """Return the metadata of a child: labelled, and owned by the pipeline."""
    return {
        "name": name,
        "namespace": pipeline.namespace,
        "labels": labels(pipeline, component),
        "ownerReferences": [
            {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": KIND,
                "name": pipeline.name,
                "uid": pipeline.uid,
                "controller": True,
                # Blocking would need the right to update finalizers of every owner.
                "blockOwnerDeletion": False,
            }
        ],
    }


def build_config_map(pipeline: Pipeline, document: str) -> Object:
    """Return the ConfigMap that holds the pipeline document."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(pipeline, child_name(pipeline, "pipeline")),
        "data": {CONFIG_FILE: document},
    }


def build_secret(
    pipeline: Pipeline, name: str, component: str, annotations: Mapping[str, str], values: Mapping[str, str]
) -> Object:
    """Return a Secret of the pipeline with these values."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {**child_metadata(pipeline, name, component), "annotations": dict(annotations)},
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }


def build_service_account(pipeline: Pipeline, component: Component) -> Object:
    """Return the identity of a component's pods; only pods that review tokens ask for its token, by themselves."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": child_metadata(pipeline, child_name(pipeline, component.name), component.name),
        "automountServiceAccountToken": False,
    }


def build_disruption_budget(pipeline: Pipeline, component: Component) -> Object:
    """Return the budget: one pod at a time, so that a drain neither stalls at one replica nor takes all."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": child_metadata(pipeline, child_name(pipeline, component.name), component.name),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": pod_selector(pipeline, component.name)}},
    }


def build_query_service(pipeline: Pipeline) -> Object:
    """Return the Service that clients call: one address, one pod per connection."""
    return _query_service(pipeline, "query", {})


def build_query_pods_service(pipeline: Pipeline) -> Object:
    """Return the headless Service: its name resolves to every ready pod, for clients that balance by themselves."""
    return _query_service(pipeline, "query-pods", {"clusterIP": "None", "publishNotReadyAddresses": False})


def _query_service(pipeline: Pipeline, name: str, spec: Object) -> Object:
    port = {
        "name": "grpc",
        "port": GRPC_PORT,
        "targetPort": "grpc",
        "protocol": "TCP",
        "appProtocol": "https" if pipeline.spec.query.tls else "kubernetes.io/h2c",
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(pipeline, child_name(pipeline, name), "query"),
        "spec": {"selector": pod_selector(pipeline, "query"), "ports": [port], **spec},
    }


def build_deployment(pipeline: Pipeline, component: Component, settings: Settings, checksum: str) -> Object:
    """Return a component's Deployment. `checksum` changes the pod template when configuration or a Secret does."""
    selector = pod_selector(pipeline, component.name)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": child_metadata(pipeline, child_name(pipeline, component.name), component.name),
        "spec": {
            **({} if component.replicas is None else {"replicas": component.replicas}),
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": 120,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {
                    "labels": labels(pipeline, component.name),
                    "annotations": {
                        CONFIG_CHECKSUM: checksum,
                        **({DATABASE_LOGIN: component.login} if component.login else {}),
                        "prometheus.io/scrape": "true",
                        "prometheus.io/port": str(TELEMETRY_PORT),
                    },
                },
                "spec": _pod(pipeline, component, settings, selector),
            },
        },
    }


def _pod(pipeline: Pipeline, component: Component, settings: Settings, selector: dict[str, str]) -> Object:
    pull_secrets = settings.image_pull_secrets
    return {
        "serviceAccountName": child_name(pipeline, component.name),
        "automountServiceAccountToken": component.reviews_tokens,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": RUN_AS,
            "runAsGroup": RUN_AS,
            "fsGroup": RUN_AS,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"imagePullSecrets": [{"name": name} for name in pull_secrets]} if pull_secrets else {}),
        "topologySpreadConstraints": [_spread(key, selector) for key in SPREAD_OVER],
        "containers": [_container(pipeline, component, settings)],
        "volumes": _volumes(pipeline, component),
    }


def _spread(topology_key: str, selector: dict[str, str]) -> Object:
    return {
        "maxSkew": 1,
        "topologyKey": topology_key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector},
        # Else the pods that a rollout replaces decide where the new ones go.
        "matchLabelKeys": ["pod-template-hash"],
    }


def _container(pipeline: Pipeline, component: Component, settings: Settings) -> Object:
    drain = {"lifecycle": {"preStop": {"sleep": {"seconds": component.drain_seconds}}}}
    return {
        "name": component.name,
        "image": component.image,
        "imagePullPolicy": settings.image_pull_policy,
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in component.ports],
        "env": _environment(pipeline, component, settings),
        "resources": _resources(component.spec.resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": {
            "httpGet": {"path": "/livez", "port": "telemetry"},
            "periodSeconds": 1,
            "failureThreshold": 60,
        },
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": "telemetry"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "readinessProbe": {**component.readiness_probe, "periodSeconds": 2, "timeoutSeconds": 2},
        **(drain if component.drain_seconds else {}),
        "volumeMounts": [
            {"name": "pipeline", "mountPath": CONFIG_DIRECTORY, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- an emptyDir of the pod
            *({"name": name, "mountPath": path, "readOnly": True} for name, path, _ in component.volumes),
        ],
    }


def _environment(pipeline: Pipeline, component: Component, settings: Settings) -> list[Object]:
    environment = {"SENSORLOG_CONFIG": f"{CONFIG_DIRECTORY}/{CONFIG_FILE}", "SENSORLOG_LOG_FORMAT": "json"}
    environment |= dict(component.environment)
    if settings.otlp_endpoint:
        environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": settings.otlp_endpoint,
            "OTEL_SERVICE_NAME": f"sensorlog-{component.name}",
            "OTEL_RESOURCE_ATTRIBUTES": f"sensorlog.pipeline={pipeline.key}",
        }
    return [{"name": name, "value": value} for name, value in environment.items()]


def _resources(resources: Resources) -> Object:
    return {
        key: {name: str(quantity) for name, quantity in quantities.items()}
        for key, quantities in (("requests", resources.requests), ("limits", resources.limits))
        if quantities
    }


def _volumes(pipeline: Pipeline, component: Component) -> list[Object]:
    return [
        {"name": "pipeline", "configMap": {"name": child_name(pipeline, "pipeline")}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        *({"name": name, "projected": {"sources": _sources(files)}} for name, _, files in component.volumes),
    ]


def _sources(files: Sequence[Projection]) -> list[Object]:
    return [{"secret": {"name": f.secret, "items": [{"key": f.key, "path": f.file}]}} for f in files]


def digest(manifest: Object) -> str:
    """Return a hash of a manifest, to tell whether what was applied last is what is wanted now."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
