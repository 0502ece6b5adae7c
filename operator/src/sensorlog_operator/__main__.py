"""`python -m sensorlog_operator`: watch SensorLogPipelines and keep them running."""

import argparse
import socket
import sys
from collections.abc import Sequence
from typing import Any, cast

import kopf
import structlog
from pydantic import ValidationError

from sensorlog.telemetry import Health, TelemetryServer, configure_logging
from sensorlog_operator import kube as kubernetes_api
from sensorlog_operator.claims import Claim, Claims
from sensorlog_operator.controller import STALLED_LIMIT, Controller
from sensorlog_operator.errors import NeedsChangeError, PipelineError, Reason, UnavailableError
from sensorlog_operator.events import Events
from sensorlog_operator.handlers import Watcher, Watches, register
from sensorlog_operator.mirror import Listeners, Mirror
from sensorlog_operator.models import Pipeline
from sensorlog_operator.preview import PreviewServer
from sensorlog_operator.reconcile import Reconciler
from sensorlog_operator.reviewers import Reviewers
from sensorlog_operator.settings import Settings
from sensorlog_operator.surveys import Surveys
from sensorlog_operator.workqueue import WorkQueue

log = structlog.get_logger(__name__)


def main() -> int:
    """Run until SIGTERM; return the exit code."""
    _parse_arguments()
    try:
        settings = Settings()
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        sys.stderr.write(f"SENSORLOG_{'_'.join(map(str, first['loc'])).upper()}: {first['msg']}\n")
        return 2
    configure_logging("operator", level=settings.log_level, log_format=settings.log_format)
    return run(settings)


def run(settings: Settings) -> int:
    """Run with these settings until SIGTERM; return the exit code."""
    instance = socket.gethostname()
    kube = kubernetes_api.connect()
    queue = WorkQueue(limit=settings.workers, stalled_limit=STALLED_LIMIT)
    claims, health, watches = Claims(), Health(), Watches()

    def changed(key: str) -> None:
        controller.changed(key)

    watcher = Watcher(changed, claims)
    mirror = Mirror(
        kube, settings.watch_namespaces, settings.watch_silence_seconds, Listeners(watcher.child, watcher.secret)
    )
    surveys = Surveys(mirror)
    reconciler = Reconciler(kube, settings, claims, Events(kube, instance), requeue=queue.add, surveys=surveys)
    controller = Controller(queue, reconciler, claims, surveys, settings)
    health.liveness += [controller.stuck, watches.problem, mirror.problem]
    health.readiness += [controller.not_started, watches.not_begun]
    telemetry = TelemetryServer(settings.telemetry_port, health)
    previews = PreviewServer(settings.plan_port, reconciler.plan) if settings.plan_port else None
    registry = kopf.OperatorRegistry()

    def on_startup() -> None:
        load_claims(kube, claims, settings.watch_namespaces)
        look_at_reviewers(kube, settings, queue)
        mirror.start()
        controller.start()
        if previews:
            previews.start()

    register(registry, watcher, watches, settings, on_startup)
    telemetry.start()
    try:
        # Without an identity kopf asks for the user's name, which a container's numeric user has not.
        kopf.run(
            registry=registry,
            standalone=True,
            clusterwide=not settings.watch_namespaces,
            namespaces=settings.watch_namespaces,
            identity=cast("Any", instance),
        )
    except Exception:
        if _knows_pipelines(kube):
            raise
        log.error("somebody deleted the CRD; the operator ends, to start anew and wait for it")  # noqa: TRY400
        return 1
    finally:
        mirror.stop()
        controller.stop()
        telemetry.stop()
        if previews:
            previews.stop()
    return 0


def _knows_pipelines(kube: kubernetes_api.Kube) -> bool:
    """Return whether the CRD is there, as far as is known: kopf gives up on a kind that is not served any more."""
    try:
        return kube.serves(kubernetes_api.PIPELINE.api)
    except PipelineError:
        return True


def load_claims(kube: kubernetes_api.Kube, claims: Claims, namespaces: Sequence[str]) -> None:
    """Note who claims what before the first reconcile, so that none decides without knowing its seniors.

    UnavailableError while the cluster has no pipelines to list.
    """
    if not kube.serves(kubernetes_api.PIPELINE.api):
        raise UnavailableError(
            Reason.KUBERNETES_UNAVAILABLE,
            "The cluster does not know SensorLogPipelines: install the CRD. The operator waits for it.",
        )
    for namespace in namespaces or (None,):
        for body in kube.list(kubernetes_api.PIPELINE, namespace):
            try:
                claims.put(Claim.of(Pipeline.from_body(body)))
            except NeedsChangeError as e:
                log.warning("resource does not fit the model", pipeline=body["metadata"]["name"], error=e.message)


def look_at_reviewers(kube: kubernetes_api.Kube, settings: Settings, queue: WorkQueue) -> None:
    """Queue the pipelines whose pods may review tokens: one deleted while no operator ran loses the right."""
    try:
        for key in Reviewers(kube, settings.token_reviewers).pipelines():
            queue.add(key)
    except NeedsChangeError as e:
        log.warning("cannot tell who reviews tokens", error=e.message)


def _parse_arguments() -> None:
    lines = [f"  SENSORLOG_{name.upper():<22} {info.description}" for name, info in Settings.model_fields.items()]
    argparse.ArgumentParser(
        prog="python -m sensorlog_operator",
        description="The SensorLog operator. It is configured by environment variables:",
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PipelineError as error:
        sys.exit(f"sensorlog-operator: {error.message}")
