"""`python -m sensorlog_operator.uninstall [NAMESPACE...]`: let go of every pipeline, since the operator is gone.

The chart runs it after `helm uninstall` took the operator away. A pipeline whose approved deletion takes its data along
has our finalizer, which nobody is left to answer for: deleting it, its namespace or the CRD would hang for ever.
Without it a deletion leaves topics and schema, as with Retain. An operator installed again sets it anew, because
the approval is still on the resource.
"""

import argparse
import sys
from collections.abc import Sequence

import structlog

from sensorlog.telemetry import configure_logging
from sensorlog_operator import kube as kubernetes_api
from sensorlog_operator.deletion import FINALIZER, set_finalizer
from sensorlog_operator.errors import PipelineError
from sensorlog_operator.events import Events
from sensorlog_operator.kube import PIPELINE, Kube
from sensorlog_operator.models import Resource

EVENT_REASON = "DataStays"
LEFT = (
    "The operator was uninstalled and no longer holds this resource: deleting it leaves its topics and its schema. An"
    " operator that is installed again deletes them with it, as was approved."
)

log = structlog.get_logger(__name__)


def main() -> int:
    """Let go of the pipelines of the namespaces that are named, of all where none is; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sensorlog_operator.uninstall", description="Let go of pipelines.")
    parser.add_argument("namespaces", nargs="*", metavar="NAMESPACE", help="default every namespace")
    configure_logging("operator", level="INFO", log_format="json")
    return 1 if let_go(kubernetes_api.connect(), parser.parse_args().namespaces) else 0


def let_go(kube: Kube, namespaces: Sequence[str]) -> int:
    """Take our finalizer from every pipeline; return how many pipelines and namespaces that failed for.

    UnavailableError where the API server does not answer. A cluster without the CRD has no pipelines.
    """
    if not kube.serves(PIPELINE.api):
        return 0
    return sum(_let_go_in(kube, namespace) for namespace in namespaces or (None,))


def _let_go_in(kube: Kube, namespace: str | None) -> int:
    try:
        found = [Resource.from_body(body) for body in kube.list(PIPELINE, namespace)]
    except PipelineError as e:
        log.error("namespace not looked into", namespace=namespace, error=e.message)  # noqa: TRY400 -- it says all
        return 1
    return sum(not _release(kube, resource) for resource in found if FINALIZER in resource.finalizers)


def _release(kube: Kube, resource: Resource) -> bool:
    try:
        set_finalizer(kube, resource, wanted=False)
    except PipelineError as e:
        log.error("finalizer not taken away", pipeline=resource.key, error=e.message)  # noqa: TRY400 -- it says all
        return False
    log.info("let go; topics and schema stay", pipeline=resource.key)
    if not resource.deleting:
        Events(kube, "uninstall").emit(resource, EVENT_REASON, LEFT)
    return True


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PipelineError as error:
        sys.exit(f"sensorlog-operator: {error.message}")
