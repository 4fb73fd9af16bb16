#!/usr/bin/env bash
# Unpacks Debian's Linux source into out/cache/linux, unless it is there.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../common.sh
. "$(dirname "$0")/../common.sh"

# Nobody may replace the source while it is used: descriptor 8 is ../build.sh's, so the lock is held
# until the image is built. Kernels are thus built one after the other; one that is up to date does
# not come here.
lock source 8

tree=$cache/linux
wanted=$(pinned linux-source sha256)
if [ -f "$tree/debian-version" ] && [ "$(cat "$tree/wanted-sha256")" = "$wanted" ]; then exit 0; fi

need_commands kernel tar xz dpkg-deb
mkdir -p "$cache"
need_space "$cache" 1500 "the kernel source"
deb=$(fetch linux-source linux-source-6.12)

say "unpacking the kernel source (half a minute)"
rm -rf "$tree" "$tree.new"
mkdir "$tree.new"
# Directories that an x86-64 build never opens, a third of the tree. Any Kconfig file must stay.
unused=(
  --exclude='*/arch/arm/boot' --exclude='*/arch/arm/mach-*' --exclude='*/arch/arm64/boot'
  --exclude='*/drivers/gpu/drm/amd/include' --exclude='*/tools/perf' --exclude='*/tools/testing'
  --exclude='*/Documentation/devicetree' --exclude='*/Documentation/translations'
)
# The package holds one tar.xz in a tar: no copy of it needs to touch the disk.
dpkg-deb --fsys-tarfile "$deb" | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' |
  tar -xJ -C "$tree.new" --strip-components=1 "${unused[@]}"
dpkg-deb --field "$deb" Version >"$tree.new/debian-version"
echo "$wanted" >"$tree.new/wanted-sha256"
publish "$tree.new" "$tree"
rm -rf "$(dirname "$deb")"
