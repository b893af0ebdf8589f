//! A credential that may be renewed under the clients that use it.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Credential;

/// The credential in force. Cloning shares it.
///
/// Renewal is for one principal: what replaces a credential here proves the same identity, with later keys.
#[derive(Debug, Clone)]
pub struct Current(Arc<ArcSwap<Held>>);

/// A credential and how many came before it.
#[derive(Debug)]
pub struct Held {
    /// What to prove the identity with.
    pub credential: Credential,
    /// Another number after each renewal.
    pub renewals: u64,
}

impl Current {
    /// Begins with `credential`.
    pub fn new(credential: Credential) -> Current {
        Current(Arc::new(ArcSwap::from_pointee(Held { credential, renewals: 0 })))
    }

    /// What is in force.
    pub fn get(&self) -> Arc<Held> {
        self.0.load_full()
    }

    /// Puts `credential` in force for every request from now on.
    pub fn renew(&self, credential: &Credential) {
        self.0.rcu(|held| Held { credential: credential.clone(), renewals: held.renewals + 1 });
    }
}

impl From<&Credential> for Current {
    fn from(credential: &Credential) -> Current {
        Current::new(credential.clone())
    }
}

impl From<&Current> for Current {
    fn from(current: &Current) -> Current {
        current.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Secret;

    #[test]
    fn all_who_share_it_see_a_renewal_and_none_shows_it() {
        let keys = |secret: &str| Credential::S3 {
            key_id: "canary-id".into(),
            secret_key: Secret::new(secret.into()),
            session_token: None,
        };
        let current = Current::new(keys("canary-first"));
        let shared = Current::from(&current);
        current.renew(&keys("canary-second"));
        assert_eq!((&shared.get().credential, shared.get().renewals), (&keys("canary-second"), 1));
        assert!(!format!("{current:?} {:?}", shared.get()).contains("canary"));
    }
}
