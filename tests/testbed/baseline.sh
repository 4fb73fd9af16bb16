#!/usr/bin/env bash
# Compares what one boot of the tiny kernel costs with what stands in baseline.txt: instructions and
# exits, counted in the testbed by benches/icount.sh. A change that makes boots dearer by more than
# the band does not pass unseen; one that makes them cheaper must write its gain down, or the next
# one could spend it.
#
# usage: tests/testbed/baseline.sh            compares; status 1 outside of a band
#        tests/testbed/baseline.sh --record   measures and writes baseline.txt anew
#
# Counts repeat, but only on the same machine: another QEMU, another Debian kernel below KVM, another
# compiler of the guest's kernel move them without a change of ours. baseline.txt names those it was
# recorded with. Where they differ, nothing is compared, and the last line says so.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
baseline=$here/baseline.txt
runs=3

say() {
	echo "baseline: $*" >&2
}

measured_with() {
	qemu-system-x86_64 --version | sed -n 's/^QEMU emulator version \([0-9.]*\).*/QEMU \1/p'
	find build/testbed/packages/root/boot -name 'vmlinuz-*' -printf '%f\n' | sed 's/^vmlinuz-/Linux /'
	grep -aom 1 'Linux version [0-9].*' guest-images/out/tiny/vmlinux |
		sed -n 's/.*(gcc (\([^)]*\)).*/gcc \1/p' | head -n 1
}

tests/testbed/build.sh
machine=$(measured_with | paste -sd ';' | sed 's/;/; /g')

# The row of the table that benches/icount.sh prints:
#   cottage          47.80 (47.79 to 47.81)            646     89    212
table=$(benches/icount.sh --alone "$runs")
echo "$table"
read -r instructions exits port mmio < <(awk '$1 == "cottage" && NF == 8 { print $2, $6, $7, $8 }' <<<"$table") || {
	say "benches/icount.sh printed no row of figures"
	exit 1
}

if [[ ${1:-} == --record ]]; then
	{
		sed -n '/^#/p' "$baseline"
		echo "machine $machine"
		printf '%-20s %8s  %s\n' instructions-million "$instructions" 1 exits "$exits" 1 \
			port-exits "$port" 1 mmio-exits "$mmio" 1
	} >"$baseline.new"
	mv "$baseline.new" "$baseline"
	say "wrote $baseline"
	exit 0
fi

recorded=$(sed -n 's/^machine //p' "$baseline")
if [[ $machine != "$recorded" ]]; then
	say "NOT COMPARED: recorded with $recorded; this is $machine"
	exit 0
fi

status=0
compare() { # NAME MEASURED
	local name value band
	read -r name value band < <(grep "^$1 " "$baseline") || {
		say "baseline.txt has no line $1"
		exit 1
	}
	awk -v name="$name" -v was="$value" -v band="$band" -v is="$2" 'BEGIN {
		change = (is / was - 1) * 100
		inside = (change <= band && change >= -band)
		printf "%-20s measured %8s, baseline %8s, %+.1f %%, band %s %%: %s\n", name, is, was, change, band,
			inside ? "ok" : (change > 0 ? "DEARER" : "CHEAPER")
		exit !inside
	}' || status=1
}
compare instructions-million "$instructions"
compare exits "$exits"
compare port-exits "$port"
compare mmio-exits "$mmio"
if ((status)); then
	say "outside of the band. If your change means it, run tests/testbed/baseline.sh --record and commit"
	say "tests/testbed/baseline.txt with that change, saying in the message what the boot now does."
fi
exit "$status"
