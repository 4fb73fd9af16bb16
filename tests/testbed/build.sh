#!/usr/bin/env bash
# Builds what the testbed's emulated machine starts from, into build/testbed/:
#   vmlinuz     Debian's stock cloud kernel, as packaged
#   outer.cpio  its initramfs: busybox, the modules KVM and the disk need, init, agent
#   agent       the program that joins the two sides (agent.rs)
#   busybox     Debian's busybox-static; unpacks modules here, is the user space inside
# Packages are downloaded and unpacked, nothing is installed and nothing needs root.
# Does nothing when the result is there and none of its inputs changed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=${TESTBED_BUILD:-$(cd "$here/../.." && pwd)/build/testbed}

# The modules the inside needs; what they need themselves is found out below. A name the kernel has
# built in, or does not have, is left out: that differs between Debian releases.
modules=(kvm-amd virtio_pci virtio_blk virtio_console tun)

fail() {
	echo "testbed: $*" >&2
	exit 125
}

need() { # COMMAND PACKAGE
	command -v "$1" >/dev/null || fail "$1 is missing: install the package $2 (apt-get install $2)"
}

# The packages themselves are not in the hash: a newer Debian kernel is no reason to rebuild, and
# asking apt each time would cost more than the start of the testbed. Remove build/testbed for it.
inputs=$(cat "$here/build.sh" "$here/init" "$here/agent.rs" | sha256sum | cut -d' ' -f1)

mkdir -p "$out"
exec 9>"$out/lock"
flock 9 # two runs at once build once

if [[ -e $out/outer.cpio && -e $out/vmlinuz && $(cat "$out/inputs" 2>/dev/null) == "$inputs" ]]; then
	exit 0
fi

need rustc "rustc, or rustup's toolchain"
need cpio cpio
need dpkg dpkg
need apt-get apt
rm -f "$out/inputs"

# ---- packages -------------------------------------------------------------------------------
# linux-image-cloud-amd64 is only a name that points to the current kernel's package.
packages=$out/packages
if [[ ! -e $packages/complete ]]; then
	rm -rf "$packages"
	mkdir -p "$packages"
	kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
		sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\).*/\1/p' | head -n 1) || true
	[[ -n $kernel ]] || fail "apt does not know linux-image-cloud-amd64: run apt-get update (Debian 12 or 13)"
	echo "testbed: fetching $kernel and busybox-static" >&2
	# As root, apt drops to its own user for downloads and grumbles if that one cannot write here.
	(cd "$packages" && apt-get -qq -o APT::Sandbox::User= download "$kernel" busybox-static) >&2 ||
		fail "apt-get download $kernel busybox-static failed"
	for package in "$packages"/*.deb; do
		dpkg -x "$package" "$packages/root"
		rm "$package"
	done
	touch "$packages/complete"
fi
root=$packages/root
busybox=$(find "$root" -path '*/bin/busybox' -type f | head -n 1) # /bin, from Debian 13 on /usr/bin
vmlinuz=$(find "$root/boot" -name 'vmlinuz-*' | head -n 1)

# ---- the program of both sides --------------------------------------------------------------
rustc --edition 2024 -O -C panic=abort -C strip=symbols -C target-feature=+crt-static \
	-o "$out/agent" "$here/agent.rs"

# ---- the initramfs --------------------------------------------------------------------------
tree=$(mktemp -d "$out/tree.XXXXXX")
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree"/{bin,dev,proc,sys,modules}
cp "$here/init" "$tree/init"
cp "$out/agent" "$tree/bin/agent"
cp "$busybox" "$tree/bin/busybox"
chmod 755 "$tree/init" "$tree/bin/agent" "$tree/bin/busybox"
applets=$("$busybox" --list)
for applet in $applets; do
	[[ $applet == busybox ]] || ln -s busybox "$tree/bin/$applet"
done
# The kernel opens it for init before init can mount /dev, and only root may make device files:
# the kernel makes it itself (it has a built-in initramfs with /dev/console).

# Copies module $1, after those it depends on, and adds it to the load order.
add_module() {
	local name=${1//-/_} file dependency
	[[ -e $tree/modules/$name.ko ]] && return
	# In file names - and _ are used as one pleases.
	file=$(find "$root" -name "${name//_/[-_]}.ko*" | head -n 1)
	[[ -n $file ]] || return 0
	case $file in
	*.xz) "$busybox" unxz -c "$file" >"$tree/modules/$name.ko" ;; # from Debian 13 on
	*) cp "$file" "$tree/modules/$name.ko" ;;
	esac
	# Checking eleven signatures takes the emulated processor 0.3 s. Without the mark at its end, of 28
	# bytes, a module counts as unsigned, which Debian's kernel accepts.
	if [[ $(tail -c 28 "$tree/modules/$name.ko") == '~Module signature appended~' ]]; then
		truncate -s -28 "$tree/modules/$name.ko"
	fi
	for dependency in $(grep -aoz 'depends=[^[:cntrl:]]*' "$tree/modules/$name.ko" |
		tr -d '\0' | sed 's/depends=//; s/,/ /g'); do
		add_module "$dependency"
	done
	echo "$name.ko" >>"$tree/modules/order"
}
for module in "${modules[@]}"; do
	add_module "$module"
done
# Only brought, for tests that mount an image.
add_module loop
sed -i '/^loop\.ko$/d' "$tree/modules/order"
[[ -e $tree/modules/kvm_amd.ko ]] || fail "$(basename "$vmlinuz") has no kvm-amd module"

# Not compressed: unpacking would take the emulated processor longer than reading.
(cd "$tree" && find . -print0 | sort -z | cpio --quiet --null -o -H newc -R 0:0) >"$out/outer.cpio.new"
mv "$out/outer.cpio.new" "$out/outer.cpio"
cp "$busybox" "$out/busybox"
cp "$vmlinuz" "$out/vmlinuz"
echo "$inputs" >"$out/inputs"
