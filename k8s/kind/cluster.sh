#!/usr/bin/env bash
# cluster.sh node-image       the node image: pulled, or built where it cannot be
# cluster.sh up [NAME]        a kind cluster that answers; nothing to do where there is one
# cluster.sh down [NAME]      delete it; without a name all of ours
# cluster.sh kubeconfig [NAME]  print the path of its kubeconfig
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

HERE=$ROOT/k8s/kind
# The node image that kind 0.32 and later were released with for this minor version.
PUBLISHED_IMAGE=kindest/node:v1.36.1@sha256:3489c7674813ba5d8b1a9977baea8a6e553784dab7b84759d1014dbd78f7ebd5

kubeconfig() { echo "$CACHE/kubeconfig-$1"; }
# Not `| grep -q`: it leaves at the first hit, and kind then dies of a broken pipe.
exists() { [[ $'\n'$(kind get clusters 2>/dev/null)$'\n' == *$'\n'"$1"$'\n'* ]]; }
healthy() {
    kubectl --kubeconfig "$(kubeconfig "$1")" --request-timeout 5s get --raw /readyz >/dev/null 2>&1 &&
        kubectl --kubeconfig "$(kubeconfig "$1")" --request-timeout 5s \
            wait --for=condition=Ready nodes --all --timeout=5s >/dev/null 2>&1
}

# --- the node image ------------------------------------------------------

ensure_node_image() {
    "$HERE/docker.sh" up
    if have_image "$PUBLISHED_IMAGE" || have_image "$("$HERE/node-image/build.sh" name)"; then return; fi
    pull "$PUBLISHED_IMAGE" || "$HERE/node-image/build.sh"
}

node_image() {
    if have_image "$PUBLISHED_IMAGE"; then
        echo "$PUBLISHED_IMAGE"
    else
        "$HERE/node-image/build.sh" name
    fi
}

# --- up ------------------------------------------------------------------

up() {
    local name=$1
    "$HERE/docker.sh" up
    "$HERE/tools.sh" kind kubectl
    if exists "$name"; then
        revive "$name" && return
        say "    the cluster $name does not answer: it is made anew"
        delete "$name"
    fi
    ensure_node_image
    step "start the cluster $name" "cluster-$name" create "$name"
    announce "$name"
}

# A cluster outlives a restart of Docker as stopped containers.
revive() {
    local name=$1
    [ -s "$(kubeconfig "$name")" ] || kind export kubeconfig --name "$name" --kubeconfig "$(kubeconfig "$name")" 2>/dev/null || return 1
    if ! healthy "$name"; then
        kind get nodes --name "$name" 2>/dev/null | xargs -r docker start >/dev/null || return 1
        step "wait for the cluster $name" "cluster-$name-revive" wait_healthy "$name" || return 1
    fi
    announce "$name"
}

wait_healthy() {
    local deadline=$((SECONDS + 60))
    until healthy "$1"; do
        [ "$SECONDS" -lt "$deadline" ] || die "the cluster $1 did not become healthy within 60 seconds"
        sleep 1
    done
}

create() {
    local name=$1 config
    config=$CACHE/cluster-$name.yaml
    cp "$HERE/cluster.yaml" "$config"
    if lacks_sys_resource; then
        # Without the capability the score of a container cannot be lowered, only raised.
        cat >>"$config" <<'EOF'
containerdConfigPatches:
  - |-
    [plugins."io.containerd.grpc.v1.cri"]
      restrict_oom_score_adj = true
EOF
    fi
    kind create cluster --name "$name" --image "$(node_image)" --config "$config" \
        --kubeconfig "$(kubeconfig "$name")" --wait 120s
    echo "$name" >>"$CACHE/clusters"
    # Ready are the nodes; what a first volume and a first name need comes a moment later.
    export KUBECONFIG
    KUBECONFIG=$(kubeconfig "$name")
    kubectl -n kube-system rollout status deployment/coredns --timeout=120s
    kubectl -n local-path-storage rollout status deployment/local-path-provisioner --timeout=120s
}

announce() {
    say "ok  the cluster $1 is up. To use it from your shell:"
    say "    export KUBECONFIG=$(kubeconfig "$1") PATH=$CACHE/bin:\$PATH"
}

# --- down ----------------------------------------------------------------

delete() {
    local name=$1
    step "delete the cluster $name" "cluster-$name-down" \
        kind delete cluster --name "$name" --kubeconfig "$(kubeconfig "$name")"
    rm -f "$(kubeconfig "$name")" "$CACHE/cluster-$name.yaml"
    if [ -f "$CACHE/clusters" ]; then sed -i "/^$name\$/d" "$CACHE/clusters"; fi
}

down() {
    if ! docker info >/dev/null 2>&1; then
        say "ok  nothing to take down: no Docker daemon answers"
        return
    fi
    local name
    local -a names
    if [ $# -gt 0 ]; then
        delete "$1"
        return
    fi
    if have kind && [ -f "$CACHE/clusters" ]; then
        # Read at once: delete rewrites the file.
        mapfile -t names < <(sort -u "$CACHE/clusters")
        for name in "${names[@]}"; do delete "$name"; done
    fi
    # Containers that the tests started carry the label.
    docker ps -aq --filter "label=$LABEL" | xargs -r docker rm -f -v >/dev/null
}

case ${1:-up} in
node-image) ensure_node_image ;;
up) with_lock "cluster-${2:-sensorlog}" up "${2:-sensorlog}" ;;
down) shift && down "$@" ;;
kubeconfig) kubeconfig "${2:-sensorlog}" ;;
*) die "usage: cluster.sh node-image | up [NAME] | down [NAME] | kubeconfig [NAME]" ;;
esac
