//! cottage: the smallest house a Linux can live in.
//!
//! A virtual machine monitor (VMM) for KVM on x86-64. The modules stand in reading order: read
//! from top to bottom, they tell how a virtual machine boots.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("cottage runs on x86-64 Linux: it is built on that machine's KVM");

// 1. What the user asks for, and how a run can end.
pub mod cli;
pub mod config;
pub mod outcome;

// 2. The story: machine.rs is the page to start with.
pub mod running;
pub mod machine;

// 3. KVM's half.
pub mod kvm;

// 4. Guest memory and the address map.
pub mod memory;

// 5. What is loaded into it.
pub mod loading;
pub mod bundle;
pub mod boot;
pub mod platform;
pub mod modules;
pub mod guest_request;

// 6. Processors.
pub mod vcpu;

// 7. From an exit to a device.
pub mod bus;

// 8. Devices.
pub mod devices;
pub mod virtio;

// 9. The user's side of the console.
pub mod console;
pub mod control;
pub mod event_loop;
pub mod status;

// 10. When what happened, and who took the time.
pub mod timeline;

// 11. Looking on while a machine runs: by a narrative, by gdb.
pub mod watch;
pub mod trace;
pub mod gdb;

// 12. The same many times, beside other programs.
pub mod bench;

// 13. The same beside containers.
pub mod compare;

// 14. Whether this host can do all that.
pub mod doctor;

// 15. What a kernel is and how it would be booted, without booting it.
pub mod explain;

// 16. The same by hand: a course.
pub mod lab;

// 17. All of it but booting, as a program of its own.
pub mod tools;
