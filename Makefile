# cottage: what to type. Each target's line after ## is what `make help` shows.
#
# Compilers run one per processor; `make JOBS=2 ...` limits that.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

JOBS ?= $(shell nproc)
export JOBS
export CARGO_BUILD_JOBS := $(JOBS)
# rustup's tools are found also where no login shell has set the path.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

# The program is built with musl's C library where this Rust has it, else with glibc. Not evaluated
# before need.sh has fetched it: `=`, not `:=`.
musl := x86_64-unknown-linux-musl
vmm_target = $(shell [ -d "$$(rustc --print target-libdir --target $(musl) 2>/dev/null)" ] && echo $(musl) || echo x86_64-unknown-linux-gnu)
# cargo puts its results into a directory of the target's name.
release = target/$(vmm_target)/release
images := guest-images/out
cottage := build/cottage

.PHONY: help boot cottage full vmm-only rust kernel-tiny kernel-full initramfs debian-cloud debian-rootfs testbed test bench bench-icount bench-blk bench-net bench-micro fuzz book clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

boot: cottage ## from nothing to a Linux shell: install, build, run (in the testbed if the host cannot)
	@if reasons=$$($(cottage) doctor 2>&1); then \
	  $(cottage) run || status=$$?; \
	else \
	  printf '%s\n' "$$reasons" >&2; \
	  echo "This machine cannot run the guest itself; starting it in an emulated one." >&2; \
	  guest-images/need.sh testbed; \
	  tests/testbed/run.sh --tty -- cottage run || status=$$?; \
	fi; \
	[ "$${status:-0}" -lt 110 ] || exit "$$status" # below: what the last command in the shell left

# The single file: the VMM with its tools, kernel, initramfs, init and probe as ELF sections, which it reads from
# /proc/self/exe. The sections are not loaded with the program; each starts on a page, so that it can
# be mapped (objcopy aligns only sections that are already there, hence twice).
#
# The full kernel goes in if it is there, for machines with virtio devices: it takes three times as
# long to build as everything else, and a first `make boot` should not wait for it.
full_kernel = $(wildcard $(images)/full/vmlinux)
sections = tools kernel initramfs init probe $(if $(full_kernel),kernel-full)

cottage: vmm-only kernel-tiny initramfs ## build/cottage, one file that holds VMM, kernel and initramfs
	@newest=$$(ls -t $(release)/cottage $(release)/cottage-tools $(images)/tiny/vmlinux $(full_kernel) $(images)/initramfs.cpio $(images)/init $(images)/probe Makefile | head -n 1); \
	if [ ! $(cottage) -nt "$$newest" ]; then \
	  mkdir -p build; \
	  objcopy \
	    --add-section .cottage.tools=$(release)/cottage-tools \
	    --add-section .cottage.kernel=$(images)/tiny/vmlinux \
	    --add-section .cottage.initramfs=$(images)/initramfs.cpio \
	    --add-section .cottage.init=$(images)/init \
	    --add-section .cottage.probe=$(images)/probe \
	    $(addprefix --add-section .cottage.kernel-full=,$(full_kernel)) \
	    $(foreach name,$(sections),--set-section-flags .cottage.$(name)=noload,readonly) \
	    $(release)/cottage $(cottage).unaligned; \
	  objcopy \
	    $(foreach name,$(sections),--set-section-alignment .cottage.$(name)=4096) \
	    $(cottage).unaligned $(cottage).new; \
	  rm $(cottage).unaligned; \
	  mv $(cottage).new $(cottage); \
	  echo "built $(cottage)"; \
	fi

# By a second make: the first has already looked which images there are.
full: kernel-full ## build/cottage with the full kernel too, which --disk, --net and the like boot
	@$(MAKE) cottage

vmm-only: rust ## the VMM alone, without a guest
	@cargo build --release --package cottage --target $(vmm_target) $(if $(wildcard $(release)/cottage),--quiet)
	@echo $(release)/cottage

# A step of its own: make expands all lines of a recipe before it runs the first.
rust:
	@guest-images/need.sh rust

kernel-tiny: ## guest-images/out/tiny: the kernel that cottage boots by default
	@guest-images/need.sh kernel
	@guest-images/build.sh tiny

kernel-full: ## guest-images/out/full: one with disks, network, file systems and containers
	@guest-images/need.sh kernel
	@guest-images/build.sh full

initramfs: ## guest-images/out/initramfs.cpio: init and busybox; beside it the probe
	@guest-images/need.sh rust kernel
	@guest-images/build.sh initramfs

debian-cloud: ## guest-images/out/debian-cloud: Debian's stock kernel, to boot what is not ours
	@guest-images/need.sh roots
	@guest-images/build.sh debian-cloud

debian-rootfs: ## guest-images/out/debian-rootfs: a small Debian on a disk image, made by debootstrap
	@guest-images/need.sh roots
	@guest-images/build.sh debian-rootfs

testbed: ## run a command in an emulated host with KVM: make testbed CMD='cottage doctor' FILES=...
	@guest-images/need.sh testbed
	@tests/testbed/run.sh $$([ -t 0 ] && [ -t 1 ] && echo --tty) $(foreach file,$(FILES),--file $(file)) --shell '$(subst ','\'',$(CMD))'

test: ## all checks
	@guest-images/need.sh tests
	@tests/run.sh

bench: vmm-only ## start-up times on this /dev/kvm, beside the bare KVM calls and QEMU: make bench RUNS=40
	@COTTAGE_BIN=$(CURDIR)/$(release)/cottage cargo bench --quiet --package cottage --bench start -- $(RUNS)

bench-icount: cottage ## instructions and exits of a boot, beside QEMU, in the testbed: make bench-icount RUNS=3
	@guest-images/need.sh testbed
	@benches/icount.sh $(RUNS)

bench-blk: cottage kernel-full ## instructions and exits of a random read from a disk, beside QEMU, in the testbed: make bench-blk RUNS=5
	@guest-images/need.sh testbed
	@benches/blk.sh $(RUNS)

bench-net: cottage kernel-full ## instructions and exits of a request and a MiB each way through a network card, beside QEMU, in the testbed: make bench-net RUNS=5
	@guest-images/need.sh testbed
	@benches/net.sh $(RUNS)

bench-micro: ## what single steps cost here: exits, printing, loading, unpacking: make bench-micro NAME=exit
	@guest-images/need.sh rust
	@cargo bench --quiet --package cottage --bench micro -- $(NAME)

book: ## docs/ as a site, in build/book/index.html; the pages read as they are, too
	@guest-images/need.sh rust
	@command -v mdbook >/dev/null || cargo install --quiet --locked --no-default-features --features search mdbook@0.4.52
	@mdbook build

fuzz: ## a hostile driver or file by libFuzzer, needs a nightly Rust: make fuzz TARGET=blk TIME=300
	@guest-images/need.sh rust
	@command -v cargo-fuzz >/dev/null || cargo install --quiet --locked cargo-fuzz
	@cd fuzz && cargo +nightly fuzz run $(or $(TARGET),queue) -- -max_total_time=$(or $(TIME),300) -timeout=20

clean: ## remove what was built, keep downloads, sources and object files
	rm -rf build target $(images)/tiny $(images)/full $(images)/debian-cloud $(images)/debian-rootfs $(images)/roots $(images)/kernels $(images)/init $(images)/probe $(images)/initramfs.cpio

distclean: clean ## remove downloads, sources and object files too
	rm -rf $(images)
