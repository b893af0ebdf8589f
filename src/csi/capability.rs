//! What a VolumeCapability asks for, in our own terms.

use super::v1::VolumeCapability;
use super::v1::volume_capability::AccessType;
use super::v1::volume_capability::access_mode::Mode;
use crate::config::quoted;

/// Mount flags that may be given, and what is true of every mount anyway where they say no more than that.
const MOUNT_FLAGS: [&str; 8] = ["ro", "rw", "nosuid", "nodev", "noatime", "nodiratime", "relatime", "defaults"];

/// How a volume is to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// By the access mode or by a mount flag.
    pub read_only: bool,
    /// SINGLE_NODE_SINGLE_WRITER: one target on one node.
    pub single_writer: bool,
    /// The pod's fsGroup: whose everything is to be.
    pub group: Option<u32>,
}

/// Why a capability cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCapability {
    /// It does not say what the specification demands.
    #[error("{0}")]
    Malformed(String),
    /// It is clear, and not what this driver does.
    #[error("{0}")]
    Unsupported(String),
}

impl Access {
    /// Reads a capability; `None` is a request without one.
    ///
    /// `fs_type` is ignored: clusters set it to switch an fsGroup policy on, whatever the volume is.
    ///
    /// # Errors
    /// [`BadCapability`], naming the word.
    pub fn of(capability: Option<&VolumeCapability>) -> Result<Access, BadCapability> {
        let malformed = |text: &str| BadCapability::Malformed(text.to_owned());
        let capability = capability.ok_or_else(|| malformed("the request has no volume capability"))?;
        let mode = capability.access_mode.as_ref().map_or(Mode::Unknown, |access| access.mode());
        let (read_only, single_writer) = match mode {
            Mode::Unknown => return Err(malformed("the volume capability has no access mode that this driver knows")),
            Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly => (true, false),
            Mode::SingleNodeSingleWriter => (false, true),
            Mode::SingleNodeWriter
            | Mode::SingleNodeMultiWriter
            | Mode::MultiNodeSingleWriter
            | Mode::MultiNodeMultiWriter => (false, false),
        };
        let mount = match &capability.access_type {
            None => return Err(malformed("the volume capability says neither mount nor block")),
            Some(AccessType::Block(_)) => {
                return Err(BadCapability::Unsupported(
                    "a volume here is a directory, not a block device: use volumeMode: Filesystem".to_owned(),
                ));
            }
            Some(AccessType::Mount(mount)) => mount,
        };
        let group = match mount.volume_mount_group.as_str() {
            "" => None,
            text => Some(group_of(text)?),
        };
        for flag in &mount.mount_flags {
            check_flag(flag)?;
        }
        let read_only = read_only || mount.mount_flags.iter().any(|flag| flag == "ro");
        Ok(Access { read_only, single_writer, group })
    }
}

/// Whether the access mode is a reader's.
pub fn is_readers(capability: &VolumeCapability) -> bool {
    let mode = capability.access_mode.as_ref().map_or(Mode::Unknown, |access| access.mode());
    matches!(mode, Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly)
}

/// (gid_t)-1 means "leave it" to chown(2) and is nobody's.
fn group_of(text: &str) -> Result<u32, BadCapability> {
    let group = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    group.filter(|group| *group != u32::MAX).ok_or_else(|| {
        BadCapability::Malformed(
            "volume_mount_group must be a number from 0 to 4294967294: it is the pod's fsGroup".into(),
        )
    })
}

/// Only the word goes into the error: a flag's value may be sensitive.
fn check_flag(flag: &str) -> Result<(), BadCapability> {
    if MOUNT_FLAGS.contains(&flag) {
        return Ok(());
    }
    let word = flag.split('=').next().unwrap_or_default();
    Err(BadCapability::Unsupported(format!(
        "unknown mount option {}; known are {}. Options of a volume stand in the parameters of its StorageClass \
         or in its volumeAttributes",
        quoted(word),
        MOUNT_FLAGS.join(", ")
    )))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::csi::v1::volume_capability::{AccessMode, BlockVolume, MountVolume};

    pub(crate) fn mounted(mode: Mode, flags: &[&str]) -> VolumeCapability {
        let mount_flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        VolumeCapability {
            access_mode: Some(AccessMode { mode: mode.into() }),
            access_type: Some(AccessType::Mount(MountVolume { mount_flags, ..Default::default() })),
        }
    }

    #[test]
    fn reading_only_has_two_sources() {
        let read_only = |mode, flags: &[&str]| Access::of(Some(&mounted(mode, flags))).unwrap().read_only;
        assert!(read_only(Mode::MultiNodeReaderOnly, &[]));
        assert!(read_only(Mode::SingleNodeReaderOnly, &[]));
        assert!(read_only(Mode::MultiNodeMultiWriter, &["noatime", "ro"]));
        assert!(!read_only(Mode::SingleNodeWriter, &["rw"]));
    }

    #[test]
    fn one_mode_allows_one_target() {
        let single = |mode| Access::of(Some(&mounted(mode, &[]))).unwrap().single_writer;
        assert!(single(Mode::SingleNodeSingleWriter));
        assert!(!single(Mode::SingleNodeWriter));
        assert!(!single(Mode::SingleNodeMultiWriter));
    }

    #[test]
    fn a_group_is_a_number() {
        let group = |text: &str| {
            let mount = MountVolume { volume_mount_group: text.into(), ..Default::default() };
            let access_type = Some(AccessType::Mount(mount));
            Access::of(Some(&VolumeCapability { access_type, ..mounted(Mode::SingleNodeWriter, &[]) }))
                .map(|access| access.group)
        };
        assert_eq!((group(""), group("0"), group("2000")), (Ok(None), Ok(Some(0)), Ok(Some(2000))));
        for bad in ["-1", "+1", "4294967295", "staff", " 7", "0x7"] {
            assert!(matches!(group(bad), Err(BadCapability::Malformed(text)) if text.contains("fsGroup")), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_said() {
        let block = VolumeCapability {
            access_type: Some(AccessType::Block(BlockVolume {})),
            ..mounted(Mode::SingleNodeWriter, &[])
        };
        assert!(matches!(Access::of(Some(&block)), Err(BadCapability::Unsupported(text)) if text.contains("block")));
        for bad in [None, Some(&VolumeCapability::default()), Some(&mounted(Mode::Unknown, &[]))] {
            assert!(matches!(Access::of(bad), Err(BadCapability::Malformed(_))));
        }
        let mut future = mounted(Mode::SingleNodeWriter, &[]);
        future.access_mode = Some(AccessMode { mode: 99 });
        assert!(matches!(Access::of(Some(&future)), Err(BadCapability::Malformed(_))));
        let error = Access::of(Some(&mounted(Mode::SingleNodeWriter, &["token=abc"]))).unwrap_err().to_string();
        assert!(error.contains("\"token\"") && error.contains("noatime") && !error.contains("abc"), "{error}");
    }
}
