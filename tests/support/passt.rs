//! Networks by passt, on machines that have it and on one to which it was brought.

use std::process::Command;

/// Runs the script $1 with the other words. COTTAGE_PASST names a directory with passt, curl and their
/// libraries, for a machine that has not installed them: the testbed. Its root is the initramfs, which passt could
/// not leave by pivot_root(2), so one that it can is moved there first.
const WITH_PASST: &str = "\
set -e
script=$1; shift
[ -n \"$COTTAGE_PASST\" ] || exec sh -c \"$script\" sh \"$@\"
mkdir new; mount -t tmpfs new new
cp -a $COTTAGE_PASST/. new
for directory in bin disk files tmp; do mkdir -p new/$directory; mount -o bind /$directory new/$directory; done
for directory in dev proc; do mkdir -p new/$directory; mount -o rbind /$directory new/$directory; done
cd new; mount -o move . /
PATH=$PATH:/usr/bin exec chroot . sh -c \"$script\" sh \"$@\"
";

/// Whether there are passt, and what it is reached by.
pub(crate) fn is_there() -> bool {
    let installed = |program| Command::new(program).arg("--version").output().is_ok();
    let brought = std::env::var_os("COTTAGE_PASST").is_some();
    installed("busybox") && (brought || (installed("passt") && installed("curl")))
}

/// The beginning of a command: `host`, a script of the shell, as the administrator of a network that is
/// only its own, with passt in PATH. The words to follow are the script's.
pub(crate) fn in_a_network(host: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-r", "-n", "-m", "sh", "-c", WITH_PASST, "sh", host]);
    command
}
