#!/usr/bin/env bash
# Builds out/initramfs.cpio: our init, Debian's static busybox and a handful of files.
#
# The archive is the same on every machine: sorted, owned by root, dated 1970. The kernel's own
# gen_init_cpio writes it from a list, so device nodes and owners need no root here.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../common.sh
. "$(dirname "$0")/../common.sh"

here=$images/initramfs
work=$cache/initramfs
[ -x "$out/init" ] || die "out/init is missing; run guest-images/build.sh init"

inputs=$(cat "$here/build.sh" "$here/files/"* "$out/init" <(pinned busybox-static version) | sha256sum | cut -d' ' -f1)
if [ -f "$out/initramfs.cpio" ] && same_inputs "$work" "$inputs"; then exit 0; fi

need_commands kernel gcc dpkg-deb xz tar
"$images/kernel/source.sh"
new=$work.new
rm -rf "$new"
mkdir -p "$new/tree"
gcc -O1 -o "$new/gen_init_cpio" "$cache/linux/usr/gen_init_cpio.c"
deb=$(fetch busybox-static busybox-static)
dpkg-deb --fsys-tarfile "$deb" | tar -xO ./bin/busybox >"$new/tree/busybox"
chmod 755 "$new/tree/busybox"
cp "$here/files/"* "$new/tree/"
cp "$out/init" "$new/tree/init"
# gen_init_cpio takes a file's date from the file.
touch -d @0 "$new/tree/"*

list() {
  cat <<LIST
dir /bin 755 0 0
dir /dev 755 0 0
dir /dev/pts 755 0 0
dir /dev/shm 1777 0 0
dir /etc 755 0 0
dir /etc/udhcpc 755 0 0
dir /mnt 755 0 0
dir /proc 555 0 0
dir /root 700 0 0
dir /run 755 0 0
dir /sbin 755 0 0
dir /sys 555 0 0
dir /tmp 1777 0 0
dir /usr 755 0 0
dir /usr/bin 755 0 0
dir /usr/sbin 755 0 0
dir /var 755 0 0
slink /var/run /run 777 0 0
slink /var/tmp /tmp 777 0 0
file /bin/busybox $new/tree/busybox 755 0 0
file /init $new/tree/init 755 0 0
LIST
  # The kernel opens the console before init can mount /dev; until then it also wants null.
  echo 'nod /dev/console 600 0 0 c 5 1'
  echo 'nod /dev/null 666 0 0 c 1 3'
  for file in passwd group hosts profile; do
    echo "file /etc/$file $new/tree/$file 644 0 0"
  done
  # Where Debian's busybox looks for it.
  echo "file /etc/udhcpc/default.script $new/tree/udhcpc.script 755 0 0"
  # These would go to busybox's own init; ours knows how to end the VM.
  for name in poweroff reboot halt; do
    echo "slink /sbin/$name /init 777 0 0"
  done
  # `mark 9`: a stage of the guest's own for `cottage run --timeline`.
  echo 'slink /bin/mark /init 777 0 0'
  # `vsock connect 2 52`: connections with the host.
  echo 'slink /bin/vsock /init 777 0 0'
  "$new/tree/busybox" --list-full | grep -vE '(^|/)(poweroff|reboot|halt|init|linuxrc|busybox)$' |
    sed 's|.*|slink /& /bin/busybox 777 0 0|'
}
# A directory sorts before what is in it.
list | LC_ALL=C sort -t' ' -k2,2 -u >"$new/list"
"$new/gen_init_cpio" -t 0 "$new/list" >"$new/initramfs.cpio"
echo "$inputs" >"$new/inputs.sha256"
mv "$new/initramfs.cpio" "$out/initramfs.cpio"
publish "$new" "$work"
say "built $out/initramfs.cpio ($(du -k --apparent-size "$out/initramfs.cpio" | cut -f1) KB)"
