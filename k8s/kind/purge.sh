#!/usr/bin/env bash
# Removes what these scripts made and `make down` leaves: images, the cache folder, and
# the Docker daemon if it was started from here. Debian packages stay installed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

remove_images() {
    docker images -q --no-trunc --filter "label=$LABEL" | sort -u | xargs -r docker rmi -f >/dev/null 2>&1 || true
    docker images -q 'sensorlog/*' | sort -u | xargs -r docker rmi -f >/dev/null 2>&1 || true
    docker image prune -f --filter "label=$LABEL" >/dev/null
}

"$ROOT/k8s/kind/cluster.sh" down
if docker info >/dev/null 2>&1; then
    step "remove the images" purge-images remove_images
fi
"$ROOT/k8s/kind/docker.sh" stop
# Go's own folders (go env GOMODCACHE GOCACHE) belong to the user: `go clean -cache -modcache`.
rm -rf "$CACHE"
say "ok  removed $CACHE"
