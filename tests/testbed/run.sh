#!/usr/bin/env bash
# Runs one command on a complete KVM, on any x86-64 machine: QEMU emulates a processor with AMD SVM,
# Debian's stock kernel with kvm_amd runs on it, and the command runs there.
set -euo pipefail

usage() {
	cat <<'END'
usage: tests/testbed/run.sh [OPTION]... -- COMMAND [ARGUMENT]...
       tests/testbed/run.sh [OPTION]... --shell LINE

Runs COMMAND (or LINE, by busybox sh) in an emulated machine that has /dev/kvm. Its standard input,
output and error are yours, byte for byte, and so is its exit status.

  --file PATH          bring this file in: it stands in the command's directory under its base name;
                       if the command changes it, your file gets the change. Can be repeated
  --dir PATH[:NAME]    bring this directory in, as NAME; its changes stay inside. Can be repeated
  --disk IMAGE         a second disk, /dev/vdb, raw; what is written to it is thrown away
  --out DIR            fetch the files the command leaves new in its directory into DIR
  --tty                give the command a terminal, and pass every key of yours to it
  --cpus N             processors of the machine, default 1
  --memory MIB         memory of the machine, default 2048
  --timeout SECONDS    end the machine after that time; default none
  --icount             count instructions: one processor, one per virtual nanosecond
  --clock[=TEXT]       report to standard error how many million instructions passed until the first
                       byte of output, until a line of output has TEXT, until the end; with --icount
  --exits              report KVM's exit counts to standard error

The command sees /dev/kvm, cottage on PATH (build/cottage, or COTTAGE_BIN), busybox, /files as its
directory, /tmp in memory, COTTAGE_BACKEND=testbed, COTTAGE_REQUIRE_KVM=1.

The exit status is the command's, 0 to 255, unless the testbed says otherwise on standard error, in a
line that begins with "testbed:":
  124  the time limit passed            125  the testbed could not start
  126  the machine died under the command; files are not brought back
  141  standard output or error was closed by its reader
  129, 130, 143  run.sh was ended by SIGHUP, SIGINT, SIGTERM
END
}

here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
build=${TESTBED_BUILD:-$repository/build/testbed}
export TESTBED_BUILD=$build

readonly status_timeout=124 status_no_start=125 status_died=126 status_closed=141

say() {
	echo "testbed: $*" >&2
}

fail() {
	say "$*"
	exit "$status_no_start"
}

# ---- the command line -----------------------------------------------------------------------
files=() dirs=() command=()
out='' image='' tty='' cpus=1 memory=2048 timeout='' icount='' exits=''
unset clock
while (($#)); do
	case $1 in
	--file | --dir | --disk | --out | --cpus | --memory | --timeout | --shell)
		(($# > 1)) || fail "$1 needs a value"
		case $1 in
		--file) files+=("$2") ;;
		--dir) dirs+=("$2") ;;
		--disk) image=$2 ;;
		--out) out=$2 ;;
		--cpus) cpus=$2 ;;
		--memory) memory=$2 ;;
		--timeout) timeout=$2 ;;
		--shell) command=(sh -c "$2") ;;
		esac
		shift
		;;
	--tty) tty=1 ;;
	--icount) icount=1 ;;
	--clock) clock='' ;;
	--clock=*) clock=${1#*=} ;;
	--exits) exits=1 ;;
	-h | --help)
		usage
		exit 0
		;;
	--)
		shift
		command=("$@")
		break
		;;
	*) fail "$1 is no option of run.sh, see --help" ;;
	esac
	shift
done
((${#command[@]})) || fail "no command, see --help"

# ---- what it takes --------------------------------------------------------------------------
need() { # COMMAND PACKAGE
	command -v "$1" >/dev/null || fail "$1 is missing: install the package $2 (apt-get install $2)"
}
PATH=$PATH:/usr/sbin:/sbin # mke2fs and debugfs stand there, and not everybody's PATH has it
need qemu-system-x86_64 qemu-system-x86
need mke2fs e2fsprogs
need debugfs e2fsprogs
"$here/build.sh" || exit "$status_no_start"

cottage=${COTTAGE_BIN:-$repository/build/cottage}
[[ -e $cottage || -z ${COTTAGE_BIN:-} ]] || fail "COTTAGE_BIN is $cottage, which does not exist"

# ---- leaving --------------------------------------------------------------------------------
# Not in /tmp, which may be memory: the disk is as large as the files on it.
for stale in "$build"/run.*; do
	# A run that was killed with SIGKILL could not clean up. The name ends in its process number.
	[[ ! -d $stale ]] || kill -0 "${stale##*.}" 2>/dev/null || rm -rf "$stale"
done
work=$build/run.$$
mkdir -p "$work"
qemu='' agent='' timer='' terminal=''

# shellcheck disable=SC2317 # called by the trap
leave() {
	local process
	trap '' HUP INT TERM
	for process in $agent $qemu $timer; do
		kill "$process" 2>/dev/null || true
	done
	for process in $agent $qemu; do
		wait "$process" 2>/dev/null || true
	done
	[[ -z $terminal ]] || stty "$terminal" <&3 || true
	rm -rf "$work"
}
trap leave EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- the disk -------------------------------------------------------------------------------
# Everything goes in and out on one disk: an ext4 file system that e2fsprogs fills and reads on this
# side without being root or mounting it. So the emulated processor copies nothing, files cost no
# memory inside, and holes stay holes. The other ways cost more: an initramfs is memory, a tar must
# be unpacked by the emulated processor, and Debian's cloud kernel has no 9p.
disk=$work/disk script=$work/debugfs
: >"$script"

# A word as debugfs reads it.
word() {
	case $1 in
	*$'\n'*) fail "a file name with a line break cannot be brought in: $1" ;;
	esac
	printf '"%s"' "${1//\"/\"\"}"
}

absolute() {
	case $1 in
	/*) printf '%s' "$1" ;;
	*) printf '%s' "$PWD/$1" ;;
	esac
}

put() { # HOST-FILE INSIDE-PATH
	local host inside
	host=$(word "$(absolute "$1")")
	inside=$(word "$2")
	echo "write $host $inside" >>"$script"
}

put_directory() { # HOST-DIR INSIDE-PATH
	local path inside target
	while IFS= read -r -d '' path; do
		inside=$2${path#"$1"}
		if [[ -L $path ]]; then
			target=$(readlink "$path")
			echo "symlink $(word "$inside") $(word "$target")" >>"$script"
		elif [[ -d $path ]]; then
			echo "mkdir $(word "$inside")" >>"$script"
		elif [[ -f $path ]]; then
			put "$path" "$inside"
		fi
	done < <(find "$1" -print0)
}

kib=0
declare -A names=()
printf '%s\n' 'mkdir /ctl' 'mkdir /bin' 'mkdir /files' >>"$script"
for file in "${files[@]}"; do
	[[ -f $file && -r $file ]] || fail "--file $file: not a readable file"
	name=$(basename "$file")
	[[ -z ${names[$name]:-} ]] || fail "two files are called $name inside"
	names[$name]=$(absolute "$file")
	put "$file" "/files/$name"
	kib=$((kib + $(stat -L -c %s "$file") / 1024 + 4))
done
for dir in "${dirs[@]}"; do
	name=${dir##*:} path=${dir%:*}
	[[ $dir == *:* ]] || name=$(basename "$(cd "$path" && pwd)")
	[[ -d $path ]] || fail "--dir $path: not a directory"
	[[ -z ${names[$name]:-} ]] || fail "two files are called $name inside"
	names[$name]=$(absolute "$path")
	put_directory "${path%/}" "/files/$name"
	kib=$((kib + $(du -skL --apparent-size "$path" | cut -f 1)))
done

[[ ! -f $cottage ]] || put "$cottage" /bin/cottage
printf '%s\0' "${command[@]}" >"$work/argv"
put "$work/argv" /ctl/argv
if [[ -v clock ]]; then
	printf '%s' "$clock" >"$work/clock"
	put "$work/clock" /ctl/clock
fi
if [[ -n $exits ]]; then
	put /dev/null /ctl/exits
fi
if [[ -n $tty ]]; then
	# Rows and columns; the agent passes on later changes.
	stty size <&0 >"$work/tty" 2>/dev/null || echo 24 80 >"$work/tty"
	put "$work/tty" /ctl/tty
	echo "${TERM:-linux}" >"$work/term"
	put "$work/term" /ctl/term
fi

# Room for the files twice and 8 GiB; a sparse file, so only what is written takes space. The
# tables are left for the inside to make when it needs them (uninit_bg, which metadata_csum would
# replace). No journal: the disk does not outlive a crash.
size=$((8 * 1024 * 1024 + 2 * kib))
mke2fs -q -F -t ext4 -m 0 -b 4096 -O ^has_journal,^metadata_csum,uninit_bg,^resize_inode \
	-E lazy_itable_init=1,nodiscard,root_owner=0:0 "$disk" "${size}k" >"$work/mke2fs.log" 2>&1 ||
	fail "mke2fs failed: $(cat "$work/mke2fs.log")"

# debugfs answers 0 even when a command failed, and says its version on standard error.
debugfs -w -f "$script" "$disk" >/dev/null 2>"$work/debugfs.log" || true
if grep -v '^debugfs [0-9]' "$work/debugfs.log" >"$work/debugfs.errors"; then
	fail "cannot fill the disk: $(head -n 3 "$work/debugfs.errors")"
fi

# ---- the machine ----------------------------------------------------------------------------
if [[ -e /dev/fd/0 ]]; then
	exec 3<&0
else
	exec 3</dev/null # started with standard input closed
fi
if [[ -n $tty && -t 3 ]]; then
	terminal=$(stty -g <&3)
	# The terminal inside does all the work on characters; ours only passes them.
	stty raw -echo <&3
fi

TMPDIR=$work "$build/agent" host "$work/socket" "$work/outcome" ${tty:+tty} <&3 &
agent=$!
until [[ -S $work/socket ]]; do
	kill -0 "$agent" 2>/dev/null || fail "the agent did not start"
	sleep 0.01
done

# thread=single: with a thread for each processor, QEMU 7.2's emulation of SVM corrupts the outer
# kernel's stack when one processor interrupts a guest on another. And then one processor is the
# faster default: two would take turns of 100 ms, also while one only spins for the other.
# shellcheck disable=SC2054 # the commas are QEMU's
accelerator=(-accel tcg,thread=single -smp "$cpus")
# A periodic tick, also when idle: QEMU 7.2's SVM can lose the interrupt that should end a halt, and a
# one-shot timer that is lost is never set again. The machine then slept for ever, in about one of
# three runs of the suites.
tick='nohz=off highres=off'
if [[ -n $icount ]]; then
	# Not here: ticks would be counted.
	tick=''
	# One instruction is one virtual nanosecond; an idle processor does not wait for real time.
	# shellcheck disable=SC2054
	accelerator=(-accel tcg,thread=single -icount shift=0,sleep=off -smp 1)
fi
# cryptomgr.notests: the self-tests of the ciphers were 0.9 of 2.3 G instructions of the start.
# tsc=reliable: or the clock is the HPET, and each look at it leaves translated code.
# no_timer_check: the kernel gives the timer ten ticks of time to show that it works, and panics if QEMU
# does not get a processor in that time ("IO-APIC + timer doesn't work"). It works.
# EPYC-Rome: the newest AMD model that QEMU 7.2 emulates with SVM and nested paging. Its warnings
# about features TCG lacks go to the log with everything else QEMU says.
second=()
if [[ -n $image ]]; then
	[[ -f $image && -r $image ]] || fail "--disk $image: not a readable file"
	# snapshot: writes go to a file of QEMU's in TMPDIR, which leave() removes with the rest. A comma in
	# a file's name is written twice.
	# shellcheck disable=SC2054 # the commas are QEMU's
	second=(-drive "if=none,id=second,file=${image//,/,,},format=raw,snapshot=on,discard=unmap"
		-device virtio-blk-pci,drive=second)
fi
TMPDIR=$work qemu-system-x86_64 -M q35 "${accelerator[@]}" -cpu EPYC-Rome -m "$memory" \
	-nodefaults -no-user-config -display none -no-reboot \
	-kernel "$build/vmlinuz" -initrd "$build/outer.cpio" \
	-append "console=ttyS0 quiet loglevel=1 panic=-1 cryptomgr.notests tsc=reliable no_timer_check $tick" \
	-serial "file:$work/console" \
	-chardev "socket,id=agent,path=$work/socket" \
	-device virtio-serial-pci -device virtserialport,chardev=agent,name=agent \
	-drive "if=none,id=disk,file=$disk,format=raw,cache=unsafe,discard=unmap" \
	-device virtio-blk-pci,drive=disk "${second[@]}" \
	</dev/null >"$work/qemu.log" 2>&1 3<&- &
qemu=$!
if [[ -n $timeout ]]; then
	sleep "$timeout" >/dev/null 2>&1 3<&- &
	timer=$!
fi

# Ends with the first of the three: the machine, the agent, the time.
wait -n $qemu $agent $timer || true
if [[ -n $timer ]] && ! kill -0 "$timer" 2>/dev/null && [[ ! -e $work/outcome ]]; then
	say "the command did not end within $timeout s"
	exit "$status_timeout"
fi
# Now the others end by themselves: the agent when QEMU hangs up, QEMU when the machine is off. One
# that does not (an agent to which QEMU never connected waits for ever) is ended by leave().
for ((i = 0; i < 100; i++)); do
	ended=0
	for process in "$agent" "$qemu"; do
		kill -0 "$process" 2>/dev/null || ended=$((ended + 1))
	done
	# Without an exit status there is nothing to wait long for.
	if ((ended == 2)) || { ((i >= 10)) && [[ ! -s $work/outcome ]]; }; then
		break
	fi
	sleep 0.05
done
[[ -z $terminal ]] || stty "$terminal" <&3
terminal=''

read -r outcome detail 2>/dev/null <"$work/outcome" || outcome=''
case $outcome in
exit) status=$detail ;;
broken) exit "$status_closed" ;;
*)
	if [[ ! -s $work/console ]] && grep -v warning: "$work/qemu.log" >&2; then
		say "QEMU could not start"
		exit "$status_no_start"
	fi
	say "the machine died; the last it said:"
	tail -n 40 "$work/console" >&2 || true
	grep -v warning: "$work/qemu.log" >&2 || true
	exit "$status_died"
	;;
esac

# ---- files back out -------------------------------------------------------------------------
# Copies a file off the disk, holes as holes: piece by piece, as debugfs lists them in blocks of
# 4 KiB. debugfs's own dump writes every hole out as zeros.
copy_out() { # INSIDE-PATH SIZE TARGET
	local logical physical length flags
	debugfs -R "extents -l $(word "$1")" "$disk" >"$work/extents" 2>/dev/null
	truncate -s 0 "$3"
	while read -r logical physical length flags; do
		case $flags in
		*Uninit*) continue ;; # reserved, never written
		esac
		dd if="$disk" of="$3" bs=4096 skip="$physical" seek="$logical" count="$length" \
			conv=notrunc,sparse status=none
	done < <(sed -n 's|^ *[0-9]*/ *[0-9]* *[0-9]*/ *[0-9]* *\([0-9]*\) *- *[0-9]* *\([0-9]*\) *- *[0-9]* *\([0-9]*\)|\1 \2 \3|p' "$work/extents")
	truncate -s "$2" "$3" # the last block may reach beyond the end, and a hole may end the file
}

fetch() { # LIST DESTINATION-OF: brings back each file of a list the agent wrote
	local mode bytes name target is_new
	debugfs -R "cat /ctl/$1" "$disk" 2>/dev/null >"$work/$1"
	while read -r mode bytes name; do
		target=$("$2" "$name")
		[[ -n $target ]] || continue
		is_new=''
		[[ -e $target ]] || is_new=1
		# By way of a second file, for cp keeps what yours has: owner, mode, links. And an interrupted
		# run leaves it half written for a much shorter time.
		if ! { copy_out "/files/$name" "$bytes" "$work/fetched" && mkdir -p "$(dirname "$target")" &&
			cp --sparse=always "$work/fetched" "$target"; }; then
			say "cannot bring back $name"
			status=$status_died
			continue
		fi
		[[ -z $is_new ]] || chmod "$mode" "$target"
	done <"$work/$1"
}
# shellcheck disable=SC2317 # called by name
own_file() { # only files that came by --file have a place to go back to
	[[ $1 == */* ]] || printf '%s' "${names[$1]:-}"
}
# shellcheck disable=SC2317 # called by name
out_file() {
	printf '%s' "$out/$1"
}
if ((${#files[@]})); then
	fetch changed own_file
fi
if [[ -n $out ]]; then
	fetch new out_file
fi
exit "$status"
