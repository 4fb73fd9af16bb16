#!/usr/bin/env bash
# Counts what a read of 4 KiB from a disk costs, the guest's and the outer kernel's instructions
# included: benches/disk.sh [RUNS]. The full kernel reads its disk block by block, past its own
# page cache, once and READS + 1 times, in the testbed; the difference is divided by READS. Needs
# `make cottage kernel-full`. COTTAGE_BIN is another cottage than build/cottage.
#
# Sleeping counts, too (tests/testbed/icount.sh), so runs differ: print them all.
set -euo pipefail

cd "$(dirname "$0")/.."
runs=${1:-3}
reads=2000
kernel=guest-images/out/full/vmlinux
work=build/bench
mkdir -p "$work"

cat >"$work/read.sh" <<'END'
dd if=/dev/zero of=disk.img bs=1M count=16 2>/dev/null
cottage run --kernel vmlinux --disk disk.img -- \
	sh -c "dd if=/dev/vda of=/dev/null bs=4k count=$1 iflag=direct 2>/dev/null; echo read"
END

# Million instructions until the guest's only line.
count() {
	tests/testbed/icount.sh --timeout 200 --file "$kernel" --file "$work/read.sh" -- \
		sh read.sh "$1" 2>&1 | awk '/first output byte/ { print $1 }'
}

echo "thousand instructions for a read of 4 KiB, from $reads each, one line a run"
for ((run = 0; run < runs; run++)); do
	one=$(count 1)
	many=$(count $((reads + 1)))
	awk -v one="$one" -v many="$many" -v reads="$reads" \
		'BEGIN { printf "  %6.1f\n", (many - one) * 1000 / reads }'
done
