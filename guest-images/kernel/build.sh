#!/usr/bin/env bash
# Builds one of our kernels: kernel/build.sh tiny|full. Called by ../build.sh.
#
# Results: out/NAME/{vmlinux,bzImage,System.map,config}. Source and object files stay in out/cache,
# so that a changed option costs a partial build.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../common.sh
. "$(dirname "$0")/../common.sh"

name=$1
result=$out/$name
jobs=${JOBS:-$(nproc)}
kernel=$images/kernel
configs=("$kernel/tiny.config")
if [ "$name" = full ]; then configs+=("$kernel/full.config"); fi

inputs=$(cat "${configs[@]}" "$kernel/compact-elf.c" "$kernel/build.sh" <(pinned linux-source version) | sha256sum | cut -d' ' -f1)
if same_inputs "$result" "$inputs"; then exit 0; fi

need_commands kernel gcc make flex bison bc perl xz
echo '#include <libelf.h>' | gcc -fsyntax-only -x c - 2>/dev/null ||
  die "missing header libelf.h; guest-images/need.sh kernel installs it"

"$kernel/source.sh"
source=$cache/linux
version=$(cat "$source/debian-version")
objects=$cache/build-$name-$version
mkdir -p "$objects"
need_space "$cache" 400 "building the $name kernel"

# Equal inputs must give equal files: who, where and when are fixed. The time is Linux 6.12's.
export KBUILD_BUILD_USER=cottage KBUILD_BUILD_HOST=cottage
export KBUILD_BUILD_TIMESTAMP='Sun Nov 17 22:15:08 UTC 2024'
# A message in another language would be a different log, never a different kernel; but tools sort.
export LC_ALL=C

kernel_make=(make -C "$source" "O=$objects")

# The last line about an option wins.
configure() {
  "${kernel_make[@]}" -s tinyconfig
  cat "${configs[@]}" >>"$objects/.config"
  "${kernel_make[@]}" -s olddefconfig
}

# Kconfig drops silently what it cannot grant. List every option whose value is not what we asked.
refused_options() {
  awk '
    { key = "" }
    /^CONFIG_[A-Za-z0-9_]+=/ { at = index($0, "="); key = substr($0, 1, at - 1); value = substr($0, at + 1) }
    /^# CONFIG_[A-Za-z0-9_]+ is not set$/ { key = $2; value = "n" }
    key == "" { next }
    FILENAME == ARGV[1] { have[key] = value; next }
    { want[key] = value }
    END {
      for (key in want) {
        got = (key in have) ? have[key] : "n" # an option may be absent because it cannot be chosen
        if (got != want[key]) printf "  %s: asked for %s, got %s\n", key, want[key], got
      }
    }
  ' "$objects/.config" "${configs[@]}" | sort
}

say "building the $name kernel, Linux $version, with $jobs jobs (log: $objects/log)"
configure >"$objects/log" 2>&1 || { tail -n 20 "$objects/log" >&2; die "configuration failed; log: $objects/log"; }
refused=$(refused_options)
[ -z "$refused" ] || die "options that did not take effect:
$refused"

"${kernel_make[@]}" -j"$jobs" vmlinux bzImage >>"$objects/log" 2>&1 &
build=$!
# A background job does not hear Ctrl-C.
trap 'kill "$build" 2>/dev/null; wait "$build"; exit 130' INT TERM
progress "$build" "$objects/log" '^  (CC|AS|AR|LD) ' "kernel $name"
wait "$build" || { grep -vE '^  [A-Z0-9]+ ' "$objects/log" | tail -n 20 >&2; die "the $name kernel failed to build; log: $objects/log"; }
trap - INT TERM

new=$result.new
rm -rf "$new"
mkdir -p "$new"
strip -o "$new/vmlinux.padded" "$objects/vmlinux"
gcc -O2 -o "$cache/compact-elf" "$kernel/compact-elf.c"
"$cache/compact-elf" "$new/vmlinux.padded" "$new/vmlinux"
rm "$new/vmlinux.padded"
cp "$objects/arch/x86/boot/bzImage" "$new/bzImage"
cp "$objects/System.map" "$new/System.map"
cp "$objects/.config" "$new/config"
echo "$inputs" >"$new/inputs.sha256"
publish "$new" "$result"
say "built $result/vmlinux ($(du -k --apparent-size "$result/vmlinux" | cut -f1) KB)"
