"""Why a reconcile cannot finish, as a tree that one boundary maps to a condition, an Event and a retry.

    PipelineError              has a Reason and a message that says what to do
    ├── UnavailableError       the world is away: try again by itself, backing off
    └── NeedsChangeError       trying again is useless until a person changes something

Foreign errors (Kafka, PostgreSQL, Kubernetes) become one of these where they are raised: in `brokers`, `schema`,
`workloads` and `secrets`. Anything else that reaches the worker is a bug and is logged with its traceback.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Reasons of conditions and Events. docs/conditions.md says of each what it means and what to do."""

    READY = "Ready"
    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    WAITING = "Waiting"

    KAFKA_UNAVAILABLE = "KafkaUnavailable"
    KAFKA_AUTHENTICATION_FAILED = "KafkaAuthenticationFailed"
    KAFKA_CREDENTIALS_INVALID = "KafkaCredentialsInvalid"
    KAFKA_REJECTED = "KafkaRejected"
    TOPIC_OWNED_BY_ANOTHER = "TopicOwnedByAnotherPipeline"
    PARTITIONS_CANNOT_SHRINK = "PartitionsCannotShrink"
    REPLICATION_FACTOR_CANNOT_CHANGE = "ReplicationFactorCannotChange"

    RETENTION_NEAR = "RetentionNear"
    READINGS_LOST = "ReadingsLost"

    CANARY_NOT_SENT = "CanaryNotSent"
    CANARY_NOT_ANSWERED = "CanaryNotAnswered"
    CANARY_LOST = "CanaryLost"
    CANARY_NOT_ADMITTED = "CanaryNotAdmitted"

    DATABASE_UNAVAILABLE = "DatabaseUnavailable"
    DATABASE_AUTHENTICATION_FAILED = "DatabaseAuthenticationFailed"
    DATABASE_PERMISSION_DENIED = "DatabasePermissionDenied"
    DATABASE_REJECTED = "DatabaseRejected"
    TIMESCALEDB_MISSING = "TimescaleDBMissing"
    SCHEMA_OWNED_BY_ANOTHER = "SchemaOwnedByAnotherPipeline"
    SCHEMA_CONFLICT = "SchemaConflict"
    EDITION_LACKS_FEATURE = "EditionLacksFeature"
    ROLES_NOT_PERMITTED = "DatabaseRolesNotPermitted"
    ROLE_CONFLICT = "DatabaseRoleConflict"

    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 -- a reason, not a password
    SECRET_KEY_MISSING = "SecretKeyMissing"  # noqa: S105
    CONNECTION_URI_INVALID = "ConnectionUriInvalid"

    APPROVAL_PENDING = "ApprovalPending"
    NOTHING_PENDING = "NothingPending"
    DRIFT_FOUND = "DriftFound"
    NO_DRIFT = "NoDrift"

    INVALID_SPEC = "InvalidSpec"
    WORKLOAD_REJECTED = "WorkloadRejected"
    KUBERNETES_UNAVAILABLE = "KubernetesUnavailable"
    PODS_FAILING = "PodsFailing"
    PODS_IDLE = "PodsIdle"
    KEDA_MISSING = "KedaMissing"
    SCALER_FAILING = "ScalerFailing"
    REVIEWERS_NOT_MANAGED = "TokenReviewersNotManaged"
    INTERNAL_ERROR = "InternalError"


class PipelineError(Exception):
    """A reconcile cannot finish. `message` says what to do."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class UnavailableError(PipelineError):
    """The world is away; the same attempt may succeed later."""


class NeedsChangeError(PipelineError):
    """Useless to try again until a person changes the resource, a Secret or the world."""
