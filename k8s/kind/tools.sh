#!/usr/bin/env bash
# tools.sh [NAME...]   programs of a usable version: what PATH has, else built and put
#                      into the cache's bin/ folder. Without names: all of them.
# tools.sh uv          likewise for uv, which comes from PyPI
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$ROOT/k8s/kind/go.sh"

ALL=(kind kubectl helm skaffold grpcurl promtool)

# Why these limits: kind 0.30 is the first that knows Kubernetes 1.34's kubeadm;
# Skaffold 2 cannot drive Helm 4; kubectl may be one minor version older or newer than
# the API server (https://kubernetes.io/releases/version-skew-policy/).
usable() {
    case $1 in
    kind) version_at_least "$(kind version -q 2>/dev/null)" 0.30 ;;
    kubectl) case $(kubectl version --client 2>/dev/null) in *' v1.35.'* | *' v1.36.'* | *' v1.37.'*) ;; *) false ;; esac ;;
    helm) case $(helm version --short 2>/dev/null) in v3.*) ;; *) false ;; esac ;;
    skaffold) case $(skaffold version 2>/dev/null) in v2.*) ;; *) false ;; esac ;;
    grpcurl) version_at_least "$(grpcurl -version 2>&1 | awk '{print $2}')" 1.8 ;;
    promtool) version_at_least "$(promtool --version 2>&1 | awk 'NR == 1 {print $3}')" 2.40 ;;
    esac
}

where_to_get() {
    case $1 in
    kind) echo "kind 0.30 or later: https://kind.sigs.k8s.io/docs/user/quick-start/#installation" ;;
    kubectl) echo "kubectl 1.35, 1.36 or 1.37: https://kubernetes.io/docs/tasks/tools/" ;;
    helm) echo "Helm 3 (not 4): https://helm.sh/docs/intro/install/" ;;
    skaffold) echo "Skaffold 2: https://skaffold.dev/docs/install/" ;;
    grpcurl) echo "grpcurl 1.8 or later: https://github.com/fullstorydev/grpcurl#installation" ;;
    promtool) echo "promtool of Prometheus 2.40 or later: https://prometheus.io/docs/prometheus/latest/installation/" ;;
    esac
}

is_there() { have "$1" && usable "$1" && ! is_outdated_build "$1"; }

# Names at once all that is missing, where no Go is there to build it and none may be installed.
demand() {
    local name list=
    for name in "$@"; do
        is_there "$name" || list+=$'\n  '$(where_to_get "$name")
    done
    if [ -z "$list" ] || have go || may_install; then return; fi
    missing "programs of a usable version:$list
  Or install Go (any version from 1.21 on): they are then built from source into $CACHE.
  Nothing is installed by itself here, because this is not root on Debian."
}

ensure() {
    local name=$1 module=$1
    if is_there "$name"; then return; fi
    if [ "$name" = kubectl ]; then module=kubernetes; fi
    go_build "$module" "$name"
    ln -sfn "$(go_output "$module")/$name" "$CACHE/bin/$name"
}

# Ours from an earlier commit: its link points to a folder of other inputs.
is_outdated_build() {
    local module=$1 link=$CACHE/bin/$1
    if [ "$1" = kubectl ]; then module=kubernetes; fi
    [ -L "$link" ] && [ "$(readlink "$link")" != "$(go_output "$module")/$1" ]
}

# uv in a virtual environment of its own: the system's Python is left alone.
ensure_uv() {
    if have uv && version_at_least "$(uv --version | awk '{print $2}')" 0.5; then return; fi
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        ensure_packages "uv" python3 python3-venv ca-certificates
    fi
    step "install uv from PyPI" uv install_uv
}

install_uv() {
    rm -rf "$CACHE/uv"
    python3 -m venv "$CACHE/uv"
    "$CACHE/uv/bin/pip" install --disable-pip-version-check 'uv>=0.9'
    ln -sfn "$CACHE/uv/bin/uv" "$CACHE/bin/uv"
    ln -sfn "$CACHE/uv/bin/uvx" "$CACHE/bin/uvx"
}

main() {
    local name
    if [ $# -eq 0 ]; then set -- "${ALL[@]}"; fi
    if [ "$1" = uv ]; then
        ensure_uv
        return
    fi
    for name in "$@"; do
        [ -n "$(where_to_get "$name")" ] || die "usage: tools.sh uv | [${ALL[*]}]"
    done
    demand "$@"
    for name in "$@"; do ensure "$name"; done
}

main "$@"
