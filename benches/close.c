/*
 * What closing a VM costs with and without an ioeventfd: cc -O2 -o build/close benches/close.c && build/close
 * (docs/adr/0013-requests-on-a-thread.md).
 *
 * A VM as cottage makes it: one memory slot, split irqchip, one vCPU that never runs. Printed is
 * the time of the two close(2) that end it, a line a run.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
	RUNS = 10,
	MEMORY = 2 << 20,      /* 2 MiB */
	IOAPIC_PINS = 24,      /* what the split irqchip reserves routes for */
	NOTIFY = 0xc0000050,   /* the QueueNotify register of cottage's first virtio device */
};

static int ok(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
	return result;
}

static double milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static double time_to_close(int with_ioeventfd)
{
	int kvm = ok(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	int vm = ok(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	void *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region slot = {
		.memory_size = MEMORY,
		.userspace_addr = (unsigned long)memory,
	};
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { IOAPIC_PINS } };
	int event = ok(eventfd(0, EFD_CLOEXEC), "eventfd");
	struct kvm_ioeventfd notify = { .addr = NOTIFY, .len = 4, .fd = event };
	double start, end;
	int vcpu;

	ok(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	ok(ioctl(vm, KVM_ENABLE_CAP, &split), "KVM_CAP_SPLIT_IRQCHIP");
	vcpu = ok(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	if (with_ioeventfd)
		ok(ioctl(vm, KVM_IOEVENTFD, &notify), "KVM_IOEVENTFD");
	start = milliseconds();
	close(vcpu);
	close(vm);
	end = milliseconds();
	close(event);
	close(kvm);
	munmap(memory, MEMORY);
	return end - start;
}

int main(void)
{
	printf("milliseconds to close a VM: without, with an ioeventfd\n");
	for (int run = 0; run < RUNS; run++)
		printf("%8.2f %8.2f\n", time_to_close(0), time_to_close(1));
	return 0;
}
