"""A network whose cables can be pulled: packets vanish, nobody says goodbye, and nobody is told."""

import contextlib
import fcntl
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from docker.models.containers import Container

BROKER_HOST, DATABASE_HOST = 10, 20
"""Numbers of hosts on the network of a session."""

SIOCSARP = 0x8955
ARPHRD_ETHER = 1
ATF_COM, ATF_PERM = 0x02, 0x04


@dataclass(frozen=True)
class Network:
    """A network of the container engine, /24, which this host reaches too (Linux only)."""

    network: Any  # docker.models.networks.Network, which its types do not export
    prefix: str

    def address(self, host: int) -> str:
        """Return the address of a host's number, 2..254."""
        return f"{self.prefix}.{host}"

    def connect(self, container: Container, host: int) -> "Cable":
        """Give a running container an address on this network."""
        cable = Cable(self, container, self.address(host))
        cable.plug_in()
        return cable

    def remove(self) -> None:
        """Remove the network; its containers lose their addresses."""
        self.network.reload()
        for container in self.network.containers:
            self.network.disconnect(container, force=True)
        self.network.remove()


@dataclass(frozen=True)
class Cable:
    """What ties a container to a network. Its other networks stay as they are, ports of 127.0.0.1 included."""

    network: Network
    container: Container
    address: str

    def plug_in(self) -> None:
        """Let the container answer at its address."""
        self.network.network.connect(self.container, ipv4_address=self.address)
        self.container.reload()
        name = self.network.network.name
        _pin_neighbour(self.address, self.container.attrs["NetworkSettings"]["Networks"][name]["MacAddress"])

    @contextlib.contextmanager
    def pulled(self) -> Iterator[None]:
        """Let packets to and from the container vanish within this block."""
        self.network.network.disconnect(self.container)
        try:
            yield
        finally:
            self.plug_in()


def _pin_neighbour(address: str, mac: str) -> None:
    """Make the kernel send to `mac` without asking who has `address`; see arp(7).

    It would ask when the cable is pulled, and new connections would fail within seconds with "no route to host". As
    with a switch or a router between, their packets are to vanish too. Needs root; without it the network is cut all
    the same, only less silently.
    """
    request = struct.pack(
        "=HH4s8xH6s8xi16x16x",
        socket.AF_INET, 0, socket.inet_aton(address),
        ARPHRD_ETHER, bytes.fromhex(mac.replace(":", "")),
        ATF_COM | ATF_PERM,
    )  # fmt: skip
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket, contextlib.suppress(PermissionError):
        fcntl.ioctl(any_socket, SIOCSARP, request)
