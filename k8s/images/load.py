"""Put images of the local Docker into the nodes of a kind cluster, only the layers that are not there yet.

Usage: load.py CLUSTER IMAGE...

`kind load docker-image` sends and unpacks a whole image, some seconds for a changed line in a layer of kilobytes. Here
a node is asked which layers its containerd has, and gets an OCI image layout
(https://github.com/opencontainers/image-spec/blob/main/image-layout.md) with the others. Image ids stay the same, so
kind, Skaffold and Kubernetes see the image as loaded. Where Docker hands out compressed layers (its containerd image
store does), their digests are not the node's, and `kind load` does the work.
"""
# ruff: noqa: INP001, S603, S607, T201  # a script that runs docker and kind as found on PATH, and talks to a person

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import IO, Any

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"


class CompressedLayersError(Exception):
    """Docker's archive holds compressed layers."""


def output(*command: str) -> str:
    """Return what `command` prints; a failure ends the script with its message."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def qualified(image: str) -> str:
    """Return the name as containerd stores it: `sensorlog/query:dev` is `docker.io/sensorlog/query:dev`."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return image
    return f"docker.io/{image}" if slash else f"docker.io/library/{image}"


def image_id(image: str) -> str:
    """Return the digest of the image's configuration, its id in Docker."""
    return output("docker", "image", "inspect", "--format", "{{.Id}}", image).strip()


def has(node: str, image: str) -> bool:
    """Tell whether `node` has `image` under this name and with this content."""
    answer = subprocess.run(
        ["docker", "exec", node, "crictl", "inspecti", qualified(image)], check=False, capture_output=True, text=True
    )
    return answer.returncode == 0 and json.loads(answer.stdout)["status"]["id"] == image_id(image)


def blobs_of(node: str) -> set[str]:
    """Return the digests that the node's containerd holds."""
    return set(output("docker", "exec", node, "ctr", "-n", "k8s.io", "content", "ls", "-q").split())


class Archive:
    """What `docker save` wrote of one image, opened for reading."""

    def __init__(self, file: IO[bytes]) -> None:
        self._tar = tarfile.open(fileobj=file)  # noqa: SIM115  # lives as long as the file it reads
        [self._manifest] = json.loads(self.read("manifest.json"))
        self.config = self.read(self._manifest["Config"])

    def read(self, member: str) -> bytes:
        """Return the bytes of `member`."""
        content = self._tar.extractfile(self._followed(member))
        assert content is not None  # noqa: S101  # _followed() returns regular files
        return content.read()

    def layers(self) -> list[tuple[str, tarfile.TarInfo]]:
        """Return digest and archive member of each layer; raises CompressedLayersError."""
        digests = json.loads(self.config)["rootfs"]["diff_ids"]
        members = [self._followed(name) for name in self._manifest["Layers"]]
        for member in members:
            if self.open(member).read(4).startswith((GZIP, ZSTD)):
                raise CompressedLayersError
        return list(zip(digests, members, strict=True))

    def open(self, member: tarfile.TarInfo) -> IO[bytes]:
        """Return `member` opened for reading."""
        content = self._tar.extractfile(member)
        assert content is not None  # noqa: S101  # layers are regular files
        return content

    def _followed(self, name: str) -> tarfile.TarInfo:
        # Older Dockers write a layer that two images share as a link to the first.
        member = self._tar.getmember(name)
        while member.issym():
            member = self._tar.getmember(str((Path("/") / name).parent.joinpath(member.linkname).resolve())[1:])
        return member


class Layout:
    """An OCI image layout that is written to a stream."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._tar = tarfile.open(fileobj=stream, mode="w|")  # noqa: SIM115  # closed in finish()

    def add(self, content: bytes, media_type: str) -> dict[str, Any]:
        """Write a blob and return its descriptor."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._write(f"blobs/{digest.replace(':', '/')}", io.BytesIO(content), len(content))
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def add_layer(self, digest: str, content: IO[bytes], size: int) -> None:
        """Write a layer whose digest is known."""
        self._write(f"blobs/{digest.replace(':', '/')}", content, size)

    def finish(self, manifest: dict[str, Any], name: str) -> None:
        """Name `manifest` the image `name` and end the archive."""
        manifest["annotations"] = {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        }
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]}).encode()
        self._write("index.json", io.BytesIO(index), len(index))
        layout = b'{"imageLayoutVersion": "1.0.0"}'
        self._write("oci-layout", io.BytesIO(layout), len(layout))
        self._tar.close()

    def _write(self, name: str, content: IO[bytes], size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size = size
        self._tar.addfile(member, content)


def write_missing(archive: Archive, image: str, present: set[str], stream: IO[bytes]) -> int:
    """Write `image` without the layers in `present`; return how many bytes of layers were written."""
    layout, written = Layout(stream), 0
    layers = archive.layers()
    for digest, member in layers:
        if digest not in present:
            layout.add_layer(digest, archive.open(member), member.size)
            written += member.size
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": layout.add(archive.config, CONFIG),
        "layers": [{"mediaType": LAYER, "digest": digest, "size": member.size} for digest, member in layers],
    }
    layout.finish(layout.add(json.dumps(document).encode(), MANIFEST), qualified(image))
    return written


def load(node: str, image: str, archive: Archive) -> int:
    """Import `image` into `node`; return how many bytes of layers were sent."""
    command = ["ctr", "-n", "k8s.io", "images", "import", "--all-platforms", "--digests", "-"]
    with subprocess.Popen(
        ["docker", "exec", "-i", node, *command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as importer:
        assert importer.stdin is not None  # noqa: S101  # asked for by PIPE
        written = write_missing(archive, image, blobs_of(node), importer.stdin)
        importer.stdin.close()
        if importer.wait() != 0:
            raise subprocess.CalledProcessError(importer.returncode, "ctr images import")
    return written


def load_into(cluster: str, nodes: list[str], image: str) -> None:
    """Bring `image` to those of `nodes` that lack it."""
    started = time.monotonic()
    lacking = [node for node in nodes if not has(node, image)]
    if not lacking:
        print(f"{image}: is there")
        return
    with tempfile.TemporaryFile() as file:
        subprocess.run(["docker", "save", image], check=True, stdout=file)
        file.seek(0)
        try:
            sent = sum(load(node, image, Archive(file)) for node in lacking)
        except CompressedLayersError:
            subprocess.run(["kind", "load", "docker-image", "--name", cluster, image], check=True)
            return
    print(f"{image}: sent {sent / 1e6:.1f} MB of layers in {time.monotonic() - started:.1f} s")


def main() -> None:
    """Load the images named on the command line."""
    cluster, *images = sys.argv[1:]
    nodes = output("kind", "get", "nodes", "--name", cluster).split()
    if not nodes:
        sys.exit(f"there is no kind cluster named {cluster}: make cluster")
    try:
        for image in images:
            load_into(cluster, nodes, image)
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed: {error}")


if __name__ == "__main__":
    main()
