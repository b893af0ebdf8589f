//! Volume ids: `<store>/<path>@<generation>` for what CreateVolume made, any short text for what an administrator wrote.
//!
//! The path of a volume comes from its id, so the grammar is strict: an id says one place, in one way, below the
//! store's root, and never inside the driver's own `.millrace`.

use std::fmt;

use rand::seq::IndexedRandom;

use crate::backend::{BadName, Name, Path, RESERVED};

/// The longest volume id in bytes: the size limit of CSI for a string.
pub const LONGEST_ID: usize = 128;
/// The longest store name in bytes.
pub const LONGEST_STORE: usize = 32;
/// The longest path of a static volume in bytes.
pub const LONGEST_STATIC_PATH: usize = 1024;

/// Distinguishes a volume from those that had or will have its path: ten characters of lower-case base32 (RFC 4648).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Generation(String);

impl Generation {
    /// Bytes of its text.
    pub const LENGTH: usize = 10;
    const ALPHABET: &'static [u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

    /// A new one: 50 random bits.
    pub fn random() -> Generation {
        let mut rng = rand::rng();
        let letter = || Self::ALPHABET.choose(&mut rng).map(|byte| char::from(*byte));
        Generation(std::iter::repeat_with(letter).flatten().take(Self::LENGTH).collect())
    }

    /// Checks `text`.
    ///
    /// # Errors
    /// [`BadId::Generation`].
    pub fn parse(text: &str) -> Result<Generation, BadId> {
        let fits = text.len() == Self::LENGTH && text.bytes().all(|byte| Self::ALPHABET.contains(&byte));
        if fits { Ok(Generation(text.to_owned())) } else { Err(BadId::Generation) }
    }

    /// The ten characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a volume that CreateVolume made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VolumeId {
    store: String,
    path: Path,
    generation: Generation,
}

impl VolumeId {
    /// Puts an id together.
    ///
    /// # Errors
    /// What the grammar refuses, and [`BadId::TooLong`] where the whole has more than [`LONGEST_ID`] bytes.
    pub fn new(store: &str, path: &str, generation: Generation) -> Result<VolumeId, BadId> {
        let fits = !store.is_empty()
            && store.len() <= LONGEST_STORE
            && store.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !fits {
            return Err(BadId::Store);
        }
        let path = parse_path(path, LONGEST_ID)?;
        if path.is_root() {
            return Err(BadId::Path(BadPath::Name(BadName::Empty)));
        }
        let id = VolumeId { store: store.to_owned(), path, generation };
        match id.to_string().len() {
            0..=LONGEST_ID => Ok(id),
            _ => Err(BadId::TooLong),
        }
    }

    /// Reads an id. There is one text for an id: what parses is what [`fmt::Display`] writes.
    ///
    /// # Errors
    /// Why it is not one that CreateVolume makes.
    pub fn parse(text: &str) -> Result<VolumeId, BadId> {
        let (store, rest) = text.split_once('/').ok_or(BadId::Form)?;
        let (path, generation) = rest.rsplit_once('@').ok_or(BadId::Form)?;
        VolumeId::new(store, path, Generation::parse(generation)?)
    }

    /// The store's name.
    pub fn store(&self) -> &str {
        &self.store
    }

    /// The volume's directory below the store's root; never the root itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which of the volumes that ever had this path.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.store, self.path, self.generation)
    }
}

/// What a volume shows that is a view of a snapshot: `<source's path>@<source's generation>/<snapshot's generation>`, the
/// value of the word `snapshot` in its context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The directory of the snapshot's source below the store's root.
    pub path: Path,
    /// The source's generation.
    pub volume: Generation,
    /// The snapshot's, which is its name in the store.
    pub snapshot: Generation,
}

impl Shown {
    /// Reads one. There is one text for it: what parses is what [`fmt::Display`] writes.
    ///
    /// # Errors
    /// What the grammar of ids refuses.
    pub fn parse(text: &str) -> Result<Shown, BadId> {
        let (source, snapshot) = text.rsplit_once('/').ok_or(BadId::Form)?;
        let (path, volume) = source.rsplit_once('@').ok_or(BadId::Form)?;
        let path = parse_path(path, LONGEST_ID)?;
        match path.is_root() {
            true => Err(BadId::Path(BadPath::Name(BadName::Empty))),
            false => Ok(Shown { path, volume: Generation::parse(volume)?, snapshot: Generation::parse(snapshot)? }),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}/{}", self.path, self.volume, self.snapshot)
    }
}

/// Checks the id of a static or unknown volume, which may be any text of 1 to [`LONGEST_ID`] bytes without control
/// characters.
///
/// # Errors
/// [`BadId::Empty`], [`BadId::TooLong`], [`BadId::Control`].
pub fn check_opaque(text: &str) -> Result<(), BadId> {
    match text {
        "" => Err(BadId::Empty),
        _ if text.len() > LONGEST_ID => Err(BadId::TooLong),
        _ if text.chars().any(char::is_control) => Err(BadId::Control),
        _ => Ok(()),
    }
}

/// Reads the path of a volume, of at most `longest` bytes: segments joined by single slashes, none of them `.`, `..` or
/// `.millrace`, without backslashes and control characters; empty for the store's root.
///
/// # Errors
/// [`BadPath`].
pub fn parse_path(text: &str, longest: usize) -> Result<Path, BadPath> {
    if text.len() > longest {
        return Err(BadPath::TooLong(longest));
    }
    if text.chars().any(|c| c.is_control() || c == '\\') {
        return Err(BadPath::Character);
    }
    let path = Path::parse(text)?;
    let reserved = path.names().any(|name: Name| name.is_reserved());
    if reserved { Err(BadPath::Reserved) } else { Ok(path) }
}

/// Why a text is not a volume's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// Nothing there.
    #[error("a volume id cannot be empty")]
    Empty,
    /// Over [`LONGEST_ID`] bytes.
    #[error("a volume id has at most {LONGEST_ID} bytes")]
    TooLong,
    /// A control character inside.
    #[error("a volume id holds no control characters")]
    Control,
    /// No slash, or no `@`.
    #[error("it is not of the form <store>/<path>@<generation>")]
    Form,
    /// A store's name cannot be so.
    #[error("its store is not 1 to {LONGEST_STORE} letters, digits, '.', '_' or '-'")]
    Store,
    /// Not ten characters of base32.
    #[error("its generation is not 10 characters of a-z and 2-7")]
    Generation,
    /// The path cannot be one.
    #[error("its path: {0}")]
    Path(#[from] BadPath),
}

/// Why a text is not a volume's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// Longer than it may be here.
    #[error("a path has at most {0} bytes here")]
    TooLong(usize),
    /// A control character or a backslash.
    #[error("a path holds neither backslashes nor control characters")]
    Character,
    /// `.millrace` as a segment.
    #[error("'{RESERVED}' is the driver's own and cannot be part of a path")]
    Reserved,
    /// A segment that is no name, as between two slashes.
    #[error("between its slashes: {0}")]
    Name(#[from] BadName),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GENERATION: &str = "abcdefg234";

    #[test]
    fn an_id_says_store_path_and_generation() {
        let id = VolumeId::parse("lake/team-a/pvc-1@abcdefg234").unwrap();
        assert_eq!(id.store(), "lake");
        assert_eq!(id.path(), &Path::parse("team-a/pvc-1").unwrap());
        assert_eq!(id.generation().as_str(), GENERATION);
    }

    #[test]
    fn what_could_point_elsewhere_is_refused() {
        for (path, why) in [
            ("", BadPath::Name(BadName::Empty)),
            ("..", BadPath::Name(BadName::Dots)),
            ("a/../b", BadPath::Name(BadName::Dots)),
            ("a/.", BadPath::Name(BadName::Dots)),
            ("/a", BadPath::Name(BadName::Empty)),
            ("a/", BadPath::Name(BadName::Empty)),
            ("a//b", BadPath::Name(BadName::Empty)),
            ("a\\b", BadPath::Character),
            ("a\nb", BadPath::Character),
            ("a\0", BadPath::Character),
            ("a\u{85}", BadPath::Character),
            (".millrace", BadPath::Reserved),
            ("a/.millrace/b", BadPath::Reserved),
        ] {
            assert_eq!(VolumeId::parse(&format!("s/{path}@{GENERATION}")), Err(BadId::Path(why)), "{path:?}");
        }
        for (id, why) in [
            ("", BadId::Form),
            ("store", BadId::Form),
            ("store/path", BadId::Form),
            ("/path@abcdefg234", BadId::Store),
            ("a b/path@abcdefg234", BadId::Store),
            ("store/path@", BadId::Generation),
            ("store/path@abcdefg23", BadId::Generation),
            ("store/path@abcdefg2345", BadId::Generation),
            ("store/path@ABCDEFG234", BadId::Generation),
            ("store/path@abcdefg231", BadId::Generation),
        ] {
            assert_eq!(VolumeId::parse(id), Err(why), "{id:?}");
        }
        assert_eq!(VolumeId::parse(&format!("{}/p@{GENERATION}", "s".repeat(33))), Err(BadId::Store));
    }

    #[test]
    fn a_view_says_of_what_snapshot() {
        let shown = Shown::parse("team-a/pvc-1@abcdefg234/zyxwvut765").unwrap();
        assert_eq!((shown.path.to_string().as_str(), shown.volume.as_str()), ("team-a/pvc-1", GENERATION));
        assert_eq!(
            (shown.snapshot.as_str(), shown.to_string()),
            ("zyxwvut765", "team-a/pvc-1@abcdefg234/zyxwvut765".into())
        );
        for (text, why) in [
            ("", BadId::Form),
            ("a@abcdefg234", BadId::Form),
            ("a/zyxwvut765", BadId::Form),
            ("@abcdefg234/zyxwvut765", BadId::Path(BadPath::Name(BadName::Empty))),
            ("../b@abcdefg234/zyxwvut765", BadId::Path(BadPath::Name(BadName::Dots))),
            (".millrace@abcdefg234/zyxwvut765", BadId::Path(BadPath::Reserved)),
            ("a@abcdefg234/../../b", BadId::Generation),
            ("a@abcdefg234/zyxwvut76", BadId::Generation),
        ] {
            assert_eq!(Shown::parse(text), Err(why), "{text:?}");
        }
    }

    #[test]
    fn an_id_has_at_most_128_bytes() {
        let path = "p".repeat(LONGEST_ID - "s/@".len() - GENERATION.len());
        assert_eq!(VolumeId::parse(&format!("s/{path}@{GENERATION}")).unwrap().to_string().len(), LONGEST_ID);
        assert_eq!(VolumeId::parse(&format!("s/{path}p@{GENERATION}")), Err(BadId::TooLong));
    }

    #[test]
    fn a_static_volume_is_called_anything_short() {
        assert_eq!(check_opaque("imagenet for team a"), Ok(()));
        assert_eq!(check_opaque(&"é".repeat(64)), Ok(()));
        assert_eq!(check_opaque(&"é".repeat(65)), Err(BadId::TooLong));
        assert_eq!(check_opaque("a\tb"), Err(BadId::Control));
        assert_eq!(check_opaque(""), Err(BadId::Empty));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            store in "[a-z0-9._-]{1,32}",
            path in "[A-Za-z0-9._@ é-]{1,16}(/[A-Za-z0-9._@-]{1,16}){0,3}",
        ) {
            let id = VolumeId::new(&store, &path, Generation::random());
            prop_assume!(id.is_ok());
            let id = id.unwrap();
            prop_assert_eq!(VolumeId::parse(&id.to_string()), Ok(id.clone()));
            prop_assert!(check_opaque(&id.to_string()).is_ok());
        }

        #[test]
        fn what_is_read_is_written(text in "[a-c./@\\\\]{1,12}@[a-z2-7]{9,11}|\\PC{0,140}|[\\x00-\\xff]{0,20}") {
            if let Ok(id) = VolumeId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
                prop_assert!(!id.path().is_root());
                let odd = |name: Name| [".", "..", RESERVED, ""].contains(&name.as_str().unwrap_or_default());
                prop_assert!(!id.path().names().any(odd));
            }
        }
    }
}
