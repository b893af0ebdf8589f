//! As whom a cluster is used.

use std::sync::Arc;

use super::Config;
use super::error::{Failure, Outcome};
use super::kerberos::{Delegated, Login};
use crate::auth::{Credential, Current};
use crate::backend::ErrorKind;

/// A user. Cloning shares it.
#[derive(Debug, Clone)]
pub(super) enum Identity {
    /// By name, which the cluster believes.
    Claimed(String),
    /// Whom the KDC knows.
    Proven(Arc<Login>),
    /// Whom a name node gave a token to.
    Delegated(Arc<Delegated>),
}

impl Identity {
    /// `Unauthenticated` for a credential of another kind than the cluster's: nobody is ever less than proven where the
    /// store demands Kerberos.
    pub(super) fn new(config: &Config, current: Current) -> Outcome<Identity> {
        let held = current.get();
        match (&config.kerberos, &held.credential) {
            (None, Credential::Hadoop { user }) => Ok(Identity::Claimed(user.clone())),
            (Some(realm), Credential::Kerberos { principal, keytab }) => {
                Ok(Identity::Proven(Arc::new(Login::new(realm, principal, keytab, current)?)))
            }
            (Some(_), Credential::Delegation { token }) => {
                Ok(Identity::Delegated(Arc::new(Delegated::new(token, current)?)))
            }
            (None, _) => Err(Failure::new(
                ErrorKind::Unauthenticated,
                "a store of backend hdfs is used as a user by name, and the credential is of another kind",
            )),
            (Some(_), _) => Err(Failure::new(
                ErrorKind::Unauthenticated,
                "the store demands Kerberos, and the credential is neither a principal with its keytab nor a delegation token",
            )),
        }
    }
}
