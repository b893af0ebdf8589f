//! The operator's and the user's words, turned once into meaning.

pub mod parameters;
mod quoted;
pub mod stores;
mod volume;

pub use quoted::quoted;
pub use volume::{AttributeChanges, CacheMode, Overwrite, SnapshotSpec, VolumeOptions, VolumeSpec};
