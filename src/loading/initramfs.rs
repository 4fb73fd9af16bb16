//! What the guest finds when it starts: the initramfs, and what our init needs behind it.
//!
//! Read next: [`crate::bundle`].

use std::path::Path;

use super::Error;
use super::sources::Sources;
use crate::boot::blob::Blob;
use crate::boot::initramfs::{Initramfs, InitramfsRange};
use crate::boot::pack::{Packed, pack};
use crate::boot::{self, LoadedKernel};
use crate::config::VmConfig;
use crate::config::rootfs::Root;
use crate::console::words::say;
use crate::event_loop::GuestEnd;
use crate::guest_request::{self, HostConsole, INIT_PATH, MODULES_PATH, REQUEST_PATH, ROOT_PATH};
use crate::memory::GuestMemory;
use crate::modules;

/// Memory for the kernel's own needs and a few programs, beside a root in memory.
const ROOM: u64 = 32 << 20; // 32 MiB
/// Linux describes each page of 4096 bytes by 64 of its own; the double of that is enough for tables
/// that grow with memory.
const PAGE_TABLES: u64 = 32;

/// Puts the initramfs above the kernel, with what our init needs behind it.
pub(super) fn load(
    given: &Blob,
    (sources, config): (&Sources, &VmConfig),
    kernel: &LoadedKernel,
    memory: &GuestMemory,
) -> Result<InitramfsRange, Error> {
    let mut archive = Initramfs::new();
    if sources.bare {
        // What it has to be is the kernel's business.
        archive.anything(given);
        return Ok(boot::place_initramfs(&archive, kernel, memory)?);
    }
    archive.archive(given)?;
    if sources.guest_end != GuestEnd::OurInit {
        return Ok(boot::place_initramfs(&archive, kernel, memory)?);
    }
    archive.directory(".cottage", 0o755)?;
    let modules = add_modules(config, kernel, &mut archive)?;
    let console = HostConsole::of_this_process(config.virtio_console);
    let request = guest_request::request(config, &modules, &console);
    archive.file(REQUEST_PATH, 0o644, &request)?;
    if let Some(init) = &sources.init {
        archive.file_from_blob(INIT_PATH, 0o755, init)?;
    }
    if let Some(Root::Directory(directory)) = &config.root {
        let packed = pack(directory, ROOT_PATH, &mut archive)?;
        check_room(directory, &packed, (kernel, archive.len()), memory)?;
    }
    archive.finish()?;
    Ok(boot::place_initramfs(&archive, kernel, memory)?)
}

/// Adds the modules that the devices need; returns their names in the archive.
fn add_modules(
    config: &VmConfig,
    kernel: &LoadedKernel,
    archive: &mut Initramfs<'_>,
) -> Result<Vec<String>, Error> {
    let (directory, modules) = modules::collect(config, kernel.version.as_deref())?;
    if modules.is_empty() {
        return Ok(Vec::new());
    }
    if config.modules.is_none() {
        // Nobody asked for these files: whose they are should be known.
        say(&format!("using kernel modules of {}", directory.display()));
    }
    archive.directory(MODULES_PATH, 0o755)?;
    let mut paths = Vec::with_capacity(modules.len());
    for module in modules {
        let path = format!("{MODULES_PATH}/{}.ko", module.name);
        archive.file(&path, 0o644, &module.bytes)?;
        paths.push(path);
    }
    Ok(paths)
}

/// Refuses a root that the guest's kernel could not unpack, before it panics over that.
///
/// It unpacks into a tmpfs, which takes half of the memory that the kernel, its tables of pages and the
/// archive leave.
fn check_room(
    directory: &Path,
    packed: &Packed,
    (kernel, archive): (&LoadedKernel, u64),
    memory: &GuestMemory,
) -> Result<(), Error> {
    let needed = [
        kernel.end.0,
        archive,
        packed.unpacked,
        packed.unpacked,
        ROOM,
    ]
    .into_iter()
    .fold(0_u64, u64::saturating_add);
    let needed = needed.saturating_add(needed / PAGE_TABLES);
    if needed <= memory.size() {
        return Ok(());
    }
    Err(Error::RootTooLarge {
        directory: directory.to_owned(),
        names: packed.names,
        unpacked: packed.unpacked,
        memory: memory.size(),
        needed_mib: needed.div_ceil(1 << 20), // 1 MiB
    })
}
