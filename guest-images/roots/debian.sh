#!/usr/bin/env bash
# Builds out/debian-rootfs/root.ext4: Debian 12 as a user has it, to boot what is not ours.
#
# debootstrap's smallest Debian with curl, fio, iperf3 and Python in it, without what nobody reads in a
# test. Packages are checked by the archive's signature; they are the archive's current ones, so two
# builds may differ.
# Environment: DEBIAN_MIRROR, where packages come from.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../common.sh
. "$(dirname "$0")/../common.sh"

result=$out/debian-rootfs
inputs=$(sha256sum <"$images/roots/debian.sh" | cut -d' ' -f1)
if same_inputs "$result" "$inputs"; then exit 0; fi

PATH=$PATH:/usr/sbin:/sbin # both commands stand there, and not everybody's PATH has it
need_commands roots debootstrap mke2fs
need_space "$cache" 1000 "a Debian root file system"
as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || die "debootstrap needs root's rights: run this as root, or install sudo"
  as_root=(sudo)
fi

tree=$cache/debian-rootfs
"${as_root[@]}" rm -rf "$tree"
rm -rf "$result.new"
mkdir -p "$result.new"
say "fetching Debian 12's smallest system; this takes minutes"
"${as_root[@]}" debootstrap --variant=minbase --include=curl,fio,iperf3,python3 --arch=amd64 bookworm "$tree" \
  "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$result.new/log" 2>&1 ||
  { tail -n 5 "$result.new/log" >&2; die "debootstrap failed; its words are in $result.new/log"; }
# This machine's own, which debootstrap copies.
"${as_root[@]}" rm -f "$tree/etc/resolv.conf" "$tree/etc/hostname"
"${as_root[@]}" sh -c "cd '$tree' && rm -rf var/cache/apt/*.bin var/cache/apt/archives/*.deb \
  var/lib/apt/lists/* usr/share/doc usr/share/man usr/share/info usr/share/locale"
# For a test to compare with what a guest reads.
sha256sum <"$tree/usr/bin/perl" >"$result.new/perl.sha256"
truncate -s 512M "$result.new/root.ext4"
"${as_root[@]}" mke2fs -q -t ext4 -L debian -E lazy_itable_init=1 -d "$tree" "$result.new/root.ext4"
"${as_root[@]}" rm -rf "$tree"
rm "$result.new/log"
echo "$inputs" >"$result.new/inputs.sha256"
publish "$result.new" "$result"
say "built $result/root.ext4 ($(du -m "$result/root.ext4" | cut -f1) MB of 512)"
