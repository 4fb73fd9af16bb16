//! The terminal: opened, made the controlling terminal, set up for the VMM at its other end.

use core::ffi::CStr;

use cottage_init::line::Line;
use cottage_init::run_file::{RunFile, Stdin, Stdout};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{fcntl_dupfd_cloexec, read, write};
use rustix::process::{ioctl_tiocsctty, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios,
    Winsize, speed, tcgetattr, tcsetattr, tcsetwinsize,
};

use crate::room::terminal;

/// Makes the console our standard streams and controlling terminal, with the modes `run` needs.
///
/// Process 1 stays the session's leader until the end. When a leader ends, the kernel hangs up its
/// terminal and throws away output not yet sent; were the command the leader, its last lines
/// would be lost.
pub fn take(run: &RunFile) {
    let Some(tty) = open_terminal() else {
        return;
    };
    let _ = dup2_stdin(&tty);
    let _ = dup2_stdout(&tty);
    let _ = dup2_stderr(&tty);
    let _ = setsid();
    let _ = ioctl_tiocsctty(&tty);
    if let Ok(mut modes) = tcgetattr(&tty) {
        set_modes(&mut modes, run);
        let _ = tcsetattr(&tty, OptionalActions::Now, &modes);
    }
    if run.rows != 0 && run.cols != 0 {
        let size = Winsize {
            ws_row: run.rows,
            ws_col: run.cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let _ = tcsetwinsize(&tty, size);
    }
}

/// Opens the terminal behind the console by its own name, so that ttyname(3) tells that name.
fn open_terminal() -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut buffer = [0; 64];
    let tty = terminal_path(&mut buffer)
        .and_then(|path| open(path.as_c_str()?, flags, Mode::empty()).ok())
        .or_else(|| open(c"/dev/console", flags, Mode::empty()).ok())
        .or_else(|| open(c"/dev/ttyS0", flags, Mode::empty()).ok())?;
    // In an initramfs without /dev/console the kernel gives us no standard streams, and this is
    // number 0, which must not be marked close-on-exec. 3 and up is past them.
    fcntl_dupfd_cloexec(tty, 3).ok()
}

/// The device file of the console: the last terminal that the kernel lists as one.
fn terminal_path(buffer: &mut [u8; 64]) -> Option<Line<80>> {
    let path = c"/sys/class/tty/console/active";
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let count = read(file, &mut buffer[..]).ok()?;
    let names = buffer.get(..count)?.trim_ascii_end();
    let name = names
        .rsplit(|&byte| byte == b' ')
        .next()
        .filter(|name| !name.is_empty())?;
    Some(Line::new().text(b"/dev/").text(name))
}

fn set_modes(modes: &mut Termios, run: &RunFile) {
    // The VMM's port knows no baud rate; a high one keeps the driver's own waits short.
    let _ = modes.set_speed(speed::B115200);
    // Whoever fills our queue is stopped by the RTS line, which the VMM obeys: nothing is lost when
    // somebody pastes a book.
    modes.control_modes |= ControlModes::CRTSCTS | ControlModes::CLOCAL | ControlModes::CREAD;
    match run.stdin {
        Stdin::Tty => {}
        // Nobody types: an echo would only mix input into the output.
        Stdin::None => modes.local_modes -= LocalModes::ECHO,
        Stdin::Pipe => {
            set_binary_input(modes);
            // BREAK is marked, see `cottage_init::parmrk`.
            modes.input_modes |= InputModes::PARMRK;
        }
        Stdin::Coded => set_binary_input(modes),
    }
    match run.stdout {
        Stdout::Tty => modes.output_modes |= OutputModes::OPOST | OutputModes::ONLCR,
        Stdout::Pipe => {
            modes.output_modes -= OutputModes::OPOST;
            // What is echoed would end up in the file.
            modes.local_modes -= LocalModes::ECHO;
        }
    }
}

/// Every byte passes as it is.
fn set_binary_input(modes: &mut Termios) {
    modes.input_modes -= InputModes::IGNBRK
        | InputModes::BRKINT
        | InputModes::IGNPAR
        | InputModes::PARMRK
        | InputModes::INPCK
        | InputModes::ISTRIP
        | InputModes::INLCR
        | InputModes::IGNCR
        | InputModes::ICRNL
        | InputModes::IXON
        | InputModes::IXOFF;
    modes.local_modes -= LocalModes::ICANON
        | LocalModes::ECHO
        | LocalModes::ECHONL
        | LocalModes::ISIG
        | LocalModes::IEXTEN;
    // A read returns as soon as there is one byte.
    modes.special_codes[SpecialCodeIndex::VMIN] = 1;
    modes.special_codes[SpecialCodeIndex::VTIME] = 0;
}

/// One line for a person at a new shell: where they are and how to leave.
pub fn greet() {
    let system = rustix::system::uname();
    let info = rustix::system::sysinfo();
    let memory_mib = (u64::from(info.mem_unit).max(1) * info.totalram) >> 20;
    let cpus = rustix::thread::sched_getaffinity(None).map_or(1, |set| u64::from(set.count()));
    let line = Line::<200>::new()
        .text(b"Linux ")
        .text(system.release().to_bytes())
        .text(b", ")
        .number(cpus)
        .text(if cpus == 1 { b" CPU, " } else { b" CPUs, " })
        .number(memory_mib)
        .text(b" MiB. Leave with `exit` or Ctrl-A x.\n");
    let _ = write(terminal(), line.as_bytes());
}

/// Tells on the console why `name` did not start, in a shell's words.
pub fn complain(name: &CStr, reason: &[u8]) {
    let line = Line::<300>::new()
        .text(b"cottage: ")
        .text(name.to_bytes())
        .text(b": ")
        .text(reason);
    let _ = write(terminal(), line.text(b"\n").as_bytes());
}

/// Waits until the last byte has left the port.
pub fn drain() {
    let _ = rustix::termios::tcdrain(terminal());
}
