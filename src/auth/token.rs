//! A delegation token of HDFS: a file of Hadoop's credentials (`HDTS`), as `hdfs fetchdt` and `hadoop dtutil` write it, in
//! either of its forms. A name node gave it to whom a KDC had proved, and takes it in the place of a proof for as long as it
//! wants.

use std::time::{Duration, SystemTime};

use data_encoding::{BASE64, BASE64URL_NOPAD};
use prost::Message;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Secret;

const MAGIC: &[u8] = b"HDTS";

/// What Hadoop calls tokens of a name node, by RPC and by WebHDFS: they differ in nothing else.
const KINDS: [&str; 3] = ["HDFS_DELEGATION_TOKEN", "WEBHDFS delegation", "SWEBHDFS delegation"];

/// A file of Hadoop's credentials with one token of HDFS, as base64 text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(Secret);

/// Why a text is no such file, or not the one that is needed. Never what stands in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadToken(String);

/// What a token says of itself, which the name node alone can tell to be true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Who uses it: a principal, or a user's short name where a service fetched it for him.
    pub owner: String,
    /// After this no name node takes it; before, only one where it was renewed in time.
    pub until: SystemTime,
}

/// A token's two halves.
struct Parts {
    /// What it says of itself.
    identifier: Vec<u8>,
    /// The proof of it.
    password: Zeroizing<Vec<u8>>,
}

impl Token {
    /// Reads base64 `text`, in which white space does not count.
    ///
    /// # Errors
    /// What is no base64, no file of credentials, larger than any, or holds no token of HDFS or several.
    pub fn new(text: &str) -> Result<Token, BadToken> {
        let bad = |why: &str| BadToken(why.to_owned());
        let (text, _) = Secret::file(text, "a token file", "user.token").map_err(BadToken)?;
        let token = Token(text);
        token.parts()?;
        token.claims().ok_or_else(|| bad("holds a token of HDFS that says nothing of whom it is"))?;
        Ok(token)
    }

    /// What it says of itself; `None` where that is damaged.
    pub fn claims(&self) -> Option<Claims> {
        let Parts { identifier, .. } = self.parts().ok()?;
        let mut rest = identifier.split_first().filter(|(version, _)| **version == 0)?.1;
        let owner = text(&mut rest)?;
        let (_renewer, _real_user) = (text(&mut rest)?, text(&mut rest)?);
        let (_issued, until) = (number(&mut rest)?, number(&mut rest)?);
        // Its number, and that of the name node's key.
        let _ = (number(&mut rest)?, number(&mut rest)?);
        let until = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(until).ok()?))?;
        (!owner.is_empty()).then_some(Claims { owner, until })
    }

    /// The base64 text.
    pub(super) fn text(&self) -> &str {
        self.0.expose()
    }

    /// As a URL carries it (`delegation=`).
    pub fn url_text(&self) -> Secret {
        let written = self.written("", &[]);
        Secret::new(BASE64URL_NOPAD.encode(&written))
    }

    /// An entry of a file of credentials, for the `service` of that name.
    fn entry(&self, service: &str) -> Zeroizing<Vec<u8>> {
        self.written(service, service.as_bytes())
    }

    /// A token as Hadoop writes it, behind its alias where it has one.
    fn written(&self, service: &str, alias: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut written = Zeroizing::new(Vec::new());
        // It was read when this was made.
        let Ok(Parts { identifier, password }) = self.parts() else { return written };
        let alias = Some(alias).filter(|alias| !alias.is_empty());
        for part in alias.into_iter().chain([&identifier[..], &password[..], KINDS[0].as_bytes(), service.as_bytes()]) {
            put_number(&mut written, part.len());
            written.extend_from_slice(part);
        }
        written
    }

    /// The one token of HDFS in it.
    fn parts(&self) -> Result<Parts, BadToken> {
        let bad = |why: &str| BadToken(why.to_owned());
        let bytes = Zeroizing::new(BASE64.decode(self.0.expose().as_bytes()).unwrap_or_default());
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return Err(bad("is base64 of something else than a file of Hadoop's credentials"));
        };
        let found = match rest.split_first() {
            Some((0, rest)) => in_writable(rest),
            Some((1, rest)) => in_protobuf(rest),
            _ => return Err(bad("is a file of Hadoop's credentials in a form that is not known")),
        };
        let mut found = found.ok_or_else(|| bad("is a file of Hadoop's credentials that was cut off or damaged"))?;
        let Some(first) = found.pop() else { return Err(bad("holds no token of HDFS")) };
        // A client of several name nodes keeps one under each of their names.
        if found.iter().any(|other| other.identifier != first.identifier) {
            return Err(bad("holds tokens of several file systems: leave that of the store"));
        }
        Ok(first)
    }
}

/// A file of credentials with these tokens, each for the service of that name.
pub fn file<'a>(tokens: impl ExactSizeIterator<Item = (&'a str, &'a Token)>) -> Zeroizing<Vec<u8>> {
    let mut file = Zeroizing::new([MAGIC, &[0]].concat());
    put_number(&mut file, tokens.len());
    for (service, token) in tokens {
        file.extend_from_slice(&token.entry(service));
    }
    // No secrets beside them.
    put_number(&mut file, 0);
    file
}

fn in_writable(mut rest: &[u8]) -> Option<Vec<Parts>> {
    let mut found = Vec::new();
    for _ in 0..number(&mut rest)? {
        let _alias = slice(&mut rest)?;
        let (identifier, password) = (slice(&mut rest)?, slice(&mut rest)?);
        let (kind, _service) = (text(&mut rest)?, slice(&mut rest)?);
        if KINDS.contains(&kind.as_str()) {
            found.push(Parts { identifier: identifier.to_vec(), password: Zeroizing::new(password.to_vec()) });
        }
    }
    Some(found)
}

fn in_protobuf(rest: &[u8]) -> Option<Vec<Parts>> {
    let Credentials { tokens } = Credentials::decode_length_delimited(rest).ok()?;
    let tokens = tokens.into_iter().filter_map(|one| one.token);
    let parts = tokens.map(|OneToken { identifier, password, kind }| (kind, identifier, Zeroizing::new(password)));
    let of_hdfs = parts.filter(|(kind, ..)| KINDS.contains(&kind.as_str()));
    Some(of_hdfs.map(|(_, identifier, password)| Parts { identifier, password }).collect())
}

/// `CredentialsProto` and what is in it (Security.proto of Hadoop), as far as it is read.
#[derive(Clone, PartialEq, Message)]
struct Credentials {
    #[prost(message, repeated, tag = "1")]
    tokens: Vec<Named>,
}

#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(message, optional, tag = "2")]
    token: Option<OneToken>,
}

#[derive(Clone, PartialEq, Message)]
struct OneToken {
    #[prost(bytes = "vec", tag = "1")]
    identifier: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    password: Vec<u8>,
    #[prost(string, tag = "3")]
    kind: String,
}

/// Bytes behind their length.
fn slice<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(rest)?).ok()?;
    let (first, others) = rest.split_at_checked(length)?;
    *rest = others;
    Some(first)
}

fn text(rest: &mut &[u8]) -> Option<String> {
    String::from_utf8(slice(rest)?.to_vec()).ok()
}

/// A number as `WritableUtils.writeVLong` of Hadoop writes it: small ones are one byte, and of others the first byte has sign
/// and length.
fn number(rest: &mut &[u8]) -> Option<i64> {
    let (first, others) = rest.split_first()?;
    *rest = others;
    let first = first.cast_signed();
    let (length, is_negative) = match first {
        -112.. => return Some(first.into()),
        -120..-112 => (-112 - i16::from(first), false),
        _ => (-120 - i16::from(first), true),
    };
    let (bytes, others) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = others;
    let value = bytes.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte)).cast_signed();
    Some(if is_negative { !value } else { value })
}

/// Writes a length so.
fn put_number(to: &mut Vec<u8>, number: usize) {
    match i8::try_from(number) {
        Ok(small) => to.push(small.cast_unsigned()),
        Err(_) => {
            let bytes = (number as u64).to_be_bytes();
            let significant = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            to.push((-112 - i8::try_from(significant.len()).unwrap_or_default()).cast_unsigned());
            to.extend(significant);
        }
    }
}

#[cfg(test)]
impl Token {
    /// One of that owner.
    pub(crate) fn of(owner: &str, password: &[u8], until: SystemTime) -> Token {
        Token::new(&BASE64.encode(&tests::writable(&[("HDFS_DELEGATION_TOKEN", owner, password)], until))).unwrap()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Of hdfs-native's own tests: what Hadoop wrote, in each form.
    const WRITABLE: &str = "SERUUwABDjEyNy4wLjAuMTo5MDAwLgAaaGRmcy9sb2NhbGhvc3RARVhBTVBMRS5DT00AAIoBiX/hghSKAYmj7gYUAQIUadF4ni3ObKqU8niv40WBFsGhFm4VSERGU19ERUxFR0FUSU9OX1RPS0VODjEyNy4wLjAuMTo5MDAwAA==";
    const PROTOBUF: &str = "SERUUwGBAQp/Cg5sb2NhbGhvc3Q6OTAwMBJtCi4AGmhkZnMvbG9jYWxob3N0QEVYQU1QTEUuQ09NAACKAYiiTtt9igGIxltffQECEhQoROcYNFMxMuoK9UHlAna6ZmhQSBoVSERGU19ERUxFR0FUSU9OX1RPS0VOIg4xMjcuMC4wLjE6OTAwMA==";

    fn counted(to: &mut Vec<u8>, part: &[u8]) {
        put_number(to, part.len());
        to.extend(part);
    }

    fn identifier(owner: &str, until: SystemTime) -> Vec<u8> {
        let mut identifier = vec![0];
        [owner, "renewer", ""].iter().for_each(|text| counted(&mut identifier, text.as_bytes()));
        let until = until.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as usize;
        [until - 1000, until, 7, 3].iter().for_each(|one| put_number(&mut identifier, *one));
        identifier
    }

    /// A file of tokens, each by kind, owner and password.
    pub(in super::super) fn writable(tokens: &[(&str, &str, &[u8])], until: SystemTime) -> Vec<u8> {
        let mut file = [MAGIC, &[0]].concat();
        put_number(&mut file, tokens.len());
        for (kind, owner, password) in tokens {
            let parts = [b"alias", &identifier(owner, until)[..], password, kind.as_bytes(), b"10.0.0.1:8020"];
            parts.iter().for_each(|part| counted(&mut file, part));
        }
        file.push(0);
        file
    }

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn what_hadoop_wrote_is_read_in_both_forms() {
        for (file, until) in [(WRITABLE, 1_690_672_432_660), (PROTOBUF, 1_686_955_057_021)] {
            let (one, other) = file.split_at(50);
            let token = Token::new(&format!("{one}\n {other}\n")).unwrap();
            let claims = token.claims().unwrap();
            assert_eq!(claims, Claims { owner: "hdfs/localhost@EXAMPLE.COM".into(), until: at(until) });
            assert_eq!(format!("{token:?}"), "Token(***)");
        }
    }

    #[test]
    fn a_token_is_written_for_whoever_is_to_find_it() {
        let (first, second) =
            (Token::of("alice@REALM", b"one", at(1 << 40)), Token::of("bob@REALM", b"two", at(1 << 41)));
        let written = file([("ha-hdfs:a", &first), ("ha-hdfs:b", &second)].into_iter());
        let mut rest = written.strip_prefix(b"HDTS\0").unwrap();
        assert_eq!(number(&mut rest), Some(2));
        for (token, service) in [(&first, "ha-hdfs:a"), (&second, "ha-hdfs:b")] {
            let parts = token.parts().unwrap();
            assert_eq!(slice(&mut rest), Some(service.as_bytes()));
            assert_eq!((slice(&mut rest), slice(&mut rest)), (Some(&parts.identifier[..]), Some(&parts.password[..])));
            assert_eq!((text(&mut rest).unwrap(), text(&mut rest).unwrap()), (KINDS[0].to_owned(), service.to_owned()));
        }
        assert_eq!(rest, [0]);
        let url = BASE64URL_NOPAD.decode(first.url_text().expose().as_bytes()).unwrap();
        let mut rest = &url[..];
        assert_eq!(slice(&mut rest), Some(&first.parts().unwrap().identifier[..]));
        assert_eq!((slice(&mut rest), text(&mut rest).unwrap()), (Some(&b"one"[..]), KINDS[0].to_owned()));
        assert_eq!((text(&mut rest).unwrap().as_str(), rest.len()), ("", 0));
    }

    #[test]
    fn what_is_no_token_of_hdfs_is_refused_by_what_it_is() {
        let whole = writable(&[(KINDS[1], "alice", b"canary")], at(1 << 40));
        assert!(Token::new(&BASE64.encode(&whole)).is_ok(), "as WebHDFS gives it");
        let twice = [(KINDS[0], "alice", &b"canary"[..]), (KINDS[0], "alice", b"canary")];
        assert!(Token::new(&BASE64.encode(&writable(&twice, at(1 << 40)))).is_ok(), "one for each name node");
        let several = [(KINDS[0], "alice", &b"canary"[..]), (KINDS[0], "bob", b"canary")];
        for (text, why) in [
            ("canary?".to_owned(), "no base64"),
            (BASE64.encode(b"canary"), "something else"),
            (BASE64.encode(b"HDTS"), "form"),
            (BASE64.encode(b"HDTS\x02"), "form"),
            (BASE64.encode(&whole[..60]), "cut off"),
            (BASE64.encode(b"HDTS\0\0\0"), "no token"),
            (BASE64.encode(&writable(&[("kms-dt", "canary", b"canary")], at(1 << 40))), "no token"),
            (BASE64.encode(&writable(&several, at(1 << 40))), "several"),
            (BASE64.encode(&writable(&[(KINDS[0], "", b"canary")], at(1 << 40))), "says nothing"),
            ("AAAA".repeat(64 << 10), "too large"),
        ] {
            let error = Token::new(&text).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn numbers_are_those_of_hadoop() {
        for (value, bytes) in [
            (0i64, &[0u8][..]),
            (127, &[127]),
            (-112, &[0x90]),
            (128, &[0x8f, 128]),
            (300, &[0x8e, 1, 44]),
            (-113, &[0x87, 112]),
            (i64::MAX, &[0x88, 127, 255, 255, 255, 255, 255, 255, 255]),
            (i64::MIN, &[0x80, 127, 255, 255, 255, 255, 255, 255, 255]),
        ] {
            assert_eq!(number(&mut &bytes[..]), Some(value));
            if let Ok(value) = usize::try_from(value) {
                let mut written = Vec::new();
                put_number(&mut written, value);
                assert_eq!(written, bytes);
            }
        }
        assert_eq!(number(&mut &[0x8f][..]), None);
    }
}
