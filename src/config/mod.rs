//! The operator's and the user's words, turned once into meaning.

pub mod parameters;
pub mod stores;
mod volume;

pub use volume::{AttributeChanges, CacheMode, Overwrite, VolumeOptions, VolumeSpec};
