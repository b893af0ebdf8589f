//! Kerberos: who a mount is, proved by a KDC.
//!
//! MIT's library does it, found at run time and never linked: for the RPC library, which loads it itself, and for
//! WebHDFS, here. It reads its configuration once and a keytab at every login, each by a path, and both are this
//! process's own ([`held`]). Its configuration and the cache of tickets are the whole process's: a process has one store.

mod gss;
mod held;
mod tokens;

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::held::Held;
use super::error::{Failure, Outcome};
use crate::auth::{Credential, Current, Keytab};
use crate::backend::ErrorKind;

pub(super) use gss::Proof;
pub(super) use tokens::Delegated;

/// The realm of a store, and how long a login lasts: the administrator's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Realm {
    /// Its name.
    pub name: String,
    /// `host:port` of each KDC.
    pub kdcs: Vec<String>,
    /// After which time a principal has to prove anew that it may: the longest that tickets are asked for.
    pub ticket_lifetime: Duration,
}

impl Realm {
    /// The library's configuration (krb5.conf(5)). Nothing is asked of DNS but addresses, tickets go no further than the
    /// service that they are for, and the KDC is asked by TCP.
    fn configuration(&self) -> String {
        let mut text = format!(
            "[libdefaults]\n default_realm = {}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n \
             dns_canonicalize_hostname = false\n rdns = false\n forwardable = false\n proxiable = false\n \
             udp_preference_limit = 1\n ticket_lifetime = {}s\n[realms]\n {} = {{\n",
            self.name,
            self.ticket_lifetime.as_secs(),
            self.name
        );
        for kdc in &self.kdcs {
            let _ = writeln!(text, "  kdc = {kdc}");
        }
        text.push_str(" }\n");
        text
    }
}

/// Loads MIT's library, where the system has it: to be called before the system's files are out of sight.
pub fn load() {
    // Whether it could be loaded is told where it is used.
    let _ = gss::library();
}

static SETTLED: AtomicBool = AtomicBool::new(false);

/// Whether this process logs in anywhere.
pub(super) fn is_settled() -> bool {
    SETTLED.load(Ordering::Relaxed)
}

/// Has this process log in to `realm`, and nowhere else; `folder` is a directory of its own where it cannot see its
/// descriptors by path.
///
/// # Errors
/// Where the configuration cannot be written.
///
/// # Safety
/// Changes the environment: this process must have one thread.
#[expect(unsafe_code, reason = "a library of C is told by the environment where its configuration lies")]
pub unsafe fn settle(realm: &Realm, folder: Option<PathBuf>) -> io::Result<()> {
    held::keep_in(folder);
    let configuration = Held::new(realm.configuration().as_bytes())?;
    let words = [
        ("KRB5_CONFIG", configuration.path()),
        ("KRB5CCNAME", "MEMORY:"),
        // To a name node that asks for no proof the RPC library would say a name. This is nobody's, and is refused.
        ("HADOOP_USER_NAME", ""),
        ("HADOOP_TOKEN_FILE_LOCATION", tokens::settle()?),
    ];
    for (word, value) in words {
        // SAFETY: the caller's promise.
        unsafe { std::env::set_var(word, value) };
    }
    SETTLED.store(true, Ordering::Relaxed);
    // For the process's life.
    std::mem::forget(configuration);
    Ok(())
}

/// A principal with its keytab, as the library finds them.
#[derive(Debug)]
pub(super) struct Login {
    principal: String,
    keytab: Held,
    /// Whose keytab it is, with later keys.
    current: Current,
    /// The keytab held is that of this renewal.
    renewals: Mutex<u64>,
    number: u64,
    /// How many caches of tickets came before the one in use.
    caches: AtomicU64,
    /// After which time it has to be proved anew.
    lifetime: Duration,
}

impl Login {
    pub(super) fn new(realm: &Realm, principal: &str, keytab: &Keytab, current: Current) -> Outcome<Login> {
        static LOGINS: AtomicU64 = AtomicU64::new(0);
        gss::library().map_err(|why| Failure::new(ErrorKind::Misconfigured, why))?;
        let keytab = Held::new(&keytab.bytes()).map_err(|error| unkept(&error))?;
        let renewals = Mutex::new(current.get().renewals);
        Ok(Login {
            current,
            renewals,
            principal: principal.to_owned(),
            keytab,
            number: LOGINS.fetch_add(1, Ordering::Relaxed),
            caches: AtomicU64::new(0),
            lifetime: realm.ticket_lifetime,
        })
    }

    pub(super) fn principal(&self) -> &str {
        &self.principal
    }

    /// Where the keytab lies for as long as this is there. What is in force when this is called lies there.
    pub(super) fn keytab(&self) -> Outcome<&str> {
        let current = self.current.get();
        let mut renewals = self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Credential::Kerberos { keytab, .. } = &current.credential
            && *renewals != current.renewals
        {
            self.keytab.replace(&keytab.bytes()).map_err(|error| unkept(&error))?;
            *renewals = current.renewals;
        }
        Ok(self.keytab.path())
    }

    /// What the library calls its cache of tickets, in this process's memory.
    pub(super) fn cache(&self) -> String {
        self.cache_after(0)
    }

    /// The one that is to follow, so many later.
    fn cache_after(&self, later: u64) -> String {
        format!("MEMORY:millrace-{}-{}", self.number, self.caches.load(Ordering::Relaxed) + later)
    }

    /// The one that followed is in use.
    fn next_cache(&self) {
        self.caches.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }
}

fn unkept(error: &io::Error) -> Failure {
    Failure::new(ErrorKind::Other, format!("the keytab cannot be kept in memory: {error}"))
}

/// Error codes of MIT's library (krb5_err.h), as its GSS mechanism gives them in the minor status. They are numbered
/// from here on, below zero.
const KRB5: i32 = -1_765_328_384;

/// AP_ERR_TKT_EXPIRED: the library says so where it could not have others, whyever.
const EXPIRED: i32 = 32;

/// What went wrong in a login: the KDC was not reached, or does not take the key, or does not know who is meant.
pub(super) fn meaning(minor: u32) -> Failure {
    let code = minor.cast_signed();
    let unknown = Failure::new(ErrorKind::Unauthenticated, "the KDC's proof of who the user is could not be had");
    let failure = match code.wrapping_sub(KRB5) {
        // KDC_ERR_NAME_EXP, CLIENT_REVOKED, KEY_EXP.
        1 | 18 | 23 => Failure::new(ErrorKind::Unauthenticated, "the principal or its key has expired or was revoked"),
        6 => Failure::new(ErrorKind::Unauthenticated, "the KDC does not know the Secret's principal"),
        7 => Failure::new(
            ErrorKind::Misconfigured,
            "the KDC does not know the service of the name node: the store names it otherwise than its principal does",
        ),
        // KDC_ERR_POLICY, and KDC_ERR_ETYPE_NOSUPP.
        12 => Failure::new(ErrorKind::Denied, "the KDC's policy refuses the principal"),
        14 => Failure::new(ErrorKind::Unauthenticated, "the KDC takes none of the keytab's kinds of keys"),
        // KDC_ERR_PREAUTH_FAILED, AP_ERR_BAD_INTEGRITY of the reply, KT_NOTFOUND, PREAUTH_FAILED.
        24 | 31 | 181 | 210 => Failure::new(
            ErrorKind::Unauthenticated,
            "the KDC does not take the key: the keytab is wrong, or older than the principal's keys",
        ),
        EXPIRED => Failure {
            passing: true,
            ..Failure::new(ErrorKind::Unavailable, "the tickets expired, and the KDC gave no others")
        },
        37 => Failure::new(
            ErrorKind::Unavailable,
            "this node's clock and the KDC's are too far apart: Kerberos allows some minutes",
        ),
        68 => Failure::new(ErrorKind::Misconfigured, "the KDC is none of the store's realm"),
        // REALM_UNKNOWN, KDC_UNREACH, REALM_CANT_RESOLVE.
        154 | 156 | 220 => {
            Failure { passing: true, ..Failure::new(ErrorKind::Unavailable, "the KDC cannot be reached") }
        }
        _ => unknown,
    };
    Failure { detail: format!("Kerberos error {code}"), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_asks_no_dns_and_passes_no_ticket_on() {
        let kdcs = vec!["kdc1.example:88".to_owned(), "[::1]:88".to_owned()];
        let realm = Realm { name: "EXAMPLE.ORG".into(), kdcs, ticket_lifetime: Duration::from_secs(600) };
        let text = realm.configuration();
        for line in [
            " default_realm = EXAMPLE.ORG",
            " forwardable = false",
            " dns_lookup_kdc = false",
            " ticket_lifetime = 600s",
            " EXAMPLE.ORG = {",
            "  kdc = kdc1.example:88",
            "  kdc = [::1]:88",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}: {text}");
        }
    }

    #[test]
    fn an_unreachable_kdc_is_told_from_a_wrong_key() {
        for (code, kind, passing) in [
            (-1_765_328_228, ErrorKind::Unavailable, true),
            (-1_765_328_360, ErrorKind::Unauthenticated, false),
            (-1_765_328_353, ErrorKind::Unauthenticated, false),
            (-1_765_328_378, ErrorKind::Unauthenticated, false),
            (-1_765_328_377, ErrorKind::Misconfigured, false),
            (5, ErrorKind::Unauthenticated, false),
        ] {
            let failure = meaning(i32::cast_unsigned(code));
            assert_eq!((failure.kind, failure.passing), (kind, passing), "{code}");
        }
    }
}
