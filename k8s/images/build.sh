#!/usr/bin/env bash
# build.sh backing          sensorlog/kafka:dev and sensorlog/timescaledb:dev
# build.sh services         sensorlog/{ingest,query,operator}:dev
# build.sh load [CLUSTER]   put the backing images into a kind cluster
#
# A backing image is built again only when its folder or the base image has changed; the
# services are cheap to build again, because Docker keeps their layers.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../kind/lib.sh"

BACKING=(kafka timescaledb)
SERVICES=(ingest query operator)
INPUTS_LABEL=dev.sensorlog.inputs

backing() {
    local name
    "$ROOT/k8s/kind/docker.sh" base
    for name in "${BACKING[@]}"; do
        if [ "$(built_from "$name")" = "$(inputs_of "$name")" ]; then continue; fi
        step "build sensorlog/$name:dev" "image-$name" build_backing "$name"
    done
}

build_backing() { build_image "sensorlog/$1:dev" "$ROOT/k8s/images/$1" --label "$INPUTS_LABEL=$(inputs_of "$1")"; }

built_from() {
    docker image inspect --format "{{index .Config.Labels \"$INPUTS_LABEL\"}}" "sensorlog/$1:dev" 2>/dev/null || true
}

inputs_of() {
    local -a files=()
    while IFS= read -r file; do
        files+=("${file#"$ROOT/"}")
    done < <(find "$ROOT/k8s/images/$1" -type f | LC_ALL=C sort)
    echo "$(hash_of "${files[@]}")-$(docker image inspect --format '{{.Id}}' "$BASE_IMAGE" | cut -d : -f 2 | cut -c 1-12)"
}

services() {
    local name
    "$ROOT/k8s/kind/docker.sh" base
    for name in "${SERVICES[@]}"; do
        step "build sensorlog/$name:dev" "image-$name" build_image "sensorlog/$name:dev" "$ROOT" --target "$name"
    done
}

load() {
    local cluster=$1
    step "load the backing images into the cluster $cluster" "load-$cluster" \
        kind load docker-image --name "$cluster" "${BACKING[@]/#/sensorlog/}"
}

case ${1:-} in
backing) backing ;;
services) services ;;
load)
    BACKING=("${BACKING[@]/%/:dev}")
    load "${2:-sensorlog}"
    ;;
*) die "usage: build.sh backing | services | load [CLUSTER]" ;;
esac
