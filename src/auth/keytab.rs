//! A keytab: the keys of Kerberos principals in the file format of MIT's library, version 2 (`0x0502`), as `ktutil` and
//! every KDC write it. Read as far as whose keys it holds.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Secret;

/// A keytab as base64 text, which is how a Secret can carry bytes through CSI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Keytab(Secret);

/// Why a text is no keytab, or not the one that is needed. Names principals, never keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadKeytab(String);

impl Keytab {
    /// Reads base64 `text`, in which white space does not count.
    ///
    /// # Errors
    /// What is no base64, no keytab, or larger than any.
    pub fn new(text: &str) -> Result<Keytab, BadKeytab> {
        let bad = |why: &str| BadKeytab(why.to_owned());
        let (text, bytes) = Secret::file(text, "a keytab", "user.keytab").map_err(BadKeytab)?;
        if bytes.get(..2) != Some(&[5, 2]) {
            return Err(bad("is base64 of something else than a keytab of version 2"));
        }
        let keytab = Keytab(text);
        match keytab.principals() {
            Some(principals) if !principals.is_empty() => Ok(keytab),
            Some(_) => Err(bad("is a keytab without a key")),
            None => Err(bad("is a keytab that was cut off or damaged")),
        }
    }

    /// The file itself.
    pub fn bytes(&self) -> Zeroizing<Vec<u8>> {
        // It was decoded when this was made.
        Zeroizing::new(BASE64.decode(self.text().as_bytes()).unwrap_or_default())
    }

    /// The base64 text.
    pub(super) fn text(&self) -> &str {
        self.0.expose()
    }

    /// Whose keys it holds, as `name/instance@REALM`, each once; `None` where it is cut off.
    pub fn principals(&self) -> Option<Vec<String>> {
        let bytes = self.bytes();
        let mut rest = bytes.get(2..)?;
        let mut found = Vec::new();
        while !rest.is_empty() {
            let size = i32::from_be_bytes(*take(&mut rest)?);
            let entry = slice(&mut rest, usize::try_from(size.unsigned_abs()).ok()?)?;
            // A negative size is that of a hole, and none is the end.
            match size {
                0 => break,
                1.. => found.push(principal(entry)?),
                _ => {}
            }
        }
        found.sort();
        found.dedup();
        Some(found)
    }
}

/// The principal at the beginning of an entry.
fn principal(mut entry: &[u8]) -> Option<String> {
    let parts = u16::from_be_bytes(*take(&mut entry)?);
    let realm = text(&mut entry)?;
    let names: Option<Vec<&str>> = (0..parts).map(|_| text(&mut entry)).collect();
    Some(format!("{}@{realm}", names?.join("/")))
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = u16::from_be_bytes(*take(rest)?);
    std::str::from_utf8(slice(rest, length.into())?).ok()
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(first)
}

fn slice<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (first, others) = rest.split_at_checked(length)?;
    *rest = others;
    Some(first)
}

#[cfg(test)]
impl Keytab {
    /// One with a key of that principal.
    pub(crate) fn of(principal: &str, key: &[u8]) -> Keytab {
        Keytab::new(&BASE64.encode(&file(&[(principal, key)]))).unwrap()
    }
}

#[cfg(test)]
fn file(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let counted = |text: &[u8]| [&(text.len() as u16).to_be_bytes(), text].concat();
    let mut file = vec![5, 2];
    for (principal, key) in entries {
        let (name, realm) = principal.split_once('@').unwrap();
        let names: Vec<&str> = name.split('/').collect();
        let mut entry = (names.len() as u16).to_be_bytes().to_vec();
        entry.extend(counted(realm.as_bytes()));
        names.iter().for_each(|name| entry.extend(counted(name.as_bytes())));
        // Kind of name, time, version, kind of key.
        entry.extend([0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 17]);
        entry.extend(counted(key));
        file.extend((entry.len() as i32).to_be_bytes());
        file.extend(entry);
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_keys_it_holds_is_read_and_no_key_is_shown() {
        let mut bytes =
            file(&[("alice@REALM", b"canary-key-16byt"), ("nn/host@REALM", b"k"), ("alice@REALM", b"older")]);
        // A hole, and what follows it.
        bytes.extend((-5i32).to_be_bytes());
        bytes.extend([9; 5]);
        bytes.extend(&file(&[("bob@OTHER", b"k")])[2..]);
        let text = BASE64.encode(&bytes);
        let (one, other) = text.split_at(40);
        let keytab = Keytab::new(&format!("{one}\n {other}\n")).unwrap();
        assert_eq!(keytab.principals().unwrap(), ["alice@REALM", "bob@OTHER", "nn/host@REALM"]);
        assert!(*keytab.bytes() == bytes);
        assert_eq!(format!("{keytab:?}"), "Keytab(***)");
    }

    #[test]
    fn what_is_no_keytab_is_refused_by_what_it_is() {
        let whole = file(&[("alice@REALM", b"0123456789abcdef")]);
        for (text, why) in [
            ("canary?".to_owned(), "no base64"),
            (BASE64.encode(b"canary"), "something else"),
            (BASE64.encode(&[5, 1, 0]), "something else"),
            (BASE64.encode(&[5, 2]), "without a key"),
            (BASE64.encode(&whole[..12]), "cut off"),
            (BASE64.encode(&whole[..whole.len() - 1]), "cut off"),
            ("AAAA".repeat(64 << 10), "too large"),
        ] {
            let error = Keytab::new(&text).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("canary"), "{error}");
        }
    }
}
