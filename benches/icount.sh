#!/usr/bin/env bash
# Boots the tiny kernel in the testbed under cottage and under QEMU's microvm, and counts
# instructions and exits: benches/icount.sh [--alone] [RUNS]; --alone leaves QEMU out. `make
# bench-icount` builds what it needs. COTTAGE_BIN is another cottage than build/cottage.
#
# QEMU goes in as it is installed here: the program, its libraries with their loader, and the
# firmware a microvm starts with. Nothing else of Debian is inside.
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
collect_qemu() {
	local program library file firmware=/usr/share/qemu loader=''
	program=$(command -v qemu-system-x86_64)
	cp -L "$program" "$work/qemu/"
	while read -r library; do
		cp -L "$library" "$work/qemu/lib/"
		[[ $library != */ld-linux* ]] || loader=${library##*/}
	done < <(ldd "$program" | sed -n 's|.* => \(/[^ ]*\) .*|\1|p; s|^[[:space:]]*\(/[^ ]*ld-linux[^ ]*\) .*|\1|p')
	for file in bios-microvm.bin pvh.bin linuxboot_dma.bin kvmvapic.bin; do
		[[ -e $firmware/$file ]] || {
			echo "$firmware/$file is missing: QEMU's microvm needs it" >&2
			exit 1
		}
		cp -L "$firmware/$file" "$work/qemu/share/"
	done
	qemu=("qemu/lib/$loader" --library-path qemu/lib qemu/qemu-system-x86_64 -L qemu/share)
	"$program" --version | head -n 1
}
qemu=()
[[ -n $alone ]] || collect_qemu

# ---- the run --------------------------------------------------------------------------------
# Not optimised: it only starts and watches, and this way it shares its crates with the tests.
program=$(cargo build --quiet --package cottage --bench icount --message-format=json |
	sed -n 's/.*"executable":"\([^"]*\/icount-[^"]*\)".*/\1/p')
cp "$program" "$work/icount"
tests/testbed/run.sh --icount --timeout 300 --file "$work/icount" \
	--file "$images/tiny/vmlinux" --file "$work/initramfs" --dir "$work/qemu" -- \
	./icount "$runs" vmlinux initramfs "${qemu[@]}" </dev/null
