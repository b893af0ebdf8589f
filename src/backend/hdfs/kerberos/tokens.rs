//! Delegation tokens in the place of logins.
//!
//! The library reads them at every connection, from one file whose path the environment says, and takes the one whose service
//! is the name of its name nodes: each client has a name of its own for those, by which its token stands there.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use super::held::Held;
use crate::auth::{Credential, Current, Token, token};
use crate::backend::ErrorKind;
use crate::backend::hdfs::error::{Failure, Outcome};

/// The library's own word before it, in the service of a token.
const OF_SEVERAL: &str = "ha-hdfs:";

static FILE: OnceLock<Tokens> = OnceLock::new();

/// The tokens in use, by service.
#[derive(Debug)]
struct Tokens {
    held: Held,
    all: Mutex<BTreeMap<String, Token>>,
}

impl Tokens {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Token>)) -> io::Result<()> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut all);
        self.held.replace(&token::file(all.iter().map(|(service, token)| (service.as_str(), token))))
    }
}

/// Makes the file, once for the process, and says where it lies.
pub(super) fn settle() -> io::Result<&'static str> {
    if FILE.get().is_none() {
        let held = Held::new(&token::file(std::iter::empty()))?;
        let _ = FILE.set(Tokens { held, all: Mutex::default() });
    }
    FILE.get().map(|tokens| tokens.held.path()).ok_or_else(|| io::Error::other("no file for tokens"))
}

/// A token, as the library finds it.
#[derive(Debug)]
pub(in crate::backend::hdfs) struct Delegated {
    /// What its client calls the name nodes together.
    service: String,
    /// Whose token it is, with later ones.
    current: Current,
    /// The token in the file is that of this renewal.
    renewals: Mutex<u64>,
}

impl Delegated {
    pub(in crate::backend::hdfs) fn new(token: &Token, current: Current) -> Outcome<Delegated> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let service = format!("store-{}", MADE.fetch_add(1, Ordering::Relaxed));
        let renewals = Mutex::new(current.get().renewals);
        let delegated = Delegated { service, current, renewals };
        delegated.put(token)?;
        Ok(delegated)
    }

    /// What its client calls the name nodes together.
    pub(in crate::backend::hdfs) fn service(&self) -> &str {
        &self.service
    }

    /// The token that is in force when this is called, which is then the one that the library finds.
    pub(in crate::backend::hdfs) fn in_force(&self) -> Outcome<Token> {
        let current = self.current.get();
        let Credential::Delegation { token } = &current.credential else {
            return Err(Failure::new(ErrorKind::Unauthenticated, "the credential is no delegation token any more"));
        };
        let mut renewals = self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        if *renewals != current.renewals {
            self.put(token)?;
            *renewals = current.renewals;
        }
        if token.claims().is_none_or(|claims| claims.until <= SystemTime::now()) {
            let why = "the delegation token has reached the end of its life: put another into the Secret";
            return Err(Failure::new(ErrorKind::Unauthenticated, why));
        }
        Ok(token.clone())
    }

    fn put(&self, token: &Token) -> Outcome<()> {
        self.change(|all| drop(all.insert(format!("{OF_SEVERAL}{}", self.service), token.clone())))
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Token>)) -> Outcome<()> {
        let unkept = |why: String| Failure::new(ErrorKind::Other, format!("the token cannot be kept in memory: {why}"));
        let tokens = FILE.get().ok_or_else(|| unkept("this process logs in nowhere".into()))?;
        tokens.change(change).map_err(|error| unkept(error.to_string()))
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        // It fails where there is no memory for what is less than before.
        let _ = self.change(|all| drop(all.remove(&format!("{OF_SEVERAL}{}", self.service))));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_client_finds_its_own_token_and_the_one_that_is_in_force() {
        let path = settle().unwrap();
        let held = || std::fs::read(path).unwrap();
        let has = |text: &[u8]| held().windows(text.len()).any(|part| part == text);
        let credential =
            |password: &[u8], until: SystemTime| Credential::Delegation { token: Token::of("a@R", password, until) };
        let late = SystemTime::now() + Duration::from_secs(600);
        let of = |password: &[u8], until: SystemTime| {
            let credential = credential(password, until);
            let Credential::Delegation { token } = &credential else { unreachable!() };
            (Delegated::new(token, Current::new(credential.clone())).unwrap(), token.clone())
        };
        let ((first, token), (second, _)) = (of(b"first-password", late), of(b"second-password", late));
        assert_ne!(first.service(), second.service());
        assert!(first.in_force().unwrap() == token && has(b"first-password") && has(b"second-password"));
        assert!(has(first.service().as_bytes()) && has(second.service().as_bytes()));
        first.current.renew(&credential(b"third-password", late));
        first.in_force().unwrap();
        assert!(has(b"third-password") && !has(b"first-password"));
        drop(second);
        assert!(!has(b"second-password"));
        let (over, _) = of(b"over", SystemTime::now());
        let failure = over.in_force().unwrap_err();
        assert!(failure.kind == ErrorKind::Unauthenticated && failure.message.contains("end of its life"), "{failure}");
        drop((first, over));
        assert!(!has(b"password"));
    }
}
