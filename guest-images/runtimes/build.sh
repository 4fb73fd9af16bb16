#!/usr/bin/env bash
# Builds out/runtimes/root.ext4: a disk with Debian's container runtimes, for the testbed, whose own
# root is an initramfs with busybox. What runs on it is prepared by inside.sh.
#
# Packages are downloaded and unpacked; nothing is installed here and nothing needs root. They are
# checked by the archive's signature and are the archive's current ones, so two builds may differ:
# out/runtimes/packages says which these are.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../common.sh
. "$(dirname "$0")/../common.sh"

# unshare is util-linux's. netavark makes podman's networks, iptables docker's; ip looks at them. dpkg
# tells which files a runtime consists of, mke2fs of e2fsprogs makes cottage's disks.
wanted=(docker.io containerd runc crun podman conmon netavark bubblewrap util-linux iproute2 iptables
  busybox-static dpkg e2fsprogs)

# What packages depend on for their installation, and for keys and users that nobody uses here: names
# as a shell pattern for `case`.
unneeded='perl*|libperl*|lib*-perl|gnupg*|gpg*|dirmngr|pinentry*|tar|debconf|adduser|passwd|usrmerge|readline-common|util-linux-extra|libpam-modules*|libsemanage-common|lsb-base|sysvinit-utils|init-system-helpers|gcc-12-base|libldap*|libsasl*|libgdbm*|libdb5*|libncursesw*|dmsetup'

# The modules of the testbed's kernel that containers' files and networks want, with what those need;
# inside.sh loads them. A name that a kernel has built in or lacks is left out.
modules=(overlay veth bridge br_netfilter nf_tables nft_compat nft_chain_nat nft_ct nf_nat nf_conntrack
  xt_conntrack xt_MASQUERADE xt_addrtype xt_comment xt_mark xt_nat xt_tcpudp xt_multiport)

result=$out/runtimes
# The modules are those of the kernel that the testbed starts; it is fetched if it is not there.
"$images/../tests/testbed/build.sh"
testbed=${TESTBED_BUILD:-$images/../build/testbed}
kernel=$(basename "$testbed"/packages/root/lib/modules/*)
inputs=$(cat "$images/runtimes/build.sh" - <<<"$kernel" | sha256sum | cut -d' ' -f1)
if same_inputs "$result" "$inputs"; then exit 0; fi

PATH=$PATH:/usr/sbin:/sbin # mke2fs stands there, and not everybody's PATH has it
need_commands roots mke2fs depmod
need_commands testbed apt-get dpkg-deb
need_space "$cache" 1200 "a disk with container runtimes"
work=$cache/runtimes
rm -rf "$work" "$result.new"
mkdir -p "$work/debs/partial" "$work/tree" "$result.new"
tree=$work/tree

# ---- packages -------------------------------------------------------------------------------
# apt thinks of a system with nothing installed, and so names all that the wanted ones depend on.
: >"$work/status"
solve() {
  run_apt apt-get -qq -o Dir::State::status="$work/status" -o Debug::NoLocking=1 \
    -o APT::Install-Recommends=false --print-uris --yes install "${wanted[@]}" 2>"$work/log"
}
solve >"$work/uris" || { use_private_lists; solve >"$work/uris"; } || {
  sed 's/^/  apt: /' "$work/log" >&2
  die "apt cannot find the container runtimes"
}
names=()
# A line is 'URI' FILE SIZE HASH; FILE is NAME_VERSION_ARCHITECTURE.deb with : as %3a.
while read -r _ file _; do
  file=${file//%3a/:}
  name=${file%%_*} version=${file#*_}
  # shellcheck disable=SC2254 # it is a pattern
  eval "case \$name in $unneeded) continue ;; esac"
  names+=("$name=${version%_*}")
done <"$work/uris"
say "downloading ${#names[@]} packages with container runtimes"
(cd "$work/debs" && run_apt apt-get -qq -o Dir::State::status="$work/status" download "${names[@]}") \
  2>"$work/log" >&2 || { sed 's/^/  apt: /' "$work/log" >&2; die "cannot download the container runtimes"; }
printf '%s\n' "${names[@]}" | sort >"$result.new/packages"

# /bin, /sbin and /lib are links into /usr, as in every Debian since 12; packages of 12 still have both.
mkdir -p "$tree"/usr/{bin,sbin,lib,lib64}
for directory in bin sbin lib lib64; do ln -s "usr/$directory" "$tree/$directory"; done
# And dpkg's own records, so that it can be asked whose a file is.
records=$tree/var/lib/dpkg
mkdir -p "$records/info" "$records/updates"
echo 1 >"$records/info/format" # names with the architecture, where there may be two
for deb in "$work"/debs/*.deb; do
  dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$tree" --keep-directory-symlink --no-same-owner
  name=$(dpkg-deb --field "$deb" Package)
  [ "$(dpkg-deb --field "$deb" Multi-Arch)" != same ] || name=$name:$(dpkg-deb --field "$deb" Architecture)
  dpkg-deb --fsys-tarfile "$deb" | tar -t | sed 's|^\./$|/.|; s|^\.||; s|/$||' >"$records/info/$name.list"
  { dpkg-deb --field "$deb"; printf 'Status: install ok installed\n\n'; } >>"$records/status"
done
rm -rf "$tree"/usr/share/{doc,man,info,locale,lintian,bash-completion,zsh,fish,perl5,bug,gtk-doc} \
  "$tree"/usr/share/{common-licenses,doc-base,apport} "$tree"/etc/{init.d,default,cron*}

# ---- what installing would have done --------------------------------------------------------
mkdir -p "$tree"/{dev,proc,sys,run,tmp,root,files,etc/containers,var/lib,var/tmp,var/log}
chmod 1777 "$tree/tmp" "$tree/var/tmp"
ln -s /run "$tree/var/run"
# Busybox is what no package brings, the shell before all.
for applet in $("$tree/bin/busybox" --list); do
  [ -e "$tree/usr/bin/$applet" ] || [ -e "$tree/usr/sbin/$applet" ] || ln -s busybox "$tree/usr/bin/$applet"
done
# Debian's default of two, which update-alternatives would link.
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
  ln -sf xtables-nft-multi "$tree/usr/sbin/$name"
done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$tree/etc/passwd"
printf 'root:x:0:\ndocker:x:999:\nnogroup:x:65534:\n' >"$tree/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files\n' >"$tree/etc/nsswitch.conf"
printf '127.0.0.1 localhost testbed\n' >"$tree/etc/hosts"
: >"$tree/etc/resolv.conf"
# There is no registry; images come by import.
printf '{"default": [{"type": "insecureAcceptAnything"}]}\n' >"$tree/etc/containers/policy.json"

# ---- modules --------------------------------------------------------------------------------
mkdir -p "$tree/lib/modules/$kernel"
cp "$testbed/packages/root/lib/modules/$kernel"/modules.{builtin,builtin.modinfo,order} "$tree/lib/modules/$kernel/"
add_module() { # NAME: copied after those it depends on
  local name=${1//-/_} file target
  # In file names - and _ are used as one pleases.
  file=$(find "$testbed/packages/root/lib/modules/$kernel/" -name "${name//_/[-_]}.ko*" | head -n 1)
  [ -n "$file" ] || return 0
  target=$tree/lib/modules/$kernel/$name.ko
  [ ! -e "$target" ] || return 0
  case $file in
    *.xz) xz -dc "$file" >"$target" ;; # from Debian 13 on
    *) cp "$file" "$target" ;;
  esac
  # Without its signature, which takes the emulated processor long to check; see tests/testbed/build.sh.
  if [ "$(tail -c 28 "$target" | tr -d '\0')" = '~Module signature appended~' ]; then truncate -s -28 "$target"; fi
  for name in $(grep -aoz 'depends=[^[:cntrl:]]*' "$target" | tr -d '\0' | sed 's/depends=//; s/,/ /g'); do
    add_module "$name"
  done
}
for module in "${modules[@]}"; do add_module "$module"; done
depmod -b "$tree" "$kernel"
printf '%s\n' "${modules[@]}" >"$tree/etc/modules"

# ---- the disk -------------------------------------------------------------------------------
# Room for engines and images; a sparse file, of which only what is there takes space. No journal: what
# is written to it in the testbed is thrown away.
truncate -s 4G "$result.new/root.ext4"
mke2fs -q -t ext4 -L runtimes -m 0 -O ^has_journal -E lazy_itable_init=1,nodiscard,root_owner=0:0 \
  -d "$tree" "$result.new/root.ext4"
rm -rf "$work"
echo "$inputs" >"$result.new/inputs.sha256"
publish "$result.new" "$result"
say "built $result/root.ext4 ($(du -m "$result/root.ext4" | cut -f1) MB of 4096)"
