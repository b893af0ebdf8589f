//! Names that the backend gives to files of its own, in the directories of the files that they are for.
//!
//! They are hidden: no listing shows them, no path leads to them, and nothing may be called so.

use super::version::nonce;
use crate::backend::{Name, Path};

/// What begins such a name.
const OWN: &str = ".millrace.tmp-";

/// Whether `name` is one of the backend's own.
pub(super) fn is_own(name: &Name) -> bool {
    name.as_bytes().starts_with(OWN.as_bytes())
}

/// Whether a path leads to, or through, one of the backend's own.
pub(super) fn leads_to_own(path: &Path) -> bool {
    path.names().any(|name| is_own(&name))
}

/// A new one.
pub(super) fn temporary() -> String {
    format!("{OWN}{}", nonce())
}
