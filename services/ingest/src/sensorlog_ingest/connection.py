"""How the consumer connects: the mounted credentials, read again where the brokers refuse what they were.

The kubelet swaps a changed Secret's files in running pods. Connections that work are left alone: what they were opened
with stays good until a broker says otherwise.
"""

from collections.abc import Callable, Mapping

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException

from sensorlog.credentials import CredentialsError
from sensorlog.trouble import Trouble, in_words

log = structlog.get_logger(__name__)

REMEDY = "correct the Secrets that spec.kafka.security names or the user's ACLs; it is tried again by itself"


class Connection:
    """The options that the consumer connects with, and what is the matter with its connections.

    `read` returns librdkafka's options, or raises CredentialsError; so does the constructor.
    """

    def __init__(self, read: Callable[[], Mapping[str, str]]) -> None:
        self._read = read
        self._trouble = Trouble()
        self._refused_options: Mapping[str, str] | None = None
        self.options = read()

    def on_error(self, error: KafkaError) -> None:
        """Take in what librdkafka says of a connection, and log it."""
        self._trouble.note(error)
        if self._trouble.error is error:
            log.warning("Kafka", error=in_words(error), code=error.name())

    def is_refused(self) -> bool:
        """Return whether a broker has refused us, or we it, since the last `works`."""
        return self._trouble.is_refusal

    def works(self) -> None:
        """Note that a broker answers."""
        self._trouble.forget()

    def problem(self, error: KafkaError) -> str:
        """Return in words why a question to the brokers failed with `error`, and what to do."""
        cause = self._trouble.error or error
        if self._trouble.is_refusal:
            return f"Kafka refuses the connection: {in_words(cause)}; {REMEDY}"
        return f"no broker answers: {in_words(cause)}"

    def consumer(self, make: Callable[[Mapping[str, str]], Consumer]) -> Consumer:
        """Return a consumer with the present options; CredentialsError if they cannot be used at all."""
        try:
            return make(self.options)
        except KafkaException as e:
            raise CredentialsError(f"no client can be made: {e.args[0].str()}; {REMEDY}") from e

    def renewed(self, make: Callable[[Mapping[str, str]], Consumer]) -> Consumer | None:
        """Return a consumer with the options as they are now, None if they are the same or cannot be used."""
        try:
            fresh = self._read()
            if fresh in (self.options, self._refused_options):
                return None
            self._refused_options = fresh
            consumer = make(fresh)
        except (CredentialsError, KafkaException) as e:
            log.warning("the credentials have changed and cannot be used", error=str(e))
            return None
        self.options, self._refused_options = fresh, None
        self._trouble.forget()
        log.info("the credentials have changed; connecting with the new ones")
        return consumer
