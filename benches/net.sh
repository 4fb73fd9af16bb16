#!/usr/bin/env bash
# What a request with its answer, and a MiB sent, cost through virtio-net and a tap device, beside
# QEMU's microvm without vhost: instructions, of guest, VMM and outer kernel together, and exits of a
# request. benches/net.sh [RUNS]; `make bench-net` builds what it needs. COTTAGE_BIN is another cottage
# than build/cottage.
#
# Both boot the same kernel and initramfs with the same program (benches/net.c) in the testbed, with
# instructions counted; the other end is the same program there. As benches/blk.sh, whose comments say
# why.
set -euo pipefail

cd "$(dirname "$0")/.."
runs=${1:-5}
images=guest-images/out
work=build/bench-net
rm -rf "$work"
mkdir -p "$work/guest/.cottage"

cc -O2 -static -Wall -Wextra -o "$work/net" benches/net.c
cp "$work/net" "$work/guest/net"
initramfs() { # NAME ASKS ROUNDS
	printf '%s\0' stdin=none stdout=pipe nic=eth0 ip=10.0.0.2/24 arg=/net arg=10.0.0.1 "arg=$2" \
		"arg=$3" >"$work/guest/.cottage/run"
	(cd "$work/guest" && printf '%s\n' net .cottage .cottage/run | cpio --quiet -o -H newc -R 0:0) |
		cat "$images/initramfs.cpio" - >"$work/$1"
}
initramfs short 100 1
initramfs long 500 "$((runs + 1))" # the first round is not counted
initramfs longer 1500 "$((runs + 1))"

# shellcheck source-path=SCRIPTDIR source=common/qemu.sh
. benches/common/qemu.sh
qemu=()
collect_qemu "$work/qemu"

cat >"$work/measure.sh" <<'END'
runs=$1
shift
cp vmlinux short long longer /tmp
mkfifo fifo
words="console=ttyS0 reboot=k panic=-1 quiet"
cottage=$(command -v cottage)
ip tuntap add dev tap0 mode tap 2>/dev/null || tunctl -t tap0 >/dev/null
ip addr add 10.0.0.1/24 dev tap0
ip link set tap0 up
./net serve &

# In a subshell, which becomes the VMM.
start_cottage() {
	exec "$cottage" run --kernel /tmp/vmlinux --initramfs "/tmp/$1" --cmdline "$words" --memory 128M \
		--net tap=tap0
}
start_qemu() {
	initramfs=$1
	shift
	exec "$@" -M microvm,rtc=on,auto-kernel-cmdline=off -accel kvm -cpu host -m 128 -smp 1 \
		-nodefaults -no-user-config -no-reboot -display none -serial stdio \
		-kernel /tmp/vmlinux -initrd "/tmp/$initramfs" -append "$words" \
		-netdev tap,id=net,ifname=tap0,script=no,downscript=no,vhost=off -device virtio-net-device,netdev=net
}

counters="exits mmio_exits io_exits irq_exits halt_exits"
# Boots a guest until it is done; leaves its rounds in $asks and $bulks, the exits in $counts.
one() {
	"$@" </dev/null >fifo 2>errors &
	machine=$!
	asks='' bulks='' ended=''
	while read -r word ask bulk; do
		bulk=${bulk%$(printf '\r')}
		case $word in
		round) asks="$asks $ask" bulks="$bulks $bulk" ;;
		done*)
			ended=1
			break
			;;
		esac
	done <fifo
	counts=''
	for counter in $counters; do
		counts="$counts $(cat /sys/kernel/debug/kvm/$counter)"
	done
	kill -9 $machine
	wait $machine 2>/dev/null || true
	[ -n "$ended" ] || {
		echo "a guest of $1 ended early" >&2
		cat errors >&2
		exit 1
	}
}

# Median, least and most of the words but the first, which warmed up.
middle() {
	echo "$*" | awk '{
		for (i = 2; i <= NF; i++) value[i - 1] = $i + 0
		n = NF - 1
		for (i = 1; i < n; i++) for (j = i + 1; j <= n; j++) if (value[j] < value[i]) {
			swap = value[i]; value[i] = value[j]; value[j] = swap
		}
		printf "%d (%d to %d)", value[int((n + 1) / 2)], value[1], value[n]
	}'
}

echo "virtio-net at a tap device, the full kernel, 128 MiB, 1 vCPU, n = $runs"
echo "instructions of a request of 64 bytes and its answer, of a MiB sent by TCP; exits of a request"
all=''
for who in cottage qemu; do
	one start_$who short "$@"
	one start_$who long "$@"
	few=$counts
	one start_$who longer "$@"
	exits=$(echo "$few; $counts" | awk -F ';' -v requests=$((1000 * (runs + 1))) '{
		split($1, few, " "); count = split($2, many, " ")
		for (i = 1; i <= count; i++) printf " %.2f", (many[i] - few[i]) / requests
	}')
	asked=$(middle $asks) sent=$(middle $bulks)
	printf '  %-8s request %-36s MiB %-40s exits, MMIO, port, irq, hlt:%s\n' $who "$asked" "$sent" "$exits"
	all="$all $asked $sent"
done
echo "$all" | awk '{ gsub(/\([^)]*\)/, ""); printf "  cottage is %.2f of QEMU for a request, %.2f for a MiB\n", $1 / $3, $2 / $4 }'
kill %1 2>/dev/null || true
END
tests/testbed/run.sh --icount --timeout "${TIMEOUT:-500}" --file "$images/full/vmlinux" \
	--file "$work/short" --file "$work/long" --file "$work/longer" --file "$work/net" \
	--file "$work/measure.sh" --dir "$work/qemu" -- \
	sh measure.sh "$runs" "${qemu[@]}" </dev/null
