"""One pipeline, from what is to what should be: read, observe, plan, apply, tell. Idempotent, level-triggered.

Nothing here remembers what it did last: the world is looked at anew each time, and each step can be repeated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from sensorlog_operator import autoscaling, children, conditions, manifests, schema, topics, workloads
from sensorlog_operator.access import Access
from sensorlog_operator.claims import Claim, Claims
from sensorlog_operator.conditions import Condition, ConditionType
from sensorlog_operator.deletion import Deletion, set_finalizer
from sensorlog_operator.errors import NeedsChangeError, PipelineError, Reason, UnavailableError
from sensorlog_operator.events import Events
from sensorlog_operator.kube import NAMESPACE, PIPELINE, Kube
from sensorlog_operator.models import Pipeline, Resource
from sensorlog_operator.plans import Action, Refusal
from sensorlog_operator.reviewers import Reviewers
from sensorlog_operator.secrets import Credentials
from sensorlog_operator.settings import Settings

FOUNDATIONS: tuple[ConditionType, ...] = ("TopicReady", "SchemaReady", "AccessReady")
COMPONENTS: dict[str, ConditionType] = {"ingest": "IngestReady", "query": "QueryReady"}

ASIDE: tuple[ConditionType, ...] = ("AutoscalingReady",)
"""What is there only where the resource asks for it, and what data flows without."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Report:
    """What one reconcile found and did. `retry` asks to come again soon."""

    conditions: dict[ConditionType, Condition] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    unusable: set[ConditionType] = field(default_factory=set)
    """What is not there yet, or not to be had now."""
    forbidden: bool = False
    """Whether the pipeline has no right to run: its topic or schema belongs to another."""
    retry: bool = False

    def true(self, kind: ConditionType, message: str) -> None:
        """Note that a condition holds."""
        self.conditions[kind] = Condition(kind, status=True, reason=Reason.READY, message=message)

    def not_yet(self, kind: ConditionType, reason: Reason, message: str) -> None:
        """Note that a condition does not hold."""
        self.conditions[kind] = Condition(kind, status=False, reason=reason, message=message)

    def failed(self, kind: ConditionType, error: PipelineError) -> None:
        """Note what keeps a condition from holding, and whether coming again soon may help."""
        self.conditions[kind] = Condition.of(kind, error)
        self.unusable.add(kind)
        self.retry |= isinstance(error, UnavailableError)

    def planned(self, kind: ConditionType, actions: Sequence[Action]) -> bool:
        """Note a plan that was carried out; return whether it held no refusal."""
        self.actions += actions
        refusals = [action for action in actions if isinstance(action, Refusal)]
        if refusals:
            self.not_yet(kind, refusals[0].reason, " ".join(refusal.summary for refusal in refusals))
            self.forbidden |= any(refusal.blocking for refusal in refusals)
        return not refusals


class Reconciler:
    """Brings pipelines to what their resources say; safe to use from several threads for different keys."""

    def __init__(
        self, kube: Kube, settings: Settings, claims: Claims, events: Events, *, requeue: Callable[[str], None]
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._claims = claims
        self._events = events
        self._reviewers = Reviewers(kube, settings.token_reviewers, bound_by_others=settings.token_reviewers_bound)
        self._keda = children.Keda(kube)
        self._cluster_uid: str | None = None
        self._requeue = requeue

    def reconcile(self, key: str) -> bool:
        """Bring one pipeline to what its resource says; return whether it should come again soon.

        Raises PipelineError only where the API server itself does not answer.
        """
        namespace, _, name = key.partition("/")
        body = self._kube.get(PIPELINE, namespace, name)
        if body is None:
            self._reviewers.keep(namespace, name, wanted=False)
            for waiting in self._claims.forget(key):
                self._requeue(waiting)
            return False
        try:
            return self._reconcile(body)
        except PipelineError:
            raise
        except Exception as e:
            self._bug(Resource.from_body(body), e)
            raise

    def _reconcile(self, body: dict[str, Any]) -> bool:
        try:
            pipeline = Pipeline.from_body(body)
        except NeedsChangeError as e:
            self._invalid(Resource.from_body(body), e)
            return False
        if pipeline.deleting:
            return Deletion(self._kube, self._events, self._claims).run(pipeline)
        return self._provision(pipeline)

    def _bug(self, resource: Resource, error: Exception) -> None:
        """Tell of an error that should not be; its text stays in the log, because nobody checked it for secrets."""
        message = f"A bug of the operator ({type(error).__name__}); its log has the traceback. It keeps trying."
        self._write(resource, [Condition("Ready", status=False, reason=Reason.INTERNAL_ERROR, message=message)], {})

    def _invalid(self, resource: Resource, error: NeedsChangeError) -> None:
        """Tell of a resource that the API server let through (its CRD is older than this operator)."""
        if resource.deleting:
            set_finalizer(self._kube, resource, wanted=False)
            return
        self._write(resource, [Condition.of("Ready", error)], {})

    def _provision(self, pipeline: Pipeline) -> bool:
        set_finalizer(self._kube, pipeline, wanted=pipeline.spec.deletion_policy == "Delete")
        report = Report()
        credentials = Credentials(self._kube, pipeline)
        access = Access(self._kube, pipeline, credentials)
        partitions = self._topic(pipeline, credentials, report)
        self._schema(pipeline, credentials, access, report, partitions)
        self._workloads(pipeline, credentials, access, report)
        self._tell(pipeline, report)
        return report.retry

    def _topic(self, pipeline: Pipeline, credentials: Credentials, report: Report) -> int | None:
        """Provision the topics; return the partitions of readings, None where Kafka could not say."""
        readings = pipeline.spec.kafka.readings
        try:
            kafka = topics.admin(credentials.kafka_options())
            claim = Claim.of(pipeline, cluster_id=kafka.cluster_id())
            self._claims.put(claim)
            if refusal := self._contested(claim):
                report.planned("TopicReady", [refusal])
                return None
            desired = topics.desired(pipeline)
            observed = topics.observe(kafka, [topic.name for topic in desired])
            actions = topics.plan(desired, observed)
            topics.apply(kafka, actions)
        except PipelineError as e:
            report.failed("TopicReady", e)
            return None
        # A topic never shrinks, so after the plan it has the larger of what was there and what is declared.
        partitions = max(readings.partitions, observed[readings.topic].partitions if readings.topic in observed else 0)
        report.status["topic"] = f"{readings.topic} ({partitions})"
        if report.planned("TopicReady", actions):
            report.true(
                "TopicReady", f"Topics {readings.topic} and {pipeline.spec.kafka.sensors.topic} are as declared."
            )
        return partitions

    def _contested(self, claim: Claim) -> Refusal | None:
        found = self._claims.senior(claim)
        if found is None:
            return None
        senior, shared = found
        return Refusal(
            f"Topic {', '.join(sorted(shared))} belongs to the older pipeline {senior.key}. Name another topic in"
            " spec.kafka, in a new resource because topics cannot be renamed, or delete that pipeline.",
            Reason.TOPIC_OWNED_BY_ANOTHER,
            blocking=True,
        )

    def _schema(
        self, pipeline: Pipeline, credentials: Credentials, access: Access, report: Report, partitions: int | None
    ) -> None:
        report.not_yet("AccessReady", Reason.WAITING, "Waits for SchemaReady.")
        try:
            with schema.connect(credentials.database_uri()) as connection:
                observed = schema.observe(connection, pipeline.schema_name)
                actions = schema.plan(self._desired_schema(pipeline), observed)
                schema.apply(connection, pipeline.schema_name, actions)
                if report.planned("SchemaReady", actions):
                    report.true("SchemaReady", f"Schema {pipeline.schema_name} is as declared.")
                    self._access(access, connection, report)
                    report.status["lag"] = self._lag(pipeline, credentials, connection, partitions)
        except PipelineError as e:
            report.failed("SchemaReady", e)
            return
        report.status["schema"] = pipeline.schema_name
        report.status["timescaledb"] = f"{observed.timescaledb_version} ({observed.edition})"

    @staticmethod
    def _access(access: Access, connection: schema.Connection, report: Report) -> None:
        """Give the components their logins; one that cannot have one yet leaves the other alone."""
        try:
            outcome = access.converge(connection)
        except PipelineError as e:
            report.failed("AccessReady", e)
            return
        if report.planned("AccessReady", outcome.actions):
            report.true("AccessReady", access.description())
        for problem in outcome.problems:
            report.not_yet("AccessReady", problem.reason, problem.message)
            report.retry |= isinstance(problem, UnavailableError)

    def _desired_schema(self, pipeline: Pipeline) -> schema.DesiredSchema:
        return schema.DesiredSchema(
            name=pipeline.schema_name,
            owner=schema.Owner(uid=pipeline.uid, pipeline=pipeline.key, cluster=self._cluster()),
            measurements=tuple(m.name for m in pipeline.spec.measurements),
            chunk_interval=pipeline.chunk_interval,
            live_uids=self._claims.uids(),
        )

    def _cluster(self) -> str:
        """Return what tells this cluster, or this operator of chosen namespaces, from others: a namespace's uid."""
        if self._cluster_uid is None:
            namespace = self._kube.get(NAMESPACE, None, self._settings.identity_namespace)
            self._cluster_uid = namespace["metadata"]["uid"] if namespace else ""
        return self._cluster_uid

    def _lag(
        self, pipeline: Pipeline, credentials: Credentials, connection: schema.Connection, partitions: int | None
    ) -> int | None:
        if partitions is None:
            return None
        topic = pipeline.spec.kafka.readings.topic
        stored = schema.next_offsets(connection, pipeline.schema_name, topic)
        try:
            return topics.lag(topics.admin(credentials.kafka_options()), topic, partitions, stored)
        except PipelineError as e:
            # A figure for people is no reason to fail; a topic made a second ago may not have leaders yet.
            log.info("lag unknown", pipeline=pipeline.key, error=e.message)
            return None

    def _workloads(self, pipeline: Pipeline, credentials: Credentials, access: Access, report: Report) -> None:
        report.status["credentials"] = access.status()
        try:
            keda = self._keda.is_there()
            observed = workloads.observe(self._kube, pipeline, keda=keda)
            # What ran before follows the resource also while Kafka or the database is away: it waits for them itself.
            mounts = access.mounts()
            if report.forbidden or ((report.unusable or not mounts) and not workloads.exist(observed)):
                self._waiting(report)
                return
            around = children.Surroundings(mounts, children.database_ports(credentials), keda=keda)
            wanted = children.build(pipeline, self._settings, around)
            actions = workloads.plan(wanted, observed, pipeline.uid)
            workloads.apply(self._kube, actions)
            if not report.planned("IngestReady", actions):
                report.conditions["QueryReady"] = report.conditions["IngestReady"].as_type("QueryReady")
                return
            if actions:
                observed = workloads.observe(self._kube, pipeline, keda=keda)
            self._rollouts(pipeline, observed, report)
            # Only now: before, the ServiceAccount's name may have been a stranger's.
            self._query_security(pipeline, credentials, report)
            if scaling := autoscaling.condition(pipeline, observed, keda=keda):
                report.conditions["AutoscalingReady"] = scaling
        except PipelineError as e:
            report.failed("IngestReady", e)
            report.failed("QueryReady", e)
        report.status["endpoint"] = manifests.endpoint(pipeline)

    def _query_security(self, pipeline: Pipeline, credentials: Credentials, report: Report) -> None:
        """Let query pods check tokens, and say so where they cannot or their certificate is missing.

        Ingest does not wait for it.
        """
        try:
            authenticates = pipeline.spec.query.authentication is not None
            self._reviewers.keep(pipeline.namespace, pipeline.name, wanted=authenticates)
            credentials.check_tls()
        except PipelineError as e:
            report.failed("QueryReady", e)

    @staticmethod
    def _waiting(report: Report) -> None:
        lacking = " and ".join(kind for kind in FOUNDATIONS if not report.conditions[kind].status)
        for kind in COMPONENTS.values():
            report.not_yet(kind, Reason.WAITING, f"Waits for {lacking}.")

    def _rollouts(self, pipeline: Pipeline, observed: dict[workloads.Key, Any], report: Report) -> None:
        for component, kind in COMPONENTS.items():
            name = manifests.child_name(pipeline, component)
            deployment = observed.get(("Deployment", name))
            if deployment is None:
                report.not_yet(kind, Reason.WAITING, "Waits for AccessReady.")
                continue
            progress = workloads.rollout(self._kube, pipeline, component, deployment)
            report.status[component] = str(progress)
            if component == "ingest":
                report.status["ingestReplicas"] = progress.present
                report.status["ingestSelector"] = manifests.selector_text(pipeline, component)
            if component == "ingest" and pipeline.spec.paused:
                report.not_yet("IngestReady", Reason.PAUSED, "spec.paused is true: readings wait in the topic.")
            elif progress.complete:
                report.true(kind, f"{progress} pods ready.")
            else:
                reason = Reason.PODS_FAILING if progress.problem else Reason.PROGRESSING
                report.not_yet(kind, reason, f"{progress} pods ready. {progress.problem or 'Rolling out.'}")

    def _tell(self, pipeline: Pipeline, report: Report) -> None:
        ordered = [report.conditions[kind] for kind in (*FOUNDATIONS, *COMPONENTS.values())]
        aside = [report.conditions[kind] for kind in ASIDE if kind in report.conditions]
        every = [*ordered, *aside, conditions.ready(ordered)]
        for action in report.actions:
            if not isinstance(action, Refusal):
                self._events.emit(pipeline, "Applied", action.summary)
                log.info("applied", pipeline=pipeline.key, action=action.summary)
        self._write(pipeline, every, report.status, complete=True)

    def _write(
        self, resource: Resource, found: Sequence[Condition], fields: Mapping[str, Any], *, complete: bool = False
    ) -> None:
        """Write status where it differs, with an Event for each condition that turned."""
        for condition in conditions.changed(found, resource.status):
            message = f"{condition.type}: {condition.message}"
            self._events.emit(resource, condition.reason, message, warning=condition.warns)
        status = conditions.build_status(resource, found, fields, complete=complete)
        if status != resource.status:
            self._kube.apply(PIPELINE, conditions.status_patch(resource, status), subresource="status")
