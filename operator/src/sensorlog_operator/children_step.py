"""The Kubernetes objects of a pipeline, and how far its Deployments are."""

from collections.abc import Sequence

from sensorlog_operator import autoscaling, children, manifests, workloads
from sensorlog_operator.conditions import ConditionType
from sensorlog_operator.errors import PipelineError, Reason
from sensorlog_operator.gate import Entry
from sensorlog_operator.models import Pipeline
from sensorlog_operator.plans import Action
from sensorlog_operator.report import Report
from sensorlog_operator.steps import Step

COMPONENTS: dict[str, ConditionType] = {"ingest": "IngestReady", "query": "QueryReady"}


class ChildrenStep(Step):
    """The children: what runs follows the resource also while Kafka or the database is away."""

    name = "children"
    conditions = tuple(COMPONENTS.values())

    def observe(self) -> None:
        """Read the children, and what they depend on."""
        shared = self._round
        self._keda = shared.keda.is_there()
        self._observed = workloads.observe(shared.kube, shared.pipeline, keda=self._keda)
        self._around = self._surroundings()

    def _surroundings(self) -> children.Surroundings:
        ports = children.database_ports(self._round.credentials)
        return children.Surroundings(self._round.access.mounts(), ports, keda=self._keda)

    def plan(self, pipeline: Pipeline) -> list[Action]:
        """Return what to apply and delete, and of a Deployment whose login is still to come that it will be created."""
        if pipeline.spec.timescale.access != self._round.pipeline.spec.timescale.access:
            return []  # what was seen to mount is of no use for the other way into the database
        wanted = children.build(pipeline, self._round.settings, self._around)
        return [*workloads.plan(wanted, self._observed, pipeline.uid), *self._to_come(pipeline)]

    def _to_come(self, pipeline: Pipeline) -> list[Action]:
        names = [manifests.child_name(pipeline, c) for c in COMPONENTS if c not in self._around.mounts]
        kinds = ("ServiceAccount", "PodDisruptionBudget", "Deployment")
        missing = [(kind, name) for name in names for kind in kinds if (kind, name) not in self._observed]
        return [Action(f"create {kind} {name}", creates=True) for kind, name in missing]

    def restless(self) -> bool:
        """Return whether a rollout is under way, or stuck: the pods say more."""
        deployments = [child for (kind, _), child in self._observed.items() if kind == "Deployment"]
        return not all(map(workloads.complete, deployments)) or len(deployments) < len(COMPONENTS)

    def apply(self, actions: Sequence[Action], withheld: Sequence[Entry]) -> list[Action]:  # noqa: ARG002
        """Apply what may be applied. It is planned again, because logins may have come since."""
        shared = self._round
        if shared.known:
            return []
        self._around = self._surroundings()
        forbidden = {entry.action.summary for entry in withheld}
        fresh = self.plan(shared.pipeline)
        done = [action for action in fresh if workloads.executable(action) and action.summary not in forbidden]
        workloads.apply(shared.kube, done)
        if done:
            self._observed = workloads.observe(shared.kube, shared.pipeline, keda=self._keda)
        return done

    def blocked(self, report: Report) -> bool:
        """Return whether nothing may run yet. What ran before waits for Kafka and the database itself."""
        lacking = bool(report.unusable) or not self._round.access.mounts()
        return report.forbidden or (lacking and not workloads.exist(self._observed))

    def tell(self, report: Report) -> None:
        """Say how far the rollouts are."""
        for component, kind in COMPONENTS.items():
            self._rollout(report, component, kind)
        self._query_security(report)
        if scaling := autoscaling.condition(self._round.pipeline, self._observed, keda=self._keda):
            report.conditions["AutoscalingReady"] = scaling

    def _query_security(self, report: Report) -> None:
        """Let query pods check tokens, and say so where they cannot or their certificate is missing.

        Ingest does not wait for it. Only now: before, the ServiceAccount's name may have been a stranger's.
        """
        pipeline = self._round.pipeline
        try:
            authenticates = pipeline.spec.query.authentication is not None
            self._round.reviewers.keep(pipeline.namespace, pipeline.name, wanted=authenticates)
            self._round.credentials.check_tls()
        except PipelineError as e:
            report.failed("QueryReady", e)

    def _idle(self, report: Report, progress: workloads.Rollout) -> str:
        """Return what to say of ingest pods beyond the topic's partitions; nothing where each has one.

        A topic that was not looked at counts as declared, and a scaler's own number is capped already.
        """
        ingest, readings = self._round.pipeline.spec.ingest, self._round.pipeline.spec.kafka.readings
        partitions = report.status.get("partitions", readings.partitions)
        idle = progress.wanted - partitions
        if idle <= 0 or ingest.autoscaling:
            return ""
        return (
            f" {idle} of them have nothing to read: topic {readings.topic} has {partitions} partitions, and Kafka"
            f" gives each to one pod. Set spec.ingest.replicas to {partitions} or fewer, or"
            f" spec.kafka.readings.partitions to {progress.wanted}."
        )

    def _rollout(self, report: Report, component: str, kind: ConditionType) -> None:
        pipeline = self._round.pipeline
        deployment = self._observed.get(("Deployment", manifests.child_name(pipeline, component)))
        if deployment is None:
            report.waits([kind], ["AccessReady"])
            return
        progress = workloads.rollout(self._round.kube, pipeline, component, deployment)
        report.status[component] = str(progress)
        if component == "ingest":
            report.status["ingestReplicas"] = progress.present
            report.status["ingestSelector"] = manifests.selector_text(pipeline, component)
        if component == "ingest" and pipeline.spec.paused:
            report.not_yet("IngestReady", Reason.PAUSED, "spec.paused is true: readings wait in the topic.")
        elif progress.complete:
            idle = self._idle(report, progress) if component == "ingest" else ""
            report.true(kind, f"{progress} pods ready.{idle}", Reason.PODS_IDLE if idle else Reason.READY)
        else:
            reason = Reason.PODS_FAILING if progress.problem else Reason.PROGRESSING
            report.not_yet(kind, reason, f"{progress} pods ready. {progress.problem or 'Rolling out.'}")
