#!/usr/bin/env bash
# Boots the tiny kernel in the testbed under cottage and under QEMU's microvm, and counts
# instructions and exits: benches/icount.sh [RUNS]. `make bench-icount` builds what it needs.
#
# QEMU goes in as it is installed here: the program, its libraries with their loader, and the
# firmware a microvm starts with. Nothing else of Debian is inside.
set -euo pipefail

cd "$(dirname "$0")/.."
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
loader='' firmware=/usr/share/qemu
program=$(command -v qemu-system-x86_64)
cp -L "$program" "$work/qemu/"
while read -r library; do
	cp -L "$library" "$work/qemu/lib/"
	[[ $library != */ld-linux* ]] || loader=${library##*/}
done < <(ldd "$program" | sed -n 's|.* => \(/[^ ]*\) .*|\1|p; s|^[[:space:]]*\(/[^ ]*ld-linux[^ ]*\) .*|\1|p')
for file in bios-microvm.bin pvh.bin linuxboot_dma.bin kvmvapic.bin; do
	[[ -e $firmware/$file ]] || { echo "$firmware/$file is missing: QEMU's microvm needs it" >&2 && exit 1; }
	cp -L "$firmware/$file" "$work/qemu/share/"
done

# ---- the run --------------------------------------------------------------------------------
bench=$(cargo bench --quiet --package cottage --bench icount --no-run --message-format=json |
	sed -n 's/.*"executable":"\([^"]*\/icount-[^"]*\)".*/\1/p')
cp "$bench" "$work/icount"
"$program" --version | head -n 1
tests/testbed/run.sh --icount --timeout 900 --file "$work/icount" \
	--file "$images/tiny/vmlinux" --file "$work/initramfs" --dir "$work/qemu" -- \
	./icount "$runs" vmlinux initramfs \
	"qemu/lib/$loader" --library-path qemu/lib qemu/qemu-system-x86_64 -L qemu/share </dev/null
