//! Chapter 16: the same by hand, a course in twenty labs.
//!
//! The chapters before are a VMM as it should be; here are its parts one by one, as a student would write
//! them: raw KVM calls, a guest of a few instructions, and what came of it. A lab is a file here, a page
//! in docs/labs, and a test: `cottage lab check N` compares what it tells with what the page shows. From
//! lab 16 on, labs call the other chapters.
//!
//! Each lab can be run with a mistake in it (`--break`), to see how that mistake looks.
//!
//! [`perform`] runs one: on a thread, which a signal fetches out of a guest that hangs.
//! Read next: [`list`].

pub mod list;
pub mod page;
pub mod tale;
pub mod rig;
pub mod lab01_kvm;
pub mod lab02_memory;
pub mod lab03_registers;
pub mod lab04_real_mode;
pub mod lab05_ports;
pub mod lab06_mmio;
pub mod lab07_protected_mode;
pub mod lab08_long_mode;
pub mod lab09_page_fault;
pub mod lab10_cpuid;
pub mod lab11_interrupts;
pub mod lab12_timer;
pub mod lab13_serial;
pub mod lab14_serial_input;
pub mod lab15_two_vcpus;
pub mod lab16_linux;
pub mod lab17_initramfs;
pub mod lab18_virtio;
pub mod lab18_virtio_driver;
pub mod lab19_dirty_pages;
pub mod lab20_measure;

use std::fmt::Write;
use std::io;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::cli::lab::{LabArgs, LabVerb};
use crate::console::words::say;
use crate::doctor;
use crate::outcome::{USER_ERROR, VMM_FAILURE, with_causes};
use list::{LABS, Lab, Variant};
use tale::{Stop, Tale, host};

/// `check`: not as the page says.
const DIFFERS: u8 = 1;
/// This host cannot run the lab.
const NOT_HERE: u8 = 2;
/// How often it is looked whether a guest hangs, and how often it is kicked.
const LOOK: Duration = Duration::from_millis(20);

/// `cottage lab`: returns the exit status.
pub fn main(args: &LabArgs) -> u8 {
    let word = match &args.verb {
        LabVerb::List => {
            print(&list::table());
            return 0;
        }
        LabVerb::Run { lab, .. } | LabVerb::Show { lab, .. } | LabVerb::Check { lab, .. } => lab,
    };
    let Some((number, lab)) = list::find(word) else {
        say(&format!(
            "there is no lab {word:?}: they have numbers from 1 to {}, and names; `cottage lab list` \
             shows both",
            LABS.len()
        ));
        return USER_ERROR;
    };
    match &args.verb {
        LabVerb::List => 0,
        LabVerb::Run { broken, code, .. } => run(number, lab, broken.as_deref(), code.as_deref()),
        LabVerb::Show { answers, .. } => {
            print(&page::shown(lab.page, *answers));
            if !answers {
                print(&format!(
                    "\nTo check an answer to the first question: `cottage lab check {number} --answer TEXT`. \
                     All answers: `cottage lab show {number} --answers`.\n"
                ));
            }
            0
        }
        LabVerb::Check { answer, .. } => match answer {
            Some(given) => check_answer(number, lab, given),
            None => check(number, lab),
        },
    }
}

fn run(number: usize, lab: &'static Lab, broken: Option<&str>, code: Option<&str>) -> u8 {
    let variant = match broken.map(|name| lab.variant(name).ok_or(name)) {
        None => None,
        Some(Ok(variant)) => Some(variant),
        Some(Err(name)) => {
            let names: Vec<_> = lab.variants.iter().map(|variant| variant.name).collect();
            say(&format!(
                "lab {number} has no variant --break {name:?}: it has {}",
                names.join(", ")
            ));
            return USER_ERROR;
        }
    };
    let code = match code.map(|text| code_for(number, lab, text)) {
        None => None,
        Some(Ok(code)) => Some(code),
        Some(Err(why)) => {
            say(&why);
            return USER_ERROR;
        }
    };
    let tale = Tale::new(variant.map(|variant| variant.name), true).with_code(code);
    match perform(number, lab, variant, tale).0 {
        Ok(()) => 0,
        Err(stop) => complain(&stop),
    }
}

/// The user's machine code for a lab.
///
/// # Errors
/// A sentence that says why not.
fn code_for(number: usize, lab: &Lab, text: &str) -> Result<Vec<u8>, String> {
    if lab.guests.is_empty() || lab.linux {
        return Err(format!(
            "lab {number} does not take --code: its guest is not a few instructions in memory; lab 5 takes it"
        ));
    }
    rig::parse_code(text).ok_or_else(|| {
        format!(
            "--code {text:?} is not machine code: pairs of hexadecimal digits are, at most {}, as \
             'b0 34 f4'; `as` and `objdump -d` make them of assembly",
            rig::LONGEST_CODE
        )
    })
}

/// Says why a lab stopped, and returns the exit status for that.
fn complain(stop: &Stop) -> u8 {
    say(&with_causes(stop));
    if matches!(stop, Stop::NotHere(_)) {
        return NOT_HERE;
    }
    if matches!(stop, Stop::Refused { .. }) {
        say("cottage doctor says what this machine's KVM can do, and what to do about it");
    }
    VMM_FAILURE
}

/// Runs a lab and all its variants and compares with its page.
fn check(number: usize, lab: &'static Lab) -> u8 {
    let mut worst = 0;
    for variant in [None].into_iter().chain(lab.variants.iter().map(Some)) {
        let command = command(number, variant);
        let (ended, told) = perform(
            number,
            lab,
            variant,
            Tale::new(variant.map(|v| v.name), false),
        );
        match ended {
            Err(stop @ Stop::NotHere(_)) => return complain(&stop),
            Err(stop) => {
                print(&format!("not ok  {command}: it stopped\n"));
                complain(&stop);
                worst = worst.max(DIFFERS);
            }
            Ok(()) => match page::compare(&page::outputs(lab.page, &command), &told) {
                Ok(()) => print(&format!(
                    "ok      {command}: {} lines, as the page has them\n",
                    told.len()
                )),
                Err(difference) => {
                    print(&format!(
                        "not ok  {command}: it differs from the page in {difference}\n"
                    ));
                    worst = worst.max(DIFFERS);
                }
            },
        }
    }
    worst
}

fn check_answer(number: usize, lab: &Lab, given: &str) -> u8 {
    if lab.answer.accepts(given) {
        print(&format!("ok: {}\n", lab.answer.why));
        return 0;
    }
    print(&format!(
        "not ok: {given:?} is not the answer to the first question of lab {number}. Run the lab and \
         look again; `cottage lab show {number} --answers` has the answer.\n"
    ));
    DIFFERS
}

/// What is typed to run a lab.
pub fn command(number: usize, variant: Option<&Variant>) -> String {
    let mut command = format!("cottage lab run {number}");
    if let Some(variant) = variant {
        // Cannot fail: a String takes all.
        let _infallible = write!(command, " --break {}", variant.name);
    }
    command
}

/// Runs a lab as `tale`; returns how it ended, and all that it told, unless it told it live.
///
/// A refusal is the point of some variants, so there it is an end like others.
pub fn perform(
    number: usize,
    lab: &'static Lab,
    variant: Option<&'static Variant>,
    mut tale: Tale,
) -> (Result<(), Stop>, Vec<String>) {
    let deadline = tale.deadline();
    let (done, finished) = sync_channel(1);
    let work = move || {
        tale.say(format!("lab {number}: {}", lab.title));
        if let Some(variant) = variant {
            tale.explain(&format!("left out or wrong: {}", variant.what));
        }
        let mut ended = (lab.run)(&mut tale);
        if let Some(variant) = variant {
            if matches!(ended, Err(Stop::Refused { .. })) {
                ended = Ok(());
            }
            if ended.is_ok() {
                tale.explain(&format!("how to recognise it: {}", variant.recognise));
            }
        }
        let _nobody_waits = done.send((ended, tale.into_lines()));
    };
    // The signal only has to interrupt KVM_RUN; SIG_IGN would not, an empty handler does.
    extern "C" fn kicked(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    let ready = register_signal_handler(SIGRTMIN(), kicked)
        .map_err(|error| io::Error::from_raw_os_error(error.errno()));
    let started = ready.and_then(|()| thread::Builder::new().name("lab".into()).spawn(work));
    let thread = match started {
        Ok(thread) => thread,
        Err(error) => return (Err(host("start a thread for the lab")(error)), Vec::new()),
    };
    loop {
        match finished.recv_timeout(LOOK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) if deadline.is_past() => {
                // If it has just come out by itself, the next call of the lab's is interrupted instead,
                // and made again.
                let _gone_already = thread.kill(SIGRTMIN());
            }
            Err(RecvTimeoutError::Timeout) => {}
            // Not reached: a panic has ended the process in the panic hook.
            Err(RecvTimeoutError::Disconnected) => {
                return (Err(Stop::Unexpected("a panic".into())), Vec::new());
            }
        }
    }
}

/// Whether this host's KVM runs a kernel that nobody changed for it.
///
/// # Errors
/// [`Stop::NotHere`] if not.
fn needs_linux() -> Result<(), Stop> {
    if doctor::diagnose(&doctor::gather(Path::new("/"))).can_boot_linux() {
        return Ok(());
    }
    Err(Stop::NotHere(
        "it boots a stock Linux kernel, which this host's KVM cannot run; `cottage doctor` says why. In \
         cottage's source, the testbed can: docs/labs/README.md"
            .into(),
    ))
}

fn print(text: &str) {
    // Without a reader there is nobody to tell.
    let _nobody_listens = io::Write::write_all(&mut io::stdout(), text.as_bytes());
}
