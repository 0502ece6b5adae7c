#!/usr/bin/env bash
# Copies the connection of the backing database to where a sample pipeline looks for it:
# the Secret `timescaledb` with the key `uri`, in the namespace $1 (default: default).
set -euo pipefail
kubectl -n backing get secret timescaledb-app -o go-template='{{.data.uri | base64decode}}' |
    kubectl -n "${1:-default}" create secret generic timescaledb --from-file=uri=/dev/stdin --dry-run=client -o yaml |
    kubectl apply -f - >/dev/null
