#!/usr/bin/env bash
# build.sh   builds Telegraf, with the plugins that the comparison needs and no others, into
#            the cache unless it is there, and links it as the cache's bin/telegraf.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../k8s/kind/lib.sh"
source "$ROOT/k8s/kind/go.sh"

# The module is this folder, so that its pins are where the comparison is.
MODULES=benchmarks

# In go.mod, because a build is known by that file's contents; Telegraf's own build leaves
# plugins out by the same tags (https://docs.influxdata.com/telegraf/v1/configuration/#custom-builder-tool).
tags=$(sed -n 's,^// tags: ,,p' "$ROOT/$MODULES/telegraf/go.mod")
[ -n "$tags" ] || die "benchmarks/telegraf/go.mod names no tags"
export GOFLAGS=-tags=$tags

go_build telegraf "Telegraf"
ln -sfn "$(go_output telegraf)/telegraf" "$CACHE/bin/telegraf"
