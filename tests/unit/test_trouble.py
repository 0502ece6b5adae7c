"""What is the matter with a Kafka client, from the errors that librdkafka tells of."""

import pytest
from confluent_kafka import KafkaError

from sensorlog.trouble import Trouble, in_words, is_refusal

DOWN = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")
BROKEN = KafkaError(KafkaError._TRANSPORT, "kafka:9092/1: Connect to ipv4#10.0.0.1:9092 failed: Connection refused")
PASSWORD = KafkaError(KafkaError._AUTHENTICATION, "SASL authentication error (after 301ms in state AUTH_REQ)")
ALERT = KafkaError(
    KafkaError._TRANSPORT,
    "ssl://kafka:9095/bootstrap: Receive failed: error:0A00045C:SSL routines::tlsv13 alert certificate required: SSL"
    " alert number 116 (after 0ms in state APIVERSION_QUERY)",
)


@pytest.mark.parametrize("error", [PASSWORD, ALERT, KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)])
def test_refusals_are_told_from_outages(error: KafkaError) -> None:
    """A TLS alert counts as one although librdkafka calls it a broken connection."""
    assert is_refusal(error)
    assert not is_refusal(BROKEN)
    assert not is_refusal(DOWN)


@pytest.mark.parametrize(
    ("errors", "telling"),
    [
        ([DOWN], DOWN),
        ([BROKEN, DOWN], BROKEN),
        ([DOWN, BROKEN], BROKEN),
        ([PASSWORD, BROKEN, DOWN], PASSWORD),
        ([PASSWORD, ALERT], ALERT),
    ],
)
def test_the_most_telling_error_stays(errors: list[KafkaError], telling: KafkaError) -> None:
    """That no broker is connected says less than why; of two that say as much, the later counts."""
    trouble = Trouble()
    for error in errors:
        trouble.note(error)
    assert trouble.error is telling
    trouble.forget()
    assert trouble.error is None


def test_words_do_not_change_with_every_attempt() -> None:
    """Times would make each status another than the one before."""
    assert in_words(PASSWORD) == "SASL authentication error"
    assert in_words(DOWN) == "no connection lasts"
