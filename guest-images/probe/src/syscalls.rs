//! System calls: their names, and arguments with which they do no harm.
//!
//! Every number is called once, by a child that may break. What comes back shows whether anything
//! stands between a program and the kernel's code, so the arguments should be refused by that code:
//! all bits set is no descriptor, no address, no process, no size and no valid flags. Some calls mean
//! something else by that, or would succeed; they have arguments of their own.
//!
//! Source: Linux v6.12, arch/x86/entry/syscalls/syscall_64.tbl, and as of 6.18 from 463 on.

/// One past the highest number that is tried.
pub const COUNT: usize = 470;

/// First number of the second part of the table, which all architectures share.
const SHARED: usize = 424;

/// Names from number 0 on.
const LOW: &str = "read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction \
    rt_sigprocmask rt_sigreturn ioctl pread64 pwrite64 readv writev access pipe select \
    sched_yield mremap msync mincore madvise shmget shmat shmctl dup dup2 pause nanosleep \
    getitimer alarm setitimer getpid sendfile socket connect accept sendto recvfrom sendmsg \
    recvmsg shutdown bind listen getsockname getpeername socketpair setsockopt getsockopt clone \
    fork vfork execve exit wait4 kill uname semget semop semctl shmdt msgget msgsnd msgrcv \
    msgctl fcntl flock fsync fdatasync truncate ftruncate getdents getcwd chdir fchdir rename \
    mkdir rmdir creat link unlink symlink readlink chmod fchmod chown fchown lchown umask \
    gettimeofday getrlimit getrusage sysinfo times ptrace getuid syslog getgid setuid setgid \
    geteuid getegid setpgid getppid getpgrp setsid setreuid setregid getgroups setgroups \
    setresuid getresuid setresgid getresgid getpgid setfsuid setfsgid getsid capget capset \
    rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend sigaltstack utime mknod uselib \
    personality ustat statfs fstatfs sysfs getpriority setpriority sched_setparam sched_getparam \
    sched_setscheduler sched_getscheduler sched_get_priority_max sched_get_priority_min \
    sched_rr_get_interval mlock munlock mlockall munlockall vhangup modify_ldt pivot_root \
    _sysctl prctl arch_prctl adjtimex setrlimit chroot sync acct settimeofday mount umount2 \
    swapon swapoff reboot sethostname setdomainname iopl ioperm create_module init_module \
    delete_module get_kernel_syms query_module quotactl nfsservctl getpmsg putpmsg afs_syscall \
    tuxcall security gettid readahead setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr \
    listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr tkill time futex \
    sched_setaffinity sched_getaffinity set_thread_area io_setup io_destroy io_getevents \
    io_submit io_cancel get_thread_area lookup_dcookie epoll_create epoll_ctl_old epoll_wait_old \
    remap_file_pages getdents64 set_tid_address restart_syscall semtimedop fadvise64 \
    timer_create timer_settime timer_gettime timer_getoverrun timer_delete clock_settime \
    clock_gettime clock_getres clock_nanosleep exit_group epoll_wait epoll_ctl tgkill utimes \
    vserver mbind set_mempolicy get_mempolicy mq_open mq_unlink mq_timedsend mq_timedreceive \
    mq_notify mq_getsetattr kexec_load waitid add_key request_key keyctl ioprio_set ioprio_get \
    inotify_init inotify_add_watch inotify_rm_watch migrate_pages openat mkdirat mknodat \
    fchownat futimesat newfstatat unlinkat renameat linkat symlinkat readlinkat fchmodat \
    faccessat pselect6 ppoll unshare set_robust_list get_robust_list splice tee sync_file_range \
    vmsplice move_pages utimensat epoll_pwait signalfd timerfd_create eventfd fallocate \
    timerfd_settime timerfd_gettime accept4 signalfd4 eventfd2 epoll_create1 dup3 pipe2 \
    inotify_init1 preadv pwritev rt_tgsigqueueinfo perf_event_open recvmmsg fanotify_init \
    fanotify_mark prlimit64 name_to_handle_at open_by_handle_at clock_adjtime syncfs sendmmsg \
    setns getcpu process_vm_readv process_vm_writev kcmp finit_module sched_setattr \
    sched_getattr renameat2 seccomp getrandom memfd_create kexec_file_load bpf execveat \
    userfaultfd membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc \
    pkey_free statx io_pgetevents rseq uretprobe uprobe";
/// Names from [`SHARED`] on.
const HIGH: &str = "pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount \
    fsopen fsconfig fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2 \
    process_madvise epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset \
    landlock_add_rule landlock_restrict_self memfd_secret process_mrelease futex_waitv \
    set_mempolicy_home_node cachestat fchmodat2 map_shadow_stack futex_wake futex_wait \
    futex_requeue statmount listmount lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal \
    setxattrat getxattrat listxattrat removexattrat open_tree_attr file_getattr file_setattr";

/// Every bit set.
const ALL: usize = usize::MAX;
/// No process has this id: it is above the kernel's greatest possible one, 2^22.
const NO_PROCESS: usize = 0x7fff_ffff;
/// No System V object that anybody made has this key.
const NO_KEY: usize = 0x7fff_fffe;
/// CLONE_SIGHAND, which clone(2) refuses without CLONE_VM.
const CLONE_SIGHAND: usize = 0x800;
/// FUTEX_WAKE, which fails with an address not divisible by 4.
const FUTEX_WAKE: usize = 1;

/// What to do with a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Call it with these arguments.
    Call([usize; 6]),
    /// Call it so that a process it makes ends at once.
    Fork,
    /// Call it without a stack: it takes a processor's state from there, whatever that is.
    WithoutStack,
    /// Leave it: no arguments make it harmless.
    Skip,
}

/// How to try system call `number`.
#[must_use]
pub fn attempt(number: usize) -> Attempt {
    let arguments = match name(number) {
        // It has no arguments and would write all that the host's disks have outstanding.
        Some("sync") => return Attempt::Skip,
        Some("fork" | "vfork") => return Attempt::Fork,
        Some("rt_sigreturn") => return Attempt::WithoutStack,
        // -1 is every process, and a signal -1 none: only the second protects the first.
        Some("kill" | "tkill" | "tgkill") => [NO_PROCESS, NO_PROCESS, 0, 0, 0, 0],
        // All flags would make a queue that stays.
        Some("msgget" | "semget" | "shmget") => [NO_KEY, 0, 0, 0, 0, 0],
        // Unknown operations of these are answered like an unknown system call.
        Some("futex") => [ALL, FUTEX_WAKE, 0, 0, 0, 0],
        Some("modify_ldt") => [0, ALL, 16, 0, 0, 0],
        // Filters look at the flags: this is what an ordinary program's would be.
        Some("clone") => [CLONE_SIGHAND, 0, 0, 0, 0, 0],
        // An image of no size; one of the greatest would be made room for.
        Some("init_module") => [ALL, 0, ALL, 0, 0, 0],
        // No time, so as not to keep anything.
        Some("alarm") => [0; 6],
        _ => [ALL; 6],
    };
    Attempt::Call(arguments)
}

/// Its name, if the table has one.
#[must_use]
pub fn name(number: usize) -> Option<&'static str> {
    let (names, index) = match number.checked_sub(SHARED) {
        Some(index) => (HIGH, index),
        None => (LOW, number),
    };
    names.split_ascii_whitespace().nth(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_numbers() {
        assert_eq!(name(0), Some("read"));
        assert_eq!(name(58), Some("vfork"));
        assert_eq!(name(162), Some("sync"));
        assert_eq!(name(231), Some("exit_group"));
        assert_eq!(name(334), Some("rseq"));
        assert_eq!(name(424), Some("pidfd_send_signal"));
        assert_eq!(name(435), Some("clone3"));
        assert_eq!(name(462), Some("mseal"));
    }

    #[test]
    fn gap_and_end_have_no_names() {
        assert_eq!(name(336), Some("uprobe"));
        assert_eq!(name(337), None);
        assert_eq!(name(423), None);
        assert!(name(COUNT - 1).is_some());
        assert_eq!(name(COUNT), None);
    }

    #[test]
    fn only_sync_is_skipped() {
        let skipped: Vec<_> = (0..COUNT)
            .filter(|&number| attempt(number) == Attempt::Skip)
            .map(|number| name(number).unwrap())
            .collect();
        assert_eq!(skipped, ["sync"]);
    }

    #[test]
    fn calls_that_would_do_something_have_arguments_of_their_own() {
        let ours = (0..COUNT).filter(|&number| attempt(number) != Attempt::Call([ALL; 6]));
        let ours: Vec<_> = ours.map(|number| name(number).unwrap()).collect();
        assert_eq!(
            ours,
            [
                "rt_sigreturn",
                "shmget",
                "alarm",
                "clone",
                "fork",
                "vfork",
                "kill",
                "semget",
                "msgget",
                "modify_ldt",
                "sync",
                "init_module",
                "tkill",
                "futex",
                "tgkill"
            ]
        );
    }
}
