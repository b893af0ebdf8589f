//! Names of users and groups as numbers: HDFS keeps names, and POSIX has numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::{Failure, Outcome};
use crate::backend::ErrorKind;

/// Whoever the store's table does not know.
pub const NOBODY: u32 = 65_534;

/// What the administrator's file says of names; each name one number, each number one name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owners {
    /// Users.
    pub users: BTreeMap<String, u32>,
    /// Groups.
    pub groups: BTreeMap<String, u32>,
}

impl Owners {
    pub(super) fn uid(&self, user: &str) -> u32 {
        self.users.get(user).copied().unwrap_or(NOBODY)
    }

    pub(super) fn gid(&self, group: &str) -> u32 {
        self.groups.get(group).copied().unwrap_or(NOBODY)
    }

    pub(super) fn user(&self, uid: u32) -> Outcome<&str> {
        name(&self.users, uid, "user")
    }

    pub(super) fn group(&self, gid: u32) -> Outcome<&str> {
        name(&self.groups, gid, "group")
    }
}

fn name<'a>(names: &'a BTreeMap<String, u32>, number: u32, what: &str) -> Outcome<&'a str> {
    let found = names.iter().find(|(_, known)| **known == number).map(|(name, _)| name.as_str());
    found.ok_or_else(|| {
        let why = format!("HDFS keeps names, and the store's table has no {what} of number {number}");
        Failure::new(ErrorKind::InvalidName, why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_in_the_table_is_nobody_and_nobody_owns_nothing() {
        let owners = Owners { users: [("alice".to_owned(), 1000)].into(), groups: [("users".to_owned(), 100)].into() };
        assert_eq!((owners.uid("alice"), owners.uid("users"), owners.gid("users")), (1000, NOBODY, 100));
        assert_eq!((owners.user(1000), owners.group(100)), (Ok("alice"), Ok("users")));
        for failure in [owners.user(NOBODY), owners.user(100), owners.group(1000)] {
            assert_eq!(failure.unwrap_err().kind, ErrorKind::InvalidName);
        }
    }
}
