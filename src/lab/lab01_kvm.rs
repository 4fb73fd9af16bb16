//! Lab 1: /dev/kvm, and what it says of itself.
//!
//! KVM is a file. Everything that a VMM does with it are ioctls: on this file to make virtual machines,
//! on a machine's to make processors, on a processor's to run it. Source: `[kvm]` 4.1, 4.4, 4.5.
//! Read next: [`super::lab02_memory`].

use kvm_ioctls::{Cap, Kvm};

use super::list::{Lab, Variant};
use super::page::Answer;
use super::tale::{Stop, Tale};

pub(super) const LAB: Lab = Lab {
    name: "kvm",
    title: "open /dev/kvm and ask what it can do",
    page: include_str!("../../docs/labs/01-kvm.md"),
    linux: false,
    guests: &[],
    variants: &[Variant {
        name: "no-device",
        what: "there is no /dev/kvm, as in a container that was not given it",
        recognise: "ENOENT: no KVM module is loaded, or this is a container. EACCES would be a matter of \
                    groups. `cottage doctor` tells them apart",
    }],
    answer: Answer {
        right: &["12"],
        why: "KVM_GET_API_VERSION has said 12 since Linux 2.6.22; what is new since then is asked for by \
              KVM_CHECK_EXTENSION",
    },
    run,
};

fn run(tale: &mut Tale) -> Result<(), Stop> {
    let path = match tale.breaks("no-device") {
        true => c"/dev/no-kvm",
        false => c"/dev/kvm",
    };
    // 1. A descriptor for the whole system.
    let about = format!("{}, to read and write", path.to_string_lossy());
    let kvm = tale.call("open", &about, Kvm::new_with_path(path))?;

    // 2. Is that KVM, and the one this course is about?
    let version = kvm.get_api_version();
    tale.say(format!("KVM_GET_API_VERSION: {version}"));

    // 3. What it can do: an extension is 0, 1 or a number.
    for (name, cap, meaning) in [
        (
            "KVM_CAP_USER_MEMORY",
            Cap::UserMemory,
            "lends memory of ours to guests",
        ),
        (
            "KVM_CAP_IRQCHIP",
            Cap::Irqchip,
            "has a PC's interrupt controllers",
        ),
        (
            "KVM_CAP_SIGNAL_MSI",
            Cap::SignalMsi,
            "takes interrupts that are messages",
        ),
        (
            "KVM_CAP_IMMEDIATE_EXIT",
            Cap::ImmediateExit,
            "KVM_RUN can be told to return at once",
        ),
    ] {
        let there = if kvm.check_extension(cap) {
            "yes"
        } else {
            "no"
        };
        tale.say(format!("KVM_CHECK_EXTENSION {name}: {there}; {meaning}"));
    }
    for (name, number, meaning) in [
        (
            "KVM_CAP_NR_MEMSLOTS",
            kvm.get_nr_memslots(),
            "pieces of memory a machine may have",
        ),
        (
            "KVM_CAP_MAX_VCPUS",
            kvm.get_max_vcpus(),
            "processors a machine may have",
        ),
    ] {
        tale.say(format!("KVM_CHECK_EXTENSION {name}: {number} {meaning}"));
    }

    // 4. How much of a vCPU's descriptor to map: the page where KVM says why a guest has stopped.
    let about = "how large struct kvm_run is, with what follows it";
    let size = tale.call("KVM_GET_VCPU_MMAP_SIZE", about, kvm.get_vcpu_mmap_size())?;
    tale.say(format!("  {size} bytes"));
    Ok(())
}
