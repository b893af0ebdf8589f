//! An order of files that is announced to a mount, as a sampler's shuffle is: through `.millrace/ahead`.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result};

use super::workload::Workload;

nix::ioctl_write_buf!(announce, b'M', 1, u8);

/// The longest argument of an ioctl (14 bits).
const LONGEST: usize = (1 << 14) - 1;

/// An order, as far as it has room. It ends when this is dropped.
pub(crate) struct Announced {
    control: File,
    rest: VecDeque<String>,
}

impl Announced {
    /// The order in which the readers of `workload` come to its objects, if each goes as fast as the others.
    /// `None` where the mount takes none.
    pub(crate) fn of(root: &Path, workload: &Workload) -> Result<Option<Announced>> {
        let control = match File::open(root.join(".millrace/ahead")) {
            Ok(control) => control,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("cannot open .millrace/ahead"),
        };
        let most = workload.readers.iter().map(Vec::len).max().unwrap_or_default();
        let turns = (0..most).flat_map(|at| workload.readers.iter().filter_map(move |steps| steps.get(at)));
        let rest = turns.map(|step| workload.objects[step.object].name.clone()).collect();
        Ok(Some(Announced { control, rest }))
    }

    /// Announces as much more as there is room for now.
    pub(crate) fn go_on(&mut self) -> Result<()> {
        loop {
            let mut lines = String::new();
            for name in &self.rest {
                if lines.len() + name.len() >= LONGEST {
                    break;
                }
                lines.push_str(name);
                lines.push('\n');
            }
            if lines.is_empty() {
                return Ok(());
            }
            #[expect(unsafe_code, reason = "an ioctl of the mount's own has no safe wrapper")]
            // SAFETY: the kernel reads as many bytes of `lines` as the request says, and writes none.
            let taken = unsafe { announce(self.control.as_raw_fd(), lines.as_bytes()) }?;
            let taken = usize::try_from(taken)?;
            self.rest.drain(..lines[..taken].lines().count());
            if taken < lines.len() {
                return Ok(());
            }
        }
    }
}
