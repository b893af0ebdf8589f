//! A word of a request as the text of an event may repeat it: whoever wrote the request chose it, and many read it.

/// The longest that is repeated of a word, in bytes.
const LONGEST: usize = 64;

/// `word` in quotes: at most 64 bytes of it, with `?` for each that is not one of `[A-Za-z0-9._/-]`.
pub fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte);
    let shown: String =
        word.bytes().take(LONGEST).map(|byte| if plain(byte) { char::from(byte) } else { '?' }).collect();
    format!("\"{shown}\"")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_plain_stays_as_it_is() {
        assert_eq!(quoted("teams/ml-2/Set_1.tar"), "\"teams/ml-2/Set_1.tar\"");
        assert_eq!(quoted("a\nb<\u{e9}>"), "\"a?b????\"");
        assert_eq!(quoted(&"x".repeat(1000)).len(), 66);
    }

    proptest! {
        #[test]
        fn nothing_else_ever_gets_through(word in any::<String>()) {
            let text = quoted(&word);
            let inside = &text[1..text.len() - 1];
            prop_assert!(inside.len() <= 64);
            prop_assert!(inside.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._/-?".contains(&byte)));
        }
    }
}
