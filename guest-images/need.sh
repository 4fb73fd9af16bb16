#!/usr/bin/env bash
# Installs what building and testing need: guest-images/need.sh GROUP...
#
#   rust     a Rust compiler that can build cottage
#   kernel   what Linux is built with
#   roots    what root file systems for the tests are made with
#   testbed  an emulator that stands in for a host with KVM, and what is put into it
#   tests    clippy and rustfmt for the checks of `make test`
#
# Debian 12 and 13. Says one line per package and why; does nothing, and quickly, when all is there.
set -euo pipefail

rust_wanted=1.88
packages=()
reasons=()

need() {
  packages+=("$1")
  reasons+=("$2")
}

# command_or COMMAND PACKAGE REASON: wants the package unless the command is there.
command_or() { command -v "$1" >/dev/null || need "$2" "$3"; }

# header_or HEADER PACKAGE REASON
header_or() { [ -e "/usr/include/$1" ] || [ -e "/usr/include/x86_64-linux-gnu/$1" ] || need "$2" "$3"; }

# rustup puts its tools where a login shell finds them and a script may not; so do packages for root.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin

rust_is_new_enough() {
  local version
  command -v cargo >/dev/null && version=$(rustc --version 2>/dev/null | cut -d' ' -f2) || return 1
  [ "$(printf '%s\n' "$rust_wanted" "$version" | sort -V | head -n 1)" = "$rust_wanted" ]
}

# Debian 12's own Rust and Debian 13's (1.85) are too old. 12 has a current one for building web
# browsers; 13 has rustup, which fetches one.
rust_packages() {
  if [ "${release:-}" = bookworm ]; then
    need "$1" "$2"
  else
    need rustup "$2 (rustup fetches the current Rust)"
  fi
}

need_c_compiler() {
  command_or gcc gcc "compiles C and links Rust programs"
  # Debian puts libc.a beside the headers.
  header_or stdio.h libc6-dev "headers, and the C library that static programs contain"
}

need_rust() {
  need_c_compiler
  command_or objcopy binutils "puts kernel and initramfs into the cottage file"
  if ! rust_is_new_enough; then
    rust_packages rustc-web "Rust compiler, $rust_wanted or newer"
    rust_packages cargo-web "builds Rust programs"
  fi
}

need_kernel() {
  need_c_compiler
  command_or make make "drives the kernel's build"
  command_or flex flex "makes the configuration tool's scanner"
  command_or bison bison "makes the configuration tool's parser"
  command_or bc bc "computes a header of time constants"
  command_or perl perl "some of the kernel's build scripts"
  command_or xz xz-utils "unpacks the kernel's source"
  header_or libelf.h libelf-dev "objtool checks the kernel's object files"
}

need_testbed() {
  command_or qemu-system-x86_64 qemu-system-x86 "emulates a processor with virtualization"
  command_or xz xz-utils "unpacks Debian packages"
  command_or gcc gcc "builds the archive writer"
  command_or mke2fs e2fsprogs "makes the disk that brings files in and out, without root"
  # cpio is for joining directories into the outer machine.
  command_or cpio cpio "packs files for the emulated host"
}

need_roots() {
  command_or debootstrap debootstrap "makes a small Debian"
  command_or mke2fs e2fsprogs "makes ext4 images"
  command_or mkfs.erofs erofs-utils "makes erofs images"
  command_or mksquashfs squashfs-tools "makes squashfs images"
  command_or depmod kmod "lists which modules of Debian's kernel need which"
}

need_tests() {
  need_rust
  command -v cargo-clippy >/dev/null || rust_packages rust-web-clippy "checks Rust code"
  command -v rustfmt >/dev/null || rust_packages rustfmt-web "checks its format"
  command_or iasl acpica-tools "takes our ACPI tables apart and looks for mistakes"
  command_or setpriv util-linux "starts programs as another user"
  command_or qemu-img qemu-utils "makes disk images, and judges those that we wrote"
  command_or passt passt "the other end of --net user"
  command_or bwrap bubblewrap "a container runtime to compare with"
  command_or crun crun "another"
  command_or runc runc "another"
  command_or curl curl "asks servers in guests"
  command_or strace strace "shows the system calls that the book compares"
  command_or gdb gdb-minimal "looks into guests"
}

# shellcheck disable=SC1091 # not a file of ours
release=$(. /etc/os-release 2>/dev/null && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}") || release=

[ $# -gt 0 ] || { echo "usage: guest-images/need.sh rust|kernel|roots|testbed|tests ..." >&2; exit 1; }
for group; do
  case $group in
    rust | kernel | roots | testbed | tests) "need_$group" ;;
    *) echo "need.sh: unknown group $group; there are rust, kernel, roots, testbed and tests" >&2; exit 1 ;;
  esac
done
# cottage itself is built with musl's C library if this Rust can (docs/adr/0014-musl.md). Only rustup can
# fetch what that takes; without it the program is built with glibc, and works the same.
add_musl() {
  local musl=x86_64-unknown-linux-musl
  [ ! -d "$(rustc --print target-libdir --target $musl)" ] || return 0
  command -v rustup >/dev/null || return 0
  echo "need.sh: rustup fetches Rust's libraries for $musl" >&2
  rustup --quiet target add $musl || echo "need.sh: not to be had; cottage will be built with glibc" >&2
}
wants_rust() { case " $* " in *" rust "* | *" tests "*) ;; *) return 1 ;; esac }

if [ ${#packages[@]} -eq 0 ]; then
  if wants_rust "$@"; then add_musl; fi
  exit 0
fi

# Two groups may want the same package.
declare -A listed=()
wanted=()
for at in "${!packages[@]}"; do
  package=${packages[at]}
  if [ -n "${listed[$package]:-}" ]; then continue; fi
  listed[$package]=1
  wanted+=("$package")
  echo "need.sh: $package: ${reasons[at]}" >&2
done

if [ -z "$release" ]; then
  cat >&2 <<'TEXT'
need.sh: The above is missing. This system is not Debian, so nothing was installed: please install
what corresponds to these Debian packages, then run the same command again. (Rust: https://rustup.rs)
TEXT
  exit 1
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || {
    echo "need.sh: neither root nor sudo; run as root: apt-get install ${wanted[*]}" >&2
    exit 1
  }
  as_root=(sudo)
fi
# Another package manager at work is waited for; no question is asked.
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
echo "need.sh: installing ${#wanted[@]} packages" >&2
"${install[@]}" -qq update >/dev/null || echo "need.sh: package lists could not be fetched; trying those at hand" >&2
"${install[@]}" -qq install --yes --no-install-recommends "${wanted[@]}" >/dev/null

if wants_rust "$@"; then
  hash -r
  # A rustup that has just been installed has no compiler yet. It is the user's, not root's.
  if ! rust_is_new_enough && command -v rustup >/dev/null; then
    echo "need.sh: rustup fetches the current Rust" >&2
    rustup toolchain install stable --profile minimal --component clippy --component rustfmt
    rustup default stable
  fi
  rust_is_new_enough || {
    echo "need.sh: no Rust $rust_wanted or newer among this Debian's packages; get it from https://rustup.rs" >&2
    exit 1
  }
  add_musl
fi
