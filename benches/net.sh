#!/usr/bin/env bash
# What a request with its answer, and a MiB sent or received, cost through virtio-net and a tap device,
# beside QEMU's microvm without vhost: instructions, of guest, VMM and outer kernel together, with the
# frames, interrupts and exits that they took. benches/net.sh [RUNS]; `make bench-net` builds what it
# needs. COTTAGE_BIN is another cottage than build/cottage.
#
# Both boot the same kernel and initramfs with the same program (benches/net.c) in the testbed, with
# instructions counted; the other end is the same program there. As benches/blk.sh, whose comments say
# why. Frames and interrupts are counted by the guest, exits by the other end.
set -euo pipefail

cd "$(dirname "$0")/.."
runs=${1:-5}
images=guest-images/out
work=build/bench-net
rm -rf "$work"
mkdir -p "$work/guest/.cottage"

cc -O2 -static -Wall -Wextra -o "$work/net" benches/net.c
cp "$work/net" "$work/guest/net"
# The first of the rounds is not counted.
printf '%s\0' stdin=none stdout=pipe nic=eth0 ip=10.0.0.2/24 arg=/net arg=10.0.0.1 arg=500 \
	"arg=$((runs + 1))" >"$work/guest/.cottage/run"
(cd "$work/guest" && printf '%s\n' net .cottage .cottage/run | cpio --quiet -o -H newc -R 0:0) |
	cat "$images/initramfs.cpio" - >"$work/initramfs"

# shellcheck source-path=SCRIPTDIR source=common/qemu.sh
. benches/common/qemu.sh
qemu=()
collect_qemu "$work/qemu"

cat >"$work/measure.sh" <<'SCRIPT'
runs=$1
shift
cp vmlinux initramfs /tmp
mkfifo fifo
words="console=ttyS0 reboot=k panic=-1 quiet"
cottage=$(command -v cottage)
ip tuntap add dev tap0 mode tap 2>/dev/null || tunctl -t tap0 >/dev/null
ip addr add 10.0.0.1/24 dev tap0
ip link set tap0 up
./net serve &

# In a subshell, which becomes the VMM.
start_cottage() {
	exec "$cottage" run --kernel /tmp/vmlinux --initramfs /tmp/initramfs --cmdline "$words" --memory 128M \
		--net tap=tap0
}
start_qemu() {
	exec "$@" -M microvm,rtc=on,auto-kernel-cmdline=off -accel kvm -cpu host -m 128 -smp 1 \
		-nodefaults -no-user-config -no-reboot -display none -serial stdio \
		-kernel /tmp/vmlinux -initrd /tmp/initramfs -append "$words" \
		-netdev tap,id=net,ifname=tap0,script=no,downscript=no,vhost=off -device virtio-net-device,netdev=net
}

# Boots a guest until it is done; leaves the lines of its rounds in the file rounds.
one() {
	"$@" </dev/null >fifo 2>errors &
	machine=$!
	ended=''
	: >rounds
	while read -r word rest; do
		case $word in
		request | sent | received) echo "$word ${rest%$(printf '\r')}" >>rounds ;;
		done*)
			ended=1
			break
			;;
		esac
	done <fifo
	kill -9 $machine
	wait $machine 2>/dev/null || true
	[ -n "$ended" ] || {
		echo "a guest of $1 ended early" >&2
		cat errors >&2
		exit 1
	}
}

# Of the rounds of the kind $1 but the first, which warmed up: median, least and most of the
# instructions; then the medians of frames out and in, of interrupts, and of exits.
middle() {
	awk -v kind="$1" '
	function sorted(column,    i, j, swap) {
		for (i = 1; i <= n; i++) value[i] = round[i, column]
		for (i = 1; i < n; i++) for (j = i + 1; j <= n; j++) if (value[j] < value[i]) {
			swap = value[i]; value[i] = value[j]; value[j] = swap
		}
	}
	$1 == kind && seen++ { n++; for (i = 2; i <= NF; i++) round[n, i] = $i + 0; columns = NF }
	END {
		sorted(2)
		printf "%d (%d to %d)", value[int((n + 1) / 2)], value[1], value[n]
		for (c = 3; c <= columns; c++) { sorted(c); printf " %.2f", value[int((n + 1) / 2)] }
	}' rounds
}

echo "virtio-net at a tap device, the full kernel, 128 MiB, 1 vCPU, n = $runs"
echo "instructions of a request of 64 bytes and its answer, of a MiB sent and received by TCP; for each"
echo "frames out and in, interrupts of the card, exits, and which: MMIO, port, irq, hlt"
all=''
for who in cottage qemu; do
	one start_$who "$@"
	for kind in request sent received; do
		figures=$(middle $kind)
		counts=${figures#*) }
		printf '  %-8s %-9s %-34s %s\n' $who $kind "${figures%"$counts"}" "$counts"
		all="$all ${figures%% *}"
	done
done
echo "$all" | awk '{
	printf "  cottage is %.2f of QEMU for a request, %.2f for a MiB sent, %.2f for one received\n",
		$1 / $4, $2 / $5, $3 / $6
}'
kill %1 2>/dev/null || true
SCRIPT
tests/testbed/run.sh --icount --timeout "${TIMEOUT:-500}" --file "$images/full/vmlinux" \
	--file "$work/initramfs" --file "$work/net" --file "$work/measure.sh" --dir "$work/qemu" -- \
	sh measure.sh "$runs" "${qemu[@]}" </dev/null
