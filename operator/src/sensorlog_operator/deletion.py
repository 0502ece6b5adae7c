"""What happens when a pipeline is deleted.

Kubernetes takes the children away by itself (they are owned). Topics and schema stay with deletionPolicy Retain, and
then the resource has no finalizer: it can be deleted while the operator is gone. With Delete a finalizer of ours
holds the resource until topics and schema are gone too.
"""

import structlog

from sensorlog_operator import brokers, connections, manifests, role_changes, schema, topics
from sensorlog_operator.claims import Claim, Claims
from sensorlog_operator.conditions import Condition, build_status, status_patch
from sensorlog_operator.errors import NeedsChangeError, PipelineError, Reason, UnavailableError
from sensorlog_operator.events import Events
from sensorlog_operator.kube import DEPLOYMENT, FINALIZER_MANAGER, PIPELINE, POD, Kube, Object
from sensorlog_operator.models import GROUP, KIND, VERSION, Pipeline, Resource
from sensorlog_operator.secrets import Credentials

FINALIZER = f"{GROUP}/cleanup"

UNREACHABLE_FOR_GOOD = frozenset({Reason.SECRET_NOT_FOUND, Reason.SECRET_KEY_MISSING})
"""Without its credentials nothing can be cleaned up, and a namespace that is being deleted loses them first."""

log = structlog.get_logger(__name__)


def set_finalizer(kube: Kube, pipeline: Resource, *, wanted: bool) -> None:
    """Make the resource carry our finalizer or not; other people's are left alone."""
    if wanted == (FINALIZER in pipeline.finalizers):
        return
    metadata = {"name": pipeline.name, "namespace": pipeline.namespace, "uid": pipeline.uid}
    body = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {**metadata, **({"finalizers": [FINALIZER]} if wanted else {})},
    }
    applied = kube.apply(PIPELINE, body, manager=FINALIZER_MANAGER) or {"metadata": {}}
    left = applied["metadata"].get("finalizers", ())
    if not wanted and FINALIZER in left:
        _take_from_others(kube, applied["metadata"])


def _take_from_others(kube: Kube, metadata: Object) -> None:
    """Take our finalizer away where it is not ours by server-side apply, as after a restore from a backup.

    The version is named, so that a finalizer which somebody adds at this moment stays (the API server refuses then).
    """
    others = [name for name in metadata["finalizers"] if name != FINALIZER]
    patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": others}}
    kube.merge(PIPELINE, metadata, patch)


class Deletion:
    """Cleans up after a pipeline whose deletionPolicy says so."""

    def __init__(self, kube: Kube, events: Events, claims: Claims) -> None:
        self._kube = kube
        self._events = events
        self._claims = claims

    def run(self, pipeline: Pipeline) -> bool:
        """Do what is left to do; return whether to come again soon."""
        if FINALIZER not in pipeline.finalizers:
            return False
        if pipeline.spec.deletion_policy == "Delete":
            try:
                if not self._cleaned_up(pipeline):
                    return True
            except PipelineError as e:
                if e.reason not in UNREACHABLE_FOR_GOOD:
                    return self._held_up(pipeline, e)
                self._events.emit(pipeline, e.reason, f"Topics and schema stay behind: {e.message}", warning=True)
        set_finalizer(self._kube, pipeline, wanted=False)
        return False

    def _cleaned_up(self, pipeline: Pipeline) -> bool:
        if not self._stopped(pipeline):
            return False
        credentials = Credentials(self._kube, pipeline)
        kafka_options, database_uri = credentials.kafka_options(), credentials.database_uri()
        with connections.connect(database_uri) as connection:
            # First, because the schema says whose they are.
            if schema.belongs(connection, pipeline.schema_name, pipeline.uid):
                role_changes.drop(connection, pipeline.schema_name)
            dropped = schema.drop(connection, pipeline.schema_name, pipeline.uid)
        self._delete_topics(pipeline, brokers.admin(kafka_options))
        log.info("cleaned up", pipeline=pipeline.key, schema_dropped=dropped)
        return True

    def _stopped(self, pipeline: Pipeline) -> bool:
        """Take the Deployments away; return whether their pods are gone, so that nobody writes any more."""
        for component in ("ingest", "query"):
            self._kube.delete(DEPLOYMENT, pipeline.namespace, manifests.child_name(pipeline, component))
        return not self._kube.list(POD, pipeline.namespace, selector=manifests.selector_text(pipeline, "ingest"))

    def _delete_topics(self, pipeline: Pipeline, kafka: brokers.KafkaAdmin) -> None:
        claim = Claim.of(pipeline, cluster_id=kafka.cluster_id())
        senior = self._claims.senior(claim)
        names = claim.topics - (senior[1] if senior else frozenset())
        topics.delete(kafka, sorted(names))

    def _held_up(self, pipeline: Pipeline, error: PipelineError) -> bool:
        message = f"Cannot clean up: {error.message} To let the resource go at once, set spec.deletionPolicy to Retain."
        condition = Condition("Ready", status=False, reason=error.reason, message=message)
        if build_status(pipeline, [condition], {}) != pipeline.status:
            self._events.emit(pipeline, error.reason, message, warning=True)
            status = build_status(pipeline, [condition], {})
            self._kube.apply(PIPELINE, status_patch(pipeline, status), subresource="status")
        return isinstance(error, UnavailableError | NeedsChangeError)
