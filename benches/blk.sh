#!/usr/bin/env bash
# What a random read of 4 KiB through virtio-blk costs, beside QEMU's microvm: instructions, of guest,
# VMM and outer kernel together, and exits. benches/blk.sh [RUNS]; `make bench-blk` builds what it
# needs. COTTAGE_BIN is another cottage than build/cottage.
#
# Both boot the same kernel and initramfs with the same program (benches/blk.c) in the testbed, with
# instructions counted. The image lies in the testbed's memory, so nobody waits for a disk: a wait
# would count as instructions (tests/testbed/icount.sh). For the same reason the guest measures
# itself, after its boot. The exits are the difference of two runs of different length.
set -euo pipefail

cd "$(dirname "$0")/.."
runs=${1:-5}
images=guest-images/out
work=build/bench-blk
rm -rf "$work"
mkdir -p "$work/guest/.cottage"

# The same bytes for both, as in benches/icount.sh.
cc -O2 -static -Wall -Wextra -o "$work/guest/blk" benches/blk.c
initramfs() { # NAME READS ROUNDS
	printf '%s\0' stdin=none stdout=pipe arg=/blk "arg=$2" "arg=$3" >"$work/guest/.cottage/run"
	(cd "$work/guest" && printf '%s\n' blk .cottage .cottage/run | cpio --quiet -o -H newc -R 0:0) |
		cat "$images/initramfs.cpio" - >"$work/$1"
}
initramfs short 200 1
initramfs long 1000 "$((runs + 1))" # the first round is not counted

# shellcheck source-path=SCRIPTDIR source=common/qemu.sh
. benches/common/qemu.sh
qemu=()
collect_qemu "$work/qemu"

cat >"$work/measure.sh" <<'END'
runs=$1
shift
cp vmlinux short long /tmp
# Every block exists: a hole would be cheaper.
yes cottage | dd of=/tmp/disk bs=1M count=32 iflag=fullblock 2>/dev/null
mkfifo fifo
words="console=ttyS0 reboot=k panic=-1 quiet"
cottage=$(command -v cottage)

# In a subshell, which becomes the VMM.
start_cottage() {
	exec "$cottage" run --kernel /tmp/vmlinux --initramfs "/tmp/$1" --cmdline "$words" --memory 128M \
		--disk /tmp/disk,ro
}
start_qemu() {
	initramfs=$1
	shift
	exec "$@" -M microvm,rtc=on,auto-kernel-cmdline=off -accel kvm -cpu host -m 128 -smp 1 \
		-nodefaults -no-user-config -no-reboot -display none -serial stdio \
		-kernel /tmp/vmlinux -initrd "/tmp/$initramfs" -append "$words" \
		-drive if=none,id=disk,file=/tmp/disk,format=raw,readonly=on -device virtio-blk-device,drive=disk
}

counters="exits mmio_exits io_exits irq_exits halt_exits"
# Boots a guest until it is done; leaves its rounds in $rounds and the exits in $counts.
one() {
	"$@" </dev/null >fifo 2>errors &
	machine=$!
	rounds='' ended=''
	while read -r word value; do
		value=${value%$(printf '\r')}
		case $word in
		round) rounds="$rounds $value" ;;
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
		echo "a guest of $2 ended early" >&2
		cat errors >&2
		exit 1
	}
}

echo "per random read of 4 KiB, the full kernel, 128 MiB, 1 vCPU, n = $runs times 1000"
echo "                 instructions (min to max)        exits   MMIO   port    irq    hlt"
middle=''
for who in cottage qemu; do
	one start_$who short "$@"
	few=$counts
	one start_$who long "$@"
	row=$(echo "$who; $rounds; $few; $counts" | awk -F ';' -v runs="$runs" '{
		n = split($2, round, " ")
		for (i = 2; i <= n; i++) value[i - 1] = round[i] + 0
		n--
		for (i = 1; i < n; i++) for (j = i + 1; j <= n; j++) if (value[j] < value[i]) {
			swap = value[i]; value[i] = value[j]; value[j] = swap
		}
		split($3, few, " "); count = split($4, many, " ")
		reads = 1000 * (runs + 1) - 200
		printf "  %-12s %9d %-20s", $1, value[int((n + 1) / 2)], "(" value[1] " to " value[n] ")"
		for (i = 1; i <= count; i++) printf " %6.2f", (many[i] - few[i]) / reads
		print ""
	}')
	echo "$row"
	middle="$middle $(echo "$row" | awk '{ print $2 }')"
done
echo "$middle" | awk '{ printf "  cottage is %.2f of QEMU\n", $1 / $2 }'
END
tests/testbed/run.sh --icount --timeout "${TIMEOUT:-400}" --file "$images/full/vmlinux" \
	--file "$work/short" --file "$work/long" --file "$work/measure.sh" --dir "$work/qemu" -- \
	sh measure.sh "$runs" "${qemu[@]}" </dev/null
