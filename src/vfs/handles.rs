//! Open files and directories.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::control::Order;
use super::dirs::Directory;
use super::{Error, Ino, Result};

/// The number of an open file or directory, as the kernel gives it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// What is behind a number.
#[derive(Debug, Clone)]
pub(super) enum Open {
    /// A file that can only be read.
    Reading {
        ino: Ino,
        /// The kernel keeps what it reads through this handle as pages.
        cached: bool,
        /// It is counted where it was decided how the inode is read.
        seated: bool,
    },
    /// A file that may be written, and read if the kernel lets it.
    Writing { ino: Ino },
    /// A directory.
    Directory(Arc<Directory>),
    /// The control file, or its directory.
    Order(Arc<Order>),
}

/// All that is open.
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: AtomicU64,
    open: Mutex<HashMap<Handle, Open>>,
}

impl Handles {
    pub(super) fn insert(&self, open: Open) -> Handle {
        // 0 is what the kernel says of a file that it opened without asking.
        let handle = Handle(self.next.fetch_add(1, Ordering::Relaxed) + 1);
        self.lock().insert(handle, open);
        handle
    }

    /// # Errors
    /// `BadHandle`
    pub(super) fn get(&self, handle: Handle) -> Result<Open> {
        self.lock().get(&handle).cloned().ok_or(Error::BadHandle)
    }

    pub(super) fn remove(&self, handle: Handle) -> Option<Open> {
        self.lock().remove(&handle)
    }

    /// The inode of an open file.
    ///
    /// # Errors
    /// `BadHandle`
    pub(super) fn file(&self, handle: Handle) -> Result<Ino> {
        match self.get(handle)? {
            Open::Reading { ino, .. } | Open::Writing { ino } => Ok(ino),
            Open::Directory(_) | Open::Order(_) => Err(Error::BadHandle),
        }
    }

    /// The inode of a file open for writing.
    ///
    /// # Errors
    /// `BadHandle`
    pub(super) fn writing(&self, handle: Handle) -> Result<Ino> {
        match self.get(handle)? {
            Open::Writing { ino } => Ok(ino),
            Open::Reading { .. } | Open::Directory(_) | Open::Order(_) => Err(Error::BadHandle),
        }
    }

    /// # Errors
    /// `BadHandle`
    pub(super) fn directory(&self, handle: Handle) -> Result<Arc<Directory>> {
        match self.get(handle)? {
            Open::Directory(directory) => Ok(directory),
            Open::Reading { .. } | Open::Writing { .. } | Open::Order(_) => Err(Error::BadHandle),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Handle, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
