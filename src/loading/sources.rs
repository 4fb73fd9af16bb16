//! The files to load, opened before anything is loaded.
//!
//! Read next: [`super::initramfs`].

use std::os::unix::ffi::OsStrExt;

use super::{Error, Kernel};
use crate::boot::blob::Blob;
use crate::boot::{Nature, multiboot};
use crate::bundle::{self, Bundle};
use crate::config::module::Module;
use crate::config::{Source, VmConfig};
use crate::event_loop::GuestEnd;
use crate::guest_request;

/// The files to load, open.
pub(super) struct Sources {
    pub(super) kernel: Blob,
    /// Absent if the kernel is no Linux and none was given.
    pub(super) initramfs: Option<Blob>,
    /// For a multiboot kernel; an initramfs that was given is the first.
    pub(super) modules: Vec<multiboot::Module>,
    /// Our init, if the initramfs is the user's and needs it.
    pub(super) init: Option<Blob>,
    /// Whether the kernel is no Linux.
    pub(super) bare: bool,
    pub(super) guest_end: GuestEnd,
}

impl Sources {
    pub(super) fn open(config: &VmConfig, kernel: Kernel) -> Result<Self, Error> {
        let mut bundle = None;
        let guest_end = kernel.guest_end(config);
        let bare = kernel.nature != Nature::Linux;
        let multiboot = matches!(kernel.nature, Nature::Multiboot(_));
        let kernel = match kernel.file {
            Some(file) => file,
            None => opened(&mut bundle)?.kernel(config.virtio_devices() > 0)?,
        };
        let mut modules = Vec::new();
        let initramfs = match &config.initramfs {
            Source::BuiltIn if bare => None,
            Source::BuiltIn => Some(opened(&mut bundle)?.initramfs()?),
            Source::File(path) => {
                let blob = Blob::open(path).map_err(Error::InitramfsFile)?;
                if multiboot {
                    let string = path.as_os_str().as_bytes().to_vec();
                    modules.push(multiboot::Module { blob, string });
                    None
                } else {
                    Some(blob)
                }
            }
        };
        for Module { file, string } in &config.multiboot_modules {
            let blob = Blob::open(file).map_err(Error::ModuleFile)?;
            let string = string.clone();
            modules.push(multiboot::Module { blob, string });
        }
        let init = if !bare && guest_request::needs_init(config) {
            Some(opened(&mut bundle)?.init()?)
        } else {
            None
        };
        Ok(Self {
            kernel,
            initramfs,
            modules,
            init,
            bare,
            guest_end,
        })
    }
}

/// The program's own sections, read when first asked for.
fn opened(bundle: &mut Option<Bundle>) -> Result<&Bundle, bundle::Error> {
    match bundle {
        Some(bundle) => Ok(bundle),
        absent => Ok(absent.insert(Bundle::open()?)),
    }
}
