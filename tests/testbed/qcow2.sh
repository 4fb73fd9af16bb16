#!/usr/bin/env bash
# qcow2 disks in a guest of cottage's, judged by QEMU: images that qemu-img makes here are read by a
# guest in the testbed, and what a guest writes there, qemu-img checks and reads here. Also with a
# cottage that is killed right after the guest's fsync.
#
# usage: tests/testbed/qcow2.sh, after `make cottage kernel-full`; needs qemu-img (Debian: qemu-utils)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
kernel=$repository/guest-images/out/full/vmlinux
work=$repository/build/qcow2
rm -rf "$work"
mkdir -p "$work/read"
cd "$work"

say() { echo "qcow2: $*"; }

# Stretches of noise, text and zeros; no multiple of a cluster.
{
	head -c 1500000 /dev/urandom
	seq 1 200000
	head -c 700000 /dev/zero
	head -c 300000 /dev/urandom
} >content
truncate -s $((4 * 1024 * 1024 + 512)) content
sum=$(sha256sum <content | cut -d ' ' -f 1)
size=$(stat -c %s content)

# ---- made by QEMU, read by a guest ----------------------------------------------------------
made() { # NAME OPTION...
	qemu-img convert -f raw -O qcow2 "${@:2}" content "read/$1.qcow2"
}
made v3
made v2 -o compat=0.10
made small -o cluster_size=512
made large -o cluster_size=2M
made zlib -c
made zlib-v2 -c -o compat=0.10
made zlib-small -c -o cluster_size=4k
made zstd -c -o compression_type=zstd
# Two below one another: the lower half is in the raw file, the rest in the images.
cp content read/base
qemu-img create -q -f qcow2 -F raw -b base read/middle.qcow2
qemu-img create -q -f qcow2 -F qcow2 -b middle.qcow2 read/chain.qcow2
dd if=/dev/zero of=read/base bs=512 seek=4000 count=2000 conv=notrunc status=none
dd if=content of=piece bs=512 skip=4000 count=2000 status=none
qemu-io -c "write -s piece 2048000 1024000" read/middle.qcow2 >/dev/null
qemu-io -c "write -P 0 0 512" -c "write -s content 0 512" read/chain.qcow2 >/dev/null

cat >read.sh <<'END'
flags=''
for name in v3 v2 small large zlib zlib-v2 zlib-small zstd chain; do
	flags="$flags --disk read/$name.qcow2,ro,id=$name"
done
cottage run --kernel vmlinux --memory 256M $flags --disk read/zstd.qcow2,overlay,id=thrown -- \
	sh -c 'for disk in /dev/vd?; do echo $(cat /sys/block/${disk#/dev/}/serial) $(sha256sum <$disk); done'
END

# ---- written by a guest, then left in order, or killed ---------------------------------------
# A disk of each kind: a raw file, an image, one of version 2, an image over another, a layer that
# cottage makes over a raw file, and one over packed clusters.
cat >write.sh <<'END'
disks="--disk $1/raw --disk $1/v3.qcow2 --disk $1/v2.qcow2 --disk $1/over.qcow2"
disks="$disks --disk $1/lower,overlay=$1/layer.qcow2 --disk $1/zstd.qcow2,overlay=$1/packed.qcow2"
rm -f fifo
mkfifo fifo
cottage run --kernel vmlinux --memory 256M --disk content,ro $disks -- sh -c "
	for disk in b c d e f g; do
		dd if=/dev/vda of=/dev/vd\$disk bs=20k conv=fsync 2>/dev/null || exit 1
	done
	echo synced
	$2" >fifo &
read -r line <fifo
echo "$line"
[ "$3" != kill ] || kill -9 $!
wait $! || true
END
prepare() { # DIRECTORY
	mkdir -p "$1"
	truncate -s "$size" "$1/raw" "$1/below" "$1/lower"
	qemu-img create -q -f qcow2 "$1/v3.qcow2" "$size"
	qemu-img create -q -f qcow2 -o compat=0.10 "$1/v2.qcow2" "$size"
	qemu-img create -q -f qcow2 -F raw -b below "$1/over.qcow2"
	seq 300000 1000000 >other
	truncate -s "$size" other
	qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd other "$1/zstd.qcow2"
}
prepare ended
prepare killed

# All in one machine. The written files come back beside the scripts: new ones are fetched.
cat >all.sh <<'END'
set -e
sh read.sh
sh write.sh ended "" end
sh write.sh killed "sleep 1000" kill
for how in ended killed; do
	for name in raw v3.qcow2 v2.qcow2 over.qcow2 layer.qcow2 packed.qcow2; do
		cp $how/$name back-$how-$name
	done
done
END
mkdir -p back
"$here/run.sh" --timeout "${1:-500}" --out back --file all.sh --file read.sh --file write.sh \
	--file "$kernel" --file content --dir read --dir ended --dir killed -- sh all.sh </dev/null | tee printed

# ---- the judgement --------------------------------------------------------------------------
wrong=0
expect() { # WHAT COMMAND...
	if "${@:2}"; then say "ok: $1"; else say "WRONG: $1" && wrong=1; fi
}
for name in v3 v2 small large zlib zlib-v2 zlib-small zstd chain thrown; do
	expect "$name is read as it is" grep -qxF "$name $sum -" printed
done
expect "the guest has synced, twice" test "$(grep -cx synced printed)" = 2
same() { qemu-img convert -O raw "$1" raw-of && cmp -s raw-of content; }
# Status 3: clusters that nobody uses, which a kill may leave behind.
in_order() { qemu-img check -q "$1" || [[ $? == 3 && $2 == killed ]]; }
for how in ended killed; do
	for name in raw v3.qcow2 v2.qcow2 over.qcow2 layer.qcow2 packed.qcow2; do
		[[ ! -e back/back-$how-$name ]] || mv "back/back-$how-$name" "$how/$name"
		[[ $name == raw ]] || expect "$how: $name is in order" in_order "$how/$name" "$how"
	done
	expect "$how: raw has what was written" cmp -s "$how/raw" content
	for name in v3 v2 over layer packed; do
		expect "$how: $name has what was written" same "$how/$name.qcow2"
	done
	expect "$how: the disk below the layer is as it was" cmp -s "$how/lower" "$how/below"
done
exit "$wrong"
