//! An identity as a keyed hash: equal for one principal on one installation, and no way back to its key id.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::Credential;

/// HMAC-SHA256 of the principal under the installation's `key`, its first 16 hexadecimal digits. The secret half of
/// the credential plays no part: this says who, not with which proof.
pub fn hash(credential: &Credential, key: &[u8; 64]) -> String {
    let principal = match credential {
        Credential::Anonymous => "anonymous",
        Credential::S3 { key_id, .. } => key_id,
    };
    let mut mac = <Hmac<Sha256> as KeyInit>::new(key.into());
    mac.update(principal.as_bytes());
    HEXLOWER.encode(&mac.finalize().into_bytes()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Secret;

    #[test]
    fn the_principal_and_the_key_decide() {
        let credential = |id: &str, key: &str| Credential::S3 {
            key_id: id.into(),
            secret_key: Secret::new(key.into()),
            session_token: None,
        };
        let (one, other) = ([1; 64], [2; 64]);
        assert_eq!(hash(&credential("a", "x"), &one), hash(&credential("a", "y"), &one));
        assert_ne!(hash(&credential("a", "x"), &one), hash(&credential("b", "x"), &one));
        assert_ne!(hash(&credential("a", "x"), &one), hash(&credential("a", "x"), &other));
    }
}
