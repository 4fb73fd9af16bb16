#!/usr/bin/env bash
# Builds guest images: guest-images/build.sh
# tiny|full|init|initramfs|debian-cloud|debian-rootfs|roots|memtest86plus|kernels|runtimes ...
#
# Results go to guest-images/out. Nothing is rebuilt while its inputs are unchanged. Environment:
# JOBS, how many compilers run at once (default: one per processor).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

# Our own programs without libc: the guest's init, and the probe of `cottage compare`.
build_init() {
  need_commands rust cargo
  local name built
  mkdir -p "$out"
  for name in init probe; do
    # One by one: together they would share one rustix, with what both need of it.
    (cd "$images/.." && cargo build --quiet --release -p "cottage-$name")
    # Copied only if different: its date is an input of nothing, but a link to it may be open.
    built=$images/../target/x86_64-unknown-linux-gnu/release/cottage-$name
    if ! cmp -s "$built" "$out/$name"; then
      cp "$built" "$out/$name.new"
      mv "$out/$name.new" "$out/$name"
      say "built $out/$name ($(du -k --apparent-size "$out/$name" | cut -f1) KB)"
    fi
  done
}

# Debian's stock kernel, taken out of its package without installing it.
build_debian_cloud() {
  local result=$out/debian-cloud inputs deb
  # Not from this file: it changes for other images too.
  inputs=$(declare -f build_debian_cloud | cat - <(pinned linux-image-cloud version) | sha256sum | cut -d' ' -f1)
  if same_inputs "$result" "$inputs"; then return; fi
  mkdir -p "$cache"
  need_space "$cache" 300 "Debian's cloud kernel"
  PATH=$PATH:/usr/sbin:/sbin need_commands roots depmod
  deb=$(fetch linux-image-cloud linux-image-cloud-amd64)
  rm -rf "$result.new"
  mkdir -p "$result.new"
  dpkg-deb --extract "$deb" "$result.new/package"
  mv "$result.new/package/boot/"vmlinuz-* "$result.new/vmlinuz"
  mv "$result.new/package/boot/"config-* "$result.new/config"
  # Debian 13's packages have everything under /usr, where depmod does not look.
  if [ -d "$result.new/package/usr/lib/modules" ]; then
    mkdir -p "$result.new/package/lib"
    mv "$result.new/package/usr/lib/modules" "$result.new/package/lib/"
  fi
  # What installing the package would do.
  PATH=$PATH:/usr/sbin:/sbin depmod -b "$result.new/package" "$(ls "$result.new/package/lib/modules")"
  mv "$result.new/package/lib/modules" "$result.new/modules"
  rm -rf "$result.new/package" "$(dirname "$deb")"
  echo "$inputs" >"$result.new/inputs.sha256"
  publish "$result.new" "$result"
  say "unpacked $result/vmlinuz"
}

# A memory tester that boots like a Linux and is none, 64-bit and 32-bit.
build_memtest86plus() {
  local result=$out/memtest86plus inputs deb
  inputs=$(cat "$images/build.sh" <(pinned memtest86plus version) | sha256sum | cut -d' ' -f1)
  if same_inputs "$result" "$inputs"; then return; fi
  mkdir -p "$cache"
  deb=$(fetch memtest86plus memtest86+)
  rm -rf "$result.new"
  mkdir -p "$result.new"
  dpkg-deb --extract "$deb" "$result.new/package"
  mv "$result.new/package/boot/memtest86+x64.bin" "$result.new/x64.bin"
  mv "$result.new/package/boot/memtest86+ia32.bin" "$result.new/ia32.bin"
  rm -rf "$result.new/package" "$(dirname "$deb")"
  echo "$inputs" >"$result.new/inputs.sha256"
  publish "$result.new" "$result"
  say "unpacked $result/x64.bin and ia32.bin"
}

# Kernels to explain, not to boot: of other flavours and releases of Debian than this machine's. apt knows
# none of them here, so they come by their names from the mirror, or from the archive of all it ever had.
build_kernels() {
  local result=$out/kernels inputs name path sha256 deb
  inputs=$(declare -f build_kernels | cat - "$images/kernels.txt" | sha256sum | cut -d' ' -f1)
  if same_inputs "$result" "$inputs"; then return; fi
  need_commands kernel curl dpkg-deb tar
  need_space "$out" 300 "three kernels of Debian's"
  rm -rf "$result.new"
  mkdir -p "$result.new"
  deb=$result.new/package.deb
  while read -r name path sha256; do
    say "downloading ${path##*/}"
    curl -fsSL --retry 3 -o "$deb" "https://deb.debian.org/$path" ||
      curl -fsSL --retry 3 -o "$deb" "https://snapshot.debian.org/archive/${path/\//\/20261120T000000Z\/}" ||
      die "cannot download $path: is there a network?"
    echo "$sha256  $deb" | sha256sum --check --quiet >&2 ||
      die "$path is not the file that kernels.txt describes (sha256 differs)"
    dpkg-deb --fsys-tarfile "$deb" | tar -x --to-stdout --wildcards './boot/vmlinuz-*' >"$result.new/$name"
    rm "$deb"
  done < <(grep -v '^#' "$images/kernels.txt")
  echo "$inputs" >"$result.new/inputs.sha256"
  publish "$result.new" "$result"
  say "unpacked $(find "$result" -type f -name 'debian*' | wc -l) kernels in $result"
}

[ $# -gt 0 ] || die "usage: guest-images/build.sh tiny|full|init|initramfs|debian-cloud|debian-rootfs|roots|memtest86plus|kernels|runtimes ..."
mkdir -p "$cache"
for image; do
  # In a shell of its own, whose end gives back the image's lock, and the source's if it was taken.
  case $image in
    tiny | full) (lock "$image"; "$images/kernel/build.sh" "$image") 8>"$cache/lock.source" ;;
    init) (lock init; build_init) ;;
    initramfs)
      (lock init; build_init)
      (lock initramfs; "$images/initramfs/build.sh") 8>"$cache/lock.source"
      ;;
    debian-cloud) (lock debian-cloud; build_debian_cloud) ;;
    debian-rootfs) (lock debian-rootfs; "$images/roots/debian.sh") ;;
    roots) (lock roots; "$images/roots/busybox.sh") ;;
    memtest86plus) (lock memtest86plus; build_memtest86plus) ;;
    kernels) (lock kernels; build_kernels) ;;
    runtimes) (lock runtimes; "$images/runtimes/build.sh") ;;
    *) die "unknown image $image; there are tiny, full, init, initramfs, debian-cloud, debian-rootfs, roots, memtest86plus, kernels and runtimes" ;;
  esac
done
