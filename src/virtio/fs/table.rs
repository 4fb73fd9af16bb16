//! What a guest holds: files it knows by number, and files it has open.
//!
//! A number stands for a file as long as the guest has not forgotten it as often as it was told of
//! it. Each costs cottage a descriptor, and so does each open file; a guest can have no more of
//! both together than [`Table::new`] was given. Then it gets ENFILE, which tells it to close or
//! forget something.
//!
//! Numbers count up and are never used again. A file with several names has one number: the device
//! and number it has on the host tell it, and cannot change as long as it is held.
//!
//! Source: `[fuse]`, FUSE_LOOKUP and FUSE_FORGET.
//! Read next: [`super::session`].

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Stat, fstat};
use rustix::io::Errno;

use super::wire::ROOT;

/// A file that the guest knows.
#[derive(Debug)]
struct Node {
    file: OwnedFd,
    host: (u64, u64),
    kind: FileType,
    /// How often the guest was told of it.
    told: u64,
}

/// A file or directory that the guest has open.
#[derive(Clone, Debug)]
pub struct Open {
    /// The file.
    pub file: Arc<File>,
    /// Which one, by its number.
    pub node: u64,
    /// Whether it is a directory.
    pub directory: bool,
}

/// All that one guest holds.
#[derive(Debug)]
pub struct Table {
    nodes: HashMap<u64, Node>,
    by_host: HashMap<(u64, u64), u64>,
    open: HashMap<u64, Open>,
    /// The next number of a file, and of an open file.
    next: u64,
    /// Most files and open files together.
    limit: usize,
}

impl Table {
    /// An empty table for at most `limit` files and open files.
    pub fn new(limit: usize) -> Self {
        Self {
            nodes: HashMap::new(),
            by_host: HashMap::new(),
            open: HashMap::new(),
            next: ROOT + 1,
            limit,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        // Capacity too: a guest that is gone must not leave its largest table behind.
        *self = Self::new(self.limit);
    }

    fn check_room(&self) -> Result<(), Errno> {
        if self.nodes.len() + self.open.len() < self.limit {
            return Ok(());
        }
        Err(Errno::NFILE)
    }

    /// Tells the guest of `file`: its number, and what it is.
    ///
    /// # Errors
    /// ENFILE, and what fstat(2) says.
    pub fn tell(&mut self, file: OwnedFd) -> Result<(u64, Stat), Errno> {
        let stat = fstat(&file)?;
        let host = (stat.st_dev, stat.st_ino);
        if let Some(number) = self.by_host.get(&host) {
            if let Some(node) = self.nodes.get_mut(number) {
                node.told = node.told.saturating_add(1);
            }
            return Ok((*number, stat));
        }
        self.check_room()?;
        let number = self.take_number();
        let kind = FileType::from_raw_mode(stat.st_mode);
        let told = 1;
        self.by_host.insert(host, number);
        let node = Node {
            file,
            host,
            kind,
            told,
        };
        self.nodes.insert(number, node);
        Ok((number, stat))
    }

    /// The guest forgets file `number`, of which it was told `times` times.
    pub fn forget(&mut self, number: u64, times: u64) {
        let Some(node) = self.nodes.get_mut(&number) else {
            return;
        };
        node.told = node.told.saturating_sub(times);
        if node.told == 0
            && let Some(node) = self.nodes.remove(&number)
        {
            self.by_host.remove(&node.host);
        }
    }

    /// File `number`; `root` is the one the guest knows from the beginning.
    ///
    /// # Errors
    /// ESTALE if it knows no such file.
    pub fn file<'a>(&'a self, number: u64, root: BorrowedFd<'a>) -> Result<BorrowedFd<'a>, Errno> {
        if number == ROOT {
            return Ok(root);
        }
        let node = self.nodes.get(&number).ok_or(Errno::STALE)?;
        Ok(node.file.as_fd())
    }

    /// Of which kind file `number` is.
    ///
    /// # Errors
    /// ESTALE.
    pub fn kind(&self, number: u64) -> Result<FileType, Errno> {
        if number == ROOT {
            return Ok(FileType::Directory);
        }
        let node = self.nodes.get(&number).ok_or(Errno::STALE)?;
        Ok(node.kind)
    }

    /// Keeps an open file; returns its number.
    ///
    /// # Errors
    /// ENFILE.
    pub fn keep(&mut self, open: Open) -> Result<u64, Errno> {
        self.check_room()?;
        let number = self.take_number();
        self.open.insert(number, open);
        Ok(number)
    }

    /// The file of `node` that is open by the number `open`.
    ///
    /// # Errors
    /// EBADF.
    pub fn opened(&self, node: u64, open: u64, directory: bool) -> Result<Arc<File>, Errno> {
        let found = self.open.get(&open);
        let found = found.filter(|found| found.node == node && found.directory == directory);
        found.map(|found| found.file.clone()).ok_or(Errno::BADF)
    }

    /// Closes it.
    pub fn close(&mut self, open: u64) {
        self.open.remove(&open);
    }

    /// How many files the guest knows, and how many it has open.
    pub fn counts(&self) -> (usize, usize) {
        (self.nodes.len(), self.open.len())
    }

    /// The files the guest knows: number, file, what it is on the host, how often it was told.
    pub fn known(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>, (u64, u64), u64)> {
        let nodes = self.nodes.iter();
        nodes.map(|(number, node)| (*number, node.file.as_fd(), node.host, node.told))
    }

    /// Those it has open, by number.
    pub fn open_files(&self) -> impl Iterator<Item = (u64, &Open)> {
        self.open.iter().map(|(number, open)| (*number, open))
    }

    /// The number that the next file gets.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// That number is to be `next`.
    pub fn count_from(&mut self, next: u64) {
        self.next = next.max(ROOT + 1);
    }

    /// Puts `file` in, of which a guest was told `told` times that it is `number`.
    ///
    /// # Errors
    /// ENFILE, and what fstat(2) says.
    pub fn tell_again(&mut self, number: u64, file: OwnedFd, told: u64) -> Result<(), Errno> {
        self.next = number;
        self.tell(file)?;
        if let Some(node) = self.nodes.get_mut(&number) {
            node.told = told;
        }
        Ok(())
    }

    /// Puts `open` in, which a guest has open as `number`.
    ///
    /// # Errors
    /// ENFILE.
    pub fn keep_again(&mut self, number: u64, open: Open) -> Result<(), Errno> {
        self.next = number;
        self.keep(open)?;
        Ok(())
    }

    /// 2^64 of them outlive every guest.
    fn take_number(&mut self) -> u64 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    fn open(node: u64) -> Open {
        Open {
            file: Arc::new(File::open("/").unwrap()),
            node,
            directory: true,
        }
    }

    #[test]
    fn file_told_of_twice_has_one_number_until_forgotten_twice() {
        let mut table = Table::new(8);
        let (first, _) = table.tell(file("/")).unwrap();
        assert_eq!(table.tell(file("/")).unwrap().0, first);
        table.forget(first, 1);
        assert_eq!(table.kind(first), Ok(FileType::Directory));
        table.forget(first, 1);
        assert_eq!(table.kind(first), Err(Errno::STALE));
        let (second, _) = table.tell(file("/")).unwrap();
        assert_ne!(first, second, "numbers are not used again");
    }

    #[test]
    fn forgetting_too_often_or_the_unknown_does_nothing_else() {
        let mut table = Table::new(8);
        let (number, _) = table.tell(file("/")).unwrap();
        table.forget(number, u64::MAX);
        table.forget(number, 1);
        table.forget(ROOT, u64::MAX);
        assert_eq!(table.counts(), (0, 0));
        assert_eq!(table.kind(ROOT), Ok(FileType::Directory));
    }

    #[test]
    fn files_and_open_files_together_are_limited() {
        let mut table = Table::new(2);
        table.tell(file("/")).unwrap();
        let number = table.keep(open(ROOT)).unwrap();
        assert_eq!(table.tell(file("/proc")).unwrap_err(), Errno::NFILE);
        assert_eq!(table.keep(open(ROOT)).unwrap_err(), Errno::NFILE);
        table.close(number);
        assert!(table.tell(file("/proc")).is_ok());
    }

    #[test]
    fn open_file_belongs_to_one_file_and_kind() {
        let mut table = Table::new(8);
        let number = table.keep(open(5)).unwrap();
        assert!(table.opened(5, number, true).is_ok());
        assert_eq!(table.opened(6, number, true).unwrap_err(), Errno::BADF);
        assert_eq!(table.opened(5, number, false).unwrap_err(), Errno::BADF);
    }
}
