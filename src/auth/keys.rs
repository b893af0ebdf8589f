//! A Secret's entries as a credential, under the names that users already have.

use std::collections::HashMap;
use std::path::Path;
use std::{fs, io};

use zeroize::Zeroizing;

use super::{Credential, Keytab, Secret, Token};

/// A family: the names of key id, secret key and session token, each with its spellings, the usual one first.
type Family = [&'static [&'static str]; 3];

/// The key families of S3 Secrets. The order is that of the documentation.
const S3_FAMILIES: &[Family] = &[
    [&["key_id"], &["access_key"], &["session_token"]],
    [&["AWS_ACCESS_KEY_ID"], &["AWS_SECRET_ACCESS_KEY"], &["AWS_SESSION_TOKEN"]],
    [&["aws_access_key_id"], &["aws_secret_access_key"], &["aws_session_token"]],
    [&["accessKeyId", "accessKeyID"], &["secretAccessKey"], &["sessionToken"]],
    [&["accesskey"], &["secretkey"], &["sessiontoken"]],
    [&["access-key"], &["secret-key"], &["session-token"]],
];

/// Why a Secret gives no credential. Names entries, never their values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSecret(String);

/// Reads the one family that `entries` holds. Entries outside every family are left alone; white space around a value
/// is not part of it, since `echo` and editors leave a line's end.
///
/// # Errors
/// No family, half of one, two of them, or an empty or unprintable value.
pub fn s3(entries: &HashMap<String, String>) -> Result<Credential, BadSecret> {
    let held = |family: &Family| family.iter().copied().flatten().find(|name| entries.contains_key(**name)).copied();
    let mut families = S3_FAMILIES.iter().filter_map(|family| held(family).map(|name| (family, name)));
    let Some((family, name)) = families.next() else {
        let known: Vec<_> = S3_FAMILIES.iter().map(|[id, key, _]| format!("{} with {}", id[0], key[0])).collect();
        return Err(BadSecret(format!("the Secret holds no S3 keys; it needs {}", known.join(", or "))));
    };
    if let Some((_, other)) = families.next() {
        return Err(BadSecret(format!(
            "the Secret holds keys of two families ({name} and {other}); leave one, so that it is plain which is meant"
        )));
    }
    let [key_id, secret_key, token] = family.map(|spellings| value(entries, spellings));
    Ok(Credential::S3 {
        key_id: key_id?.ok_or_else(|| absent(family[0], name))?,
        secret_key: Secret::new(secret_key?.ok_or_else(|| absent(family[1], name))?),
        session_token: token?.map(Secret::new),
    })
}

/// The entries of a Secret for Kerberos.
const PRINCIPAL: &str = "principal";
const KEYTAB: &str = "keytab";
/// In the place of both.
const TOKEN: &str = "token";

/// Whether a Secret holds anything for Kerberos.
pub fn is_for_kerberos(entries: &HashMap<String, String>) -> bool {
    [PRINCIPAL, KEYTAB, TOKEN].iter().any(|name| entries.contains_key(*name))
}

/// Reads a principal of `realm` and its keytab, or a delegation token of such a principal. A name without a realm is one of
/// this.
///
/// # Errors
/// There is neither, or both; one is missing of the two, empty or damaged, the principal is of another realm, the keytab
/// holds no key of it, or there is a `user`, which would be a claim beside the proof.
pub fn kerberos(entries: &HashMap<String, String>, realm: &str) -> Result<Credential, BadSecret> {
    let bad = |why: String| Err(BadSecret(why));
    let entry = |name: &str| entries.get(name).map(|value| value.trim());
    if entry("user").is_some() {
        return bad(format!(
            "the Secret has a user, and the store demands Kerberos, where the {PRINCIPAL} says who it is: take user out"
        ));
    }
    if let Some(text) = entry(TOKEN) {
        let held = [PRINCIPAL, KEYTAB].into_iter().find(|name| entry(name).is_some());
        return match held {
            Some(other) => {
                bad(format!("the Secret has {TOKEN} and {other}: leave one, so that it is plain which is meant"))
            }
            None => delegation(text, realm),
        };
    }
    let (principal, keytab) = match (entry(PRINCIPAL), entry(KEYTAB)) {
        (Some(principal), Some(keytab)) => (principal, keytab),
        (None, None) => {
            return bad(format!(
                "the store demands Kerberos, and the Secret has neither {PRINCIPAL} nor {KEYTAB}: it needs {PRINCIPAL} (name, \
                 or name@{realm}) and {KEYTAB} (its keytab file as base64 text), or {TOKEN} (a delegation token file as base64 \
                 text)"
            ));
        }
        (Some(_), None) => return Err(absent(&[KEYTAB], PRINCIPAL)),
        (None, Some(_)) => return Err(absent(&[PRINCIPAL], KEYTAB)),
    };
    let (name, of) = principal.rsplit_once('@').unwrap_or((principal, realm));
    if of != realm {
        return bad(format!("the Secret's {PRINCIPAL} is of another realm than the store's, {realm}"));
    }
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && !b"@\\/".contains(&b));
    if name.len() > 255 || !name.split('/').all(plain) {
        return bad(format!("the Secret's {PRINCIPAL} is no name, and no name/instance, of a principal"));
    }
    let principal = format!("{name}@{realm}");
    let keytab = Keytab::new(keytab).map_err(|why| BadSecret(format!("the Secret's {KEYTAB} {why}")))?;
    if !keytab.principals().unwrap_or_default().contains(&principal) {
        return bad(format!(
            "the Secret's {KEYTAB} holds no key of its {PRINCIPAL}: put the keytab of that principal into it"
        ));
    }
    Ok(Credential::Kerberos { principal, keytab })
}

/// Reads a delegation token of somebody of `realm`.
fn delegation(text: &str, realm: &str) -> Result<Credential, BadSecret> {
    let token = Token::new(text).map_err(|why| BadSecret(format!("the Secret's {TOKEN} {why}")))?;
    let credential = Credential::Delegation { token };
    let owner = credential.principal().unwrap_or_default();
    match owner.rsplit_once('@') {
        Some((_, of)) if of != realm => {
            Err(BadSecret(format!("the Secret's {TOKEN} is of a principal of another realm than the store's, {realm}")))
        }
        _ => Ok(credential),
    }
}

/// Reads the credential at `path`: a file that maps names to values as YAML (JSON is that, too), or a directory with a
/// file for each name, as Kubernetes mounts a Secret.
///
/// # Errors
/// What cannot be read, and as [`s3`]. Never what stands in the file.
pub fn s3_at(path: &Path) -> Result<Credential, BadSecret> {
    at(path, s3)
}

/// As [`s3_at`], for a principal and its keytab as [`kerberos`] reads them.
///
/// # Errors
/// What cannot be read, and as [`kerberos`]; a delegation token.
pub fn kerberos_at(path: &Path, realm: &str) -> Result<Credential, BadSecret> {
    at(path, |entries| match kerberos(entries, realm)? {
        Credential::Delegation { .. } => Err(BadSecret(format!(
            "a delegation token ends, and the controller does not: give it {PRINCIPAL} and {KEYTAB}"
        ))),
        credential => Ok(credential),
    })
}

fn at(
    path: &Path,
    read: impl Fn(&HashMap<String, String>) -> Result<Credential, BadSecret>,
) -> Result<Credential, BadSecret> {
    let unread = |error: io::Error| BadSecret(format!("cannot read {}: {error}", path.display()));
    let entries = match fs::metadata(path).map_err(unread)?.is_dir() {
        true => directory(path).map_err(unread)?,
        false => {
            let text = Zeroizing::new(fs::read_to_string(path).map_err(unread)?);
            // The parser's own message would quote the file.
            serde_saphyr::from_str(&text).map_err(|_| {
                BadSecret(format!("{} does not map names to values, such as key_id: ...", path.display()))
            })?
        }
    };
    read(&entries).map_err(|BadSecret(why)| BadSecret(format!("{}: {why}", path.display())))
}

/// The files of a mounted Secret. Names that begin with a dot are the kubelet's own.
fn directory(path: &Path) -> io::Result<HashMap<String, String>> {
    let mut entries = HashMap::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with('.') && entry.path().is_file() {
            // What is no text is no key; the entries beside it may be.
            if let Ok(text) = String::from_utf8(fs::read(entry.path())?) {
                entries.insert(name, text);
            }
        }
    }
    Ok(entries)
}

/// The one of these spellings that belongs to the entry `held` is missing.
fn absent(spellings: &[&str], held: &str) -> BadSecret {
    BadSecret(format!("the Secret has {held} and no {}, which belongs to it: add it", spellings[0]))
}

fn value(entries: &HashMap<String, String>, spellings: &[&str]) -> Result<Option<String>, BadSecret> {
    let mut held = spellings.iter().filter_map(|name| entries.get(*name).map(|value| (name, value.trim())));
    let Some((name, value)) = held.next() else { return Ok(None) };
    if held.next().is_some() {
        return Err(BadSecret(format!("the Secret spells {name} in two ways; leave one")));
    }
    if value.is_empty() {
        return Err(BadSecret(format!("the Secret's {name} is empty")));
    }
    if !value.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(BadSecret(format!("the Secret's {name} holds characters that no S3 key has")));
    }
    Ok(Some(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_family_and_spelling_is_read() {
        for [ids, keys, tokens] in S3_FAMILIES {
            for id in *ids {
                let pairs = [(*id, "canary-id\n"), (keys[0], " canary-key"), (tokens[0], "t"), ("other", "x")];
                let expected = Credential::S3 {
                    key_id: "canary-id".into(),
                    secret_key: Secret::new("canary-key".into()),
                    session_token: Some(Secret::new("t".into())),
                };
                assert_eq!(s3(&entries(&pairs)), Ok(expected), "{id}");
            }
        }
    }

    #[test]
    fn a_principal_comes_with_its_own_keytab() {
        let keytab = Keytab::of("canary@REALM", b"canary-key");
        let text = keytab.text().to_owned();
        let expected = Ok(Credential::Kerberos { principal: "canary@REALM".into(), keytab });
        for principal in ["canary", " canary@REALM\n"] {
            assert_eq!(kerberos(&entries(&[(PRINCIPAL, principal), (KEYTAB, &text)]), "REALM"), expected);
        }
        for (pairs, why) in [
            (&[][..], "neither principal nor keytab"),
            (&[("key_id", "canary"), ("access_key", "canary")][..], "neither principal nor keytab"),
            (&[(PRINCIPAL, "canary")][..], "no keytab, which belongs to it"),
            (&[(KEYTAB, text.as_str())][..], "no principal, which belongs to it"),
            (&[(PRINCIPAL, "canary"), (KEYTAB, &text), ("user", "canary")][..], "take user out"),
            (&[(PRINCIPAL, "canary@OTHER"), (KEYTAB, &text)][..], "another realm"),
            (&[(PRINCIPAL, "canary/@REALM"), (KEYTAB, &text)][..], "no name"),
            (&[(PRINCIPAL, ""), (KEYTAB, &text)][..], "no name"),
            (&[(PRINCIPAL, "other"), (KEYTAB, &text)][..], "no key of its principal"),
            (&[(PRINCIPAL, "canary"), (KEYTAB, "canary")][..], "keytab is no base64"),
        ] {
            let error = kerberos(&entries(pairs), "REALM").unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("canary"), "{error}");
        }
        assert!(is_for_kerberos(&entries(&[(TOKEN, "")])));
        assert!(is_for_kerberos(&entries(&[(KEYTAB, "")])) && !is_for_kerberos(&entries(&[("user", "")])));
    }

    #[test]
    fn a_token_stands_for_whom_it_is_of() {
        let until = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1 << 31);
        let of = |owner: &str| Token::of(owner, b"canary-password", until);
        for owner in ["canary@REALM", "canary/host@REALM", "canary"] {
            let token = of(owner);
            let read = kerberos(&entries(&[(TOKEN, token.text())]), "REALM").unwrap();
            assert_eq!(read.principal().as_deref(), Some(owner));
            assert!(read == Credential::Delegation { token } && !format!("{read:?}").contains("canary"));
        }
        let (token, other) = (of("canary@REALM"), of("canary@OTHER"));
        for (pairs, why) in [
            (&[(TOKEN, token.text()), (PRINCIPAL, "canary")][..], "token and principal"),
            (&[(TOKEN, token.text()), (KEYTAB, "canary")][..], "token and keytab"),
            (&[(TOKEN, token.text()), ("user", "canary")][..], "take user out"),
            (&[(TOKEN, other.text())][..], "another realm"),
            (&[(TOKEN, "canary")][..], "token is no base64"),
        ] {
            let error = kerberos(&entries(pairs), "REALM").unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("canary"), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(TOKEN), token.text()).unwrap();
        let error = kerberos_at(dir.path(), "REALM").unwrap_err().to_string();
        assert!(error.contains("principal and keytab"), "{error}");
    }

    #[test]
    fn a_file_and_a_mounted_secret_say_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("keys.yaml"), "key_id: canary-id\naccess_key: \"canary-key\"\n").unwrap();
        fs::write(at("keys.json"), r#"{"key_id": "canary-id", "access_key": "canary-key"}"#).unwrap();
        fs::create_dir_all(at("mounted/..data")).unwrap();
        fs::write(at("mounted/key_id"), "canary-id\n").unwrap();
        fs::write(at("mounted/access_key"), "canary-key").unwrap();
        fs::write(at("mounted/other"), b"\xff").unwrap();
        let expected = s3(&entries(&[("key_id", "canary-id"), ("access_key", "canary-key")])).unwrap();
        for name in ["keys.yaml", "keys.json", "mounted"] {
            assert_eq!(s3_at(&at(name)).as_ref(), Ok(&expected), "{name}");
        }
        let keytab = Keytab::of("canary@REALM", b"canary-key");
        fs::create_dir(at("login")).unwrap();
        fs::write(at("login/principal"), "canary\n").unwrap();
        fs::write(at("login/keytab"), keytab.text()).unwrap();
        let expected = Ok(Credential::Kerberos { principal: "canary@REALM".into(), keytab });
        assert_eq!(kerberos_at(&at("login"), "REALM"), expected);
        assert!(kerberos_at(&at("mounted"), "REALM").unwrap_err().to_string().contains("neither principal nor keytab"));
        fs::write(at("bad"), "- canary-key\n: {").unwrap();
        fs::write(at("half"), "key_id: canary-id").unwrap();
        for (name, why) in [("none", "cannot read"), ("bad", "does not map"), ("half", "no access_key")] {
            let error = s3_at(&at(name)).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(name) && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn half_empty_and_double_secrets_name_the_entry_and_no_value() {
        for (pairs, named) in [
            (&[][..], "key_id with access_key"),
            (&[("key_id", "canary")][..], "no access_key"),
            (&[("secretAccessKey", "canary")][..], "no accessKeyId"),
            (&[("AWS_ACCESS_KEY_ID", " "), ("AWS_SECRET_ACCESS_KEY", "canary")][..], "AWS_ACCESS_KEY_ID is empty"),
            (&[("key_id", "canary"), ("access_key", "can ary")][..], "access_key holds characters"),
            (&[("key_id", "canary"), ("access_key", "canary"), ("accesskey", "canary")][..], "two families"),
            (&[("accessKeyId", "canary"), ("accessKeyID", "canary"), ("secretAccessKey", "canary")][..], "two ways"),
        ] {
            let error = s3(&entries(pairs)).unwrap_err().to_string();
            assert!(error.contains(named) && !error.contains("canary"), "{error}");
        }
    }
}
