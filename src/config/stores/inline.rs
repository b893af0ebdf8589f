//! Inline ephemeral volumes: which namespaces may name which directories of a store.
//!
//! The author of a pod writes an inline volume's attributes, so nothing but these rules would stop it from naming
//! another team's directory in a store that knows no credentials per user.

use serde::Deserialize;

use crate::backend::{Path, RESERVED};

/// The word for the pod's namespace in a path.
const NAMESPACE: &str = "${pod.namespace}";

/// The rules of one store; any of them may allow.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<Words>")]
pub struct Inline(Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// A namespace's name, in which each `*` stands for any text, also for none.
    namespace: String,
    /// Directories whose every path may be named, as segments.
    paths: Vec<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    namespace: String,
    paths: Vec<String>,
}

/// Rules that say nothing that can be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRule(String);

impl TryFrom<Vec<Words>> for Inline {
    type Error = BadRule;

    fn try_from(words: Vec<Words>) -> Result<Inline, BadRule> {
        if words.is_empty() {
            return Err(BadRule("inline has no rule: leave it out where a store has no inline volumes".into()));
        }
        words.into_iter().map(Rule::try_from).collect::<Result<_, _>>().map(Inline)
    }
}

impl TryFrom<Words> for Rule {
    type Error = BadRule;

    fn try_from(words: Words) -> Result<Rule, BadRule> {
        let Words { namespace, paths } = words;
        namespace_pattern(&namespace).map_err(|why| BadRule(format!("inline: {why}")))?;
        if paths.is_empty() {
            return Err(BadRule(format!("inline: the rule for namespace {namespace:?} has no paths")));
        }
        let paths = paths.iter().map(|path| segments(path)).collect::<Result<_, _>>()?;
        Ok(Rule { namespace, paths })
    }
}

impl Inline {
    /// Whether a pod in `namespace` may name `path`, which is a volume's directory below the store's root.
    pub fn allows(&self, namespace: &str, path: &Path) -> bool {
        let names: Vec<_> = path.names().map(|name| name.as_str().unwrap_or_default().to_owned()).collect();
        let within = |allowed: &Vec<String>| {
            allowed.len() <= names.len()
                && allowed.iter().zip(&names).all(|(allowed, name)| match allowed.as_str() {
                    NAMESPACE => name == namespace,
                    allowed => name == allowed,
                })
        };
        self.0.iter().any(|rule| matches(&rule.namespace, namespace) && rule.paths.iter().any(within))
    }
}

impl std::fmt::Display for Inline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = |segments: &Vec<String>| match segments.is_empty() {
            true => "all paths".to_owned(),
            false => segments.join("/"),
        };
        let rule =
            |rule: &Rule| format!("{}: {}", rule.namespace, rule.paths.iter().map(path).collect::<Vec<_>>().join(", "));
        f.write_str(&self.0.iter().map(rule).collect::<Vec<_>>().join("; "))
    }
}

/// The segments of a directory; none of the store's root.
fn segments(path: &str) -> Result<Vec<String>, BadRule> {
    let bad = |why: String| BadRule(format!("inline: path {path:?}: {why}"));
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let segments: Vec<_> = path.split('/').map(str::to_owned).collect();
    for segment in segments.iter().filter(|segment| *segment != NAMESPACE) {
        if segment.contains(['$', '{', '}', '*']) {
            return Err(bad(format!("{segment:?}: the only word is {NAMESPACE}, as a whole segment")));
        }
        if segment == RESERVED {
            return Err(bad(format!("the name {RESERVED:?} is the driver's own")));
        }
    }
    Path::parse(path).map_err(|why| bad(format!("{why}; write segments joined by '/', without one at either end")))?;
    Ok(segments)
}

/// Checks a pattern of namespaces' names.
pub(super) fn namespace_pattern(namespace: &str) -> Result<(), String> {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-*".contains(&byte);
    match (1..=63).contains(&namespace.len()) && namespace.bytes().all(inside) {
        true => Ok(()),
        false => Err(format!("namespace {namespace:?} is 1 to 63 of a-z, 0-9 and '-', and '*' for any text")),
    }
}

/// Whether `text` is of the form `pattern`.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<_> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        // The earliest place leaves the most for what follows.
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inline(rules: &[(&str, &[&str])]) -> Result<Inline, BadRule> {
        let words = |(namespace, paths): &(&str, &[&str])| Words {
            namespace: (*namespace).to_owned(),
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        };
        Inline::try_from(rules.iter().map(words).collect::<Vec<_>>())
    }

    #[test]
    fn a_namespace_reaches_what_its_rules_name() {
        let rules = inline(&[
            ("team-a", &["teams/a", "sets/open"]),
            ("ml-*", &["teams/${pod.namespace}/data", "sets"]),
            ("admin", &[""]),
            ("*", &["public"]),
        ])
        .unwrap();
        for (namespace, path, allowed) in [
            ("team-a", "teams/a", true),
            ("team-a", "teams/a/b/c", true),
            ("team-a", "sets/open", true),
            ("team-a", "public/x", true),
            ("team-a", "teams", false),
            ("team-a", "", false),
            ("team-a", "teams/ab", false),
            ("team-a", "teams/b", false),
            ("team-a", "sets", false),
            ("team-a", "publi", false),
            ("team-ab", "teams/a", false),
            ("xteam-a", "teams/a", false),
            ("ml-1", "teams/ml-1/data/x", true),
            ("ml-1", "teams/ml-1", false),
            ("ml-1", "teams/ml-2/data", false),
            ("ml-1", "teams/${pod.namespace}/data", false),
            ("ml-", "sets/x", true),
            ("ml", "sets", false),
            ("admin", "", true),
            ("admin", "anything/at/all", true),
            ("other", "public", true),
            ("other", "sets", false),
        ] {
            let path = Path::parse(path).unwrap();
            assert_eq!(rules.allows(namespace, &path), allowed, "{namespace}: {path}");
        }
    }

    #[test]
    fn a_rule_that_cannot_be_meant_is_refused() {
        for (namespace, paths, why) in [
            ("", &["a"][..], "1 to 63"),
            ("Team", &["a"], "\"Team\""),
            ("a/b", &["a"], "1 to 63"),
            ("team-a", &[], "no paths"),
            ("team-a", &["/a"], "\"/a\""),
            ("team-a", &["a/"], "\"a/\""),
            ("team-a", &["a/../b"], "'..'"),
            ("team-a", &["a/*"], "only word"),
            ("team-a", &["${pod.name}"], "only word"),
            ("team-a", &["x-${pod.namespace}"], "whole segment"),
            ("team-a", &["a/.millrace"], "driver's own"),
        ] {
            let error = inline(&[(namespace, paths)]).unwrap_err().to_string();
            assert!(error.contains(why), "{namespace} {paths:?}: {error}");
        }
        assert!(inline(&[]).unwrap_err().to_string().contains("no rule"));
    }

    #[test]
    fn rules_are_shown_in_one_line() {
        let rules = inline(&[("a", &["x", "y/${pod.namespace}"]), ("*", &[""])]).unwrap();
        assert_eq!(rules.to_string(), "a: x, y/${pod.namespace}; *: all paths");
    }

    /// What [`matches`] means, slowly.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (Some(b'*'), _) => model(&pattern[1..], text) || (!text.is_empty() && model(pattern, &text[1..])),
            (Some(p), Some(t)) => p == t && model(&pattern[1..], &text[1..]),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_means_what_it_says(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(matches(&pattern, &text), model(pattern.as_bytes(), text.as_bytes()), "{} {}", pattern, text);
        }

        /// Whatever is allowed lies below a directory that a rule names, and no word of a path gets around that.
        #[test]
        fn nothing_above_or_beside_is_allowed(path in "(sets|teams|a|ml-1|\\$\\{pod\\.namespace\\}|x)(/(sets|a|ml-1|ml-2|x)){0,3}") {
            let rules = inline(&[("ml-*", &["teams/${pod.namespace}", "sets/a"])]).unwrap();
            let path_ = Path::parse(&path).unwrap();
            let below = |dir: &str| path == dir || path.starts_with(&format!("{dir}/"));
            prop_assert_eq!(rules.allows("ml-1", &path_), below("teams/ml-1") || below("sets/a"));
        }
    }
}
