#!/usr/bin/env bash
# Records every exit of a guest in the testbed, by the trace points of the outer kernel's KVM, and
# says how often each kind happened. Each line of FILE is one event: million instructions since the
# guest's first exit, the vCPU's thread, the event. Instructions are counted as icount.sh does, so
# the figures repeat nearly; recording itself costs some.
#
# usage: tests/testbed/trace.sh FILE [OPTION OF run.sh]... -- COMMAND...
#        tests/testbed/trace.sh build/trace.txt -- cottage run -- true
set -euo pipefail

file=${1:-}
if [[ -z $file || $file == -* ]]; then
	sed -n 's/^# \{0,1\}//; 2,8p' "$0" >&2
	exit 125
fi
shift
options=()
while (($#)) && [[ $1 != -- ]]; do
	options+=("$1")
	shift
done
shift

here=$(cd "$(dirname "$0")" && pwd)
fetched=$(mktemp -d)
trap 'rm -rf "$fetched"' EXIT

# shellcheck disable=SC2016 # the shell inside expands
inside='
	tracing=/sys/kernel/debug/tracing
	echo 50000 >$tracing/buffer_size_kb # KiB; ten thousand events fit in 2 MiB
	for event in exit userspace_exit pio mmio cpuid msr msi_set_irq inj_virq; do
		echo 1 >$tracing/events/kvm/kvm_$event/enable
	done
	status=0
	"$@" || status=$?
	cat $tracing/trace >kvm-trace
	exit $status'
status=0
"$here/run.sh" --icount --out "$fetched" "${options[@]}" -- sh -c "$inside" trace "$@" || status=$?
[[ -s $fetched/kvm-trace ]] || exit "$status"

# "vcpu0-118 [000] ..... 2.921774: kvm_exit: vcpu 0 reason npf rip 0x200123 info1 ..."
awk '
	/^#/ { next }
	{
		thread = $1; sub(/-[0-9]+$/, "", thread)
		time = $4; sub(/:$/, "", time)
		if (start == "") start = time
		text = ""
		for (i = 5; i <= NF; i++) {
			if ($i == "intr_info") break
			text = text " " $i
		}
		sub(/kvm_/, "", text)
		printf "%9.3f %-6s%s\n", (time - start) * 1000, thread, text
	}' "$fetched/kvm-trace" >"$file"
grep -q 'entries-in-buffer/entries-written: \([0-9]*\)/\1 ' "$fetched/kvm-trace" ||
	echo "the buffer was too small: the first events are missing" >&2

echo "exits of the guest, by KVM's reason; those that reached the VMM are userspace_exit" >&2
awk '
	$3 == "exit:" { count["exit " $7]++ }
	$3 == "userspace_exit:" { count["userspace_exit " $5]++ }
	END { for (kind in count) printf "%6d %s\n", count[kind], kind }' "$file" | sort -rn >&2
exit "$status"
