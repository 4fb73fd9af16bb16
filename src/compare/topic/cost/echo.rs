//! The probe as a server on the host, the far end of network round trips.
//!
//! It listens on all addresses, for sides reach the host by different ones, and answers only peers of
//! private networks; it lives as long as the measurement. Read next: [`crate::compare::topic::guest`].

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The server; ended when dropped.
#[derive(Debug)]
pub struct Echo {
    process: Child,
    port: u16,
}

impl Echo {
    /// Starts the probe that is in the folder `root`, and waits until it listens.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    pub fn start(root: &Path) -> Result<Self, String> {
        let port = free_port().map_err(|error| format!("the host has no free port: {error}"))?;
        let mut process = Command::new(root.join("probe"))
            .args(["echo", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("the probe cannot be started as a server: {error}"))?;
        let output = process.stdout.take();
        let echo = Self { process, port };
        let mut line = String::new();
        // It says one line, or ends.
        if let Some(output) = output {
            let _judged_below = BufReader::new(output).read_line(&mut line);
        }
        if line != "READY\n" {
            return Err("the probe does not listen on the host".to_owned());
        }
        Ok(echo)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _may_have_ended = self.process.kill();
        let _nothing_more_to_do = self.process.wait();
    }
}

/// A port that nobody has at the moment. Somebody may take it before the probe does, which then says so.
fn free_port() -> std::io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn with_program(name: &str, script: &str) -> Result<Echo, String> {
        let folder = std::env::temp_dir().join(format!("cottage-{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let program = folder.join("probe");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let echo = Echo::start(&folder);
        fs::remove_dir_all(&folder).unwrap();
        echo
    }

    #[test]
    fn it_ends_with_its_owner() {
        let echo = with_program("echo", "#!/bin/sh\necho READY\nexec sleep 100\n").unwrap();
        let folder = format!("/proc/{}", echo.process.id());
        assert!(Path::new(&folder).exists());
        drop(echo);
        assert!(!Path::new(&folder).exists());
    }

    #[test]
    fn one_that_does_not_listen_is_told_of() {
        let why = with_program("mute", "#!/bin/sh\nexit 1\n").unwrap_err();
        assert!(why.contains("does not listen"), "{why}");
        let why = Echo::start(Path::new("/does/not/exist")).unwrap_err();
        assert!(why.contains("cannot be started"), "{why}");
    }
}
