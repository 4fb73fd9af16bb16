#!/usr/bin/env bash
# Runs a command beside docker's and containerd's engines, started for it and stopped after it:
#   tests/compare/with-docker.sh [--bridge] COMMAND...
#
# Without --bridge containers can have no network but their loopback device. With it the engine runs in
# a network namespace of its own, so that its bridge and rules are gone with it. As root, with the
# programs of Debian's docker.io and containerd; it installs nothing. All that the engines keep is in one
# folder under TMPDIR or /var/tmp, removed in the end; no other engine is touched.
set -euo pipefail

say() { echo "with-docker.sh: $*" >&2; }
die() { say "$*"; exit 1; }

bridge=
if [ "${1:-}" = --bridge ]; then
  bridge=yes
  shift
fi
[ $# -gt 0 ] || die "usage: tests/compare/with-docker.sh [--bridge] COMMAND..."
[ "$(id -u)" = 0 ] || die "the engines need root"
PATH=$PATH:/usr/sbin:/sbin
for program in dockerd containerd ctr docker unshare setsid; do
  command -v $program >/dev/null || die "$program is not installed (Debian: docker.io, containerd, util-linux)"
done
# Another client may stand before that of the engine's package.
if [ -x /usr/bin/docker ]; then PATH=/usr/bin:$PATH; fi

work=$(mktemp -d "${TMPDIR:-/var/tmp}/cottage-docker-XXXXXX")
engines=()

stop() {
  status=$?
  trap - EXIT
  # The last first: dockerd needs containerd to stop its containers.
  for ((at = ${#engines[@]} - 1; at >= 0; at--)); do
    kill "${engines[at]}" 2>/dev/null || continue
    for _ in {1..100}; do
      kill -0 "${engines[at]}" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "${engines[at]}" 2>/dev/null || true
  done
  wait 2>/dev/null || true
  # Layers and names of containers that were still there.
  awk -v work="$work/" 'index($5, work) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
    while read -r place; do umount --lazy "$place" || true; done
  rm -rf "$work" || say "$work could not be removed"
  exit $status
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$work/containerd" "$work/docker" "$work/run"
cat >"$work/containerd.toml" <<TOML
version = 2
root = "$work/containerd"
state = "$work/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$work/containerd.sock"
[ttrpc]
  address = "$work/containerd.sock.ttrpc"
TOML

# wait_for LOG COMMAND...: until it succeeds, or the engine that was started last is gone.
wait_for() {
  local log=$1
  shift
  for _ in {1..300}; do
    if "$@" >/dev/null 2>&1; then return; fi
    if ! kill -0 "${engines[-1]}" 2>/dev/null; then break; fi
    sleep 0.1
  done
  tail -n 20 "$log" >&2
  die "$(basename "$log" .log) did not start; above are its last words"
}

# Ctrl-C is for the command; the engines are stopped when it is over.
export CONTAINERD_ADDRESS=$work/containerd.sock DOCKER_HOST=unix://$work/docker.sock
around=()
# The bridge is in the namespace that containers' shims are started from, which is containerd's.
[ -z "$bridge" ] || around=(unshare --net -- sh -c 'ip link set lo up; exec "$@"' sh)
flags=(-H "$DOCKER_HOST" --containerd "$CONTAINERD_ADDRESS" --data-root "$work/docker"
  --exec-root "$work/run/docker" -p "$work/docker.pid" --storage-driver overlay2)
[ -n "$bridge" ] || flags+=(--iptables=false --ip6tables=false --bridge=none)

setsid containerd --config "$work/containerd.toml" >"$work/containerd.log" 2>&1 &
engines+=($!)
wait_for "$work/containerd.log" ctr version
setsid "${around[@]}" dockerd "${flags[@]}" >"$work/dockerd.log" 2>&1 &
engines+=($!)
wait_for "$work/dockerd.log" docker version

"$@"
