"""The parts that a reconcile goes through. Each observes its part of the world, plans, and does what it is allowed.

A further part is a further `Step` in `provisioning`: approval, drift, Events and conditions come by themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta

from sensorlog_operator import adoption, backlog, brokers, connections, figures, roles, schema, topics
from sensorlog_operator.access import Access
from sensorlog_operator.backlog import Backlog, Question
from sensorlog_operator.children import Keda
from sensorlog_operator.claims import Claim, Claims
from sensorlog_operator.conditions import ConditionType
from sensorlog_operator.deletion import FINALIZER, set_finalizer
from sensorlog_operator.errors import PipelineError, Reason, UnavailableError
from sensorlog_operator.figures import Stored
from sensorlog_operator.gate import Entry
from sensorlog_operator.known import Known
from sensorlog_operator.kube import Kube
from sensorlog_operator.models import Pipeline
from sensorlog_operator.plans import Action, Refusal
from sensorlog_operator.report import Report
from sensorlog_operator.reviewers import Reviewers
from sensorlog_operator.secrets import Credentials
from sensorlog_operator.settings import Settings
from sensorlog_operator.topics import ObservedTopic


@dataclass(frozen=True, slots=True)
class Round:
    """What the steps of one reconcile share."""

    pipeline: Pipeline
    kube: Kube
    settings: Settings
    claims: Claims
    reviewers: Reviewers
    credentials: Credentials
    access: Access
    keda: Keda
    report: Report
    cluster: Callable[[], str]
    """Tells this Kubernetes cluster from others."""
    dry_run: bool = False
    """Whether it is only asked what would be done."""
    known: Known | None = None
    """What a survey saw, for a glance that changes nothing but status; else every step looks for itself."""


AS_LEFT = "there, and not all as declared: PlanPending and Drifted say what is not done"


class Step:
    """One part of a pipeline. All but `plan` may raise PipelineErrors, which become its conditions."""

    name: str
    conditions: tuple[ConditionType, ...] = ()
    needs: tuple[ConditionType, ...] = ()
    """Conditions without which nothing is done here."""

    def __init__(self, shared: Round) -> None:
        self._round = shared

    def observe(self) -> None:
        """Look at the world."""

    def plan(self, pipeline: Pipeline) -> list[Action]:
        """Return the steps from what was observed to what `pipeline` says, refusals among them. Changes nothing."""
        raise NotImplementedError

    def apply(self, actions: Sequence[Action], withheld: Sequence[Entry]) -> list[Action]:
        """Do `actions`, which are of the plan; return what was done. `withheld` is what must not be done now."""
        raise NotImplementedError

    def restless(self) -> bool:
        """Return whether `apply` may have something to do that no action tells of: then a glance is not enough."""
        return False

    def blocked(self, report: Report) -> bool:
        """Return whether this has to wait for the steps before."""
        return not all(map(report.holds, self.needs))

    def tell(self, report: Report) -> None:
        """Note the conditions and status, where nothing was refused and nothing needed is missing."""

    def close(self) -> None:
        """Let go of what was opened."""


class TopicStep(Step):
    """The topics in Kafka."""

    name = "topics"
    conditions = ("TopicReady",)
    _withheld: Sequence[Entry] = ()
    partitions = 0
    """Of the topic of readings; 0 where it does not exist, or was not looked at."""

    def observe(self) -> None:
        """Ask the brokers, once it is clear that the topics are ours to ask about."""
        pipeline = self._round.pipeline
        self._kafka = brokers.admin(self._round.credentials.kafka_options())
        claim = Claim.of(pipeline, cluster_id=self._kafka.cluster_id())
        if not self._round.dry_run:
            self._round.claims.put(claim)
        self._refusal = self._contested(claim)
        self._observed = {} if self._refusal else self._look()
        readings = self._observed.get(pipeline.spec.kafka.readings.topic)
        self.partitions = readings.partitions if readings else 0

    def _look(self) -> Mapping[str, ObservedTopic]:
        if known := self._round.known:
            return known.topics
        return topics.observe(self._kafka, [topic.name for topic in topics.desired(self._round.pipeline)])

    def _contested(self, claim: Claim) -> Refusal | None:
        found = self._round.claims.senior(claim)
        if found is None:
            return None
        senior, shared = found
        return Refusal(
            f"Topic {', '.join(sorted(shared))} belongs to the older pipeline {senior.key}. Name another topic in"
            " spec.kafka, in a new resource because topics cannot be renamed, or delete that pipeline.",
            Reason.TOPIC_OWNED_BY_ANOTHER,
            blocking=True,
        )

    def plan(self, pipeline: Pipeline) -> list[Action]:
        """Return what to create and to alter."""
        if self._refusal:
            return [self._refusal]
        return topics.plan(topics.desired(pipeline), self._observed, adopting=self._adopting())

    def _adopting(self) -> bool:
        """Return whether topics that exist were there before this pipeline.

        Until what of them cannot be taken back is approved: that is what the plan in status is then about.
        """
        status = self._round.pipeline.status
        waiting = (status.get("plan") or {}).get("actions", ())
        return "topic" not in status or any(one["step"] == self.name and one.get("dangerous") for one in waiting)

    def apply(self, actions: Sequence[Action], withheld: Sequence[Entry]) -> list[Action]:
        """Create and alter."""
        self._withheld = withheld
        topics.apply(self._kafka, actions)
        readings = self._round.pipeline.spec.kafka.readings.topic
        self.partitions = topics.partitions_after(actions, readings, self.partitions)
        if self.partitions:
            self._round.report.status |= {"topic": f"{readings} ({self.partitions})", "partitions": self.partitions}
        return list(actions)

    def tell(self, report: Report) -> None:
        """Name the topics."""
        kafka = self._round.pipeline.spec.kafka
        names = f"Topics {kafka.readings.topic} and {kafka.sensors.topic}"
        report.true("TopicReady", f"{names} are {AS_LEFT if self._withheld else 'as declared'}.")

    @property
    def retention(self) -> timedelta | None:
        """How long the topic of readings keeps a message: as it is set now, else as declared; None is for ever."""
        readings = self._round.pipeline.spec.kafka.readings
        return topics.retention(readings, self._observed.get(readings.topic))

    def backlog(self, stored: Mapping[int, int]) -> Backlog:
        """Return what of the topic of readings is not stored."""
        if known := self._round.known:
            return known.backlog
        topic = self._round.pipeline.spec.kafka.readings.topic
        return backlog.observe(self._kafka, Question(topic, self.partitions, stored, self.retention))


class SchemaStep(Step):
    """The schema and its tables."""

    name = "schema"
    conditions = ("SchemaReady",)
    _withheld: Sequence[Entry] = ()

    def __init__(self, shared: Round) -> None:
        super().__init__(shared)
        self._open = ExitStack()
        self._obstacles: Sequence[Refusal] = ()
        self.connection: connections.Connection | None = None
        """Open as long as the reconcile runs, for this step and those of the database after it; not for a glance."""

    def observe(self) -> None:
        """Read the catalogs."""
        if known := self._round.known:
            self.observed = known.database.schema
            return
        self.connection = self._open.enter_context(connections.connect(self._round.credentials.database_uri()))
        self.observed = schema.observe(self.connection, self._round.pipeline.schema_name)
        self._obstacles = adoption.obstacles(self.connection, self._desired(self._round.pipeline), self.observed)

    def plan(self, pipeline: Pipeline) -> list[Action]:
        """Return what to create and to alter."""
        return [*self._obstacles] or schema.plan(self._desired(pipeline), self.observed)

    def _desired(self, pipeline: Pipeline) -> schema.DesiredSchema:
        return schema.DesiredSchema(
            name=pipeline.schema_name,
            owner=schema.Owner(uid=pipeline.uid, pipeline=pipeline.key, cluster=self._round.cluster()),
            measurements=tuple(m.name for m in pipeline.spec.measurements),
            chunk_interval=pipeline.chunk_interval,
            live_uids=self._round.claims.uids(),
        )

    def apply(self, actions: Sequence[Action], withheld: Sequence[Entry]) -> list[Action]:
        """Execute in one transaction: all of it happens, or nothing."""
        self._withheld = withheld
        status = self._round.report.status
        status["schema"] = self._round.pipeline.schema_name
        status["timescaledb"] = f"{self.observed.timescaledb_version} ({self.observed.edition})"
        if self.connection is not None:
            schema.apply(self.connection, self._round.pipeline.schema_name, actions)
        return list(actions)

    def tell(self, report: Report) -> None:
        """Say that the schema is as it should be."""
        state = AS_LEFT if self._withheld else "as declared"
        report.true("SchemaReady", f"Schema {self._round.pipeline.schema_name} is {state}.")

    def next_offsets(self) -> dict[int, int]:
        """Return what `schema.next_offsets` does for the topic of readings; nothing while the database is away."""
        if self.connection is None:
            return {}
        topic = self._round.pipeline.spec.kafka.readings.topic
        return schema.next_offsets(self.connection, self._round.pipeline.schema_name, topic)

    def stored(self) -> Stored | None:
        """Return the figures of what is stored; None while the database is away."""
        if known := self._round.known:
            return known.database.stored
        if self.connection is None:
            return None
        return figures.observe(self.connection, self._round.pipeline.schema_name)

    def close(self) -> None:
        """Close the connection; what goes wrong then does not matter any more."""
        with suppress(PipelineError):
            self._open.close()


class AccessStep(Step):
    """The roles that pods connect as, and their logins."""

    name = "access"
    conditions = ("AccessReady",)
    needs = ("SchemaReady",)

    def __init__(self, shared: Round, database: SchemaStep) -> None:
        super().__init__(shared)
        self._database = database
        self._observed: roles.ObservedRoles | None = None
        self._problems: Sequence[PipelineError] = ()

    def observe(self) -> None:
        """Read what roles there are."""
        if known := self._round.known:
            self._observed = known.database.roles
        elif self._database.connection is not None and self._round.access.managed:
            self._observed = roles.observe(self._database.connection, self._round.pipeline.schema_name)

    def plan(self, pipeline: Pipeline) -> list[Action]:
        """Return what to do to roles. Logins change by themselves: the resource says how often."""
        managed = pipeline.spec.timescale.access == "Managed"
        return roles.plan(self._observed) if managed and self._observed is not None else []

    def restless(self) -> bool:
        """Return whether a login is to change, or a Secret of ours differs."""
        return self._round.access.restless(self._observed)

    def apply(self, actions: Sequence[Action], withheld: Sequence[Entry]) -> list[Action]:
        """Bring roles and logins forward; the roles stay as they are while something about them must wait.

        They do also where nothing was planned and no table is new: what changed since is drift for the next reconcile.
        """
        if self._database.connection is None:
            return []
        change_roles = not withheld and bool(actions or self._round.report.actions)
        outcome = self._round.access.converge(self._database.connection, change_roles=change_roles)
        self._problems = outcome.problems
        return [*outcome.actions]

    def tell(self, report: Report) -> None:
        """Say how the pods get in; one that cannot yet leaves the other alone."""
        report.true("AccessReady", self._round.access.description())
        for problem in self._problems:
            report.not_yet("AccessReady", problem.reason, problem.message)
            report.retry |= isinstance(problem, UnavailableError)


class ArmDeletion(Step):
    """Lets the deletion of the resource delete data too: our finalizer is what says that a person approved it."""

    name = "deletion"

    def plan(self, pipeline: Pipeline) -> list[Action]:
        """Return the step that makes deletion dangerous, where it is not yet."""
        if pipeline.spec.deletion_policy != "Delete" or FINALIZER in self._round.pipeline.finalizers:
            return []
        kafka = pipeline.spec.kafka
        what = f"topics {kafka.readings.topic} and {kafka.sensors.topic} and schema {pipeline.schema_name}"
        risk = "then every reading is gone for good. Until this is approved, deleting the resource leaves them."
        return [Action(f"delete {what} when the resource is deleted", risk=risk, dangerous=True)]

    def restless(self) -> bool:
        """Return whether the finalizer is to go."""
        return self._round.pipeline.spec.deletion_policy == "Retain" and FINALIZER in self._round.pipeline.finalizers

    def apply(self, actions: Sequence[Action], withheld: Sequence[Entry]) -> list[Action]:  # noqa: ARG002
        """Set the finalizer; take it away as soon as the resource says Retain, which needs no approval."""
        if self._round.pipeline.spec.deletion_policy == "Retain":
            set_finalizer(self._round.kube, self._round.pipeline, wanted=False)
        elif actions:
            set_finalizer(self._round.kube, self._round.pipeline, wanted=True)
        return list(actions)
