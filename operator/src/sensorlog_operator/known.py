"""What a survey of many pipelines saw of one of them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from sensorlog_operator.access import Access
from sensorlog_operator.backlog import Backlog
from sensorlog_operator.brokers import Options
from sensorlog_operator.features import ObservedFeatures
from sensorlog_operator.figures import Stored
from sensorlog_operator.models import Pipeline
from sensorlog_operator.roles import ObservedRoles
from sensorlog_operator.schema import ObservedSchema
from sensorlog_operator.secrets import Credentials
from sensorlog_operator.topics import ObservedTopic

GOOD_SECONDS = 30.0
"""How long what was seen is good for a glance."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A pipeline to look at, and what it takes to do so."""

    pipeline: Pipeline
    credentials: Credentials
    access: Access
    database: str
    """The URI that the operator connects with."""
    brokers: Options
    """The options that it connects with."""


@dataclass(frozen=True, slots=True)
class InDatabase:
    """What a database has of a pipeline. `roles` is None where they are not ours to look after."""

    schema: ObservedSchema
    features: ObservedFeatures
    roles: ObservedRoles | None
    stored: Stored
    next_offsets: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Known:
    """All that was seen of a pipeline at `at`, a time of the monotonic clock."""

    subject: Subject
    topics: Mapping[str, ObservedTopic]
    backlog: Backlog
    database: InDatabase
    at: float

    @property
    def is_good(self) -> bool:
        """Whether it is young enough for a glance."""
        return time.monotonic() - self.at < GOOD_SECONDS
