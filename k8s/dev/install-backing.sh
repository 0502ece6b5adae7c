#!/usr/bin/env bash
# Installs charts/backing-services for `skaffold dev` and copies the database's Secret to the
# sample. A hook and not a Skaffold release, for two reasons: Skaffold puts a label that is new
# in every session on the pods, which would restart Kafka and the database each time, and it
# upgrades every release at every change.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

chart=charts/backing-services
version=$(find "$chart" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-12)
if ! helm status backing -n backing -o json 2>/dev/null | grep "\"description\":\"chart $version\"" >/dev/null; then
    helm upgrade --install backing "$chart" -n backing --create-namespace --wait --timeout 5m \
        --description "chart $version" >/dev/null
fi
k8s/dev/copy-database-secret.sh
