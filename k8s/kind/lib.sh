# shellcheck shell=bash
# Shared by the scripts in k8s/: where things are cached, what may be installed,
# and how a slow step shows that it is alive. Source it; it runs nothing by itself.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${SENSORLOG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sensorlog}
LOGS=$CACHE/logs
# What every Dockerfile of the project starts from.
# shellcheck disable=SC2034  # used by the scripts that source this file
BASE_IMAGE=debian:trixie-slim

# Distinct from ordinary failure (1): something is missing that we may not install.
EXIT_MISSING=3

# Marks every image, container and cluster of ours, so that `down` and `purge`
# never touch anything else.
# shellcheck disable=SC2034  # used by the scripts that source this file
LABEL=dev.sensorlog.project=sensorlog

export PATH="$CACHE/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin"
mkdir -p "$CACHE/bin" "$LOGS"

say() { printf '%s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
missing() {
    printf 'missing: %s\n' "$*" >&2
    exit "$EXIT_MISSING"
}
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" -eq 0 ]; }
may_install() { is_root && is_debian; }
is_debian() { [ -r /etc/os-release ] && grep -qx 'ID=debian' /etc/os-release; }

# --- slow steps ----------------------------------------------------------

# step TITLE LOGNAME COMMAND...
# Runs COMMAND with its output in $LOGS/LOGNAME.log; a terminal sees a live line,
# anything else a line at the start, one every 15 seconds and one at the end. On
# failure the end of the log is printed and COMMAND's exit status returned.
step() {
    local title=$1 log=$LOGS/$2.log status=0 started=$SECONDS
    shift 2
    # A process group of its own, so that Ctrl-C ends the whole tree and not just the shell.
    set -m
    "$@" >"$log" 2>&1 </dev/null &
    STEP_PID=$!
    set +m
    trap 'end_step; exit 130' INT
    trap 'end_step; exit 143' TERM
    watch_step "$title" "$STEP_PID" "$started"
    wait "$STEP_PID" || status=$?
    trap - INT TERM
    report_step "$title" "$log" "$status" $((SECONDS - started))
    return "$status"
}

end_step() { kill -TERM -- "-$STEP_PID" 2>/dev/null || true; }

watch_step() {
    local title=$1 pid=$2 started=$3 elapsed next=15
    if [ ! -t 1 ]; then say "... $title"; fi
    while kill -0 "$pid" 2>/dev/null; do
        elapsed=$((SECONDS - started))
        if [ -t 1 ]; then
            printf '\r\033[K... %s (%ds)' "$title" "$elapsed"
        elif [ "$elapsed" -ge "$next" ]; then
            say "    still: $title (${elapsed}s)"
            next=$((elapsed + 15))
        fi
        sleep 0.2
    done
}

report_step() {
    local title=$1 log=$2 status=$3 elapsed=$4
    if [ -t 1 ]; then printf '\r\033[K'; fi
    if [ "$status" -eq 0 ]; then
        say "ok  $title (${elapsed}s)"
        return
    fi
    say "FAILED  $title (after ${elapsed}s, exit status $status)"
    say "---- the last 30 lines of $log"
    tail -n 30 "$log"
    say "----"
}

# --- one at a time -------------------------------------------------------

# with_lock NAME COMMAND...: of several runs on this machine that want the same thing, one
# makes it and the others find it made. What outlives the run must close descriptor 9.
with_lock() {
    local name=$1
    shift
    if ! have flock; then
        "$@"
        return
    fi
    {
        if ! flock -n 9; then
            say "    waiting for another run, which is at this ($name)"
            flock 9
        fi
        "$@"
    } 9>"$CACHE/lock-$name"
}

# --- Debian packages -----------------------------------------------------

# ensure_packages WHY PACKAGE...: installs what is not installed, as root on Debian;
# elsewhere says what to install and exits with EXIT_MISSING.
ensure_packages() {
    local why=$1 package
    local -a wanted=()
    shift
    for package in "$@"; do
        installed "$package" || wanted+=("$package")
    done
    if [ "${#wanted[@]}" -eq 0 ]; then return; fi
    if ! may_install; then
        missing "$why needs: ${wanted[*]} (names of Debian packages).
  Nothing is installed by itself here, because this is not root on Debian.
  Install them with your package manager, for example: sudo apt-get install ${wanted[*]}"
    fi
    step "install ${wanted[*]}" "apt-$1" apt_install "${wanted[@]}"
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

apt_install() {
    # The lists may be absent (a fresh machine) or old (a version no longer served).
    apt-get -o DPkg::Lock::Timeout=300 update
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
        install -y --no-install-recommends "$@"
}

# --- images --------------------------------------------------------------

have_image() { docker image inspect "$1" >/dev/null 2>&1; }

# pull IMAGE: true when the image was pulled. A registry that refuses or does not
# begin to answer within PULL_ANSWER_SECONDS is given up on; a slow download is not.
pull() {
    local image=$1 log=$LOGS/pull.log pid waited=0
    docker pull "$image" >"$log" 2>&1 </dev/null &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        if [ "$waited" -ge "${PULL_ANSWER_SECONDS:-20}" ] && ! grep -q 'Pulling fs layer' "$log"; then
            kill "$pid" 2>/dev/null || true
            break
        fi
        sleep 1
        waited=$((waited + 1))
    done
    if wait "$pid" 2>/dev/null; then
        say "ok  pulled $image"
        return 0
    fi
    say "    $image cannot be pulled here ($(tail -n 1 "$log" | cut -c 1-100))"
    return 1
}

# build_image TAG DIRECTORY [docker build options...]: the classic builder works with
# every client, also one that comes without the buildx plugin.
build_image() {
    local tag=$1 directory=$2
    shift 2
    DOCKER_BUILDKIT=0 docker build --label "$LABEL" -t "$tag" "$@" "$directory"
}

# --- numbers -------------------------------------------------------------

# version_at_least HAVE WANTED: compares dotted versions, a leading v is ignored.
version_at_least() {
    [ "$(printf '%s\n%s\n' "${2#v}" "${1#v}" | sort -V | head -n 1)" = "${2#v}" ]
}

# hash_of FILE...: twelve hex digits over names and contents.
hash_of() { (cd "$ROOT" && sha256sum "$@") | sha256sum | cut -c 1-12; }

# Bit 24 of the bounding set. Small virtual machines may lack it, and then runc
# cannot start a privileged container (https://man7.org/linux/man-pages/man7/capabilities.7.html).
lacks_sys_resource() {
    local bounding
    [ -r /proc/self/status ] || return 1
    bounding=$(awk '/^CapBnd:/ {print $2}' /proc/self/status)
    [ $(((16#$bounding >> 24) & 1)) -eq 0 ]
}
