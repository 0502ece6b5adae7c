"""Looking at many pipelines at once: a few requests about all of them, in place of a few about each.

What is seen is for a glance: enough to find that nothing is to be done. It is used once, soon, and only where nothing
was heard of the pipeline meanwhile. One of which something cannot be seen is left out, and is looked at by itself.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import structlog

from sensorlog_operator import backlog, brokers, connections, features, features_step, figures, roles, schema, topics
from sensorlog_operator.access import Access
from sensorlog_operator.backlog import Backlog, Question
from sensorlog_operator.errors import PipelineError, Reason
from sensorlog_operator.known import InDatabase, Known, Subject
from sensorlog_operator.kube import PIPELINE
from sensorlog_operator.mirror import Mirror
from sensorlog_operator.models import Pipeline
from sensorlog_operator.secrets import Credentials
from sensorlog_operator.topics import ObservedTopic

AT_ONCE = 8
"""Databases, or clusters of brokers, that are asked at the same time."""

AWAY = frozenset({Reason.KAFKA_UNAVAILABLE, Reason.DATABASE_UNAVAILABLE})
"""Why it is of no use to ask about fewer: nobody answers. A locked table is one pipeline's affair all the same."""

T = TypeVar("T")
V = TypeVar("V")

log = structlog.get_logger(__name__)


class Surveys:
    """What was seen of pipelines and not used yet; safe to share between threads."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self._lock = threading.Lock()
        self._looking: set[str] = set()
        self._known: dict[str, Known] = {}

    def look(self, keys: Collection[str]) -> None:
        """Look at pipelines. Whatever cannot be seen is a pipeline's own affair, and no error here."""
        with self._lock:
            self._looking = set(keys)
        found = survey(self.mirror, keys)
        with self._lock:
            good = {key: known for key, known in self._known.items() if known.is_good}
            self._known = good | {key: known for key, known in found.items() if key in self._looking}
            self._looking = set()

    def heard(self, key: str) -> None:
        """Forget what was seen of a pipeline, or is being looked at: it has changed since, or may have."""
        with self._lock:
            self._looking.discard(key)
            self._known.pop(key, None)

    def take(self, key: str) -> Known | None:
        """Return what was seen of a pipeline, once; None where nothing is known that is still good."""
        with self._lock:
            known = self._known.pop(key, None)
        return known if known and known.is_good else None


def survey(mirror: Mirror, keys: Iterable[str]) -> dict[str, Known]:
    """Return what can be seen of pipelines, with a few requests to each cluster of brokers and each database."""
    at = time.monotonic()
    if not mirror.is_current:
        return {}
    subjects = {key: found for key in keys if (found := _subject(mirror, key))}
    databases = _grouped(subjects.values(), lambda subject: subject.database)
    in_databases = _all_of([partial(_in_database, uri, group) for uri, group in databases.items()])
    clusters = _grouped([subjects[key] for key in in_databases], lambda subject: subject.brokers)
    in_kafka = _all_of([partial(_in_kafka, dict(options), group, in_databases) for options, group in clusters.items()])
    return {
        key: Known(subjects[key], observed, behind, in_databases[key], at)
        for key, (observed, behind) in in_kafka.items()
    }


def _subject(mirror: Mirror, key: str) -> Subject | None:
    namespace, _, name = key.partition("/")
    try:
        body = mirror.get(PIPELINE, namespace, name)
        if body is None:
            return None
        pipeline = Pipeline.from_body(body)
        if not _rests(pipeline):
            return None
        credentials = Credentials(mirror, pipeline)
        options = brokers.hashable(credentials.kafka_options())
        access = Access(mirror, pipeline, credentials)
        return Subject(pipeline, credentials, access, credentials.database_uri(), options)
    except PipelineError:
        return None  # the pipeline's own reconcile tells


def _rests(pipeline: Pipeline) -> bool:
    """Return whether all was well at the last look: else a glance is not enough, or would wait for what is away."""
    held = {condition["type"] for condition in pipeline.status.get("conditions", ()) if condition["status"] == "True"}
    is_seen = pipeline.status.get("observedGeneration") == pipeline.generation
    return is_seen and "Ready" in held and not pipeline.deleting


def _in_database(uri: str, subjects: Sequence[Subject]) -> dict[str, InDatabase]:
    by_schema = {subject.pipeline.schema_name: subject for subject in subjects}
    with connections.connect(uri) as connection:
        connections.hurry(connection)
        schemas = divided(list(by_schema), lambda names: schema.observe_each(connection, names))
        whole = [by_schema[name] for name, observed in schemas.items() if observed.is_whole]
        desired = {one.pipeline.schema_name: features_step.desired(one.pipeline) for one in whole}
        managed = [one.pipeline.schema_name for one in whole if one.access.managed]
        topic_of = {one.pipeline.schema_name: one.pipeline.spec.kafka.readings.topic for one in whole}
        seen = divided(list(desired), lambda names: features.observe_each(connection, [desired[n] for n in names]))
        seen_roles = divided(managed, lambda names: roles.observe_each(connection, names))
        stored = divided(list(desired), lambda names: figures.observe_each(connection, names))
        offsets = divided(
            list(desired), lambda names: schema.next_offsets_of_each(connection, {n: topic_of[n] for n in names})
        )
    complete = seen.keys() & stored.keys() & offsets.keys() & (seen_roles.keys() | (desired.keys() - set(managed)))
    return {
        by_schema[name].pipeline.key: InDatabase(
            schemas[name], seen[name], seen_roles.get(name), stored[name], offsets[name]
        )
        for name in complete
    }


def _in_kafka(
    options: Mapping[str, str], subjects: Sequence[Subject], stored: Mapping[str, InDatabase]
) -> dict[str, tuple[dict[str, ObservedTopic], Backlog]]:
    kafka = brokers.admin(options)
    names = {topic.name for subject in subjects for topic in topics.desired(subject.pipeline)}
    observed = divided(sorted(names), lambda some: topics.observe(kafka, some))
    declared = {topic.name: topic.config for subject in subjects for topic in topics.desired(subject.pipeline)}
    observed = {name: found.only(declared[name]) for name, found in observed.items()}
    questions: dict[str, Question] = {}
    for subject in subjects:
        readings = subject.pipeline.spec.kafka.readings
        if found := observed.get(readings.topic):
            offsets = stored[subject.pipeline.key].next_offsets
            retention = topics.retention(readings, found)
            questions[readings.topic] = Question(readings.topic, found.partitions, offsets, retention)
    behind = divided(list(questions), lambda some: backlog.observe_each(kafka, [questions[name] for name in some]))
    return {
        subject.pipeline.key: (
            {topic.name: observed[topic.name] for topic in topics.desired(subject.pipeline) if topic.name in observed},
            behind[subject.pipeline.spec.kafka.readings.topic],
        )
        for subject in subjects
        if subject.pipeline.spec.kafka.readings.topic in behind
    }


def divided(items: Sequence[str], look: Callable[[Sequence[str]], Mapping[str, V]]) -> dict[str, V]:
    """Return what `look` says of all items; where one of them makes it fail, of the others.

    Raises UnavailableError where it is not one of them, but nobody answers.
    """
    if not items:
        return {}
    try:
        return dict(look(items))
    except PipelineError as e:
        if e.reason in AWAY and not connections.is_held_up(e):
            raise
        if len(items) == 1:
            return {}
    middle = len(items) // 2
    return divided(items[:middle], look) | divided(items[middle:], look)


def _all_of(looks: Sequence[Callable[[], dict[str, V]]]) -> dict[str, V]:
    """Return what all of these see; a few look at the same time, because each may have to wait."""
    if len(looks) == 1:
        return _unless_away(looks[0])
    with ThreadPoolExecutor(AT_ONCE, "survey") as pool:
        return {key: seen for found in pool.map(_unless_away, looks) for key, seen in found.items()}


def _unless_away(look: Callable[[], dict[str, V]]) -> dict[str, V]:
    try:
        return look()
    except PipelineError as e:
        log.info("a survey saw nothing", error=e.message)
        return {}


def _grouped(items: Iterable[T], by: Callable[[T], V]) -> dict[V, list[T]]:
    found: dict[V, list[T]] = {}
    for item in items:
        found.setdefault(by(item), []).append(item)
    return found
