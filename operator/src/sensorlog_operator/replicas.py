"""How many pods a component is to have: a number, or None where a scaler decides."""

from dataclasses import dataclass

from sensorlog_operator.models import Pipeline
from sensorlog_operator.spec import IngestAutoscaling


@dataclass(frozen=True, slots=True)
class Bounds:
    """Fewest and most pods of a component."""

    least: int
    most: int

    def __str__(self) -> str:
        return f"{self.least} to {self.most} pods"


def ingest_bounds(pipeline: Pipeline, wanted: IngestAutoscaling) -> Bounds:
    """Return between what ingest scales; never above the partitions: a pod without one has nothing to do."""
    most = min(wanted.max_replicas, pipeline.spec.kafka.readings.partitions)
    return Bounds(min(wanted.min_replicas, most), most)


def ingest_replicas(pipeline: Pipeline, *, keda: bool) -> int | None:
    """Return how many ingest pods to have. `keda` is whether the cluster has KEDA; without it minReplicas hold."""
    wanted = pipeline.spec.ingest.autoscaling
    if pipeline.spec.paused:
        return 0
    if wanted is None:
        return pipeline.spec.ingest.replicas
    # Nobody would wake ingest from 0 pods.
    return None if keda else max(1, ingest_bounds(pipeline, wanted).least)


def query_replicas(pipeline: Pipeline) -> int | None:
    """Return how many query pods to have."""
    return None if pipeline.spec.query.autoscaling else pipeline.spec.query.replicas
