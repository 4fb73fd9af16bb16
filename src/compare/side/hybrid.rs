//! A mount namespace in which this host has no hybrid cgroups, for crun, which refuses them.
//!
//! It is made once and kept by its file, so that entering it is all that a start has to pay: taking a
//! mount away, which the kernel does slowly, would cost more than crun itself.
//!
//! Source: unshare(1) and nsenter(1) of util-linux 2.38.
//! Read next: [`super::oci`].

use std::fs::{self, File};

use super::trial::{SECOND, Trial, is_hybrid, is_root};
use super::words::words;
use crate::timeline::Nanos;

/// Where the second version's hierarchy is in hybrid mode.
const UNIFIED: &str = "/sys/fs/cgroup/unified";
/// How long each step may take.
const LIMIT: Nanos = 5 * SECOND;
/// What to tell of it.
pub const NOTE: &str = "crun refuses this host's hybrid cgroups: it is started in a mount namespace \
    without them; entering that, by nsenter, is in its times";

/// The words that have a command run there; none where nobody needs it or it cannot be made.
pub fn without(trial: &mut Trial<'_>) -> Option<Vec<String>> {
    if !is_hybrid() || !is_root() {
        return None;
    }
    let folder = trial.scratch.folder().join("namespace");
    let (file, made) = (folder.join("mnt"), folder.join("made"));
    let [place, name] = [&folder, &file].map(|path| path.to_string_lossy().into_owned());
    if !folder.exists() {
        fs::create_dir(&folder).ok()?;
        // A namespace's file can be kept on a mount that is nobody else's. Scratch takes it away.
        let keep = format!("--mount={name}");
        let steps: [&[&str]; 3] = [
            &["mount", "--bind", &place, &place],
            &["mount", "--make-private", &place],
            &[
                "unshare",
                &keep,
                "--propagation",
                "private",
                "umount",
                UNIFIED,
            ],
        ];
        let [bind, private, unshare] = steps.map(words);
        trial.run(&bind, LIMIT).ok()?;
        trial.run(&private, LIMIT).ok()?;
        File::create(&file).ok()?;
        trial.run(&unshare, LIMIT).ok()?;
        File::create(&made).ok()?;
    }
    // What failed once is not tried for the next runtime.
    if !made.exists() {
        return None;
    }
    Some(words(&["nsenter", &format!("--mount={name}"), "--"]))
}
