#!/usr/bin/env bash
# Runs a command in the testbed where Debian's container runtimes are: docker with its engine, podman,
# crun, runc, ctr, bwrap, unshare; beside cottage and /dev/kvm. Their disk is made first if need be.
#
# usage: tests/testbed/runtimes.sh [--no-docker] [--interruptible] [OPTION OF run.sh]... -- COMMAND...
#
# The two options are those of guest-images/runtimes/inside.sh, which says how the inside is prepared.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
images=$here/../../guest-images

inside=() options=()
while (($#)) && [[ $1 != -- ]]; do
	case $1 in
	--no-docker | --interruptible) inside+=("$1") ;;
	*) options+=("$1") ;;
	esac
	shift
done
(($# > 1)) || {
	echo "testbed: usage: runtimes.sh [OPTION]... -- COMMAND..." >&2
	exit 125
}
shift
"$images/build.sh" runtimes >&2 || exit 125
# Engines and fifty containers want more memory than most tests.
exec "$here/run.sh" --memory 3072 "${options[@]}" --disk "$images/out/runtimes/root.ext4" \
	--file "$images/runtimes/inside.sh" -- sh /files/inside.sh "${inside[@]}" /dev/vdb "$@"
