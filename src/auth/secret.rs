//! A string that is wiped when dropped and prints as stars.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A secret value. There is no `Display`; [`Secret::expose`] is the only way to the text, and is easy to search for.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the text over.
    pub fn new(text: String) -> Secret {
        Secret(text)
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
