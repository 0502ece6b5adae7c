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
class Reading:
    """All meters at one moment."""

    at: float
    cpu_seconds: float
    api: Counter[str]
    """Requests by verb and resource, as the API server counts them."""
    kafka: Counter[str]
    """Requests by operation, as the operator counts them."""
    transactions: int
    sessions: int
    reconciles: int

    def since(self, before: Self) -> "Work":
        """Return what was done between two readings."""
        return Work(
            seconds=self.at - before.at,
            cpu_seconds=self.cpu_seconds - before.cpu_seconds,
            api=self.api - before.api,
            kafka=self.kafka - before.kafka,
            transactions=self.transactions - before.transactions,
            sessions=self.sessions - before.sessions,
            reconciles=self.reconciles - before.reconciles,
        )


@dataclass(frozen=True, slots=True)
class Work:
    """What an operator did in a while."""

    seconds: float
    cpu_seconds: float
    api: Counter[str]
    kafka: Counter[str]
    transactions: int
    sessions: int
    reconciles: int

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

    def read(self) -> Reading:
        """Return what they say now."""
        times = self._process.cpu_times()
        ((transactions, sessions),) = self._database.execute(DATABASE_WORK)
        self.own += 1
        counted = Counter[str]()
        for family in text_string_to_metric_families(self._operator.get("/metrics")[1]):
            for sample in family.samples:
                if sample.name == KAFKA_REQUESTS:
                    counted[f"kafka {sample.labels['operation']}"] += int(sample.value)
                elif sample.name == RECONCILES:
                    counted["reconciles"] += int(sample.value)
        reconciles = counted.pop("reconciles", 0)
        return Reading(
            at=time.monotonic(),
            cpu_seconds=times.user + times.system,
            api=self._api_requests(),
            kafka=Counter({name.removeprefix("kafka "): count for name, count in counted.items()}),
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
