"""The Secrets a pipeline names: read, checked, and turned into connections. Their values go nowhere else."""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass

from sensorlog.credentials import (
    DATABASE_URI,
    KAFKA_CA,
    KAFKA_CERTIFICATE,
    KAFKA_KEY,
    KAFKA_PASSWORD,
    KAFKA_USERNAME,
    kafka_client_options,
)
from sensorlog_operator.errors import NeedsChangeError, Reason
from sensorlog_operator.kube import SECRET, Kube
from sensorlog_operator.models import Pipeline
from sensorlog_operator.spec import Canary, KafkaSpec, QuerySpec, SecretKeyRef

TLS_CERTIFICATE, TLS_KEY, TLS_CA = "tls.crt", "tls.key", "ca.crt"
"""Keys of a Secret of type kubernetes.io/tls, and the one that cert-manager adds."""


@dataclass(frozen=True, slots=True)
class Projection:
    """One key of a Secret, and the file name that a service reads it by."""

    secret: str
    key: str
    file: str
    field: str


def database_projection(ref: SecretKeyRef, name: str) -> Projection:
    """Return how the connection URI is mounted."""
    return Projection(ref.name, ref.key, DATABASE_URI, f"spec.timescale.{name}")


@dataclass(frozen=True, slots=True)
class Mount:
    """How a component's pods get into the database: the file they read, and the role that it names where it is ours.

    `digest` changes with every credential that needs new pods, those for Kafka among them.
    """

    projection: Projection
    digest: str
    login: str | None = None
    primary: Projection | None = None
    """The file for the primary, where the pods read from a replica and may ask the primary too."""


def database_reference(pipeline: Pipeline, component: str) -> Projection:
    """Return which connection the resource names for a component."""
    timescale = pipeline.spec.timescale
    if component == "query" and timescale.read_connection_secret_ref:
        return database_projection(timescale.read_connection_secret_ref, "readConnectionSecretRef")
    return database_projection(timescale.connection_secret_ref, "connectionSecretRef")


def primary_fallback(pipeline: Pipeline) -> Projection | None:
    """Return the connection of the primary where the query service may ask it beside a replica."""
    timescale = pipeline.spec.timescale
    if timescale.read_connection_secret_ref is None or pipeline.spec.query.replica_fallback == "Refuse":
        return None
    return database_projection(timescale.connection_secret_ref, "connectionSecretRef")


def kafka_projections(kafka: KafkaSpec) -> tuple[Projection, ...]:
    """Return how the Kafka credentials are mounted; none for a plaintext listener."""
    security = kafka.security
    wanted = (
        (security.credentials_secret_ref, (KAFKA_USERNAME, KAFKA_PASSWORD), "credentialsSecretRef"),
        (security.ca_secret_ref, (KAFKA_CA,), "caSecretRef"),
        (security.client_certificate_secret_ref, (KAFKA_CERTIFICATE, KAFKA_KEY), "clientCertificateSecretRef"),
    )
    return tuple(
        Projection(ref.name, key, key, f"spec.kafka.security.{name}")
        for ref, keys, name in wanted
        if ref
        for key in keys
    )


def tls_projections(query: QuerySpec) -> tuple[Projection, ...]:
    """Return how the query service's certificate is mounted; with the authority of clients where they need one."""
    if query.tls is None:
        return ()
    keys = (TLS_CERTIFICATE, TLS_KEY, *((TLS_CA,) if query.tls.client_auth == "Require" else ()))
    return tuple(Projection(query.tls.secret_ref.name, key, key, "spec.query.tls.secretRef") for key in keys)


def canary_projections(canary: Canary | None) -> tuple[Projection, ...]:
    """Return what the operator shows of itself to a query service with mutual TLS."""
    if canary is None or canary.client_certificate_secret_ref is None:
        return ()
    name, field = canary.client_certificate_secret_ref.name, "spec.canary.clientCertificateSecretRef"
    return tuple(Projection(name, key, key, field) for key in (TLS_CERTIFICATE, TLS_KEY))


def projections(pipeline: Pipeline) -> tuple[Projection, ...]:
    """Return every key of a Secret that the pipeline names."""
    return (
        *credential_projections(pipeline),
        *tls_projections(pipeline.spec.query),
        *canary_projections(pipeline.spec.canary),
    )


def credential_projections(pipeline: Pipeline) -> tuple[Projection, ...]:
    """Return the keys whose change needs new pods: services read them when they connect."""
    timescale = pipeline.spec.timescale
    replica = timescale.read_connection_secret_ref
    return (
        database_projection(timescale.connection_secret_ref, "connectionSecretRef"),
        *((database_projection(replica, "readConnectionSecretRef"),) if replica else ()),
        *kafka_projections(pipeline.spec.kafka),
    )


class Credentials:
    """The Secrets of one pipeline, read once. What is missing is an error only where it is asked for."""

    def __init__(self, kube: Kube, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        names = {p.secret for p in projections(pipeline)}
        self._secrets = {name: kube.get(SECRET, pipeline.namespace, name) for name in names}

    def database_uri(self, component: str = "ingest") -> str:
        """Return the connection URI for a component; NeedsChangeError names the Secret, the key and the field."""
        return self._value(database_reference(self._pipeline, component))

    def kafka_options(self) -> dict[str, str]:
        """Return librdkafka's connection options; NeedsChangeError as in `database_uri`."""
        kafka = self._pipeline.spec.kafka
        security = kafka.security
        values = {p.file: self._value(p) for p in kafka_projections(kafka)}
        return kafka_client_options(kafka.bootstrap_servers, security.protocol, security.sasl_mechanism, values)

    def digest(self, component: str, uri: str) -> str:
        """Return a text that changes with what a component connects with, and tells none of it.

        `uri` is its connection to the database; ingest's to Kafka are read here. NeedsChangeError as `database_uri`.
        """
        kafka = kafka_projections(self._pipeline.spec.kafka) if component == "ingest" else ()
        # Keyed by the resource's uid, so that equal passwords of two pipelines do not show as equal digests.
        text = "\0".join((uri, *(f"{p.secret}\0{p.key}\0{self._value(p)}" for p in kafka)))
        return hmac.new(self._pipeline.uid.encode(), text.encode(), hashlib.sha256).hexdigest()[:16]

    def check_tls(self) -> None:
        """See that the query service's certificate is there; NeedsChangeError as in `database_uri`.

        It is no part of the digest: the kubelet brings a new one into running pods, and they take it into use.
        """
        for wanted in tls_projections(self._pipeline.spec.query):
            self._value(wanted)

    def query_authority(self) -> bytes | None:
        """Return the authority that signed the query service's certificate, PEM; None where its Secret names none."""
        tls = self._pipeline.spec.query.tls
        secret = self._secrets.get(tls.secret_ref.name) if tls else None
        encoded = ((secret or {}).get("data") or {}).get(TLS_CA)
        return base64.b64decode(encoded) if encoded else None

    def canary_certificate(self) -> tuple[bytes, bytes] | None:
        """Return the certificate and key, PEM, that canaries are looked for with; None where the resource names none.

        NeedsChangeError as in `database_uri`.
        """
        found = canary_projections(self._pipeline.spec.canary)
        if not found:
            return None
        certificate, key = (self._value(wanted).encode() for wanted in found)
        return certificate, key

    def _value(self, wanted: Projection) -> str:
        return _value(wanted, self._pipeline.namespace, self._secrets[wanted.secret])


def _value(wanted: Projection, namespace: str, secret: dict[str, dict[str, str]] | None) -> str:
    if secret is None:
        raise NeedsChangeError(
            Reason.SECRET_NOT_FOUND,
            f"Secret {namespace}/{wanted.secret} named by {wanted.field} does not exist. Create it with key"
            f" {wanted.key!r}, or correct {wanted.field}.name.",
        )
    try:
        value = base64.b64decode((secret.get("data") or {})[wanted.key]).decode().strip()
    except KeyError:
        value = ""
    except (binascii.Error, UnicodeDecodeError) as e:
        raise NeedsChangeError(
            Reason.SECRET_KEY_MISSING, f"Key {wanted.key!r} of Secret {namespace}/{wanted.secret} is not text."
        ) from e
    if not value:
        raise NeedsChangeError(
            Reason.SECRET_KEY_MISSING,
            f"Secret {namespace}/{wanted.secret} named by {wanted.field} has no value under key {wanted.key!r}; it has"
            f" {', '.join(sorted(secret.get('data') or {})) or 'no keys'}. Add the key, or correct the field.",
        )
    return value
