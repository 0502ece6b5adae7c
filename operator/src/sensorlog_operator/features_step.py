"""Retention, compression and rollups as a step of a reconcile. Data flow without them: nothing waits for this step."""

from collections.abc import Sequence

from sensorlog import durations
from sensorlog_operator import features
from sensorlog_operator.conditions import Condition
from sensorlog_operator.errors import PipelineError, Reason, UnavailableError
from sensorlog_operator.gate import Entry, Nature
from sensorlog_operator.models import Pipeline
from sensorlog_operator.plans import Action
from sensorlog_operator.report import Report
from sensorlog_operator.steps import Round, SchemaStep, Step


def desired(pipeline: Pipeline) -> features.DesiredFeatures:
    """Return what a resource asks for."""
    timescale = pipeline.spec.timescale
    return features.DesiredFeatures(
        schema=pipeline.schema_name,
        measurements=tuple(m.name for m in pipeline.spec.measurements),
        retention=durations.parse(timescale.retention) if timescale.retention else None,
        compress_after=durations.parse(timescale.compress_after) if timescale.compress_after else None,
        rollups=tuple(durations.parse(rollup.interval) for rollup in timescale.rollups or ()),
        chunk_interval=pipeline.chunk_interval,
    )


class FeaturesStep(Step):
    """What the database does with old readings; the condition is there only where something is asked for."""

    name = "features"
    needs = ("SchemaReady",)

    def __init__(self, shared: Round, database: SchemaStep) -> None:
        super().__init__(shared)
        self._database = database
        self._desired = desired(shared.pipeline)
        self._observed: features.ObservedFeatures | None = None
        self._problem: PipelineError | None = None
        self._withheld: Sequence[Entry] = ()
        if self._desired.any:
            self.conditions = ("FeaturesReady",)

    def observe(self) -> None:
        """Read the catalogs."""
        if known := self._round.known:
            self._observed = known.database.features
            return
        if self._database.connection is None:
            return
        try:
            self._observed = features.observe(self._database.connection, self._desired)
        except PipelineError as e:
            self._failed(e)

    def plan(self, pipeline: Pipeline) -> list[Action]:
        """Return what to add, to set back and to remove; on the apache edition also which chunks to drop."""
        return [] if self._observed is None else features.plan(desired(pipeline), self._observed)

    def restless(self) -> bool:
        """Return whether there may be more to do than could be planned."""
        return self._observed is None or not self._observed.version

    def apply(self, actions: Sequence[Action], withheld: Sequence[Entry]) -> list[Action]:
        """Do what may be done; what fails is tried again, and keeps nothing else from being done."""
        self._withheld = withheld
        if self._database.connection is None or self._observed is None:
            return []
        report = self._round.report
        if not self._observed.version and self._desired.any:
            # The extension has only just been created: nothing was planned yet.
            report.incomplete = report.retry = True
        if len(self._observed.expired) == features.CHUNKS_AT_ONCE:
            report.retry = True
        done: list[Action] = []
        try:
            for action in actions:
                features.apply(self._database.connection, self._round.pipeline.schema_name, action)
                done.append(action)
        except PipelineError as e:
            self._failed(e)
        return done

    def _failed(self, error: PipelineError) -> None:
        """Note a problem, but not as one that others wait for."""
        self._problem = error
        self._round.report.incomplete = True
        self._round.report.retry |= isinstance(error, UnavailableError)

    def tell(self, report: Report) -> None:
        """Say what is in force, and what is asked for in vain."""
        if self._problem is not None:
            report.conditions["FeaturesReady"] = Condition.of("FeaturesReady", self._problem)
        elif not self._desired.any or self._observed is None:
            return
        elif not self._observed.version:
            report.not_yet("FeaturesReady", Reason.PROGRESSING, "The extension has just been created.")
        elif self._withheld:
            report.not_yet("FeaturesReady", *_why_withheld(self._withheld))
        elif messages := features.lacking(self._desired, self._observed):
            report.not_yet("FeaturesReady", Reason.EDITION_LACKS_FEATURE, " ".join(messages))
        else:
            report.true("FeaturesReady", features.summary(self._desired))


def _why_withheld(entries: Sequence[Entry]) -> tuple[Reason, str]:
    left_to_do = "; ".join(entry.action.summary for entry in entries)
    if any(entry.nature is Nature.DRIFT for entry in entries):
        return Reason.DRIFT_FOUND, f"Left as it is, because spec.driftPolicy is Report: {left_to_do}."
    return Reason.APPROVAL_PENDING, f"Not all is in force, because the plan waits for approval: {left_to_do}."
