//! Where a new volume lies: from the StorageClass's template and the request's names to a path that fits into an id.

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

use super::Error;
use super::record::Claim;
use crate::backend::RESERVED;
use crate::csi::volume_id::{Generation, LONGEST_ID};

/// The template of a StorageClass without a `path`.
pub const DEFAULT_TEMPLATE: &str = "${pv.name}";

/// Characters of the hash in a shortened segment: 120 bits.
const HASH: usize = 24;
/// The most of a name that stays readable before its hash.
const READABLE: usize = 40;

/// What the words of a template stand for.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// `${pv.name}`: the name in CreateVolume.
    pub volume: &'a str,
    /// `${pvc.namespace}` and `${pvc.name}`.
    pub claim: Option<&'a Claim>,
}

/// The path, below the root of the store called `store`, of a volume made by `template`.
///
/// Only the last segment may become another text than its name: a readable beginning and a hash, where the id would
/// have more than 128 bytes or the name has bytes outside `[A-Za-z0-9._-]`. The earlier ones are what prefix policies
/// rest on.
///
/// # Errors
/// [`Error::Invalid`], naming the segment.
pub fn place(template: &str, names: Names<'_>, store: &str) -> Result<String, Error> {
    let invalid = |why: String| Error::Invalid(format!("path {template:?} of the StorageClass: {why}"));
    let segments: Vec<&str> =
        template.split('/').map(|segment| fill(segment, names)).collect::<Result<_, _>>().map_err(invalid)?;
    let (last, earlier) = segments.split_last().ok_or_else(|| invalid("it is empty".to_owned()))?;
    if let Some(bad) = earlier.iter().find(|segment| !is_plain(segment)) {
        return Err(invalid(format!(
            "{bad:?} cannot be a directory above volumes: only letters, digits, '.', '_' and '-' can, and none of \
             '.', '..' and '{RESERVED}'"
        )));
    }
    let mut path = String::new();
    for segment in earlier {
        path.push_str(segment);
        path.push('/');
    }
    let around = store.len() + "/@".len() + Generation::LENGTH;
    let room = LONGEST_ID.saturating_sub(around + path.len());
    match is_plain(last) && last.len() <= room {
        true => path.push_str(last),
        false if room >= HASH => path.push_str(&shortened(last, room)),
        false => {
            let most = LONGEST_ID.saturating_sub(around + HASH);
            return Err(invalid(format!(
                "{path:?} is too long: an id has {LONGEST_ID} bytes, which leaves at most {most} for the directories \
                 above a volume in store {store:?}"
            )));
        }
    }
    Ok(path)
}

/// What a segment of a template stands for.
fn fill<'a>(segment: &'a str, names: Names<'a>) -> Result<&'a str, String> {
    let Some(word) = segment.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) else {
        return match segment {
            "" => Err("a segment is empty".to_owned()),
            _ if segment.contains(['$', '{', '}']) => {
                Err(format!("in {segment:?} the word in braces must fill the whole segment"))
            }
            _ if !is_plain(segment) => Err(format!(
                "{segment:?} has other characters than letters, digits, '.', '_' and '-', or is one of '.', '..' and \
                 '{RESERVED}'"
            )),
            _ => Ok(segment),
        };
    };
    let of_claim = |part: fn(&Claim) -> &str| {
        names.claim.map(part).ok_or_else(|| {
            format!("${{{word}}} is not known: the provisioner tells it when started with --extra-create-metadata")
        })
    };
    match word {
        "pv.name" => Ok(names.volume),
        "pvc.name" => of_claim(|claim| &claim.name),
        "pvc.namespace" => of_claim(|claim| &claim.namespace),
        _ => Err(format!("${{{word}}} is unknown; known are ${{pvc.namespace}}, ${{pvc.name}} and ${{pv.name}}")),
    }
}

/// Whether a name can stand in a path as it is.
fn is_plain(name: &str) -> bool {
    !["", ".", "..", RESERVED].contains(&name) && name.bytes().all(is_plain_byte)
}

fn is_plain_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

/// A readable beginning and a hash, in at most `room` bytes, which are at least [`HASH`].
fn shortened(name: &str, room: usize) -> String {
    let mut hash = BASE32_NOPAD.encode(&Sha256::digest(name.as_bytes())).to_ascii_lowercase();
    hash.truncate(HASH);
    let most = room.saturating_sub(HASH + 1).min(READABLE);
    let readable: String =
        name.bytes().map(|byte| if is_plain_byte(byte) { char::from(byte) } else { '-' }).take(most).collect();
    match readable.trim_matches(['.', '-']) {
        "" => hash,
        readable => format!("{readable}-{hash}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::csi::volume_id::VolumeId;

    fn claim(namespace: &str, name: &str) -> Claim {
        Claim { namespace: namespace.into(), name: name.into() }
    }

    fn placed(template: &str, volume: &str, claim: Option<&Claim>) -> Result<String, String> {
        place(template, Names { volume, claim }, "lake").map_err(|error| error.to_string())
    }

    #[test]
    fn a_template_puts_volumes_where_a_policy_expects_them() {
        let claim = claim("team-a", "data");
        for (template, path) in [
            (DEFAULT_TEMPLATE, "pvc-1"),
            ("${pvc.namespace}/${pvc.name}", "team-a/data"),
            ("teams/${pvc.namespace}/${pv.name}", "teams/team-a/pvc-1"),
            ("${pvc.name}/x", "data/x"),
        ] {
            assert_eq!(placed(template, "pvc-1", Some(&claim)).unwrap(), path);
        }
    }

    #[test]
    fn a_bad_template_says_what_is_wrong() {
        for (template, word) in [
            ("", "empty"),
            ("a//b", "empty"),
            ("/a", "empty"),
            ("x-${pv.name}", "whole segment"),
            ("${pv.name}${pvc.name}", "unknown"),
            ("${node}", "known are"),
            ("${}", "known are"),
            ("../${pv.name}", ".."),
            (".millrace/${pv.name}", ".millrace"),
            ("a b/${pv.name}", "a b"),
            ("${pvc.name}", "--extra-create-metadata"),
        ] {
            let error = placed(template, "pvc-1", None).unwrap_err();
            assert!(error.contains(word), "{template}: {error}");
        }
        let above = claim("..", "data");
        assert!(placed("${pvc.namespace}/${pvc.name}", "pvc-1", Some(&above)).unwrap_err().contains("directory above"));
    }

    #[test]
    fn only_the_last_segment_is_shortened() {
        let long = claim(&"n".repeat(63), &"c".repeat(253));
        let path = placed("${pvc.namespace}/${pvc.name}", "pvc-1", Some(&long)).unwrap();
        assert!(path.starts_with(&format!("{}/ccc", long.namespace)), "{path}");
        assert_eq!(path.len(), LONGEST_ID - "lake/@".len() - Generation::LENGTH);
        let error = placed("${pvc.name}/${pv.name}", "pvc-1", Some(&long)).unwrap_err();
        assert!(error.contains("too long"), "{error}");
    }

    #[test]
    fn odd_names_get_a_readable_beginning() {
        for (name, start) in [("a/b", "a-b-"), ("..", ""), (".", ""), (".millrace", "millrace-"), ("naïve", "na--ve-")]
        {
            let path = placed(DEFAULT_TEMPLATE, name, None).unwrap();
            assert!(path.starts_with(start) && path.len() == start.len() + HASH, "{name}: {path}");
        }
        assert_eq!(placed(DEFAULT_TEMPLATE, &"v".repeat(114), None).unwrap().len(), READABLE + 1 + HASH);
        assert_eq!(placed(DEFAULT_TEMPLATE, &"v".repeat(112), None).unwrap(), "v".repeat(112));
    }

    proptest! {
        #[test]
        fn every_place_is_the_path_of_an_id(
            store in "[a-z0-9-]{1,32}",
            name in "\\PC{1,60}|[a-zA-Z0-9._-]{1,128}|[./\\\\]{1,4}",
            namespace in "[a-z0-9][a-z0-9-]{0,62}",
            template in prop::sample::select(vec!["${pv.name}", "${pvc.namespace}/${pv.name}", "a/${pvc.name}"]),
        ) {
            let claim = claim(&namespace, &name);
            let names = Names { volume: &name, claim: Some(&claim) };
            if let Ok(path) = place(template, names, &store) {
                prop_assert_eq!(&place(template, names, &store).unwrap(), &path);
                let id = VolumeId::new(&store, &path, Generation::random());
                prop_assert!(id.is_ok(), "{}: {:?}", path, id);
                let segments: Vec<_> = path.split('/').collect();
                prop_assert_eq!(segments.len(), template.split('/').count());
                if template.starts_with("${pvc.namespace}") {
                    prop_assert_eq!(segments[0], namespace);
                }
            } else {
                // Only a long namespace leaves no room.
                prop_assert!(store.len() + namespace.len() > 60);
            }
        }

        #[test]
        fn two_names_never_share_a_place(one in "[a-b/é.-]{1,140}", two in "[a-b/é.-]{1,140}") {
            prop_assume!(one != two);
            prop_assert_ne!(placed(DEFAULT_TEMPLATE, &one, None), placed(DEFAULT_TEMPLATE, &two, None));
        }
    }
}
