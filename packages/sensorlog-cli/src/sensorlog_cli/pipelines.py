"""What the command line needs to know of a SensorLogPipeline resource, read from its plain dict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sensorlog.measurements import DEFAULT_MEASUREMENTS, Measurement
from sensorlog.timestamps import TimestampUnit


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline as a client of it sees it."""

    namespace: str
    name: str
    readings_topic: str
    sensors_topic: str
    timestamp_unit: TimestampUnit
    measurements: tuple[Measurement, ...]

    @property
    def query_service(self) -> str:
        """Name of the Service that answers gRPC."""
        return f"{self.name}-query"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def from_resource(resource: Mapping[str, Any]) -> Pipeline:
    """Return the pipeline that `resource` declares; what it leaves out is the CRD's default."""
    spec = resource.get("spec", {})
    kafka = spec.get("kafka", {})
    return Pipeline(
        namespace=resource["metadata"]["namespace"],
        name=resource["metadata"]["name"],
        readings_topic=kafka.get("readings", {}).get("topic", "logger.sensor.ts"),
        sensors_topic=kafka.get("sensors", {}).get("topic", "logger.sensor.instance"),
        timestamp_unit=spec.get("timestampUnit", "s"),
        measurements=tuple(map(_measurement, spec.get("measurements", ()))) or DEFAULT_MEASUREMENTS,
    )


def _measurement(declared: Mapping[str, Any]) -> Measurement:
    # Only the fields known here: a newer operator may declare more, and the command line need not refuse them.
    return Measurement(**{key: declared[key] for key in ("name", "unit", "min", "max") if key in declared})
