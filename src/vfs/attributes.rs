//! Changing attributes.

use super::handles::Handle;
use super::inodes::Ino;
use super::publish::Why;
use super::write::Owner;
use super::{Attr, Error, Result, SetAttributes, Vfs};

impl Vfs {
    /// Changes attributes: where files are changed in place, in the store. Elsewhere a length may only become 0, or stay
    /// what it is. Mode, owner and time of a file being written go into its metadata for other tools; shown are the
    /// volume's, and the store's time. Access times are kept in place alone. `through` is the open file that was
    /// named instead of a path, and by whom, where that is known: his close then publishes that the file is empty.
    ///
    /// # Errors
    /// `Unsupported` for another length, `NotPermitted` for the rest where the volume's option refuses it.
    pub async fn setattr(
        &self,
        ino: Ino,
        through: Option<(Handle, Option<Owner>)>,
        set: SetAttributes,
    ) -> Result<Attr> {
        self.writable()?;
        if self.is_control(ino) {
            // A shell's redirection truncates.
            let only_size = set == SetAttributes { size: set.size, ..SetAttributes::default() };
            return if only_size { Ok(self.control_attr(ino)) } else { Err(Error::NotPermitted) };
        }
        if self.in_place() {
            return self.set_in_place(ino, set).await;
        }
        if let Some(size) = set.size {
            self.resize(ino, through, size).await?;
        }
        let others = SetAttributes { size: None, ..set };
        if others != SetAttributes::default() && !self.annotate(ino, &set).await? && !self.config.accept_attributes {
            return Err(Error::NotPermitted);
        }
        self.getattr(ino)
    }

    async fn resize(&self, ino: Ino, through: Option<(Handle, Option<Owner>)>, size: u64) -> Result<()> {
        let (now, dirty_content) = {
            let inodes = self.inodes();
            let inode = inodes.get(ino)?;
            let file = inode.file()?;
            if !inode.linked && file.written.is_none() {
                return Err(Error::Stale);
            }
            (file.size(), file.written.is_some())
        };
        if size == now && (size > 0 || dirty_content || through.is_some()) {
            return Ok(());
        }
        if size > 0 {
            return Err(Error::Unsupported);
        }
        if let Some((handle, owner)) = through
            && self.handles.writing(handle).is_ok()
        {
            return self.truncate(ino, owner).await;
        }
        // By path: there is no close that would publish it.
        self.inodes().open(ino, true)?;
        let published = match self.truncate(ino, None).await {
            Ok(()) => self.publish(ino, Why::Sync).await,
            Err(error) => Err(error),
        };
        let released = self.release_writing(ino).await;
        published.and(released)
    }

    /// True where the file is being written and takes the attributes along.
    async fn annotate(&self, ino: Ino, set: &SetAttributes) -> Result<bool> {
        let gate = {
            let inodes = self.inodes();
            match inodes.get(ino)?.file() {
                Ok(file) if file.written.is_some() => file.gate.clone(),
                Ok(_) | Err(_) => None,
            }
        };
        let Some(gate) = gate else { return Ok(false) };
        let mut gate = gate.lock().await;
        let Some(writer) = gate.as_mut() else { return Ok(false) };
        let kept = &mut writer.attributes;
        kept.mode = set.mode.map(|mode| mode & 0o7777).or(kept.mode);
        kept.uid = set.uid.or(kept.uid);
        kept.gid = set.gid.or(kept.gid);
        kept.mtime = set.mtime.or(kept.mtime);
        Ok(true)
    }
}
