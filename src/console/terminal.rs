//! The user's terminal: raw while the guest has it, and given back on every way out.
//!
//! Raw mode belongs to the terminal, not to the process: who dies without restoring it leaves the
//! user with a shell that does not echo. So the original settings are kept where everybody can
//! reach them, and three ways out restore them: [`Raw`]'s drop (all orderly ends, signals
//! included, which [`super::signals`] makes orderly), the panic hook, and nothing else, because
//! SIGKILL leaves no third.
//!
//! Source: termios(3).
//! Read next: [`super::panic_watch`].

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use rustix::termios::{self, InputModes, OptionalActions, OutputModes, Termios};

/// The settings to go back to, while raw mode is on.
static ORIGINAL: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether a person sits at both ends, stdin and stdout.
///
/// With one end elsewhere (`cottage run > log`, `... | cottage run`) the guest is run as a program
/// in a pipeline is: lines are edited by the terminal, Ctrl-C ends cottage, Ctrl-D is the end of
/// input, and output has no carriage returns.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Raw mode on stdin's terminal, for as long as this lives.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Enters raw mode; `None` if this is not interactive.
    ///
    /// # Errors
    /// What tcsetattr(3) says.
    pub fn enter() -> io::Result<Option<Self>> {
        if !is_interactive() {
            return Ok(None);
        }
        set_raw()?;
        Ok(Some(Self(())))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Sets raw mode and keeps the settings before it; used again after a stop and continue.
///
/// # Errors
/// What tcsetattr(3) says.
pub fn set_raw() -> io::Result<()> {
    let stdin = rustix::stdio::stdin();
    let original = termios::tcgetattr(stdin)?;
    let mut raw = original.clone();
    raw.make_raw();
    // A byte from the guest is one byte: no UTF-8 aware erasing either.
    raw.input_modes.remove(InputModes::IUTF8);
    let mut kept = ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner);
    termios::tcsetattr(stdin, OptionalActions::Now, &raw)?;
    kept.get_or_insert(original);
    Ok(())
}

/// Gives the terminal back as it was; does nothing when it is not raw.
pub fn restore() {
    let mut kept = ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(original) = kept.take() {
        // Now, not after draining: output that a stopped terminal holds would make us wait.
        let _gone = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &original);
    }
}

/// Whether raw mode is on.
pub fn is_raw() -> bool {
    ORIGINAL
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .is_some()
}

/// Whether a newline on stderr starts a new line: always, unless stderr is a terminal in raw mode.
pub fn returns_carriage() -> bool {
    termios::tcgetattr(rustix::stdio::stderr()).map_or(true, |modes| {
        let translates = OutputModes::OPOST | OutputModes::ONLCR;
        modes.output_modes.contains(translates)
    })
}

/// Makes a panic of any thread restore the terminal, say what happened and end the process.
pub fn install_panic_hook(exit_code: u8) {
    std::panic::set_hook(Box::new(move |info| {
        restore();
        super::words::say(&format!("this is a bug in cottage: {info}"));
        std::process::exit(i32::from(exit_code));
    }));
}

/// Rows and columns of the user's terminal, if there is one.
pub fn window_size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(rustix::stdio::stdout())
        .or_else(|_no_terminal| termios::tcgetwinsize(rustix::stdio::stdin()))
        .ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
