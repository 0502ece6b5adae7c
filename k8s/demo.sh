#!/usr/bin/env bash
# demo.sh [CLUSTER]  both charts, one pipeline, readings in and out. Exits non-zero if any of it did not happen.
# SENSORLOG_DEMO_SECONDS: how long this machine's own readings are sent (default 60).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/kind/lib.sh"

CLUSTER=${1:-sensorlog}
DEMO_SECONDS=${SENSORLOG_DEMO_SECONDS:-60}
NAMESPACE=default
PIPELINE=plant
SEED='[{"ts": 1646409307, "sensor_id": 1, "temperature":30, "cpu":20}]'
KUBECONFIG=$CACHE/kubeconfig-$CLUSTER
export KUBECONFIG

sensorlog() { uv run --quiet --project "$ROOT" sensorlog "$@"; }
title() { printf '\n== %s\n' "$*"; }
# Shows a command as a person would type it, then runs it.
show() {
    printf '$'
    local word
    for word in "$@"; do
        if [[ $word = *[[:space:]]* ]]; then word="'$word'"; fi
        printf ' %s' "$word"
    done
    printf '\n'
    "$@"
}

# --- install -------------------------------------------------------------

install_charts() {
    "$ROOT/k8s/images/build.sh" load "$CLUSTER"
    TAGS=$("$ROOT/k8s/images/build.sh" load-services "$CLUSTER" | tail -n 1)
    step "install the chart backing-services (Kafka, TimescaleDB)" demo-backing \
        helm upgrade --install backing "$ROOT/charts/backing-services" -n backing --create-namespace
    step "install the chart sensorlog (the operator)" demo-sensorlog \
        helm upgrade --install sensorlog "$ROOT/charts/sensorlog" -n sensorlog --create-namespace \
        --set "images.operator.tag=$(tag operator),images.ingest.tag=$(tag ingest)" \
        --set "images.query.tag=$(tag query)" --wait --timeout 3m
    step "wait for Kafka" demo-kafka rollout statefulset/kafka
    step "wait for TimescaleDB" demo-timescaledb rollout statefulset/timescaledb
}

# The tag of a service's image, out of the JSON that load-services printed.
tag() { sed -E "s/.*\"$1\": *\"([^\"]+)\".*/\1/" <<<"$TAGS"; }
rollout() { kubectl -n backing rollout status "$1" --timeout=180s; }

create_pipeline() {
    "$ROOT/k8s/dev/copy-database-secret.sh" "$NAMESPACE"
    kubectl -n "$NAMESPACE" apply -f "$ROOT/k8s/samples/$PIPELINE.yaml"
}

# A pipeline of an earlier demo is ready already: what counts is that it is ready with the images of now.
wait_ready() {
    local deadline=$((SECONDS + 180)) seen=
    until [ "$seen" = "True $(tag ingest) $(tag query)" ]; do
        [ "$SECONDS" -lt "$deadline" ] || die "the pipeline is not ready after 180 seconds; see kubectl describe slp $PIPELINE"
        sleep 1
        seen="$(ready) $(deployed ingest) $(deployed query)" || continue
        echo "$seen"
    done
}

ready() {
    kubectl -n "$NAMESPACE" wait --for=condition=Ready "slp/$PIPELINE" --timeout=0 >/dev/null 2>&1 && echo True || echo False
}

# The tag of the image that every pod of a component runs.
deployed() {
    kubectl -n "$NAMESPACE" get pods -l "app.kubernetes.io/instance=$PIPELINE,app.kubernetes.io/component=$1" \
        -o jsonpath='{.items[*].spec.containers[0].image}' | sed 's/[^ ]*://g'
}

# --- data ----------------------------------------------------------------

# The seed lies in 2022, this machine's readings are of now: each is found by its time. Earlier demos left theirs.
seeds() {
    sensorlog readings --start 1646409307 --end 1646409308 --all --output json | python3 -c '
import json, sys
print(sum(r["sensor_id"] == 1 and r["temperature"] == 30 and r["cpu"] == 20 for r in json.load(sys.stdin)))'
}

seed_is_back() { [ "$(seeds)" -gt "$1" ]; }

host_is_back() {
    sensorlog averages --start "$1" --bucket 1m --output json >"$LOGS/demo-host.json" &&
        python3 - "$LOGS/demo-host.json" "$2" <<'PY'
import json, sys
stored = sum(bucket["count"] for bucket in json.load(open(sys.argv[1])))
sys.exit(stored < int(sys.argv[2]))
PY
}

# await WHAT COMMAND...: until COMMAND succeeds, for at most 60 seconds.
await() {
    local what=$1 deadline=$((SECONDS + 60))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || die "$what did not come back within 60 seconds; see sensorlog status"
        sleep 1
    done
}

seed() {
    local before
    title "One reading: Kafka -> ingest -> TimescaleDB -> query -> here"
    before=$(seeds)
    show sensorlog publish --data "$SEED"
    await "the seed reading" seed_is_back "$before"
    show sensorlog readings --start 1646409307 --end 1646409308
}

host() {
    local since
    since=$(date +%s)
    title "$DEMO_SECONDS seconds of this machine's own readings (load per core, temperature where it has sensors)"
    show sensorlog publish --from-host --duration "${DEMO_SECONDS}s"
    await "this machine's readings" host_is_back "$since" $((DEMO_SECONDS * $(nproc) / 2))
    show sensorlog sensors
    show sensorlog averages --start "$since" --bucket 1m --per-sensor
}

what_next() {
    title "The pipeline"
    show kubectl get slp
    cat <<END

It runs on. To use it from your shell:

  export KUBECONFIG=$KUBECONFIG PATH=$CACHE/bin:$ROOT/.venv/bin:\$PATH

What to try next:
  kubectl sensorlog status $PIPELINE                 what is well and what is wrong, on one page
  kubectl explain slp.spec                      every field of the resource
  kubectl edit slp $PIPELINE                         add a measurement, watch it roll out: kubectl get slp -w
  kubectl delete pod -l app.kubernetes.io/component=ingest --force   and count: nothing is lost or doubled
  kubectl port-forward svc/$PIPELINE-query 50051     then: grpcurl -plaintext localhost:50051 list
  make dev                                      change a line, see it live in seconds
  make down                                     remove the cluster
END
}

say "The demo: one SensorLogPipeline on the kind cluster $CLUSTER"
install_charts
step "create the Secret and the SensorLogPipeline $PIPELINE" demo-pipeline create_pipeline
step "wait until the operator says that it is ready" demo-ready wait_ready
seed
host
what_next
