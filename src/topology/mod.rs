//! Where nodes are and where a store's data may be shown: four domains, and one rule that decides everywhere. Pure.
//!
//! A node reports a [`Place`] as the segments `<driver>/jurisdiction`, `/region`, `/zone` and `/rack`. A store's
//! [`Residency`] is asked three times: [`choose`] at CreateVolume, [`Residency::meets`] at GetCapacity and
//! [`Residency::admits`] at each publish, which alone is sure to be asked.

mod located;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde::{Deserialize, Serialize};

pub use located::Located;

/// The value of a domain that is not known. No residency can name it.
pub const UNKNOWN: &str = "none";

/// The most segments that a residency may multiply to: each becomes a term of every PersistentVolume's node affinity.
pub const MOST_SEGMENTS: usize = 64;

/// The longest value in bytes: it becomes a label of the Node.
const LONGEST_VALUE: usize = 63;

/// What a node lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Domain {
    /// Whose law holds.
    Jurisdiction,
    /// A cloud's region, or a site.
    Region,
    /// What fails together.
    Zone,
    /// What shares a switch.
    Rack,
}

impl Domain {
    /// Every domain, the widest first.
    pub const ALL: [Domain; 4] = [Domain::Jurisdiction, Domain::Region, Domain::Zone, Domain::Rack];

    /// Its name in segments, flags and the stores file.
    pub fn word(self) -> &'static str {
        match self {
            Domain::Jurisdiction => "jurisdiction",
            Domain::Region => "region",
            Domain::Zone => "zone",
            Domain::Rack => "rack",
        }
    }

    /// The domain of that name.
    pub fn named(word: &str) -> Option<Domain> {
        Domain::ALL.into_iter().find(|domain| domain.word() == word)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A value that no domain can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadValue(pub String);

/// Checks a value: that of a Kubernetes label, and not empty.
///
/// # Errors
/// [`BadValue`].
pub fn check_value(domain: Domain, value: &str) -> Result<(), BadValue> {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let ends = [value.bytes().next(), value.bytes().last()];
    let fits = value.len() <= LONGEST_VALUE
        && value.bytes().all(inside)
        && ends.iter().all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()));
    match fits {
        true => Ok(()),
        false => Err(BadValue(format!(
            "{domain} {value:?}: a value is 1 to {LONGEST_VALUE} letters, digits, '-', '_' and '.', and begins and ends with a \
             letter or digit"
        ))),
    }
}

/// Where a node is. A domain without a value is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place(BTreeMap<Domain, String>);

impl Place {
    /// The place with these values; the first of a domain counts. A value of [`UNKNOWN`] is none.
    ///
    /// # Errors
    /// [`BadValue`].
    pub fn new(values: impl IntoIterator<Item = (Domain, String)>) -> Result<Place, BadValue> {
        let mut place = BTreeMap::new();
        for (domain, value) in values {
            check_value(domain, &value)?;
            place.entry(domain).or_insert(value);
        }
        place.retain(|_, value| value != UNKNOWN);
        Ok(Place(place))
    }

    /// The value in a domain; [`UNKNOWN`] where there is none.
    pub fn of(&self, domain: Domain) -> &str {
        self.0.get(&domain).map_or(UNKNOWN, String::as_str)
    }

    /// The segments that the node reports: all four, always, since a node whose keys differ from the others' could not
    /// be compared with them.
    pub fn segments(&self, driver: &str) -> HashMap<String, String> {
        Domain::ALL.into_iter().map(|domain| (key(driver, domain), self.of(domain).to_owned())).collect()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = Domain::ALL.into_iter().map(|domain| format!("{domain} {}", self.of(domain))).collect();
        f.write_str(&words.join(", "))
    }
}

/// Where a store's data may be shown: in each domain that is named, in one of its values.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<Domain, BTreeSet<String>>")]
pub struct Residency(BTreeMap<Domain, BTreeSet<String>>);

impl TryFrom<BTreeMap<Domain, BTreeSet<String>>> for Residency {
    type Error = BadValue;

    fn try_from(allowed: BTreeMap<Domain, BTreeSet<String>>) -> Result<Residency, BadValue> {
        if allowed.is_empty() {
            return Err(BadValue("residency names no domain: leave it out where data may be shown everywhere".into()));
        }
        for (domain, values) in &allowed {
            if values.is_empty() {
                return Err(BadValue(format!("residency allows no {domain}: nothing could ever be shown")));
            }
            if values.contains(UNKNOWN) {
                return Err(BadValue(format!(
                    "residency: {domain} {UNKNOWN:?} stands for a node of which nothing is known, where no data may be held to be"
                )));
            }
            values.iter().try_for_each(|value| check_value(*domain, value))?;
        }
        let combinations = allowed.values().map(BTreeSet::len).try_fold(1_usize, usize::checked_mul);
        match combinations {
            Some(1..=MOST_SEGMENTS) => Ok(Residency(allowed)),
            _ => Err(BadValue(format!(
                "residency: its values multiply to more than {MOST_SEGMENTS} places; name a wider domain instead, such as the \
                 region for all its zones"
            ))),
        }
    }
}

impl Residency {
    /// Whether data may be shown at `place`. What is unknown of it is outside.
    ///
    /// # Errors
    /// [`Outside`], by the first domain that says so.
    pub fn admits(&self, place: &Place) -> Result<(), Outside> {
        match self.0.iter().find(|(domain, values)| !values.contains(place.of(**domain))) {
            None => Ok(()),
            Some((domain, _)) => {
                Err(Outside { allowed: self.to_string(), domain: *domain, found: place.of(*domain).to_owned() })
            }
        }
    }

    /// Whether some node of the topology `term` may be admitted: it contradicts no domain. A term need not name every
    /// domain (`allowedTopologies` may name a zone alone); whether a node is admitted is decided where it publishes.
    pub fn meets(&self, driver: &str, term: &Term) -> bool {
        self.0.iter().all(|(domain, values)| {
            let key = key(driver, *domain);
            // CSI compares keys without regard to case.
            term.iter().filter(|(name, _)| name.eq_ignore_ascii_case(&key)).all(|(_, value)| values.contains(value))
        })
    }

    /// The topologies from which the data may be shown: every combination of values.
    pub fn segments(&self, driver: &str) -> Vec<Term> {
        let mut terms = vec![Term::new()];
        for (domain, values) in &self.0 {
            let with = |term: &Term, value: &String| {
                let mut term = term.clone();
                term.insert(key(driver, *domain), value.clone());
                term
            };
            terms = terms
                .iter()
                .flat_map(|term| values.iter().map(|value| with(term, value)).collect::<Vec<_>>())
                .collect();
        }
        terms
    }
}

impl fmt::Display for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |(domain, values): (&Domain, &BTreeSet<String>)| {
            format!("{domain} is {}", values.iter().map(String::as_str).collect::<Vec<_>>().join(" or "))
        };
        f.write_str(&self.0.iter().map(one).collect::<Vec<_>>().join(" and "))
    }
}

/// A topology of CSI: segments by their keys.
pub type Term = HashMap<String, String>;

/// A node where a store's data may not be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("data may be shown only where {allowed}, and here {domain} is {found}")]
pub struct Outside {
    allowed: String,
    domain: Domain,
    found: String,
}

/// No topology that was asked for lies where a store's data may be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "data may be shown only where {allowed}, and none of the {asked} topologies that were asked for is there ({first})"
)]
pub struct Unmet {
    allowed: String,
    asked: usize,
    first: String,
}

/// The topologies from which a new volume is reachable, given those of which it must be reachable from one at least.
/// Preferences play no part: data lies where its store is. Empty where the store has no residency: it is reachable from
/// everywhere.
///
/// # Errors
/// [`Unmet`].
pub fn choose<'a>(
    residency: Option<&Residency>,
    driver: &str,
    requisite: impl IntoIterator<Item = &'a Term>,
) -> Result<Vec<Term>, Unmet> {
    let Some(residency) = residency else { return Ok(Vec::new()) };
    let requisite: Vec<_> = requisite.into_iter().collect();
    let Some(first) = requisite.first().filter(|_| !requisite.iter().any(|term| residency.meets(driver, term))) else {
        return Ok(residency.segments(driver));
    };
    let mut shown: Vec<_> = first.iter().map(|(key, value)| format!("{key}={value}")).collect();
    shown.sort();
    let first = format!("the first: {}", shown.join(", "));
    Err(Unmet { allowed: residency.to_string(), asked: requisite.len(), first })
}

fn key(driver: &str, domain: Domain) -> String {
    format!("{driver}/{domain}")
}

#[cfg(test)]
mod tests;
