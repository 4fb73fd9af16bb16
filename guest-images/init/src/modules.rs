//! Parts of the kernel that the initramfs brought: loaded, in the order in which they need each
//! other, which the VMM has worked out.

use cottage_init::line::Line;
use cottage_init::run_file::RunFile;
use rustix::fs::{Mode, OFlags, open, unlink};
use rustix::io::Errno;
use rustix::system::finit_module;

use crate::console::complain;

/// Loads them all. One that fails is told of: what needs it will fail too, and say so less clearly.
pub fn load(run: &RunFile) {
    for path in run.modules() {
        let loaded = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| finit_module(file, c"", 0));
        // Its file is memory that nobody needs any more.
        let _ = unlink(path);
        let reason: &[u8] = match loaded {
            Ok(()) | Err(Errno::EXIST) => continue,
            Err(Errno::NOSYS) => b": this kernel takes no modules",
            Err(Errno::NOEXEC) => b": it was made for another kernel",
            Err(Errno::NODEV) => b": it found no device",
            Err(_) => b"",
        };
        let number = loaded.map_or_else(|error| error.raw_os_error().unsigned_abs(), |()| 0);
        let line = Line::<200>::new()
            .text(b"cannot be loaded")
            .text(reason)
            .text(b" (error ")
            .number(number.into())
            .text(b")");
        complain(path, line.as_bytes());
    }
}
