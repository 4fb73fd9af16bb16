#!/bin/sh
# Runs a command on the disk with container runtimes, in the testbed (busybox sh, root):
#
#   sh inside.sh [--no-docker] [--interruptible] DISK COMMAND [ARGUMENT]...
#
#   --no-docker       leave docker's engine out, which takes longer to start than all else here
#   --interruptible   COMMAND gets SIGINT when standard input ends: the way to reach it with a Ctrl-C
#                     from outside the emulated machine. Its own standard input is /dev/null.
#
# The testbed's root is an initramfs, which container runtimes cannot leave: pivot_root(2) refuses
# there. So DISK becomes the root of a mount namespace of its own, as a distribution's initramfs does
# it (a mount moved onto /, then chroot). It gets what a Debian host would have: cgroups, kernel
# modules, and docker's engine, the only one that has to run beforehand.
#
# There are /files, the command's directory; cottage on PATH; and /dev/kvm. When the command has ended
# the testbed ends all other processes, the engine among them, and the disk's changes are thrown away.
set -e

if [ "$1" != --moved ]; then
	docker=yes interruptible=no
	while :; do
		case $1 in
		--no-docker) docker=no ;;
		--interruptible) interruptible=yes ;;
		*) break ;;
		esac
		shift
	done
	export docker interruptible
	mkdir -p /runtimes
	mount -t ext4 -o noatime "$1" /runtimes
	shift
	# A namespace of its own, for the move would take the testbed's own root away.
	exec unshare -m sh "$0" --moved "$@"
fi
shift

new=/runtimes
for part in dev proc sys tmp files; do mount --rbind /$part $new/$part; done
if [ -e /disk/bin/cottage ]; then
	: >$new/usr/bin/cottage
	mount --bind /disk/bin/cottage $new/usr/bin/cottage
	export COTTAGE_BIN=/usr/bin/cottage
fi

cat >$new/prepare <<'TEXT'
# The second half of inside.sh, which is not to be seen from here.
set -e
mount -t tmpfs -o mode=755 run /run
# What engines keep is in memory: under --icount the clock leaps while the machine waits for its disk,
# ten seconds at a time if no timer is nearer, and every engine syncs.
for engine in docker containerd containers cni; do
	mkdir -p /var/lib/$engine
	mount -t tmpfs -o mode=755 engine /var/lib/$engine
done
mount -t cgroup2 cgroup /sys/fs/cgroup
# As systemd does: controllers for the groups below, where runtimes put containers.
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
	echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
while read -r module; do
	modprobe "$module" || echo "inside.sh: cannot load $module" >&2
done </etc/modules
sysctl -q net.ipv4.ip_forward=1

if [ "$docker" = yes ]; then
	# It starts a containerd of its own. IPv6 would need modules, and nobody asks for it.
	dockerd --storage-driver overlay2 --ip6tables=false >/var/log/dockerd 2>&1 </dev/null &
	waited=0
	until docker version >/dev/null 2>&1; do
		waited=$((waited + 1))
		if [ $waited = 400 ] || ! kill -0 $! 2>/dev/null; then
			echo "inside.sh: docker's engine does not answer; the last it said:" >&2
			tail -n 5 /var/log/dockerd >&2
			break
		fi
		sleep 0.25
	done
fi

cd /files
if [ "$interruptible" = yes ]; then
	# In the background goes what waits; the command keeps this process's number. (The other way round
	# it would ignore SIGINT, as everything does that a script starts in the background. That also has
	# /dev/null for standard input, hence the detour.)
	exec 3<&0 </dev/null
	(cat <&3 >/dev/null && kill -INT $$) &
	exec "$@" 3<&-
fi
exec "$@"
TEXT
cd $new
mount --move . /
unset OLDPWD
PATH=/usr/sbin:/usr/bin exec chroot . /bin/sh /prepare "$@"
