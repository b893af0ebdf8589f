//! The operator's and the user's words, turned once into meaning.

mod volume;

pub use volume::{AttributeChanges, Overwrite, VolumeOptions, VolumeSpec};
