"""Which pipeline has a right to which topic: of two that name the same one, the older keeps it."""

import threading
from dataclasses import dataclass

from sensorlog_operator.models import Pipeline


@dataclass(frozen=True, slots=True)
class Claim:
    """What a pipeline claims. `cluster_id` is Kafka's own, empty until the brokers have been asked."""

    key: str
    uid: str
    created: str
    brokers: frozenset[str]
    topics: frozenset[str]
    cluster_id: str = ""

    @classmethod
    def of(cls, pipeline: Pipeline, *, cluster_id: str = "") -> "Claim":
        """Return the claim of a pipeline."""
        kafka = pipeline.spec.kafka
        return cls(
            key=pipeline.key,
            uid=pipeline.uid,
            created=pipeline.created,
            brokers=frozenset(kafka.bootstrap_servers.split(",")),
            topics=frozenset({kafka.readings.topic, kafka.sensors.topic}),
            cluster_id=cluster_id,
        )

    def contests(self, other: "Claim") -> frozenset[str]:
        """Return the topics that both claim on the same Kafka cluster."""
        same_cluster = bool(self.brokers & other.brokers) or (
            self.cluster_id != "" and self.cluster_id == other.cluster_id
        )
        return self.topics & other.topics if same_cluster else frozenset()

    @property
    def seniority(self) -> tuple[str, str]:
        """Sorts the older pipeline first."""
        return (self.created, self.uid)


class Claims:
    """The claims of all pipelines that exist; safe to share between threads."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}
        self._by_topic: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def put(self, claim: Claim) -> None:
        """Note or renew a claim."""
        with self._lock:
            self._remove(claim.key)
            self._claims[claim.key] = claim
            for topic in claim.topics:
                self._by_topic.setdefault(topic, set()).add(claim.key)

    def forget(self, key: str) -> list[str]:
        """Take a pipeline's claim away; return the keys of those that may have waited for it."""
        with self._lock:
            gone = self._remove(key)
            return [other.key for other in self._rivals(gone) if other.contests(gone)] if gone else []

    def senior(self, claim: Claim) -> tuple[Claim, frozenset[str]] | None:
        """Return an older pipeline that claims one of the same topics, and these topics."""
        with self._lock:
            for other in self._rivals(claim):
                if other.uid != claim.uid and other.seniority < claim.seniority and (shared := other.contests(claim)):
                    return other, shared
        return None

    def _remove(self, key: str) -> Claim | None:
        claim = self._claims.pop(key, None)
        for topic in claim.topics if claim else ():
            keys = self._by_topic[topic]
            keys.discard(key)
            if not keys:
                del self._by_topic[topic]
        return claim

    def _rivals(self, claim: Claim) -> list[Claim]:
        """Return the claims to a topic of the same name, on whatever cluster."""
        keys = {key for topic in claim.topics for key in self._by_topic.get(topic, ())}
        return [self._claims[key] for key in sorted(keys)]

    def uids(self) -> frozenset[str]:
        """Return the uids of all pipelines."""
        with self._lock:
            return frozenset(claim.uid for claim in self._claims.values())

    def keys(self) -> list[str]:
        """Return the keys of all pipelines."""
        with self._lock:
            return list(self._claims)
