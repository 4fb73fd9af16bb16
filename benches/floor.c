/*
 * The floor: what starting a virtual machine costs when nothing but KVM's own calls is done.
 *
 *     floor                     runs a guest of five instructions that is built in
 *     floor KERNEL INITRAMFS    loads both files first, and runs the kernel from its entry point
 *     floor --irqchip=full ...  the same with all of KVM's interrupt controllers
 *     floor --irqchip=first ... those, made before the memory: the order that costs most
 *
 * `make bench` measures cottage against it: no VMM that makes the same calls can be faster, so the
 * distance is what cottage could still gain. It is no VMM itself: it checks little, knows one
 * device, and a kernel that expects boot parameters finds none. It links without a shared library,
 * as cottage does, for the dynamic linker would be most of its time.
 *
 * The order of the calls is the order that costs least, and cottage's own (src/machine.rs):
 * memory before interrupt controllers, because KVM_SET_USER_MEMORY_REGION waits for the readers of
 * an interrupt controller that already exists; and of those only the local APIC in the kernel
 * (split irqchip), because a complete one makes the end of the machine slow.
 *
 * Build: cc -O2 -static -Wall -Wextra -o floor floor.c
 *
 * Sources: [kvm] Linux Documentation/virt/kvm/api.rst, v6.12; [elf] System V ABI, chapter 5;
 * [sdm3] Intel SDM vol. 3A, chapters 2 (control registers), 3 (segments), 4 (paging).
 */
#define _GNU_SOURCE
#include <elf.h>
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	PAGE = 4096,
	HUGE_PAGE = 2 << 20,           /* 2 MiB */
	RAM = 128 << 20,               /* 128 MiB, cottage's default */
	BOOT_STACK = 0x8ff0,           /* below the tables, as far as anybody pushes */
	PML4 = 0x9000,                 /* one page: points to PDPT */
	PDPT = 0xa000,                 /* one page: points to 4 pages from PAGE_DIRECTORY on */
	PAGE_DIRECTORY = 0xb000,       /* 4 pages: 2048 pages of 2 MiB, the first 4 GiB */
	CODE = 0x100000,               /* where the built-in guest lies, 1 MiB */
	IOAPIC_PINS = 24,              /* what the split irqchip reserves routes for */
	CPUID_ENTRIES = 256,           /* KVM_MAX_CPUID_ENTRIES */
	COM1 = 0x3f8,                  /* transmit register */
	I8042_COMMAND = 0x64,
	I8042_RESET = 0xfe,
};

/* In 64-bit mode: write 'R' to COM1, reset by the keyboard controller. */
static const uint8_t built_in[] = {
	0x66, 0xba, 0xf8, 0x03,        /* mov dx, 0x3f8 */
	0xb0, 'R',                     /* mov al, 'R' */
	0xee,                          /* out dx, al */
	0xb0, 0xfe,                    /* mov al, 0xfe */
	0xe6, 0x64,                    /* out 0x64, al */
};

/* An ioctl that must succeed; returns what it answers. */
static int call(int fd, unsigned long request, void *argument, const char *name)
{
	int answer = ioctl(fd, request, argument);
	if (answer < 0)
		err(1, "%s", name);
	return answer;
}

/*
 * The guest's memory. Aligned to 2 MiB and marked for huge pages: a mapping that begins elsewhere
 * loses them without a word, and then each 4 KiB page costs a fault when it is filled and another
 * one when the guest touches it.
 */
static uint8_t *map_ram(void)
{
	uint8_t *raw = mmap(NULL, RAM + HUGE_PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (raw == MAP_FAILED)
		err(1, "mmap of guest memory");
	uintptr_t aligned = ((uintptr_t)raw + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
	/* Advice: a kernel without huge pages refuses it, and the guest runs all the same. */
	madvise((void *)aligned, RAM, MADV_HUGEPAGE);
	return (uint8_t *)aligned;
}

/* Reads `length` bytes at `offset` of a file straight to their place: no copy, no mapping. */
static void read_into(uint8_t *target, size_t length, int file, off_t offset, const char *path)
{
	while (length) {
		ssize_t got = pread(file, target, length, offset);
		if (got < 0)
			err(1, "%s", path);
		if (got == 0)
			errx(1, "%s ends at byte %lld, too early", path, (long long)offset);
		target += got;
		length -= got;
		offset += got;
	}
}

static int open_file(const char *path)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		err(1, "%s", path);
	return file;
}

/* Loads the segments to their physical addresses and returns the entry point. [elf] */
static uint64_t load_kernel(uint8_t *ram, const char *path)
{
	Elf64_Ehdr header;
	Elf64_Phdr segments[64];
	int file = open_file(path);

	read_into((uint8_t *)&header, sizeof header, file, 0, path);
	if (memcmp(header.e_ident, ELFMAG, SELFMAG) || header.e_ident[EI_CLASS] != ELFCLASS64 ||
	    header.e_phentsize != sizeof segments[0] || header.e_phnum > 64)
		errx(1, "%s: not a 64-bit ELF file with at most 64 segments", path);
	read_into((uint8_t *)segments, header.e_phnum * sizeof segments[0], file, header.e_phoff, path);
	for (int i = 0; i < header.e_phnum; i++) {
		const Elf64_Phdr *segment = &segments[i];
		if (segment->p_type != PT_LOAD)
			continue;
		if (segment->p_filesz > RAM || segment->p_paddr > RAM - segment->p_filesz)
			errx(1, "%s: segment %d does not fit into %d MiB", path, i, RAM >> 20);
		read_into(ram + segment->p_paddr, segment->p_filesz, file, segment->p_offset, path);
	}
	close(file);
	return header.e_entry;
}

/* Loads the file to the end of memory, on a page. */
static void load_initramfs(uint8_t *ram, const char *path)
{
	struct stat status;
	int file = open_file(path);

	if (fstat(file, &status))
		err(1, "%s", path);
	if (status.st_size > RAM / 2)
		errx(1, "%s: larger than half of memory", path);
	size_t pages = (status.st_size + PAGE - 1) / PAGE;
	read_into(ram + RAM - pages * PAGE, status.st_size, file, 0, path);
	close(file);
}

/* Maps the first 4 GiB to themselves. [sdm3] 4.5: 0x3 is present and writable, 0x80 a large page. */
static void write_page_tables(uint8_t *ram)
{
	uint64_t *pml4 = (uint64_t *)(ram + PML4);
	uint64_t *pdpt = (uint64_t *)(ram + PDPT);
	uint64_t *directory = (uint64_t *)(ram + PAGE_DIRECTORY);

	pml4[0] = PDPT | 0x3;
	for (int i = 0; i < 4; i++)
		pdpt[i] = (PAGE_DIRECTORY + i * PAGE) | 0x3;
	for (uint64_t i = 0; i < 4 * 512; i++)
		directory[i] = i * HUGE_PAGE | 0x83;
}

/* The guest sees the processor KVM offers. This pair is the dearest of all the calls. */
static void set_cpuid(int kvm, int vcpu)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + CPUID_ENTRIES * sizeof cpuid->entries[0]);
	if (!cpuid)
		err(1, "calloc");
	cpuid->nent = CPUID_ENTRIES;
	call(kvm, KVM_GET_SUPPORTED_CPUID, cpuid, "KVM_GET_SUPPORTED_CPUID");
	call(vcpu, KVM_SET_CPUID2, cpuid, "KVM_SET_CPUID2");
}

/* 64-bit mode with flat segments, interrupts off. */
static void set_registers(int vcpu, uint64_t entry)
{
	struct kvm_sregs sregs;
	struct kvm_segment code = {
		.base = 0, .limit = 0xffffffff, .selector = 0x10,
		.type = 0xb /* code, readable, accessed */, .present = 1, .s = 1, .l = 1, .g = 1,
	};
	struct kvm_segment data = code;
	data.selector = 0x18;
	data.type = 0x3; /* data, writable, accessed */
	data.l = 0;
	data.db = 1;

	call(vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = PML4;
	sregs.cr4 = 0x20;       /* PAE */
	sregs.cr0 = 0x80000011; /* PG, ET, PE */
	sregs.efer = 0x500;     /* LMA, LME */
	call(vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");

	/* [sdm3] 2.3: bit 1 of RFLAGS is always set. */
	struct kvm_regs regs = { .rip = entry, .rsp = BOOT_STACK, .rflags = 0x2 };
	call(vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
}

/* Runs the guest until it resets. Ports nobody stands behind swallow what is written. */
static void run(int vcpu, struct kvm_run *state)
{
	for (;;) {
		call(vcpu, KVM_RUN, NULL, "KVM_RUN");
		uint8_t *data = (uint8_t *)state + state->io.data_offset;
		switch (state->exit_reason) {
		case KVM_EXIT_IO:
			if (state->io.direction != KVM_EXIT_IO_OUT) {
				memset(data, 0xff, (size_t)state->io.size * state->io.count);
			} else if (state->io.port == COM1) {
				if (write(STDOUT_FILENO, data, state->io.count) < 0)
					err(1, "write");
			} else if (state->io.port == I8042_COMMAND && *data == I8042_RESET) {
				return;
			}
			break;
		case KVM_EXIT_SHUTDOWN: /* a triple fault, which resets a PC */
			return;
		default:
			errx(1, "exit reason %u, see KVM_EXIT_* in linux/kvm.h", state->exit_reason);
		}
	}
}

int main(int count, char **arguments)
{
	enum { SPLIT, FULL, FULL_FIRST } irqchip = SPLIT;
	if (count > 1 && strncmp(arguments[1], "--irqchip=", 10) == 0) {
		irqchip = strcmp(arguments[1], "--irqchip=first") == 0 ? FULL_FIRST : FULL;
		count--;
		arguments++;
	}
	if (count != 1 && count != 3)
		errx(2, "usage: floor [--irqchip=full|first] [KERNEL INITRAMFS]");

	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		err(1, "/dev/kvm");
	int vm = call(kvm, KVM_CREATE_VM, 0, "KVM_CREATE_VM");
	if (irqchip == FULL_FIRST)
		call(vm, KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP");

	uint8_t *ram = map_ram();
	uint64_t entry = CODE;
	if (count == 3) {
		entry = load_kernel(ram, arguments[1]);
		load_initramfs(ram, arguments[2]);
	} else {
		memcpy(ram + CODE, built_in, sizeof built_in);
	}
	write_page_tables(ram);
	struct kvm_userspace_memory_region region = {
		.memory_size = RAM, .userspace_addr = (uintptr_t)ram,
	};
	call(vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");

	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { IOAPIC_PINS } };
	if (irqchip == SPLIT)
		call(vm, KVM_ENABLE_CAP, &split, "KVM_CAP_SPLIT_IRQCHIP");
	if (irqchip == FULL)
		call(vm, KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP");

	int vcpu = call(vm, KVM_CREATE_VCPU, 0, "KVM_CREATE_VCPU");
	int size = call(kvm, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
	struct kvm_run *state = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (state == MAP_FAILED)
		err(1, "mmap of the vCPU");
	set_cpuid(kvm, vcpu);
	set_registers(vcpu, entry);
	run(vcpu, state);
	/* The kernel closes and unmaps everything as the process ends. */
	return 0;
}
