#!/usr/bin/env bash
# Builds out/roots/busybox.{ext4,erofs,squashfs}: one small root, as each kind of image that can be one.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../common.sh
. "$(dirname "$0")/../common.sh"

result=$out/roots
inputs=$(cat "$images/roots/busybox.sh" <(pinned busybox-static version) | sha256sum | cut -d' ' -f1)
if same_inputs "$result" "$inputs"; then exit 0; fi

PATH=$PATH:/usr/sbin:/sbin # mke2fs stands there, and not everybody's PATH has it
need_commands roots mke2fs mkfs.erofs mksquashfs dpkg-deb tar
deb=$(fetch busybox-static busybox-static)
rm -rf "$result.new"
tree=$result.new/tree
mkdir -p "$tree"/{bin,dev,etc,proc,run,sbin,sys,tmp}
dpkg-deb --fsys-tarfile "$deb" | tar -xO ./bin/busybox >"$tree/bin/busybox"
chmod 755 "$tree/bin/busybox"
for name in sh cat ls echo mount touch sync reboot; do ln -s busybox "$tree/bin/$name"; done
echo "a root of the user's" >"$tree/etc/whose"
# What a guest does that is let run its own process 1. `reboot -f` ends it with cottage's command line.
cat >"$tree/sbin/init" <<'INIT'
#!/bin/sh
echo "its own init is process $$"
reboot -f
INIT
chmod 755 "$tree/sbin/init"
truncate -s 8M "$result.new/busybox.ext4"
mke2fs -q -t ext4 -E lazy_itable_init=1 -d "$tree" "$result.new/busybox.ext4"
mkfs.erofs --quiet "$result.new/busybox.erofs" "$tree" >/dev/null
mksquashfs "$tree" "$result.new/busybox.squashfs" -quiet -no-progress -all-root >/dev/null
rm -rf "$tree"
echo "$inputs" >"$result.new/inputs.sha256"
publish "$result.new" "$result"
say "built $result/busybox.{ext4,erofs,squashfs}"
