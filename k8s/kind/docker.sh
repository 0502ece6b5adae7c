#!/usr/bin/env bash
# docker.sh up     a Docker daemon that answers and can run privileged containers
# docker.sh base   the image debian:trixie-slim: pulled, or made from Debian packages
# docker.sh stop   stop the daemon, if it was this script that started it
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

DAEMON_JSON=/etc/docker/daemon.json
RUNTIME=/usr/local/libexec/sensorlog/runc-without-sys-resource
STARTED_BY_US=$CACHE/dockerd.started

answers() { docker info >/dev/null 2>&1; }

# --- up ------------------------------------------------------------------

up() {
    if ! have docker || ! answers; then
        start_docker
    fi
    if lacks_sys_resource && ! uses_our_runtime; then
        reload_with_our_runtime
    fi
}

start_docker() {
    if ! is_root; then
        missing "a Docker daemon that answers you.
  If Docker is installed: start it, or join its group (sudo usermod -aG docker $(id -un)) and log in again.
  If not: https://docs.docker.com/engine/install/ says how for your system."
    fi
    if ! have dockerd; then
        ensure_packages "Docker" docker.io iptables ca-certificates
    fi
    if answers; then return; fi
    if lacks_sys_resource; then
        install_our_runtime
    fi
    step "start the Docker daemon" docker-start start_daemon
}

start_daemon() {
    if [ "$(cat /proc/1/comm)" = systemd ]; then
        systemctl enable --now docker
    else
        forget_dead /var/run/docker.pid dockerd
        forget_dead /var/run/docker/containerd/containerd.pid containerd
        if ! pidof dockerd >/dev/null; then
            launch_by_hand
        fi
    fi
    wait_for_docker
}

# A pid file that outlived an unclean end makes the next start fail as soon as the
# kernel has given its number to any other process.
forget_dead() {
    local file=$1 name=$2
    if [ -f "$file" ] && [ "$(cat "/proc/$(cat "$file")/comm" 2>/dev/null)" != "$name" ]; then
        rm -f "$file"
    fi
}

launch_by_hand() {
    # setsid and nohup: it must outlive make, the terminal and this script.
    setsid nohup dockerd >>"$LOGS/dockerd.log" 2>&1 </dev/null 9>&- &
    local pid=$!
    echo "$pid $(start_time "$pid")" >"$STARTED_BY_US"
}

# Clock ticks since boot: with it a number that was used again is not taken for ours.
start_time() { sed 's/.*) //' "/proc/$1/stat" | cut -d ' ' -f 20; }

wait_for_docker() {
    local deadline=$((SECONDS + 60))
    until answers; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            tail -n 25 "$LOGS/dockerd.log" 2>/dev/null || true
            die "the Docker daemon did not answer within 60 seconds"
        fi
        sleep 0.5
    done
}

# --- machines without CAP_SYS_RESOURCE -----------------------------------

uses_our_runtime() { [ "$(docker info --format '{{.DefaultRuntime}}')" = sensorlog-runc ]; }

install_our_runtime() {
    have python3 || ensure_packages "the Docker configuration" python3-minimal
    install -D -m 0755 "$ROOT/k8s/kind/docker/runc-without-sys-resource" "$RUNTIME"
    python3 "$ROOT/k8s/kind/docker/daemon_json.py" "$DAEMON_JSON" add "$RUNTIME"
    say "    this machine lacks CAP_SYS_RESOURCE: $DAEMON_JSON names a runtime that does without"
}

reload_with_our_runtime() {
    if ! is_root || ! [ -f /var/run/docker.pid ]; then
        warn "this machine lacks CAP_SYS_RESOURCE; if the cluster cannot start, see k8s/kind/docker/"
        return
    fi
    install_our_runtime
    # dockerd reads runtimes and default-runtime again on SIGHUP; running containers stay.
    kill -HUP "$(cat /var/run/docker.pid)"
    local deadline=$((SECONDS + 15))
    until uses_our_runtime; do
        [ "$SECONDS" -lt "$deadline" ] || die "dockerd did not take up the runtime of $DAEMON_JSON"
        sleep 0.5
    done
}

# --- base ----------------------------------------------------------------

base() {
    up
    if have_image "$BASE_IMAGE"; then return; fi
    if pull "$BASE_IMAGE"; then
        add_host_certificates "$BASE_IMAGE"
        return
    fi
    is_root || missing "the image $BASE_IMAGE: it cannot be pulled, and making it needs root"
    ensure_packages "the base image" mmdebstrap ca-certificates
    step "make $BASE_IMAGE from Debian packages" base-image make_base
}

make_base() {
    local work=$CACHE/base-image
    rm -rf "$work" && mkdir -p "$work"
    # The excludes are those of Debian's own slim images.
    mmdebstrap --variant=minbase --include=ca-certificates \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        trixie "$work/base.tar"
    docker import --change "LABEL $LABEL" --change 'CMD ["bash"]' "$work/base.tar" "$BASE_IMAGE"
    rm -rf "$work"
    add_host_certificates "$BASE_IMAGE"
}

# Behind a proxy that signs with its own authority apt, pip and uv work in a build
# only if the image trusts what the host trusts.
add_host_certificates() {
    local image=$1 context=$CACHE/base-certificates
    local -a extra=(/usr/local/share/ca-certificates/*.crt)
    if [ ! -e "${extra[0]}" ]; then return; fi
    rm -rf "$context" && mkdir -p "$context"
    cp "${extra[@]}" "$context/"
    # Appended to the bundle when the image (Debian's slim one) has no tool to do it.
    cat >"$context/Dockerfile" <<EOF
FROM $image
COPY *.crt /usr/local/share/ca-certificates/
RUN if command -v update-ca-certificates; then update-ca-certificates; \
    else mkdir -p /etc/ssl/certs && cat /usr/local/share/ca-certificates/*.crt >>/etc/ssl/certs/ca-certificates.crt; fi
EOF
    say "    $image: the host's extra certificate authorities are added to the local image"
    build_image "$image" "$context"
}

# --- stop ----------------------------------------------------------------

stop() {
    local pid started
    if [ ! -f "$STARTED_BY_US" ]; then return; fi
    read -r pid started <"$STARTED_BY_US"
    if [ -d "/proc/$pid" ] && [ "$(start_time "$pid")" = "$started" ]; then
        step "stop the Docker daemon" docker-stop stop_daemon "$pid"
    fi
    rm -f "$STARTED_BY_US"
    if [ -f "$RUNTIME" ]; then
        python3 "$ROOT/k8s/kind/docker/daemon_json.py" "$DAEMON_JSON" remove
        rm -f "$RUNTIME"
    fi
}

stop_daemon() {
    kill "$1"
    local deadline=$((SECONDS + 60))
    while [ -d "/proc/$1" ]; do
        [ "$SECONDS" -lt "$deadline" ] || die "dockerd ($1) did not stop within 60 seconds"
        sleep 0.5
    done
}

case ${1:-up} in
up) with_lock docker up ;;
base) with_lock docker base ;;
stop) stop ;;
*) die "usage: docker.sh up|base|stop" ;;
esac
