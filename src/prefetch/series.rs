//! Names that count: which file comes after one whose number is one more than that of the file before it.
//!
//! Pure: no clock, no store.

use crate::backend::{Name, Path};

/// What follows `path` in the series that `before` and `path` are two neighbours of: the same name with a number that is one
/// more, as wide as it is written there. `None` where they are none.
pub(super) fn after(before: &Path, path: &Path) -> Option<Path> {
    let ((dir, name), (other, earlier)) = (path.split_last()?, before.split_last()?);
    if dir != other {
        return None;
    }
    let name = name.as_bytes();
    let mut end = name.len();
    // The number that counts is most often the last one.
    while let Some(last) = name[..end].iter().rposition(u8::is_ascii_digit) {
        let start = name[..last].iter().rposition(|byte| !byte.is_ascii_digit()).map_or(0, |before| before + 1);
        let digits = start..last + 1;
        let number: Option<u64> = std::str::from_utf8(&name[digits.clone()]).ok().and_then(|text| text.parse().ok());
        if let Some(number) = number
            && let Some(less) = number.checked_sub(1)
        {
            let with = |number: u64, width: usize| {
                [&name[..digits.start], format!("{number:0width$}").as_bytes(), &name[digits.end..]].concat()
            };
            if [digits.len(), 0].iter().any(|width| with(less, *width) == earlier.as_bytes()) {
                let next = Name::new(&with(number.checked_add(1)?, digits.len())).ok()?;
                return Some(dir.join(&next));
            }
        }
        end = start;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_name_counts_on_from_two_that_count() {
        for (before, path, next) in [
            ("shard-000.tar", "shard-001.tar", Some("shard-002.tar")),
            ("d/shard-009.tar", "d/shard-010.tar", Some("d/shard-011.tar")),
            ("8", "9", Some("10")),
            ("9", "10", Some("11")),
            ("a99.bin", "a100.bin", Some("a101.bin")),
            ("part-00007-of-00100", "part-00008-of-00100", Some("part-00009-of-00100")),
            ("v2/f-1", "v2/f-2", Some("v2/f-3")),
            // The other way round, further on, elsewhere, or not at all.
            ("f-2", "f-1", None),
            ("f-1", "f-3", None),
            ("f-1", "f-1", None),
            ("a/f-1", "b/f-2", None),
            ("f-1.tar", "f-2.idx", None),
            ("f", "g", None),
            ("f-18446744073709551614", "f-18446744073709551615", None),
            ("f-99999999999999999998", "f-99999999999999999999", None),
        ] {
            let parsed = |text: &str| Path::parse(text).unwrap();
            assert_eq!(after(&parsed(before), &parsed(path)), next.map(parsed), "{before} {path}");
        }
    }
}
