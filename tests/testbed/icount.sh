#!/usr/bin/env bash
# Counts the instructions of a command in the testbed: how many million passed until its first byte
# of output, until a line of its output has TEXT, and until its end. QEMU then runs one processor
# and counts every instruction, the guest's and the outer kernel's alike, so the figures repeat
# where times do not. An idle processor's clock jumps to its next timer: sleeping counts, one
# million per millisecond.
#
# usage: tests/testbed/icount.sh [--line TEXT] [--exits] [OPTION OF run.sh]... -- COMMAND...
#
# --exits adds KVM's exit counts by a second run. It holds each virtual machine alive until the end
# of the command (they count only while they live), which the first run must not do.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
line='' exits='' options=()
while (($#)); do
	case $1 in
	--line)
		line=${2:?--line needs a text}
		shift
		;;
	--exits) exits=1 ;;
	--) break ;;
	*) options+=("$1") ;;
	esac
	shift
done

status=0
"$here/run.sh" --icount --clock="$line" "${options[@]}" "$@" || status=$?
if [[ -n $exits ]]; then
	"$here/run.sh" --icount --exits "${options[@]}" "$@" >/dev/null || status=$?
fi
exit "$status"
