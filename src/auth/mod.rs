//! Credentials: what proves who a mount is, held so that it cannot slip into a log.

mod current;
pub mod identity;
pub mod keys;
mod keytab;
pub mod memory;
mod secret;
pub mod token;

use serde::{Deserialize, Serialize};

pub use current::{Current, Held};
pub use keytab::{BadKeytab, Keytab};
pub use secret::Secret;
pub use token::Token;

/// One identity's credential, as a backend uses it.
///
/// `Debug` names the kind alone. `Serialize` exists for one purpose: the hand-over to a worker over its socket.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Credential {
    /// None: public data.
    Anonymous,
    /// S3 access keys (SigV4).
    S3 {
        /// The access key id. Not secret, but not for logs either: an identity is shown as a keyed hash.
        key_id: String,
        /// The secret access key.
        secret_key: Secret,
        /// The token of temporary keys.
        session_token: Option<Secret>,
    },
    /// A user and groups by number (AUTH_SYS): a claim without a proof, which the store's administrator allowed.
    Sys {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Further groups.
        groups: Vec<u32>,
    },
    /// A user by name (Hadoop's SIMPLE authentication): as much of a claim.
    Hadoop {
        /// What the store calls the user.
        user: String,
    },
    /// A Kerberos principal and its keys, which a KDC believes.
    Kerberos {
        /// `name@REALM`, or `name/instance@REALM`.
        principal: String,
        /// Its keys.
        keytab: Keytab,
    },
    /// A delegation token of HDFS, which its name nodes believe.
    Delegation {
        /// With whom it is of.
        token: Token,
    },
}

impl Credential {
    /// The principal that it proves, or the user whom a token is of.
    pub fn principal(&self) -> Option<String> {
        match self {
            Credential::Kerberos { principal, .. } => Some(principal.clone()),
            Credential::Delegation { token } => token.claims().map(|claims| claims.owner),
            Credential::Anonymous | Credential::S3 { .. } | Credential::Sys { .. } | Credential::Hadoop { .. } => None,
        }
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credential::Anonymous => "Credential::Anonymous",
            Credential::S3 { .. } => "Credential::S3(***)",
            Credential::Sys { .. } => "Credential::Sys",
            Credential::Hadoop { .. } => "Credential::Hadoop",
            Credential::Kerberos { .. } => "Credential::Kerberos(***)",
            Credential::Delegation { .. } => "Credential::Delegation(***)",
        })
    }
}
