#!/usr/bin/env bash
# What a random read of 4 KiB through virtio-blk costs, and a MiB read in order, beside QEMU's microvm:
# instructions, of guest, VMM and outer kernel together, and exits of a random read. benches/blk.sh
# [RUNS]; `make bench-blk` builds what it needs. COTTAGE_BIN is another cottage than build/cottage.
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
initramfs middle 200 "$((runs + 1))" # the first round is not counted
initramfs long 1000 "$((runs + 1))"

# shellcheck source-path=SCRIPTDIR source=common/qemu.sh
. benches/common/qemu.sh
qemu=()
collect_qemu "$work/qemu"

cat >"$work/measure.sh" <<'END'
runs=$1
shift
cp vmlinux middle long /tmp
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
	rounds='' mibs='' ended=''
	while read -r word value mib; do
		mib=${mib%$(printf '\r')}
		case $word in
		round) rounds="$rounds $value" mibs="$mibs $mib" ;;
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

echo "virtio-blk, the full kernel, 128 MiB, 1 vCPU, n = $runs times 1000 random reads, 32 MiB in order"
echo "instructions of a random read of 4 KiB, of a MiB read in order; exits of a random read"
all=''
for who in cottage qemu; do
	one start_$who middle "$@"
	few=$counts
	one start_$who long "$@"
	exits=$(echo "$few; $counts" | awk -F ';' -v reads=$((800 * (runs + 1))) '{
		split($1, few, " "); count = split($2, many, " ")
		for (i = 1; i <= count; i++) printf " %.2f", (many[i] - few[i]) / reads
	}')
	read_=$(middle $rounds) mib=$(middle $mibs)
	printf '  %-8s read %-30s MiB %-36s exits, MMIO, port, irq, hlt:%s\n' $who "$read_" "$mib" "$exits"
	all="$all $read_ $mib"
done
echo "$all" | awk '{ gsub(/\([^)]*\)/, ""); printf "  cottage is %.2f of QEMU for a read, %.2f for a MiB\n", $1 / $3, $2 / $4 }'
END
tests/testbed/run.sh --icount --timeout "${TIMEOUT:-400}" --file "$images/full/vmlinux" \
	--file "$work/middle" --file "$work/long" --file "$work/measure.sh" --dir "$work/qemu" -- \
	sh measure.sh "$runs" "${qemu[@]}" </dev/null
