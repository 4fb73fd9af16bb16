#!/usr/bin/env bash
# Boots the tiny kernel in the testbed under cottage and under QEMU's microvm, and counts
# instructions and exits: benches/icount.sh [--alone] [RUNS]; --alone leaves QEMU out. `make
# bench-icount` builds what it needs. COTTAGE_BIN is another cottage than build/cottage.
set -euo pipefail

cd "$(dirname "$0")/.."
alone=''
if [[ ${1:-} == --alone ]]; then
	alone=1
	shift
fi
runs=${1:-3}
images=guest-images/out
work=build/bench
rm -rf "$work"
mkdir -p "$work/guest/.cottage" "$work/qemu/lib" "$work/qemu/share"

# ---- the guest ------------------------------------------------------------------------------
# The same bytes for both: cottage would add the request by itself, QEMU cannot, so the archive has
# it and cottage adds nothing. The format is that of guest-images/init/src/run_file.rs.
printf '%s\0' stdin=none stdout=pipe arg=echo arg=up >"$work/guest/.cottage/run"
(cd "$work/guest" && printf '%s\n' .cottage .cottage/run | cpio --quiet -o -H newc -R 0:0) |
	cat "$images/initramfs.cpio" - >"$work/initramfs"

# ---- QEMU -----------------------------------------------------------------------------------
# shellcheck source-path=SCRIPTDIR source=common/qemu.sh
. benches/common/qemu.sh
qemu=()
[[ -n $alone ]] || collect_qemu "$work/qemu"

# ---- the run --------------------------------------------------------------------------------
# Not optimised: it only starts and watches, and this way it shares its crates with the tests.
program=$(cargo build --quiet --package cottage --bench icount --message-format=json |
	sed -n 's/.*"executable":"\([^"]*\/icount-[^"]*\)".*/\1/p')
cp "$program" "$work/icount"
tests/testbed/run.sh --icount --timeout 300 --file "$work/icount" \
	--file "$images/tiny/vmlinux" --file "$work/initramfs" --dir "$work/qemu" -- \
	./icount "$runs" vmlinux initramfs "${qemu[@]}" </dev/null
