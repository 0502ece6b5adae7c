#!/usr/bin/env bash
# build.sh name   prints the name of the node image; it changes with every build input
# build.sh        builds it from pinned Go modules and Debian packages, unless it is there
#
# For machines where no container registry can be reached; elsewhere kindest/node is
# pulled (see ../cluster.sh). What differs from kind's own image:
# - Debian bookworm and not trixie: systemd 252 still boots where cgroup v1 is mounted;
# - the network is a static CNI configuration, enough for the one node there is;
# - runc is Debian's, and crictl is left out: kind does not need it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
source "$ROOT/k8s/kind/go.sh"

HERE=$ROOT/k8s/kind/node-image
WORK=$CACHE/node-image
NODE_MODULES=(kubernetes containerd etcd coredns cni-plugins local-path-provisioner kind)
ROOT_PACKAGES=systemd,systemd-sysv,dbus,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,libseccomp2,pigz,e2fsprogs,bash,ca-certificates,curl,jq,procps,runc,socat,hostname

kubernetes_version() { sed -n 's/^.*k8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' "$HERE/modules/kubernetes/go.mod" | head -n 1; }

node_image() {
    local -a inputs=()
    local module
    for module in "${NODE_MODULES[@]}"; do
        inputs+=("$MODULES/$module/go.mod" "$MODULES/$module/go.sum")
    done
    # Where the scripts are one file each, their comments count too: cheap to accept.
    while IFS= read -r file; do
        inputs+=("${file#"$ROOT/"}")
    done < <(find "$HERE/files" "$HERE"/*Dockerfile "$HERE/build.sh" -type f | LC_ALL=C sort)
    echo "sensorlog/kind-node:$(kubernetes_version)-$(hash_of "${inputs[@]}")"
}

build() {
    local module image
    image=$(node_image)
    if have_image "$image"; then return; fi
    is_root || missing "the node image: it cannot be pulled, and making it needs root (for mmdebstrap)"
    ensure_packages "the node image" mmdebstrap gcc libc6-dev ca-certificates
    "$ROOT/k8s/kind/docker.sh" base
    for module in "${NODE_MODULES[@]}"; do
        go_build "$module" "$module for the node image"
    done
    step "make the node's Debian root" node-root make_root
    step "build the component images" node-components make_components
    step "put the node image together" node-image assemble "$image"
    rm -rf "$WORK"
    forget_old
}

# The newest few stay, for other checkouts, and so does one that a cluster runs on.
forget_old() {
    docker images --format '{{.Repository}}:{{.Tag}}' sensorlog/kind-node | tail -n +4 |
        xargs -r -n 1 docker rmi >/dev/null 2>&1 || true
}

program() { echo "$(go_output "$1")/$2"; }

# --- the Debian root -----------------------------------------------------

make_root() {
    mkdir -p "$WORK"
    mmdebstrap --variant=minbase --include="$ROOT_PACKAGES" \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        bookworm "$WORK/root.tar"
    docker import --change "LABEL $LABEL" "$WORK/root.tar" sensorlog/kind-node-root:build
    rm "$WORK/root.tar"
}

# --- component images ----------------------------------------------------

make_components() {
    local context=$WORK/components source
    rm -rf "$context" && mkdir -p "$context"
    cp "$(go_output kubernetes)"/kube-* "$context/"
    cp "$(program coredns coredns)" "$(program local-path-provisioner local-path-provisioner)" "$context/"
    # Go names a program after its module's last element that is not a version.
    cp "$(program etcd server)" "$context/etcd"
    source=$(go_source kubernetes k8s.io/kubernetes)/build/pause/linux
    gcc -Os -Wall -static -o "$context/pause" "$source/pause.c"
    strip "$context/pause"

    local image
    rm -f "$WORK/images"
    for image in $(kubeadm_images) docker.io/sensorlog/local-path-provisioner:node docker.io/sensorlog/local-path-helper:node; do
        component "$image" "$context"
        echo "$image" >>"$WORK/images"
    done
}

kubeadm_images() {
    "$(program kubernetes kubeadm)" config images list --kubernetes-version "$(kubernetes_version)"
}

component() {
    local image=$1 context=$2 name
    name=$(basename "${image%:*}")
    local -a target=(--target "$name")
    case $name in
    kube-proxy | coredns | pause | local-path-*) ;;
    *) target=(--target static --build-arg "PROGRAM=$name") ;;
    esac
    build_image "$image" "$context" -f "$HERE/components.Dockerfile" --build-arg "BASE_IMAGE=$BASE_IMAGE" "${target[@]}"
}

# --- the node ------------------------------------------------------------

assemble() {
    local image=$1 context=$WORK/node
    rm -rf "$context" && mkdir -p "$context"
    lay_root_files "$context/rootfs"
    build_image sensorlog/kind-node-empty:build "$context" -f "$HERE/Dockerfile" \
        --build-arg ROOT_IMAGE=sensorlog/kind-node-root:build
    with_images sensorlog/kind-node-empty:build "$image"
    # Only names go: their layers stay as long as the node image needs them.
    xargs docker rmi --no-prune <"$WORK/images"
    docker rmi --no-prune sensorlog/kind-node-empty:build sensorlog/kind-node-root:build
}

lay_root_files() {
    local rootfs=$1 kind_files
    mkdir -p "$rootfs"
    # kind's own files come from its module, where they are read-only and without modes.
    kind_files=$(go_source kind sigs.k8s.io/kind)/images/base/files
    cp -r "$kind_files"/{kind,etc,usr} "$rootfs/"
    cp -r "$HERE"/files/* "$rootfs/"
    find "$rootfs" -type d -exec chmod 0755 {} +
    find "$rootfs" -type f -exec chmod 0644 {} +
    chmod 0755 "$rootfs"/usr/local/bin/* "$rootfs"/kind/bin/*
    install -m 0755 -t "$rootfs/usr/local/bin" "$(go_output containerd)"/*
    install -m 0755 -D -t "$rootfs/opt/cni/bin" "$(go_output cni-plugins)"/*
    # The kubelet's unit names /usr/bin.
    install -m 0755 -D -t "$rootfs/usr/bin" \
        "$(program kubernetes kubelet)" "$(program kubernetes kubeadm)" "$(program kubernetes kubectl)"
    kubernetes_version | tr -d '\n' >"$rootfs/kind/version"
    # The pause image of the very Kubernetes that is installed.
    sed -i "s|sandbox_image = .*|sandbox_image = \"$(kubeadm_images | grep /pause:)\"|" \
        "$rootfs/etc/containerd/config.toml"
}

# Imports the component images with the node's own containerd and commits the result.
with_images() {
    local empty=$1 image=$2 container
    container=$(docker run -d --label "$LABEL" --security-opt seccomp=unconfined --entrypoint sleep "$empty" infinity)
    # shellcheck disable=SC2064  # the container of now is meant
    trap "docker rm -f -v $container >/dev/null" EXIT
    docker exec -d "$container" containerd
    docker exec "$container" bash -ec 'for _ in {1..50}; do ctr version >/dev/null 2>&1 && exit; sleep 0.2; done; exit 1'
    # Unpacked at first use: what is unpacked here would be copied at every cluster's start.
    xargs docker save <"$WORK/images" | docker exec -i "$container" \
        ctr -n k8s.io images import --label=io.cri-containerd.pinned=pinned --all-platforms --no-unpack --digests -
    docker exec "$container" ctr -n k8s.io images list -q
    docker exec "$container" pkill -x containerd
    docker commit --change 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' --change "LABEL $LABEL" "$container" "$image"
    docker rm -f -v "$container" >/dev/null
    trap - EXIT
}

case ${1:-build} in
name) node_image ;;
build) with_lock node-image build ;;
*) die "usage: build.sh [name]" ;;
esac
