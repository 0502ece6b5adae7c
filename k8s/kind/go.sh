# shellcheck shell=bash
# Builds programs from the pinned Go modules in node-image/modules. Source it after lib.sh.
#
# Each folder there is a module of its own whose `tool` lines name the programs and whose
# go.mod and go.sum pin every dependency; -mod=readonly makes the build fail rather than
# change a pin. Where a folder has a file `ldflags`, it stamps the version; its `tags` are
# build tags, which leave out what is not used here.

MODULES=k8s/kind/node-image/modules
# The newest version that one of the modules asks for.
GO_VERSION=1.26.8

# The environment may say otherwise for other projects on this machine.
unset GOFLAGS GOWORK GO111MODULE
export GOTOOLCHAIN=local CGO_ENABLED=0

# Where the programs of module $1 are, or will be: the path changes with every input.
go_output() {
    local -a inputs=("$MODULES/$1/go.mod" "$MODULES/$1/go.sum")
    local file
    for file in ldflags tags; do
        if [ -f "$ROOT/$MODULES/$1/$file" ]; then inputs+=("$MODULES/$1/$file"); fi
    done
    echo "$CACHE/go/$1-$(hash_of "${inputs[@]}")"
}

# go_build MODULE TITLE: builds the module's programs unless they are there already.
go_build() {
    if [ -d "$(go_output "$1")" ]; then return; fi
    with_lock "go" go_build_once "$@"
}

go_build_once() {
    local module=$1 title=$2 output
    output=$(go_output "$module")
    if [ -d "$output" ]; then return; fi
    ensure_go
    step "build $title" "go-$module" go_compile "$module" "$output"
}

go_compile() {
    local module=$1 output=$2 draft=$2.draft ldflags='' tags=''
    cd "$ROOT/$MODULES/$module" || return
    if [ -f ldflags ]; then ldflags=$(tr '\n' ' ' <ldflags); fi
    if [ -f tags ]; then tags=$(tr '\n' ' ' <tags); fi
    rm -rf "$draft" && mkdir -p "$draft"
    go build -mod=readonly -trimpath -tags "$tags" -ldflags "-s -w $ldflags" -o "$draft/" tool
    # Under the final name only when complete: a build cut off begins anew.
    mv "$draft" "$output"
}

# The folder of the module that module $1 is built from.
go_source() { (cd "$ROOT/$MODULES/$1" && go list -mod=readonly -m -f '{{.Dir}}' "$2"); }

# --- the Go toolchain ----------------------------------------------------

ensure_go() {
    use_downloaded_go
    if go_is_new_enough; then return; fi
    have go || ensure_packages "building the tools" golang-go ca-certificates
    if go_is_new_enough; then return; fi
    # Any Go can fetch another one: toolchains are modules, verified like every module.
    step "fetch the Go toolchain $GO_VERSION" go-toolchain fetch_go
    use_downloaded_go
    go_is_new_enough || die "Go $GO_VERSION was fetched but does not run; see $LOGS/go-toolchain.log"
}

go_is_new_enough() {
    have go && version_at_least "$(go env GOVERSION | sed 's/^go//; s/[ -].*//')" "$GO_VERSION"
}

use_downloaded_go() {
    if [ -x "$CACHE/go/toolchain/bin/go" ]; then export PATH="$CACHE/go/toolchain/bin:$PATH"; fi
}

fetch_go() {
    local toolchain folder
    toolchain=v0.0.1-go$GO_VERSION.$(go env GOOS)-$(go env GOARCH)
    # In an empty folder: a go.mod above would be read, and old versions refuse a new one.
    cd "$(mktemp -d)" || return
    go mod download "golang.org/toolchain@$toolchain"
    folder=$(go env GOMODCACHE)/golang.org/toolchain@$toolchain
    # A module's files come without the execute bit.
    chmod -R u+w "$folder"
    chmod +x "$folder"/bin/* "$folder"/pkg/tool/*/*
    mkdir -p "$CACHE/go"
    ln -sfn "$folder" "$CACHE/go/toolchain"
}
