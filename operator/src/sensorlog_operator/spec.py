"""The spec of a SensorLogPipeline: what a user writes. The CRD is generated from these models (see `crd`).

Field descriptions are what `kubectl explain` prints. A rule that only the API server checks stands beside its field as
CEL (see `cel`); source: Kubernetes documentation, "Validation rules" of CustomResourceDefinitions.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from sensorlog import durations, rollups
from sensorlog.measurements import (
    DEFAULT_MEASUREMENTS,
    MAX_MEASUREMENTS,
    NAME_PATTERN,
    RESERVED,
    SYSTEM_COLUMNS,
    Measurement,
)
from sensorlog.pipeline import MAX_DELAY_MS, SaslMechanism, SecurityProtocol
from sensorlog.timestamps import TimestampUnit
from sensorlog_operator import cel
from sensorlog_operator.cel import rules

MAX_NAME_LENGTH = 52
"""A Service's name is a DNS label of 63; children are called NAME-query-pods and the like."""


def _readable(text: str) -> str:
    durations.parse(text)
    return text


def _short(text: str) -> str:
    if not 1 <= durations.milliseconds(text) <= MAX_DELAY_MS:
        raise ValueError(f"must be between 1ms and {MAX_DELAY_MS // 1000}s")
    return text


Duration = Annotated[
    str,
    Field(pattern=durations.PATTERN, max_length=32, json_schema_extra=rules(cel.DURATION)),
    AfterValidator(_readable),
]
TOPIC_NAME = r"^[a-zA-Z0-9._-]+$"
TopicName = Annotated[str, Field(pattern=TOPIC_NAME, min_length=1, max_length=249)]
DNS_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
SecretName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        pattern=DNS_NAME,
        json_schema_extra=rules(cel.matches(DNS_NAME, "name a Secret, by a-z, 0-9, '-' and '.'")),
    ),
]
QUANTITY = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
"""As controller-gen writes it into CRDs."""

Quantity = Annotated[
    str | int,
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "pattern": QUANTITY,
            "maxLength": 64,
            **rules(("type(self) == int || isQuantity(string(self))", "write a quantity, like 500m, 2 or 512Mi")),
        },
        examples=["500m", "512Mi"],
    ),
]
Replicas = Annotated[int, Field(ge=0, le=1000)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")


class SecretKeyRef(_Spec):
    """A key of a Secret in the pipeline's namespace."""

    name: SecretName = Field(description="Name of the Secret.", examples=["timescaledb"])
    key: str = Field(
        default="uri", min_length=1, max_length=253, description="Key that holds a postgresql:// connection URI."
    )


class SecretRef(_Spec):
    """A Secret in the pipeline's namespace."""

    name: SecretName = Field(description="Name of the Secret.", examples=["plant-kafka"])


class KafkaSecurity(_Spec):
    """How to connect to the brokers."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.protocol.startsWith('SASL') == has(self.saslMechanism)",
                "saslMechanism goes with protocol SASL_PLAINTEXT or SASL_SSL, and they with it",
            ),
            (
                "has(self.saslMechanism) == has(self.credentialsSecretRef)",
                "saslMechanism and credentialsSecretRef go together",
            ),
            (
                "!(has(self.caSecretRef) || has(self.clientCertificateSecretRef)) || self.protocol.endsWith('SSL')",
                "caSecretRef and clientCertificateSecretRef need protocol SSL or SASL_SSL, else nothing is encrypted",
            ),
        )
    )

    protocol: SecurityProtocol = Field(default="PLAINTEXT", description="Security protocol of the listener.")
    sasl_mechanism: SaslMechanism | None = Field(default=None, description="Needs credentialsSecretRef.")
    credentials_secret_ref: SecretRef | None = Field(
        default=None, description="Secret with keys username and password, for SASL."
    )
    ca_secret_ref: SecretRef | None = Field(
        default=None, description="Secret with key ca.crt, the authority that signed the brokers' certificates."
    )
    client_certificate_secret_ref: SecretRef | None = Field(
        default=None, description="Secret with keys tls.crt and tls.key, for mutual TLS."
    )


class Topic(_Spec):
    """A Kafka topic the pipeline creates and keeps as declared."""

    partitions: int = Field(default=1, ge=1, le=10_000, description="May grow; never shrinks, because Kafka cannot.")
    replication_factor: int = Field(default=1, ge=1, le=32, description="Copies of each partition.")
    config: dict[str, Annotated[str, Field(max_length=4096)]] = Field(
        default_factory=dict,
        description="Topic configurations to keep as declared, by Kafka's names; others are left alone.",
        examples=[{"compression.type": "zstd"}],
    )


_TOPIC_RULES = (
    *(
        (
            cel.configured(key, f"value.matches('{cel.WHOLE_OR_UNLIMITED}')"),
            f"config {key} must be a whole number; -1 is no limit",
        )
        for key in ("retention.ms", "retention.bytes")
    ),
    (
        cel.configured("min.insync.replicas", "!value.matches('^[0-9]{1,9}$') || int(value) <= self.replicationFactor"),
        "config min.insync.replicas must not be above replicationFactor: nothing could be written",
    ),
)


def _topic_name(field: str) -> dict[str, Any]:
    return rules(
        cel.immutable(field),
        cel.matches(TOPIC_NAME, "name a topic by letters, digits, '.', '_' and '-'"),
        (
            "!(self in ['.', '..']) && !self.startsWith('__')",
            "choose another name: '.' and '..' are none, and those that begin with '__' are Kafka's own",
        ),
    )


class ReadingsTopic(Topic):
    """The topic of readings."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            *_TOPIC_RULES,
            cel.within("retention", 1, 36_600),
            (
                cel.configured("cleanup.policy", "!value.contains('compact')"),
                "config cleanup.policy must not be compact: only the last reading of each key would stay",
            ),
        )
    )

    topic: TopicName = Field(
        default="logger.sensor.ts", description="Name of the topic.", json_schema_extra=_topic_name("readings.topic")
    )
    partitions: int = Field(
        default=6,
        ge=1,
        le=10_000,
        description="May grow, never shrinks: Kafka cannot. More ingest pods than this do not help.",
    )
    retention: Duration = Field(
        default="7d",
        description="How long the broker keeps readings (retention.ms): what outage of the database is survived.",
    )

    def declared_config(self) -> dict[str, str]:
        """Return every configuration that the resource declares."""
        return {"retention.ms": str(durations.milliseconds(self.retention)), **self.config}


class SensorsTopic(Topic):
    """The topic of sensor instances."""

    model_config = ConfigDict(json_schema_extra=rules(*_TOPIC_RULES))

    topic: TopicName = Field(
        default="logger.sensor.instance",
        description="Name of the topic.",
        json_schema_extra=_topic_name("sensors.topic"),
    )

    def declared_config(self) -> dict[str, str]:
        """Return every configuration that the resource declares."""
        return dict(self.config)


class KafkaSpec(_Spec):
    """Where readings come from."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.readings.topic != self.sensors.topic", "readings.topic and sensors.topic must differ")
        )
    )

    bootstrap_servers: str = Field(
        min_length=1,
        max_length=4096,
        pattern=r"^[^\s,:]+:[0-9]+(,[^\s,:]+:[0-9]+)*$",
        description="Brokers to ask first, as host:port, separated by commas.",
        examples=["kafka.backing.svc:9092"],
        json_schema_extra=rules(
            cel.matches(
                f"^{cel.BROKER}(,{cel.BROKER})*$",
                "name brokers as host:port, separated by commas, with ports up to 65535",
            )
        ),
    )
    security: KafkaSecurity = Field(default=KafkaSecurity(), description="How to connect; default plaintext.")
    readings: ReadingsTopic = Field(default=ReadingsTopic(), description="The topic of readings.")
    sensors: SensorsTopic = Field(default=SensorsTopic(), description="The topic of sensor instances.")


class Rollup(_Spec):
    """Aggregates per bucket and sensor that the database keeps at hand."""

    model_config = ConfigDict(json_schema_extra=rules(cel.within("interval", 1, 366)))

    interval: Duration = Field(
        description="Length of a bucket. Buckets asked for that are a multiple of it are answered from the rollup.",
        examples=["30m"],
    )


def _compare(condition: str, *fields: str) -> str:
    """Return the expression that a condition on durations is true, where all of them are there and are durations."""
    texts = [f"self.{field}" for field in fields]
    known = " && ".join(f"has({text}) && !{cel.malformed(text)}" for text in texts)
    return f"!({known}) || {condition.format(*map(cel.seconds, texts))}"


_ROLLUPS_DIFFER = (
    f"!has(self.rollups) || self.rollups.exists(r, {cel.malformed('r.interval')})"
    f" || self.rollups.all(a, self.rollups.exists_one(b, {cel.seconds('a.interval')} == {cel.seconds('b.interval')}))"
)


class TimescaleSpec(_Spec):
    """Where readings are kept."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "has(self.schema) == has(oldSelf.schema) && (!has(self.schema) || self.schema == oldSelf.schema)",
                "schema cannot be changed after creation; create another pipeline instead",
            ),
            cel.within("chunkInterval", 1, 3_660),
            cel.within("retention", 1, 36_600),
            cel.within("compressAfter", 1, 36_600),
            cel.within("rotateCredentialsEvery", 10, 3_660),
            (
                "!has(self.rotateCredentialsEvery) || self.access == 'Managed'",
                "rotateCredentialsEvery needs access Managed: the passwords of your own users are yours to change",
            ),
            (
                _compare("{} >= {}", "retention", "chunkInterval"),
                "retention must not be shorter than chunkInterval: only whole chunks are dropped",
            ),
            (
                _compare("{} < {}", "compressAfter", "retention"),
                "compressAfter must be shorter than retention: what is dropped need not be compressed before",
            ),
            (
                _ROLLUPS_DIFFER,
                "rollups must have different intervals; 60m is 1h",
            ),
        )
    )

    connection_secret_ref: SecretKeyRef = Field(
        description="Connection of the primary: a user that may create schemas (or owns this one) and roles."
    )
    read_connection_secret_ref: SecretKeyRef | None = Field(
        default=None, description="Connection for the query side, for example of a replica; default the primary."
    )
    access: Literal["Managed", "Shared"] = Field(
        default="Managed",
        description="Managed: pods connect as roles of their own with no more rights than they need. Shared: as the"
        " users of the connection Secrets.",
    )
    rotate_credentials_every: Duration | None = Field(
        default=None,
        examples=["30d"],
        description="Age at which a managed password is replaced, such as 30d; default only on request, by the"
        " annotation sensorlog.dev/rotate-credentials.",
    )
    db_schema: str | None = Field(
        default=None,
        alias="schema",
        examples=["plant"],
        pattern=NAME_PATTERN,
        max_length=63,
        description="Schema of the pipeline's tables; default slp_NAMESPACE_NAME.",
        json_schema_extra=rules(
            cel.matches(NAME_PATTERN, "name a schema by at most 63 of a-z, 0-9 and '_', not beginning with a digit"),
            (
                "!self.matches('^(pg_|_?timescaledb_|information_schema$|toolkit_experimental$)')",
                "choose another schema: this one is PostgreSQL's or TimescaleDB's own",
            ),
        ),
    )
    chunk_interval: Duration = Field(
        default="1d",
        description="Time that one chunk of the hypertable covers. A change applies to new chunks.",
    )
    retention: Duration | None = Field(
        default=None,
        description="Age at which readings are deleted, whole chunks at a time; default never.",
        examples=["90d"],
    )
    compress_after: Duration | None = Field(
        default=None,
        description="Age at which chunks are compressed; default never. Needs TimescaleDB's timescale license.",
        examples=["7d"],
    )
    rollups: tuple[Rollup, ...] | None = Field(
        default=None,
        max_length=rollups.MAX_ROLLUPS,
        examples=[[{"interval": "30m"}]],
        description="Continuous aggregates to answer averages from. Need TimescaleDB's timescale license.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["interval"]},
    )


class Resources(_Spec):
    """Requests and limits of a pod's container."""

    requests: dict[str, Quantity] = Field(
        default_factory=dict,
        max_length=16,
        description="What the scheduler reserves.",
        examples=[{"cpu": "100m", "memory": "128Mi"}],
    )
    limits: dict[str, Quantity] = Field(
        default_factory=dict, max_length=16, description="What the kernel enforces.", examples=[{"memory": "512Mi"}]
    )


class Batch(_Spec):
    """When a batch is written: on rows or age, whichever comes first."""

    model_config = ConfigDict(json_schema_extra=rules(cel.short("maxDelay", MAX_DELAY_MS // 1000)))

    max_rows: int = Field(default=50_000, ge=1, le=1_000_000, description="Readings in one transaction.")
    max_delay: Annotated[Duration, AfterValidator(_short)] = Field(
        default="250ms", description="Oldest that a reading may get before it is written; at most 60s."
    )


_ORDERED = ("self.minReplicas <= self.maxReplicas", "minReplicas must not be above maxReplicas")


class IngestAutoscaling(_Spec):
    """How many pods write, by lag. KEDA does it; docs/scaling.md says what happens without."""

    model_config = ConfigDict(json_schema_extra=rules(_ORDERED))

    min_replicas: Replicas = Field(default=1, description="Fewest pods; 0 lets ingest rest while the topic is quiet.")
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = Field(
        description="Most pods. Never more than the partitions of readings: others would have nothing to read.",
        examples=[6],
    )
    lag_threshold: int = Field(default=10_000, ge=1, le=1_000_000_000, description="Messages of lag for each pod.")


IMAGE = r"^[^\s@]+(@sha256:[0-9a-f]{64}|@sha512:[0-9a-f]{128})?$"
Image = Annotated[
    str,
    Field(
        max_length=512,
        json_schema_extra=rules(
            cel.matches(IMAGE, "name an image as REPOSITORY:TAG or REPOSITORY@sha256:DIGEST, the digest whole")
        ),
    ),
]


class IngestSpec(_Spec):
    """The Deployment that writes."""

    replicas: Replicas = Field(
        default=1, description="Pods that share the partitions; kubectl scale sets it. Of no effect with autoscaling."
    )
    autoscaling: IngestAutoscaling | None = Field(
        default=None, description="How many pods by lag; default as many as replicas."
    )
    batch: Batch = Field(default=Batch(), description="Size of a transaction.")
    resources: Resources = Field(
        default=Resources(requests={"cpu": "100m", "memory": "128Mi"}, limits={"memory": "512Mi"}),
        description="Requests and limits.",
    )
    image: Image | None = Field(
        default=None,
        description="Default: the operator's release. By tag, or by digest where it must never change.",
        examples=["registry.example.com/sensorlog/ingest:0.1.0"],
    )


class QueryTls(_Spec):
    """TLS of the query service."""

    secret_ref: SecretRef = Field(
        description="Secret of type kubernetes.io/tls, as cert-manager writes it; renewed without a restart."
    )
    client_auth: Literal["None", "Require"] = Field(
        default="None", description="Require: clients must show a certificate that the Secret's ca.crt signed."
    )


class QueryAuthentication(_Spec):
    """Who may read."""

    type: Literal["Kubernetes"] = Field(
        description="Kubernetes: a bearer token of the cluster, whose owner may get sensorlogpipelines/data by RBAC."
    )
    audience: str | None = Field(
        default=None,
        examples=["plant-query.plants.svc"],
        min_length=1,
        max_length=253,
        pattern=r"^[!-~]+$",
        description="Audience that tokens must be issued for; default NAME-query.NAMESPACE.svc.",
    )


class QueryAutoscaling(_Spec):
    """How many pods answer, by their processors' load. A HorizontalPodAutoscaler does it."""

    model_config = ConfigDict(json_schema_extra=rules(_ORDERED))

    min_replicas: Annotated[int, Field(ge=1, le=1000)] = Field(default=1, description="Fewest pods.")
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = Field(description="Most pods.", examples=[4])
    target_cpu_utilization: int = Field(
        default=70,
        alias="targetCPUUtilization",
        ge=1,
        le=1000,
        description="Use of processors to aim at, in percent of resources.requests.cpu, averaged over the pods.",
    )


class QuerySpec(_Spec):
    """The Deployment that reads."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.authentication) || has(self.tls)",
                "authentication needs tls: a token must not travel in clear",
            ),
            (
                "!has(self.autoscaling) || (has(self.resources.requests) && 'cpu' in self.resources.requests)",
                "autoscaling needs resources.requests.cpu: utilization is a share of it",
            ),
        )
    )

    replicas: Replicas = Field(default=1, description="Pods that answer. Of no effect with autoscaling.")
    autoscaling: QueryAutoscaling | None = Field(
        default=None, description="How many pods by load; default as many as replicas."
    )
    processes: int = Field(
        default=1, ge=1, le=16, description="Processes of each pod, which use a core each at most and memory each."
    )
    replica_fallback: Literal["Refuse", "Primary"] = Field(
        default="Refuse",
        description="What becomes of a call for which the replica of readConnectionSecretRef is too far behind, by the"
        " call's max-staleness-ms. Refuse: it fails. Primary: the primary answers it.",
    )
    tls: QueryTls | None = Field(default=None, description="TLS; default plaintext.")
    authentication: QueryAuthentication | None = Field(
        default=None, description="Who may read; default everybody who reaches the port. Needs tls."
    )
    resources: Resources = Field(
        default=Resources(requests={"cpu": "100m", "memory": "128Mi"}, limits={"memory": "512Mi"}),
        description="Requests and limits.",
    )
    image: Image | None = Field(
        default=None,
        description="Default: the operator's release. By tag, or by digest where it must never change.",
        examples=["registry.example.com/sensorlog/query:0.1.0"],
    )


Port = Annotated[int, Field(ge=1, le=65535, description="TCP port.")]
Peer = Annotated[
    dict[str, Any],
    Field(
        description="NetworkPolicyPeer: podSelector, namespaceSelector or ipBlock.",
        json_schema_extra={"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    ),
]
"""The API server checks it when the policy is written."""


class NetworkPolicySpec(_Spec):
    """Who may connect to the pods, and whereto they may connect. docs/security.md has examples."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                f"self.mode != 'None' || ({cel.empty('clients')} && {cel.empty('monitoring')})",
                "clients and monitoring need mode Ingress or Strict: with None everybody is let in",
            ),
            (
                f"self.mode == 'Strict' || {cel.empty('egressPorts')}",
                "egressPorts needs mode Strict: without, every port can be reached",
            ),
        )
    )

    mode: Literal["None", "Ingress", "Strict"] = Field(
        default="Ingress",
        description="None: no policy. Ingress: only the ports that pods serve can be reached. Strict: pods themselves"
        " reach no ports but those of DNS, Kafka, the database, and what they are configured for.",
    )
    clients: tuple[Peer, ...] = Field(
        default=(),
        examples=[[{"podSelector": {"matchLabels": {"app": "dashboard"}}}]],
        max_length=64,
        description="NetworkPolicyPeers that may call the query service; default everybody.",
    )
    monitoring: tuple[Peer, ...] = Field(
        default=(),
        examples=[[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]],
        max_length=64,
        description="NetworkPolicyPeers that may read metrics; default everybody.",
    )
    egress_ports: tuple[Port, ...] = Field(
        default=(),
        examples=[[9094]],
        max_length=64,
        description="With Strict: further TCP ports, such as those that brokers advertise beside"
        " kafka.bootstrapServers', or the target port of the database's Service where it differs.",
    )


CANARY_INTERVAL = r"^([5-9]|[1-9][0-9]{1,3})s$|^[1-9][0-9]{0,3}m$"


class Canary(_Spec):
    """Canaries: marked messages that are sent into the topic and looked for in answers."""

    interval: str = Field(
        default="30s",
        pattern=CANARY_INTERVAL,
        json_schema_extra=rules(
            cel.matches(CANARY_INTERVAL, "write whole seconds from 5s on or minutes, like 30s or 5m")
        ),
        description="Time between two canaries, at least 5s.",
    )
    client_certificate_secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with keys tls.crt and tls.key, which the operator shows to the query service. Needed with"
        " query.tls.clientAuth Require, whose ca.crt must have signed it.",
    )


_OPEN_TO_ALL = "!has(self.query.tls) || self.query.tls.clientAuth == 'None'"


class PipelineSpec(_Spec):
    """What a user asks for."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                f"!has(self.timescale.rollups) || self.measurements.size() <= {rollups.MAX_MEASUREMENTS}",
                f"rollups hold at most {rollups.MAX_MEASUREMENTS} measurements",
            ),
            (
                "has(self.timescale.readConnectionSecretRef) || self.query.replicaFallback == 'Refuse'",
                "query.replicaFallback Primary needs timescale.readConnectionSecretRef, the replica that is read first",
            ),
            (
                f"!has(self.canary) || has(self.canary.clientCertificateSecretRef) || {_OPEN_TO_ALL}",
                "canary needs clientCertificateSecretRef: query.tls.clientAuth Require lets nobody in without",
            ),
            (
                "self.deletionPolicy == 'Retain' || !has(self.timescale.schema) || self.timescale.schema != 'public'",
                "deletionPolicy Delete would drop the schema public, which others use: name another timescale.schema",
            ),
        )
    )

    kafka: KafkaSpec = Field(description="Where readings come from.")
    timescale: TimescaleSpec = Field(description="Where readings are kept.")
    timestamp_unit: TimestampUnit = Field(
        default="s",
        description="Unit of ts in messages and answers.",
        json_schema_extra=rules(cel.immutable("timestampUnit")),
    )
    measurements: tuple[Measurement, ...] = Field(
        default=DEFAULT_MEASUREMENTS,
        min_length=1,
        max_length=MAX_MEASUREMENTS,
        description="What a reading measures: one column each. One taken away keeps its column.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    ingest: IngestSpec = Field(default=IngestSpec(), description="The Deployment that writes.")
    query: QuerySpec = Field(default=QuerySpec(), description="The Deployment that reads.")
    network_policy: NetworkPolicySpec = Field(
        default=NetworkPolicySpec(), description="Who may connect to the pods, and whereto they may."
    )
    deletion_policy: Literal["Retain", "Delete"] = Field(
        default="Retain",
        description="Whether deleting the resource deletes the topics and the schema too. Delete waits for approval.",
    )
    approval: Literal["Automatic", "Manual"] = Field(
        default="Automatic",
        description="Manual: a change is written to status.plan and waits for the annotation sensorlog.dev/approve with"
        " the plan's hash. What may destroy data waits for it always.",
    )
    drift_policy: Literal["Repair", "Report"] = Field(
        default="Repair",
        description="What to do about what was changed by hand: set it back, or only say so.",
    )
    canary: Canary | None = Field(
        default=None,
        examples=[{"interval": "30s"}],
        description="Measures from the topic to an answer, and tells it in the condition DataFlowing; default not.",
    )
    paused: bool = Field(
        default=False,
        description="Stops ingest: readings wait in the topic, within its retention. Queries go on.",
    )


def _cel_list(names: frozenset[str]) -> str:
    return f"[{', '.join(repr(name) for name in sorted(names))}]"


MEASUREMENT_RULES = rules(
    ("!has(self.min) || !has(self.max) || self.min <= self.max", "min must not be above max"),
    (
        f"self.name.matches('{NAME_PATTERN}')",
        "name a measurement by at most 63 of a-z, 0-9 and '_', not beginning with a digit",
    ),
    (
        f"!(self.name in {_cel_list(RESERVED)})",
        "name is a part of every reading already; choose another",
    ),
    (
        f"!(self.name in {_cel_list(SYSTEM_COLUMNS)})",
        "name is that of a column which PostgreSQL keeps in every table; choose another",
    ),
    (
        "!has(self.unit) || self.unit.matches('^[!-~]*$')",
        "unit must be a UCUM code, which has neither spaces nor other signs than ASCII: Cel, not °C",
    ),
)

NAME_RULES = rules(
    (
        f"self.metadata.name.matches('^[a-z]([-a-z0-9]{{0,{MAX_NAME_LENGTH - 2}}}[a-z0-9])?$')",
        f"metadata.name must be at most {MAX_NAME_LENGTH} of a-z, 0-9 and '-', starting with a letter",
    )
)
