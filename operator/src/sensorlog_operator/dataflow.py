"""The condition DataFlowing: which canaries a pipeline wants, and what came of the last one."""

from sensorlog import durations
from sensorlog_operator import manifests
from sensorlog_operator.canaries import Canaries
from sensorlog_operator.canary_probe import ClientCertificate, Endpoint, Route, Tls
from sensorlog_operator.errors import PipelineError, Reason
from sensorlog_operator.models import Pipeline
from sensorlog_operator.report import Report
from sensorlog_operator.secrets import Credentials


def tell(canaries: Canaries, pipeline: Pipeline, credentials: Credentials, report: Report) -> None:
    """Have canaries sent as the resource says, and note in the report what came of the last one."""
    if pipeline.spec.canary is None:
        canaries.keep(pipeline.key, None)
        return
    if pipeline.spec.paused:
        canaries.keep(pipeline.key, None)
        report.not_yet("DataFlowing", Reason.PAUSED, "spec.paused is true: nothing flows.")
        return
    if not report.status.get("partitions") or not report.holds("QueryReady"):
        report.not_yet("DataFlowing", Reason.WAITING, "Waits for TopicReady and QueryReady.")
        return
    try:
        outcome = canaries.keep(pipeline.key, _route(pipeline, credentials))
    except PipelineError as e:
        report.not_yet("DataFlowing", e.reason, e.message)
        return
    if outcome is None:
        report.not_yet("DataFlowing", Reason.PROGRESSING, "The first canary is on its way.")
        return
    report.conditions["DataFlowing"] = outcome.condition()


def _route(pipeline: Pipeline, credentials: Credentials) -> Route:
    assert pipeline.spec.canary is not None  # noqa: S101 -- for the type checker; `tell` has looked
    return Route(
        kafka_options=credentials.kafka_options(),
        topic=pipeline.spec.kafka.readings.topic,
        endpoint=_endpoint(pipeline, credentials),
        interval=durations.parse(pipeline.spec.canary.interval).total_seconds(),
    )


def _endpoint(pipeline: Pipeline, credentials: Credentials) -> Endpoint:
    address, query = manifests.endpoint(pipeline), pipeline.spec.query
    if query.tls is None:
        return Endpoint(address)
    client = credentials.canary_certificate()
    return Endpoint(
        address,
        Tls(credentials.query_authority(), ClientCertificate(*client) if client else None),
        manifests.audience(pipeline) if query.authentication else None,
    )
