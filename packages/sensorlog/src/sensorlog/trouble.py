"""Why a Kafka client gets nowhere, as librdkafka tells it piece by piece.

A call of a client only says that it timed out. What is the matter comes as events about connections, through
`error_cb`, and the last of them is seldom the one that tells most. Import this module only where confluent-kafka is
installed: ingest, the operator and the command line.
"""

import re

from confluent_kafka import KafkaError

_REFUSALS = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001 -- librdkafka's local errors start with an underscore
        KafkaError._SSL,  # noqa: SLF001
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)

# TLS 1.3 lets a client finish its handshake before the broker has looked at its certificate: the refusal comes as an
# alert (RFC 8446, section 6.2) on a connection that seemed good, which librdkafka reports as one that broke.
_ALERT = re.compile(r"SSL routines::.*\balert\b")

_SUMMARIES = frozenset({KafkaError._ALL_BROKERS_DOWN})  # noqa: SLF001
"""What says that nothing is connected, and not why."""

_STATE = re.compile(r" \(after \d+ms in state [A-Z0-9_]+(, \d+ identical error\(s\) suppressed)?\)")


def is_refusal(error: KafkaError) -> bool:
    """Return whether credentials, certificates or rights are the matter, so that trying again alone is no use."""
    return error.code() in _REFUSALS or bool(_ALERT.search(error.str() or ""))


def in_words(error: KafkaError) -> str:
    """Return what an error says, without what changes from one time to the next."""
    if error.code() in _SUMMARIES:
        return "no connection lasts"  # librdkafka's own text counts brokers: "0/1 brokers are down"
    return _STATE.sub("", str(error.str()))


def _weight(error: KafkaError) -> int:
    return 2 if is_refusal(error) else int(error.code() not in _SUMMARIES)


class Trouble:
    """The most telling of the errors of a client's connections since it was last forgotten."""

    def __init__(self) -> None:
        self._error: KafkaError | None = None

    def note(self, error: KafkaError) -> None:
        """Take an error in: librdkafka's `error_cb`."""
        if self._error is None or _weight(error) >= _weight(self._error):
            self._error = error

    def forget(self) -> None:
        """Begin anew."""
        self._error = None

    @property
    def error(self) -> KafkaError | None:
        """The error, None where there was none."""
        return self._error

    @property
    def is_refusal(self) -> bool:
        """Whether a broker refused us, or we it."""
        return self._error is not None and is_refusal(self._error)
