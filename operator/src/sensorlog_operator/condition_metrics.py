"""The conditions of all pipelines as a metric, for alerts."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sensorlog_operator.conditions import Condition


class ConditionMetrics(Collector):
    """Tells of each pipeline which of its conditions somebody should look at. Safe to share between threads."""

    def __init__(self) -> None:
        self._warns: dict[str, Mapping[str, bool]] = {}

    def note(self, pipeline: str, conditions: Iterable[Condition]) -> None:
        """Take the conditions of a pipeline for what it has now."""
        self._warns[pipeline] = {condition.type: condition.warns for condition in conditions}

    def forget(self, pipeline: str) -> None:
        """Tell nothing of a pipeline any more."""
        self._warns.pop(pipeline, None)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metric."""
        family = GaugeMetricFamily(
            "sensorlog_operator_condition_warns",
            "1 where somebody should look at a pipeline's condition, else 0; waiting and pausing need nobody.",
            labels=["pipeline", "type"],
        )
        for pipeline, warns in list(self._warns.items()):
            for kind, value in warns.items():
                family.add_metric([pipeline, kind], int(value))
        yield family


CONDITION_METRICS = ConditionMetrics()
REGISTRY.register(CONDITION_METRICS)
