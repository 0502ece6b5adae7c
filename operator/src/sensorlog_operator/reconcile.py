"""One pipeline, from what is to what should be: read, observe, plan, pass the gate, apply, tell. Level-triggered.

Nothing here remembers what it did last: the world is looked at anew each time, and each step can be repeated. The steps
are in `steps` and `children_step`, `provisioning` goes through them, `gate` says what may be done.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import structlog

from sensorlog_operator import applied, children, conditions, dataflow, manifests, metrics, preview
from sensorlog_operator.access import Access
from sensorlog_operator.canaries import Canaries
from sensorlog_operator.canary_probe import Probe
from sensorlog_operator.canary_tokens import Tokens
from sensorlog_operator.claims import Claims
from sensorlog_operator.condition_metrics import CONDITION_METRICS
from sensorlog_operator.conditions import Condition, ConditionType
from sensorlog_operator.deletion import Deletion, set_finalizer
from sensorlog_operator.errors import NeedsChangeError, PipelineError, Reason
from sensorlog_operator.events import Events
from sensorlog_operator.gate import Decision
from sensorlog_operator.known import Known
from sensorlog_operator.kube import NAMESPACE, PIPELINE, Kube
from sensorlog_operator.models import Pipeline, Resource
from sensorlog_operator.provisioning import ORDER, Provisioning
from sensorlog_operator.report import Report
from sensorlog_operator.reviewers import Reviewers
from sensorlog_operator.secrets import Credentials
from sensorlog_operator.settings import Settings
from sensorlog_operator.steps import Round
from sensorlog_operator.surveys import Surveys

ASIDE: tuple[ConditionType, ...] = ("FeaturesReady", "AutoscalingReady", "DataSafe", "DataFlowing")
"""What is there only where the resource asks for it, and what data flows without."""

log = structlog.get_logger(__name__)


class Reconciler:
    """Brings pipelines to what their resources say; safe to use from several threads for different keys."""

    def __init__(
        self,
        kube: Kube,
        settings: Settings,
        claims: Claims,
        events: Events,
        *,
        requeue: Callable[[str], None],
        surveys: Surveys | None = None,
    ) -> None:
        self._kube = kube
        self._surveys = surveys
        self._settings = settings
        self._claims = claims
        self._events = events
        self._reviewers = Reviewers(kube, settings.token_reviewers, bound_by_others=settings.token_reviewers_bound)
        self._keda = children.Keda(kube)
        self._cluster_uid: str | None = None
        tokens = Tokens(kube, settings.namespace, settings.canary_account)
        self._canaries = Canaries(Probe(tokens), requeue)
        self._requeue = requeue

    def reconcile(self, key: str) -> bool:
        """Bring one pipeline to what its resource says; return whether it should come again soon.

        A glance is enough where a survey saw that nothing is to be done; else all of it is looked at anew.
        Raises PipelineError only where the API server itself does not answer.
        """
        if self._surveys is None:
            return self._look(key)
        known = self._surveys.take(key)
        if known and self._glance(known):
            return False
        try:
            return self._look(key)
        finally:
            self._surveys.heard(key)

    def _glance(self, known: Known) -> bool:
        """Tell what a survey saw of a pipeline; return whether that was enough. Nothing but status is changed by it."""
        pipeline = known.subject.pipeline
        shared = self._round(pipeline, known=known)
        with closing(Provisioning(shared)) as provisioning:
            decision = provisioning.decide(None)
            if decision.entries or not provisioning.is_at_rest:
                return False
            provisioning.apply(decision)
        report = shared.report
        self._note_aside(pipeline, shared)
        if report.retry or report.incomplete or not all(map(report.holds, ORDER)):
            return False
        self._tell(pipeline, decision, report)
        return True

    def _look(self, key: str) -> bool:
        namespace, _, name = key.partition("/")
        body = self._kube.get(PIPELINE, namespace, name)
        if body is None:
            self._reviewers.keep(namespace, name, wanted=False)
            self._canaries.keep(key, None)
            CONDITION_METRICS.forget(key)
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

    def plan(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return what applying this resource would do, as `preview.document`; nothing is changed by it.

        Raises NeedsChangeError where the resource does not fit the model, PipelineError where the API server is away.
        """
        pipeline = Pipeline.from_body(body)
        shared = self._round(pipeline, dry_run=True)
        with closing(Provisioning(shared)) as provisioning:
            decision = provisioning.decide(applied.baseline(pipeline))
        return preview.document(decision, shared.report)

    def _round(self, pipeline: Pipeline, *, dry_run: bool = False, known: Known | None = None) -> Round:
        credentials = known.subject.credentials if known else Credentials(self._kube, pipeline)
        return Round(
            pipeline=pipeline,
            kube=self._surveys.mirror if known and self._surveys else self._kube,
            settings=self._settings,
            claims=self._claims,
            reviewers=self._reviewers,
            credentials=credentials,
            access=known.subject.access if known else Access(self._kube, pipeline, credentials),
            keda=self._keda,
            report=Report(),
            cluster=self._cluster,
            dry_run=dry_run,
            known=known,
        )

    def _provision(self, pipeline: Pipeline) -> bool:
        shared = self._round(pipeline)
        report = shared.report
        with closing(Provisioning(shared)) as provisioning:
            decision = provisioning.decide(applied.baseline(pipeline))
            pipeline = self._remember_approval(pipeline, decision)
            provisioning.apply(decision)
        self._note_aside(pipeline, shared)
        self._tell(pipeline, decision, report)
        return report.retry

    def _note_aside(self, pipeline: Pipeline, shared: Round) -> None:
        report = shared.report
        report.status["credentials"] = shared.access.status()
        report.status["endpoint"] = manifests.endpoint(pipeline)
        dataflow.tell(self._canaries, pipeline, shared.credentials, report)

    def _remember_approval(self, pipeline: Pipeline, decision: Decision) -> Pipeline:
        """Write an approved plan down before any of it is done: what is left of it must stay approved."""
        if not decision.approved or decision.ongoing:
            return pipeline
        status = {**pipeline.status, "plan": applied.plan_field(pipeline, decision)}
        self._write_status(pipeline, status)
        return pipeline.model_copy(update={"status": status})

    def _cluster(self) -> str:
        """Return what tells this cluster, or this operator of chosen namespaces, from others: a namespace's uid."""
        if self._cluster_uid is None:
            namespace = self._kube.get(NAMESPACE, None, self._settings.identity_namespace)
            self._cluster_uid = namespace["metadata"]["uid"] if namespace else ""
        return self._cluster_uid

    def _tell(self, pipeline: Pipeline, decision: Decision, report: Report) -> None:
        ordered = [report.conditions[kind] for kind in ORDER]
        aside = [report.conditions[kind] for kind in ASIDE if kind in report.conditions]
        every = [*ordered, *aside, *applied.conditions(pipeline, decision), conditions.ready(ordered)]
        repaired = {entry.action.summary for entry in decision.repaired}
        for action in report.actions:
            drifted = action.summary in repaired
            metrics.DRIFT.labels("repaired").inc(drifted)
            self._events.emit(pipeline, "DriftRepaired" if drifted else "Applied", action.summary, warning=drifted)
            log.info("applied", pipeline=pipeline.key, action=action.summary, drift=drifted)
        for entry in applied.newly_reported(pipeline.status, decision):
            metrics.DRIFT.labels("reported").inc()
            self._events.emit(pipeline, Reason.DRIFT_FOUND, f"Left as it is: {entry.action.summary}", warning=True)
        fields = {**report.status, **applied.fields(pipeline, decision, report)}
        self._write(pipeline, every, fields, complete=True)

    def _write(
        self, resource: Resource, found: Sequence[Condition], fields: Mapping[str, Any], *, complete: bool = False
    ) -> None:
        """Write status where it differs, with an Event for each condition that turned."""
        CONDITION_METRICS.note(resource.key, found)
        for condition in conditions.changed(found, resource.status):
            message = f"{condition.type}: {condition.message}"
            self._events.emit(resource, condition.reason, message, warning=condition.warns)
        status = conditions.build_status(resource, found, fields, complete=complete)
        if status != resource.status:
            self._write_status(resource, status)

    def _write_status(self, resource: Resource, status: Mapping[str, Any]) -> None:
        written = self._kube.apply(PIPELINE, conditions.status_patch(resource, status), subresource="status")
        if self._surveys and written:
            self._surveys.mirror.note(written)
