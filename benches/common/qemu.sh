# shellcheck shell=bash
# QEMU for the testbed, as it is installed here: the program, its libraries with their loader, and
# the firmware a microvm starts with. Nothing else of Debian is inside. To be sourced.

# collect_qemu DIRECTORY: copies all that to DIRECTORY, which the testbed gets as "qemu". The array
# qemu is then how it is started there.
collect_qemu() {
	local program library file to=$1 firmware=/usr/share/qemu loader=''
	mkdir -p "$to/lib" "$to/share"
	program=$(command -v qemu-system-x86_64)
	cp -L "$program" "$to/"
	while read -r library; do
		cp -L "$library" "$to/lib/"
		[[ $library != */ld-linux* ]] || loader=${library##*/}
	done < <(ldd "$program" | sed -n 's|.* => \(/[^ ]*\) .*|\1|p; s|^[[:space:]]*\(/[^ ]*ld-linux[^ ]*\) .*|\1|p')
	for file in bios-microvm.bin pvh.bin linuxboot_dma.bin kvmvapic.bin; do
		[[ -e $firmware/$file ]] || {
			echo "$firmware/$file is missing: QEMU's microvm needs it" >&2
			exit 1
		}
		cp -L "$firmware/$file" "$to/share/"
	done
	# shellcheck disable=SC2034 # for who sources this
	qemu=("qemu/lib/$loader" --library-path qemu/lib qemu/qemu-system-x86_64 -L qemu/share)
	"$program" --version | head -n 1
}
