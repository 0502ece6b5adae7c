"""A broker whose listeners each demand another proof of who connects, and whose authorizer knows only ACLs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from support.containers import ContainerEngine, free_port
from support.kafka import KafkaBroker, broker_spec
from support.tls import Authority, Issued

USER, PASSWORD = "sensorlog", 'it\'s "secret" \\ $HOME'
"""With what a careless quoting anywhere would break."""

STRANGER = "stranger"
"""Who has a password and no right."""

SCRAM = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}

_MODULES = "org.apache.kafka.common.security"
_INSIDE = {"PLAIN": 30001, "SCRAM": 30002, "TLS": 30003, "MUTUAL": 30004}
_PROTOCOLS = {"PLAIN": "SASL_PLAINTEXT", "SCRAM": "SASL_PLAINTEXT", "TLS": "SASL_SSL", "MUTUAL": "SSL"}
_MECHANISMS = {"PLAIN": ["PLAIN"], "SCRAM": list(SCRAM), "TLS": ["PLAIN", *SCRAM]}


@dataclass(frozen=True)
class SecuredBroker:
    """The broker: `broker` is its administrator's way in, without any proof."""

    broker: KafkaBroker
    ports: Mapping[str, int]
    authority: Authority

    def address(self, listener: str) -> str:
        """Return host:port of PLAIN, SCRAM, TLS (SASL over TLS) or MUTUAL (client certificates)."""
        return f"127.0.0.1:{self.ports[listener]}"

    def set_password(self, user: str, password: str) -> None:
        """Give a user a password for both SCRAM mechanisms."""
        admin = self.broker.admin()
        for mechanism in SCRAM.values():  # one a request: a user is changed only once in each
            change = UserScramCredentialUpsertion(user, ScramCredentialInfo(mechanism, 4096), password.encode())
            for future in admin.alter_user_scram_credentials([change]).values():
                future.result(timeout=20)

    def allow(self, kind: ResourceType, prefix: str, *operations: AclOperation, user: str = USER) -> None:
        """Let a user, by whatever listener, do `operations` to what begins with `prefix`."""
        bindings = [
            AclBinding(kind, prefix, ResourcePatternType.PREFIXED, principal, "*", operation, AclPermissionType.ALLOW)
            for operation in operations
            for principal in (f"User:{user}", f"User:CN={user}")
        ]
        admin = self.broker.admin()
        for future in admin.create_acls(bindings).values():
            future.result(timeout=20)


def _line(pem: bytes) -> str:
    return pem.decode().replace("\n", " ")


def _jaas(users: Mapping[str, str]) -> str:
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in users.values())
    entries = " ".join(f'user_{name}="{text}"' for name, text in zip(users, quoted, strict=True))
    # The file of properties takes one level of backslashes away.
    return f"{_MODULES}.plain.PlainLoginModule required {entries};".replace("\\", "\\\\")


def _environment(authority: Authority, issued: Issued) -> dict[str, str]:
    protocols = {"CONTROLLER": "PLAINTEXT", "INTERNAL": "PLAINTEXT", "HOST": "PLAINTEXT", **_PROTOCOLS}
    settings = {
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    for name, mechanisms in _MECHANISMS.items():
        prefix = f"listener.name.{name.lower()}"
        settings[f"{prefix}.sasl.enabled.mechanisms"] = ",".join(mechanisms)
        for mechanism in mechanisms:
            module = _jaas({USER: PASSWORD, STRANGER: PASSWORD})
            scram = f"{_MODULES}.scram.ScramLoginModule required;"
            settings[f"{prefix}.{mechanism.lower()}.sasl.jaas.config"] = module if mechanism == "PLAIN" else scram
    for name in ("TLS", "MUTUAL"):
        prefix = f"listener.name.{name.lower()}.ssl"
        settings |= {
            f"{prefix}.keystore.type": "PEM",
            f"{prefix}.keystore.certificate.chain": _line(issued.certificate),
            f"{prefix}.keystore.key": _line(issued.key),
            f"{prefix}.truststore.type": "PEM",
            f"{prefix}.truststore.certificates": _line(authority.certificate),
            f"{prefix}.client.auth": "required" if name == "MUTUAL" else "none",
        }
    return {f"KAFKA_{key.upper().replace('-', '___').replace('.', '_')}": value for key, value in settings.items()}


@contextmanager
def secured_broker(engine: ContainerEngine) -> Iterator[SecuredBroker]:
    """Yield a broker with four listeners that demand a proof, on which USER has a SCRAM password and no right yet."""
    port, ports = free_port(), {name: free_port() for name in _INSIDE}
    authority = Authority("kafka")
    spec = broker_spec(port, _environment(authority, authority.issue("broker")))
    listeners = {
        "KAFKA_LISTENERS": ",".join(f"{name}://:{inside}" for name, inside in _INSIDE.items()),
        "KAFKA_ADVERTISED_LISTENERS": ",".join(f"{name}://127.0.0.1:{ports[name]}" for name in _INSIDE),
    }
    environment = {**spec.environment, **{key: f"{spec.environment[key]},{value}" for key, value in listeners.items()}}
    published = {**spec.ports, **{inside: ports[name] for name, inside in _INSIDE.items()}}
    with engine.running(replace(spec, environment=environment, ports=published)) as container:
        broker = KafkaBroker(f"127.0.0.1:{port}", container)
        broker.wait_ready()
        secured = SecuredBroker(broker, ports, authority)
        for user in (USER, STRANGER):
            secured.set_password(user, PASSWORD)
        yield secured
