//! An identity as a keyed hash: equal for one principal on one installation, and no way back to its key id.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::Credential;

/// HMAC-SHA256 of the principal under the installation's `key`, its first 16 hexadecimal digits. The secret half of
/// the credential plays no part: this says who, not with which proof.
pub fn hash(credential: &Credential, key: &[u8; 64]) -> String {
    match credential {
        Credential::Anonymous => digest(key, &[b"anonymous"], 8),
        Credential::S3 { key_id, .. } => digest(key, &[key_id.as_bytes()], 8),
        Credential::Sys { uid, gid, groups } => digest(key, &[b"sys", &numbers(*uid, *gid, groups)], 8),
        Credential::Hadoop { user } => digest(key, &[b"hadoop", user.as_bytes()], 8),
        Credential::Kerberos { principal, .. } => digest(key, &[b"kerberos", principal.as_bytes()], 8),
        Credential::Delegation { token } => {
            let owner = token.claims().map(|claims| claims.owner).unwrap_or_default();
            digest(key, &[b"delegation", owner.as_bytes()], 8)
        }
    }
}

/// HMAC-SHA256 of every byte of the credential under the installation's `key`, 32 hexadecimal digits: equal only for
/// equal credentials.
pub fn fingerprint(credential: &Credential, key: &[u8; 64]) -> String {
    match credential {
        Credential::Anonymous => digest(key, &[b"fingerprint", b"anonymous"], 16),
        Credential::S3 { key_id, secret_key, session_token } => {
            let token = session_token.as_ref().map(|token| token.expose().as_bytes());
            let present: &[u8] = if token.is_some() { b"1" } else { b"0" };
            let parts = [
                b"fingerprint",
                b"s3".as_slice(),
                key_id.as_bytes(),
                secret_key.expose().as_bytes(),
                present,
                token.unwrap_or_default(),
            ];
            digest(key, &parts, 16)
        }
        Credential::Sys { uid, gid, groups } => {
            digest(key, &[b"fingerprint", b"sys", &numbers(*uid, *gid, groups)], 16)
        }
        Credential::Hadoop { user } => digest(key, &[b"fingerprint", b"hadoop", user.as_bytes()], 16),
        Credential::Kerberos { principal, keytab } => {
            let parts = [b"fingerprint", b"kerberos".as_slice(), principal.as_bytes(), keytab.text().as_bytes()];
            digest(key, &parts, 16)
        }
        Credential::Delegation { token } => digest(key, &[b"fingerprint", b"delegation", token.text().as_bytes()], 16),
    }
}

/// A user and groups as bytes; groups are a set.
fn numbers(uid: u32, gid: u32, groups: &[u32]) -> Vec<u8> {
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups.dedup();
    [uid, gid].iter().chain(&groups).flat_map(|number| number.to_le_bytes()).collect()
}

/// Each of several parts goes in behind its length, so that no two lists of parts are one text.
fn digest(key: &[u8; 64], parts: &[&[u8]], bytes: usize) -> String {
    let mut mac = <Hmac<Sha256> as KeyInit>::new(key.into());
    for part in parts {
        if parts.len() > 1 {
            mac.update(&(part.len() as u64).to_le_bytes());
        }
        mac.update(part);
    }
    HEXLOWER.encode(&mac.finalize().into_bytes()[..bytes])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Keytab, Secret, Token};

    fn credential(id: &str, key: &str, token: Option<&str>) -> Credential {
        Credential::S3 {
            key_id: id.into(),
            secret_key: Secret::new(key.into()),
            session_token: token.map(|token| Secret::new(token.into())),
        }
    }

    fn kerberos(principal: &str, key: u8) -> Credential {
        let principal = format!("{principal}@REALM");
        let keytab = Keytab::of(&principal, &[key; 16]);
        Credential::Kerberos { principal, keytab }
    }

    fn delegation(owner: &str, password: &[u8]) -> Credential {
        let until = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1 << 31);
        Credential::Delegation { token: Token::of(owner, password, until) }
    }

    fn sys(uid: u32, gid: u32, groups: &[u32]) -> Credential {
        Credential::Sys { uid, gid, groups: groups.to_vec() }
    }

    #[test]
    fn a_user_by_number_is_uid_gid_and_the_set_of_groups() {
        let key = [1; 64];
        assert_eq!(hash(&sys(1, 2, &[3, 4]), &key), hash(&sys(1, 2, &[4, 3, 4]), &key));
        for other in [sys(2, 2, &[3, 4]), sys(1, 3, &[3, 4]), sys(1, 2, &[3])] {
            assert_ne!(hash(&sys(1, 2, &[3, 4]), &key), hash(&other, &key));
        }
    }

    #[test]
    fn the_principal_and_the_key_decide() {
        let (one, other) = ([1; 64], [2; 64]);
        let of = |id: &str, key: &str| credential(id, key, None);
        assert_eq!(hash(&of("a", "x"), &one), hash(&of("a", "y"), &one));
        assert_ne!(hash(&of("a", "x"), &one), hash(&of("b", "x"), &one));
        assert_ne!(hash(&of("a", "x"), &one), hash(&of("a", "x"), &other));
        assert_eq!(hash(&delegation("a", b"x"), &one), hash(&delegation("a", b"y"), &one));
        assert_ne!(hash(&delegation("a", b"x"), &one), hash(&delegation("b", b"x"), &one));
    }

    #[test]
    fn every_byte_of_a_credential_decides() {
        let key = [1; 64];
        let all = [
            credential("a", "x", None),
            credential("a", "y", None),
            credential("ax", "", None),
            credential("a", "x", Some("")),
            credential("a", "x", Some("t")),
            credential("b", "x", Some("t")),
            sys(1, 1, &[]),
            sys(1, 2, &[]),
            sys(1, 1, &[2]),
            sys(1, 1, &[2, 3]),
            Credential::Hadoop { user: "a".into() },
            Credential::Hadoop { user: "x".into() },
            kerberos("a", 1),
            kerberos("a", 2),
            kerberos("x", 1),
            delegation("a@REALM", b"1"),
            delegation("a@REALM", b"2"),
            delegation("x@REALM", b"1"),
            Credential::Anonymous,
        ];
        for (at, one) in all.iter().enumerate() {
            assert_eq!(fingerprint(one, &key), fingerprint(&one.clone(), &key));
            for other in &all[at + 1..] {
                assert_ne!(fingerprint(one, &key), fingerprint(other, &key));
            }
            assert_ne!(fingerprint(one, &key), fingerprint(one, &[2; 64]));
        }
    }
}
