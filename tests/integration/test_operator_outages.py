"""Kafka or the database goes away after any request of a reconcile, and what the operator makes of it."""

from collections.abc import Callable, Iterator
from http import HTTPStatus

import pytest

from support.apiserver import ApiServer
from support.database import Database
from support.kafka import KafkaBroker
from support.linked import LinkedPipeline, LinkedPipelines, Surroundings
from support.links import Link
from support.operated import USER, login, start_operator
from support.processes import ServiceProcess
from support.waiting import wait_for_value, wait_until
from support.worlds import schema_name

pytestmark = pytest.mark.integration

WORKERS = 4
PROMPTLY_SECONDS = 20
"""What a pipeline takes on a busy machine, beside others; waiting for one that is broken takes ten seconds each."""

RECOVERY_SECONDS = 120
"""The longest delay between two attempts, and what all of them take."""

FEWEST_REQUESTS = 10
"""Of a provisioning, to each: fewer, and the links do not count what they should."""

FEWEST_CHILDREN = 5

Which = Callable[[LinkedPipeline], Link]


@pytest.fixture(scope="module")
def operator(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Yield the operator, watching every namespace."""
    process = start_operator(api_server, tmp_path_factory.mktemp("operator"), SENSORLOG_WORKERS=str(WORKERS))
    yield process.wait_ready()
    process.clean_up()


@pytest.fixture
def pipelines(
    api_server: ApiServer, broker: KafkaBroker, database: Database, operator: ServiceProcess
) -> Iterator[LinkedPipelines]:
    """Yield a factory of pipelines; in the end the operator must run as it did, and know of no bug."""
    with LinkedPipelines(Surroundings(api_server, broker, database, login(database))) as made:
        yield made
        assert operator.is_running
        assert operator.get("/livez")[0] == 200
        assert "bug of the operator" not in operator.logs


EITHER = pytest.mark.parametrize(
    ("link", "reason"),
    [
        pytest.param(lambda one: one.kafka, "KafkaUnavailable", id="kafka"),
        pytest.param(lambda one: one.postgres, "DatabaseUnavailable", id="database"),
    ],
)


@EITHER
def test_what_goes_away_after_any_request_is_told_and_made_up_for(
    pipelines: LinkedPipelines, link: Which, reason: str
) -> None:
    """Each request was done and its answer lost: nothing is done twice, and in the end all is as without the loss."""
    undisturbed = pipelines.make()
    undisturbed.wait_provisioned()
    requests, expected = link(undisturbed).requests, undisturbed.world()
    assert requests > FEWEST_REQUESTS
    disturbed = [pipelines.prepare() for _ in range(requests)]
    for number, one in enumerate(disturbed, 1):
        link(one).cut_after(number)
        one.pipeline.create()
    for number, one in enumerate(disturbed, 1):
        assert link(one).lost.wait(60), f"there was no request {number}"
        one.wait_reason(reason)
        link(one).restore()
    for number, one in enumerate(disturbed, 1):
        one.wait_provisioned()
        assert one.world() == expected, f"after request {number} was lost"
    created = creations(pipelines.around.server)
    assert len(created[undisturbed.pipeline.namespace]) > FEWEST_CHILDREN
    for number, one in enumerate(disturbed, 1):
        assert created[one.pipeline.namespace] == created[undisturbed.pipeline.namespace], f"after request {number}"


def creations(server: ApiServer) -> dict[str, list[str]]:
    """Return what the operator created in each namespace, Events aside."""
    found: dict[str, list[str]] = {}
    for request in server.requests(USER):
        about = request.get("objectRef", {})
        if request.get("responseStatus", {}).get("code") == HTTPStatus.CREATED and about["resource"] != "events":
            found.setdefault(about["namespace"], []).append(f"{about['resource']}/{about['name']}")
    return {namespace: sorted(names) for namespace, names in found.items()}


# Broken pipelines


def test_pipelines_whose_world_does_not_answer_slow_no_other_down(
    pipelines: LinkedPipelines, operator: ServiceProcess
) -> None:
    """More of them than may be reconciled at once: each connects, is never answered, and is told of."""
    broken = [pipelines.prepare() for _ in range(3 * WORKERS)]
    for number, one in enumerate(broken):
        (one.kafka if number % 2 else one.postgres).hold()
        one.pipeline.create()
    first = pipelines.make()
    first.wait_provisioned(PROMPTLY_SECONDS)
    for number, one in enumerate(broken):
        reason = "KafkaUnavailable" if number % 2 else "DatabaseUnavailable"
        one.wait_reason(reason)
    expected = first.world()
    drop_index(pipelines.around.database, first)
    wait_for_value(first.world, expected, deadline=PROMPTLY_SECONDS, what="the index")
    before = operator.metric("sensorlog_operator_reconciles_total", {"result": "retry"})
    pipelines.make().wait_provisioned(PROMPTLY_SECONDS)
    first.pipeline.change(kafka={"readings": {"partitions": 6}})
    first.wait_provisioned(PROMPTLY_SECONDS)
    wait_until(
        lambda: operator.metric("sensorlog_operator_reconciles_total", {"result": "retry"}) > before,
        deadline=60,
        what="the broken ones to be tried again",
    )
    for one in broken:
        one.kafka.restore()
        one.postgres.restore()
    for one in broken:
        one.wait_provisioned(RECOVERY_SECONDS)


def drop_index(database: Database, one: LinkedPipeline) -> None:
    """Drop an index of a pipeline by hand, which only a look at the database finds."""
    before = one.world()
    database.execute(f"DROP INDEX {schema_name(one.pipeline)}.dead_letters_received_at_idx")
    assert one.world() != before
