//! A string that is wiped when dropped and prints as stars.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The largest file that a Secret carries for us. One with some keys of some principals has a few thousand bytes.
const LARGEST_FILE: usize = 64 << 10;

/// A secret value. There is no `Display`; [`Secret::expose`] is the only way to the text, and is easy to search for.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the text over.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// A small file as base64 text, in which white space does not count, and its bytes.
    ///
    /// # Errors
    /// Says what `text` is instead of `what`, such as "a keytab", of which `example` is a file's name. Never what stands in it.
    pub(super) fn file(text: &str, what: &str, example: &str) -> Result<(Secret, Zeroizing<Vec<u8>>), String> {
        // Never grown: what it had held would stay behind.
        let mut whole = Zeroizing::new(String::with_capacity(text.len()));
        whole.extend(text.chars().filter(|c| !c.is_ascii_whitespace()));
        if whole.len() / 4 * 3 > LARGEST_FILE {
            return Err(format!("is too large for {what}"));
        }
        match BASE64.decode(whole.as_bytes()) {
            Ok(bytes) => Ok((Secret::new(std::mem::take(&mut *whole)), Zeroizing::new(bytes))),
            Err(_) => Err(format!("is no base64 text: write it by `base64 -w0 {example}`")),
        }
    }

    /// The text, for the one place that signs or sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Credential;

    #[test]
    fn debug_shows_no_secret() {
        let credential = Credential::S3 {
            key_id: "canary-id".into(),
            secret_key: Secret::new("canary-key".into()),
            session_token: Some(Secret::new("canary-token".into())),
        };
        let shown = format!("{credential:?} {:#?} {:?}", credential, Secret::new("canary".into()));
        assert!(!shown.contains("canary"), "{shown}");
    }
}
