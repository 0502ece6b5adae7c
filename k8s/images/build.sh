#!/usr/bin/env bash
# build.sh backing          sensorlog/kafka:dev and sensorlog/timescaledb:dev
# build.sh services         sensorlog/{ingest,query,operator}:dev
# build.sh load [CLUSTER]   put the backing images into a kind cluster
# build.sh load-services [CLUSTER]
#                           the same for the services; prints the tags to deploy, as JSON
#
# A backing image is built again only when its folder or the base image has changed; the
# services are cheap to build again, because Docker keeps their layers.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../kind/lib.sh"

BACKING=(kafka timescaledb)
BACKING_IMAGES=(sensorlog/kafka:dev sensorlog/timescaledb:dev)
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

# load CLUSTER IMAGE...: only the layers that its nodes lack.
load() {
    local cluster=$1
    shift
    step "load images into the cluster $cluster: $*" "load-$cluster" \
        python3 "$ROOT/k8s/images/load.py" "$cluster" "$@"
}

# Tags each service by its content, because a Deployment notices a changed image only by its name.
load_services() {
    local cluster=$1 name tag
    local -a images=() tags=()
    for name in "${SERVICES[@]}"; do
        tag=$(docker image inspect --format '{{.Id}}' "sensorlog/$name:dev" | cut -d : -f 2 | cut -c 1-12)
        docker tag "sensorlog/$name:dev" "sensorlog/$name:$tag"
        images+=("sensorlog/$name:$tag")
        tags+=("\"$name\": \"$tag\"")
    done
    load "$cluster" "${images[@]}" >&2
    (IFS=, && echo "{${tags[*]}}")
}

case ${1:-} in
backing) with_lock backing-images backing ;;
services) services ;;
load) load "${2:-sensorlog}" "${BACKING_IMAGES[@]}" ;;
load-services) load_services "${2:-sensorlog}" ;;
*) die "usage: build.sh backing | services | load [CLUSTER] | load-services [CLUSTER]" ;;
esac
