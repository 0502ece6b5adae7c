"""Conditions and status: what people see."""

from sensorlog_operator import conditions
from sensorlog_operator.conditions import Condition
from sensorlog_operator.errors import Reason
from support.resources import a_pipeline

TOPIC = Condition("TopicReady", status=True, reason=Reason.READY, message="fine")
WAITING = Condition("IngestReady", status=False, reason=Reason.WAITING, message="waits")
BROKEN = Condition("SchemaReady", status=False, reason=Reason.DATABASE_UNAVAILABLE, message="gone")


def test_ready_holds_when_every_part_does() -> None:
    """All parts, or not ready."""
    assert conditions.ready([TOPIC]).status is True


def test_ready_says_the_cause_before_its_consequences() -> None:
    """What warns comes before what only waits for it."""
    summed = conditions.ready([TOPIC, WAITING, BROKEN])
    assert (summed.reason, summed.message) == (Reason.DATABASE_UNAVAILABLE, "SchemaReady: gone")


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    """LastTransitionTime says since when."""
    pipeline = a_pipeline()
    status = conditions.build_status(pipeline, [TOPIC], {})
    status["conditions"][0]["lastTransitionTime"] = "2020-01-01T00:00:00Z"
    again = pipeline.model_copy(update={"status": status})
    assert conditions.build_status(again, [TOPIC], {}) == status
    turned = conditions.build_status(
        again, [Condition("TopicReady", status=False, reason=Reason.WAITING, message="")], {}
    )
    assert turned["conditions"][0]["lastTransitionTime"] != "2020-01-01T00:00:00Z"


def test_figures_stay_as_last_seen_while_the_world_is_away() -> None:
    """An outage of Kafka does not blank the topic column."""
    pipeline = a_pipeline().model_copy(update={"status": {"topic": "t (6)", "lag": 3}})
    status = conditions.build_status(pipeline, [TOPIC], {"lag": None})
    assert (status["topic"], status["lag"]) == ("t (6)", 3)


def test_only_what_turned_is_worth_an_event() -> None:
    """A message that changes alone is not."""
    pipeline = a_pipeline()
    status = conditions.build_status(pipeline, [TOPIC, WAITING], {})
    assert conditions.changed([TOPIC, WAITING], {}) == [TOPIC, WAITING]
    assert conditions.changed([TOPIC, WAITING], status) == []
    assert conditions.changed([TOPIC, BROKEN], status) == [BROKEN]


def test_progress_is_calm_and_trouble_warns() -> None:
    """Events of trouble are Warnings."""
    assert BROKEN.warns
    assert not WAITING.warns
    assert not TOPIC.warns


def test_what_holds_and_wastes_warns_without_making_anything_unready() -> None:
    """Pods beyond the partitions stand idle, and data flows."""
    idle = Condition("IngestReady", status=True, reason=Reason.PODS_IDLE, message="2 have nothing to read")
    assert idle.warns
    assert conditions.ready([TOPIC, idle]).status is True
    ready = Condition("IngestReady", status=True, reason=Reason.READY, message="4/4 pods ready.")
    status = conditions.build_status(a_pipeline(), [ready], {})
    assert conditions.changed([idle], status) == [idle]
