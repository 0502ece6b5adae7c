"""Certificates of a test's own authority, and Secrets as the kubelet mounts them."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Issued:
    """A certificate and its key in PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Signs certificates for 127.0.0.1 and `names`; one with a parent adds what leads to the parent's own."""

    def __init__(self, name: str = "test authority", *, parent: "Authority | None" = None) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        signer = parent or self
        self._chain: bytes = b"" if parent is None else parent._chain
        ca = x509.BasicConstraints(ca=True, path_length=None)
        builder = _builder(self._name, signer._name, self._key.public_key(), timedelta(days=1))
        self._certificate = builder.add_extension(ca, critical=True).sign(signer._key, hashes.SHA256())
        if parent is not None:
            self._chain = self.certificate + self._chain

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate in PEM."""
        return self._certificate.public_bytes(Encoding.PEM)

    def issue(self, *names: str, lifetime: timedelta = timedelta(hours=1)) -> Issued:
        """Return a new certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        hosts = [*map(x509.DNSName, ("localhost", *names)), x509.IPAddress(IPv4Address("127.0.0.1"))]
        builder = _builder(_named(names[0] if names else "leaf"), self._name, key.public_key(), lifetime)
        certificate = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False).sign(
            self._key, hashes.SHA256()
        )
        return Issued(
            certificate.public_bytes(Encoding.PEM) + self._chain,
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - timedelta(minutes=5)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(minutes=5) + lifetime)
    )


class MountedSecret:
    """A folder in which the kubelet keeps a Secret: links through `..data`, swapped as a whole at each update."""

    def __init__(self, directory: Path, **files: bytes) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        self.update(**files)

    def update(self, **files: bytes) -> None:
        """Swap the files; underscores in the keywords stand for dots, as in tls_crt."""
        contents = {name.replace("_", "."): value for name, value in files.items()}
        version = self.directory / f"..{secrets.token_hex(4)}"
        version.mkdir()
        for name, value in contents.items():
            (version / name).write_bytes(value)
            if not (self.directory / name).is_symlink():
                (self.directory / name).symlink_to(Path("..data") / name)
        fresh = self.directory / "..data_tmp"
        fresh.symlink_to(version.name)
        fresh.replace(self.directory / "..data")
