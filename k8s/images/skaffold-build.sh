#!/usr/bin/env bash
# skaffold-build.sh SERVICE   Skaffold's build command: builds $IMAGE from $BUILD_CONTEXT,
# then pushes it ($PUSH_IMAGE) or puts it into the kind cluster of the current context, where
# Skaffold finds it loaded. A script and not Skaffold's own builder, because this way a
# changed service builds and sends only itself.
set -euo pipefail
: "${IMAGE:?is set by Skaffold}"
source "$(dirname "${BASH_SOURCE[0]}")/../kind/lib.sh"

build_image "$IMAGE" "${BUILD_CONTEXT:?}" --quiet --target "$1" 2>&1 | grep -v DEPRECATED || true
have_image "$IMAGE" || die "the image $IMAGE was not built"

if [ "${PUSH_IMAGE:-false}" = true ]; then
    docker push "$IMAGE"
    exit
fi
context=$(kubectl config current-context)
case $context in
kind-*) python3 "$ROOT/k8s/images/load.py" "${context#kind-}" "$IMAGE" ;;
esac
