"""What is counted of an operator at work: its processor and memory, and the calls that the others got from it."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Self

import psutil
from prometheus_client.parser import text_string_to_metric_families

from support.apiserver import ApiServer
from support.database import Database
from support.processes import ServiceProcess

RESOURCES = frozenset(
    {
        "sensorlogpipelines",
        "secrets",
        "configmaps",
        "services",
        "serviceaccounts",
        "deployments",
        "poddisruptionbudgets",
        "networkpolicies",
        "horizontalpodautoscalers",
        "scaledobjects",
        "triggerauthentications",
        "pods",
        "events",
        "namespaces",
        "clusterrolebindings",
    }
)
"""What the operator asks for. The API server's calls to itself are about others, or by nobody in a steady state."""

KAFKA_REQUESTS = "sensorlog_operator_kafka_requests_total"
RECONCILES = "sensorlog_operator_reconciles_total"

# Each statement is a transaction of its own where nothing is changed.
DATABASE_WORK = """
SELECT xact_commit + xact_rollback, sessions FROM pg_stat_database WHERE datname = current_database()
"""


@dataclass(frozen=True, slots=True)
class Work:
    """What an operator has done, since some moment."""

    seconds: float
    cpu_seconds: float
    api: Counter[str]
    """Requests by verb and resource, as the API server counts them."""
    kafka: Counter[str]
    """Requests by operation, as the operator counts them."""
    transactions: int
    sessions: int
    reconciles: int

    def since(self, before: Self) -> "Work":
        """Return what was done between two readings of the meters."""
        each = ((getattr(self, name), getattr(before, name)) for name in self.__slots__)
        return Work(*(now - then for now, then in each))

    @property
    def cores(self) -> float:
        """Processor time per time."""
        return self.cpu_seconds / self.seconds


class Meters:
    """The meters of one operator. The benchmark's own statements are told to `own`, to be left out."""

    def __init__(self, operator: ServiceProcess, server: ApiServer, database: Database) -> None:
        self._operator = operator
        self._process = psutil.Process(operator.process.pid)
        self._server = server
        self._database = database
        self.own = 0

    def read(self) -> Work:
        """Return what they say now, since some moment that is the same each time."""
        times = self._process.cpu_times()
        ((transactions, sessions),) = self._database.execute(DATABASE_WORK)
        self.own += 1
        kafka, reconciles = Counter[str](), 0
        for family in text_string_to_metric_families(self._operator.get("/metrics")[1]):
            for sample in family.samples:
                if sample.name == KAFKA_REQUESTS:
                    kafka[sample.labels["operation"]] += int(sample.value)
                elif sample.name == RECONCILES:
                    reconciles += int(sample.value)
        return Work(
            seconds=time.monotonic(),
            cpu_seconds=times.user + times.system,
            api=self._api_requests(),
            kafka=kafka,
            transactions=transactions - self.own,
            sessions=sessions - self.own,
            reconciles=reconciles,
        )

    @property
    def resident(self) -> int:
        """Bytes of memory now."""
        return int(self._process.memory_info().rss)

    def _api_requests(self) -> Counter[str]:
        found = Counter[str]()
        for family in text_string_to_metric_families(self._server.text("GET", "/metrics")):
            if family.name != "apiserver_request":
                continue
            for sample in family.samples:
                labels = sample.labels
                if sample.name == "apiserver_request_total" and labels["resource"] in RESOURCES:
                    resource = "/".join(filter(None, (labels["resource"], labels["subresource"])))
                    found[f"{labels['verb']} {resource}"] += int(sample.value)
        return found
