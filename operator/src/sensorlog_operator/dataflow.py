"""The condition DataFlowing: which canaries a pipeline wants, and what came of the last one."""

from sensorlog import durations
from sensorlog_operator import manifests
from sensorlog_operator.canaries import Canaries, Route
from sensorlog_operator.errors import PipelineError, Reason
from sensorlog_operator.models import Pipeline
from sensorlog_operator.report import Report
from sensorlog_operator.secrets import Credentials

NOT_ADMITTED = (
    "The query service admits callers by {what}, which the operator has not: take spec.canary away, or watch the"
    " metrics of ingest and query instead."
)


def tell(canaries: Canaries, pipeline: Pipeline, credentials: Credentials, report: Report) -> None:
    """Have canaries sent as the resource says, and note in the report what came of the last one."""
    if pipeline.spec.canary is None:
        canaries.keep(pipeline.key, None)
        return
    if barrier := _barrier(pipeline):
        canaries.keep(pipeline.key, None)
        report.not_yet("DataFlowing", *barrier)
        return
    partitions = report.status.get("partitions")
    if not partitions or not report.holds("QueryReady"):
        report.not_yet("DataFlowing", Reason.WAITING, "Waits for TopicReady and QueryReady.")
        return
    try:
        outcome = canaries.keep(pipeline.key, _route(pipeline, credentials, partitions))
    except PipelineError as e:
        report.not_yet("DataFlowing", e.reason, e.message)
        return
    if outcome is None:
        report.not_yet("DataFlowing", Reason.PROGRESSING, "The first canary is on its way.")
        return
    report.conditions["DataFlowing"] = outcome.condition()


def _barrier(pipeline: Pipeline) -> tuple[Reason, str] | None:
    """Return why no canary can be sent as long as the resource is as it is."""
    query = pipeline.spec.query
    if pipeline.spec.paused:
        return Reason.PAUSED, "spec.paused is true: nothing flows."
    if query.authentication is not None:
        return Reason.CANARY_NOT_ADMITTED, NOT_ADMITTED.format(what="token (spec.query.authentication)")
    if query.tls is not None and query.tls.client_auth == "Require":
        return Reason.CANARY_NOT_ADMITTED, NOT_ADMITTED.format(what="certificate (spec.query.tls.clientAuth)")
    return None


def _route(pipeline: Pipeline, credentials: Credentials, partitions: int) -> Route:
    assert pipeline.spec.canary is not None  # noqa: S101 -- for the type checker; `tell` has looked
    tls = pipeline.spec.query.tls is not None
    return Route(
        kafka_options=credentials.kafka_options(),
        topic=pipeline.spec.kafka.readings.topic,
        partitions=partitions,
        endpoint=manifests.endpoint(pipeline),
        tls=tls,
        authority=credentials.query_authority() if tls else None,
        interval=durations.parse(pipeline.spec.canary.interval).total_seconds(),
    )
