//! One small program for the host, containers and virtual machines: what `cottage compare` runs.
//!
//! The same file on every side, so that a difference is the side's. It has neither libc nor std: it
//! is started by the thousand, and what it does itself should not be seen in the figures.
//!
//! Reading order: here, then the modules as they are listed.

#![no_std]
#![no_main]

/// Lines on standard output, and small files.
mod say;
/// `hold`: stays.
mod hold;
/// `identity`: whose kernel is this.
mod identity;
/// `surface`: what a program can reach.
mod surface;
/// Every system call once.
mod gate;
/// `cost`: what things take.
mod cost;
/// The measurements themselves.
mod work;
/// `echo`: the other end of a network measurement.
mod echo;
/// What only the probe has unsafe.
mod room;
/// The rest that is unsafe: what libc would give.
#[path = "../../bare/mod.rs"]
mod bare;

use bare::Strings;
use say::Text;

/// The status of a program that was called wrongly.
const USAGE: u8 = 2;

/// The program, after [`bare`] has set the stage.
fn program(mut arguments: Strings, _environment: Strings) -> ! {
    let name = arguments.next().unwrap_or_default();
    let word = arguments.next().unwrap_or_default();
    let status = match word.to_bytes() {
        // These two come first in time too: nothing is done before they speak.
        b"ready" => {
            say::write_all(bare::output(), b"READY\n");
            Some(0)
        }
        b"stamp" => {
            let now = room::monotonic();
            say::line(Text::new().text(b"READY ").number(now));
            Some(0)
        }
        b"nothing" => Some(0),
        b"hold" => hold::hold(arguments.next()),
        b"identity" => Some(identity::identity()),
        b"surface" => Some(surface::surface()),
        b"cost" => cost::cost(name, arguments),
        b"echo" => echo::echo(arguments.next()),
        _ => None,
    };
    bare::exit(status.unwrap_or_else(usage))
}

/// Says what there is.
fn usage() -> u8 {
    let text = "probe: usage:
  probe ready                says READY
  probe stamp                says READY and when, in ns of its monotonic clock
  probe nothing              does nothing
  probe hold [touch=MIB]     says READY and waits for the end of its input, or SIGTERM
  probe identity             whose kernel this is
  probe surface              what a program here can reach
  probe cost all|syscall|ctxsw|forkexec|pagetouch|arith|fsync|tcp
             [ops=N] [divide=N] [batches=N] [pin=yes|no] [dir=DIR]
             [to=ADDRESS:PORT|to=host:PORT]
  probe echo [ADDRESS:]PORT  answers `probe cost tcp` of private networks, until SIGTERM
";
    say::write_all(bare::complaints(), text.as_bytes());
    USAGE
}
