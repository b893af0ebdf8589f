//! How users of an HDFS store prove who they are.

use std::time::Duration;

use serde::Deserialize;

use super::Words;
use super::shape::host_and_port;
use crate::backend::hdfs::kerberos::Realm;

/// How long tickets are asked for where the store does not say.
const LIFETIME: Duration = Duration::from_secs(60 * 60);
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The word `authentication`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Authentication {
    Simple,
    Kerberos,
}

/// The words about it.
#[derive(Debug, Default)]
pub(super) struct Login {
    authentication: Option<Authentication>,
    realm: Option<String>,
    kdcs: Option<Vec<String>>,
    ticket_lifetime: Option<String>,
}

impl Login {
    /// What `words` say of it.
    pub(super) fn of(words: &mut Words) -> Login {
        Login {
            authentication: words.authentication.take(),
            realm: words.realm.take(),
            kdcs: words.kdcs.take(),
            ticket_lifetime: words.ticket_lifetime.take(),
        }
    }

    /// Where to log in; `None` where nothing is proved.
    ///
    /// # Errors
    /// Which word is missing, or wrong.
    pub(super) fn realm(self) -> Result<Option<Realm>, String> {
        if self.authentication != Some(Authentication::Kerberos) {
            let words = [
                ("realm", self.realm.is_some()),
                ("kdcs", self.kdcs.is_some()),
                ("ticketLifetime", self.ticket_lifetime.is_some()),
            ];
            return match words.iter().find(|(_, is_there)| *is_there) {
                Some((word, _)) => {
                    Err(format!("{word} means nothing without authentication: kerberos: add that, or leave it out"))
                }
                None => Ok(None),
            };
        }
        let name = self.realm.ok_or("realm is needed with authentication: kerberos, such as EXAMPLE.ORG")?;
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if name.is_empty() || name.len() > 253 || !name.bytes().all(inside) {
            return Err(format!("realm {name:?} is no name of a realm, such as EXAMPLE.ORG"));
        }
        let kdcs = self.kdcs.unwrap_or_default();
        if kdcs.is_empty() {
            return Err("kdcs is needed with authentication: kerberos: host:port of each KDC of the realm, such as \
                        [kdc1.example.org:88], since no DNS is asked for them"
                .into());
        }
        if let Some(kdc) = kdcs.iter().find(|kdc| !host_and_port(kdc)) {
            return Err(format!("kdcs: {kdc:?} is no host:port of a KDC, such as kdc1.example.org:88"));
        }
        let ticket_lifetime = match self.ticket_lifetime.as_deref().map(humantime::parse_duration) {
            None => LIFETIME,
            Some(Ok(lifetime)) if (SHORTEST..=LONGEST).contains(&lifetime) => lifetime,
            Some(_) => return Err("ticketLifetime is a time of 10s to 7d, such as 1h".into()),
        };
        Ok(Some(Realm { name, kdcs, ticket_lifetime }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(lifetime: Option<&str>) -> Login {
        Login {
            authentication: Some(Authentication::Kerberos),
            realm: Some("EXAMPLE.ORG".into()),
            kdcs: Some(vec!["kdc1.example.org:88".into(), "[2001:db8::1]:88".into()]),
            ticket_lifetime: lifetime.map(str::to_owned),
        }
    }

    #[test]
    fn each_wrong_word_is_named() {
        let realm = login(Some("8h")).realm().unwrap().unwrap();
        assert_eq!((realm.name.as_str(), realm.kdcs.len()), ("EXAMPLE.ORG", 2));
        assert_eq!(realm.ticket_lifetime, Duration::from_secs(8 * 3600));
        assert_eq!(login(None).realm().unwrap().unwrap().ticket_lifetime, LIFETIME);
        assert_eq!(Login::default().realm(), Ok(None));
        let simple = Login { authentication: Some(Authentication::Simple), ..Login::default() };
        assert_eq!(simple.realm(), Ok(None));
        for (wrong, why) in [
            (Login { authentication: None, ..login(None) }, "realm means nothing"),
            (Login { realm: None, ..login(None) }, "realm is needed"),
            (Login { realm: Some("A\n[realms]".into()), ..login(None) }, "no name of a realm"),
            (Login { kdcs: None, ..login(None) }, "kdcs is needed"),
            (Login { kdcs: Some(vec!["kdc1".into()]), ..login(None) }, "no host:port"),
            (Login { kdcs: Some(vec!["kdc1:88\n admin_server = x:1".into()]), ..login(None) }, "no host:port"),
            (login(Some("9s")), "10s to 7d"),
            (login(Some("8d")), "10s to 7d"),
            (login(Some("long")), "10s to 7d"),
        ] {
            let error = wrong.realm().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
