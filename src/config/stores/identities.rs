//! Who may be whom: the users that a namespace's volumes may act as, where the store believes whatever it is told.
//!
//! AUTH_SYS and HDFS without Kerberos prove nothing, and users write their own Secrets: so the administrator's table decides, and a Secret or a
//! volume's attribute only chooses among what it lists.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::inline::{matches, namespace_pattern};
use crate::backend::nfs::MOST_GROUPS;
use crate::config::quoted;

/// Users that no namespace is given, unless the store's `superusers` says otherwise.
const SUPERUSERS: [&str; 4] = ["root", "hdfs", "yarn", "hive"];

/// No user and no group: where an id is set it means that it stays as it is.
const NO_ID: u32 = u32::MAX;

/// The table of one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identities {
    rows: Vec<Row>,
    superusers: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// A namespace's name, in which each `*` stands for any text, also for none.
    namespace: String,
    users: Vec<User>,
}

/// A user by name and by number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// What a Secret or an attribute calls it.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    #[serde(default)]
    pub groups: Vec<u32>,
}

/// Whom a store's controller acts as, which no volume may.
#[derive(Debug, Clone, Copy)]
pub(super) enum Controller<'a> {
    Uid(u32),
    Name(&'a str),
}

/// Why nobody, or not the one who was asked for, may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unlisted {
    /// The table has nobody for this namespace, or not this user.
    #[error("{0}")]
    Nobody(String),
    /// Several are listed, and none was chosen.
    #[error("{0}")]
    Several(String),
}

impl Identities {
    /// Checks the rows. Whom the `controller` acts as counts among the superusers.
    ///
    /// # Errors
    /// The row and what is wrong with it.
    pub(super) fn new(
        rows: Vec<Row>,
        superusers: Option<Vec<String>>,
        controller: Option<Controller>,
        server_groups: bool,
    ) -> Result<Identities, String> {
        let mut superusers = superusers.map_or_else(|| SUPERUSERS.map(str::to_owned).into(), BTreeSet::from_iter);
        if let Some(Controller::Name(name)) = controller {
            superusers.insert(name.to_owned());
        }
        if rows.is_empty() {
            return Err("identities has no row: name the users that each namespace may act as".into());
        }
        for Row { namespace, users } in &rows {
            let bad = |why: String| Err(format!("identities: the row for namespace {namespace:?}: {why}"));
            if let Err(why) = namespace_pattern(namespace) {
                return Err(format!("identities: {why}"));
            }
            if users.is_empty() {
                return bad("it has no users".into());
            }
            for User { name, uid, gid, groups } in users {
                if users.iter().filter(|other| other.name == *name).count() > 1 {
                    return bad(format!("user {name:?} stands there twice"));
                }
                if let Err(why) = user_name(name) {
                    return bad(why);
                }
                if *uid == 0 {
                    return bad(format!("user {name:?} has uid 0, which is never given to a volume"));
                }
                if [uid, gid].into_iter().chain(groups).any(|id| *id == NO_ID) {
                    return bad(format!("user {name:?} has the id {NO_ID}, which is nobody's and no group's"));
                }
                match controller {
                    Some(Controller::Uid(own)) if own == *uid => {
                        return bad(format!(
                            "user {name:?} has uid {uid}, which is the controller's (controllerUser): who has it could \
                             forge records"
                        ));
                    }
                    Some(Controller::Name(own)) if own == name => {
                        return bad(format!(
                            "user {name:?} is the controller's (controllerUser): who acts as it could forge records"
                        ));
                    }
                    _ => {}
                }
                if superusers.contains(name) {
                    return bad(format!("user {name:?} is one of the store's superusers"));
                }
                if groups.len() > MOST_GROUPS && !server_groups {
                    return bad(format!(
                        "user {name:?} has {} groups, and AUTH_SYS has room for {MOST_GROUPS}; give serverGroups: true \
                         where the server finds a user's groups by itself",
                        groups.len()
                    ));
                }
            }
        }
        Ok(Identities { rows, superusers })
    }

    /// Everybody who is listed, as often as that.
    pub(super) fn users(&self) -> impl Iterator<Item = &User> {
        self.rows.iter().flat_map(|row| &row.users)
    }

    /// The user that a volume of a pod in `namespace` acts as: the one that was `chosen`, or the only one there is.
    /// Where nothing is known of the pod, only rows for every namespace count.
    ///
    /// # Errors
    /// [`Unlisted`]
    pub fn user(&self, namespace: Option<&str>, chosen: Option<&str>) -> Result<&User, Unlisted> {
        let row = |row: &&Row| match namespace {
            Some(namespace) => matches(&row.namespace, namespace),
            None => row.namespace == "*",
        };
        let listed: Vec<&User> = self.rows.iter().filter(row).flat_map(|row| &row.users).collect();
        let place = match namespace {
            Some(namespace) => format!("pods in namespace {}", quoted(namespace)),
            None => "pods of which the kubelet says nothing (podInfoOnMount of the CSIDriver object)".to_owned(),
        };
        let nobody = |why: String| Err(Unlisted::Nobody(why));
        if let Some(chosen) = chosen {
            if self.superusers.contains(chosen) {
                return nobody("no volume may act as one of the store's superusers".to_owned());
            }
            return match listed.iter().find(|user| user.name == chosen) {
                Some(user) => Ok(user),
                None => nobody(format!(
                    "{place} may not act as the user that the Secret or the volume names: the store's word identities in \
                     the stores file says as whom they may"
                )),
            };
        }
        let mut different: Vec<&User> = Vec::new();
        for user in listed {
            if !different.contains(&user) {
                different.push(user);
            }
        }
        match different.as_slice() {
            [] => {
                nobody(format!("{place} may act as nobody: the store's word identities in the stores file has no row"))
            }
            [user] => Ok(user),
            several => Err(Unlisted::Several(format!(
                "{place} may act as one of several users; name one of {} as `user` in the Secret, or in the volume's \
                 attributes",
                several.iter().map(|user| user.name.as_str()).collect::<Vec<_>>().join(", ")
            ))),
        }
    }
}

/// What a server knows a user by.
pub(super) fn user_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 255 || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!("user {name:?}: a name is 1 to 255 bytes without white space"));
    }
    Ok(())
}

impl std::fmt::Display for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let user = |user: &User| {
            let groups: String = user.groups.iter().map(|group| format!(",{group}")).collect();
            format!("{} ({}:{}{groups})", user.name, user.uid, user.gid)
        };
        let row =
            |row: &Row| format!("{}: {}", row.namespace, row.users.iter().map(user).collect::<Vec<_>>().join(", "));
        f.write_str(&self.rows.iter().map(row).collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(namespace: &str, users: &[(&str, u32)]) -> Row {
        let user = |(name, uid): &(&str, u32)| User { name: (*name).into(), uid: *uid, gid: 100, groups: vec![7] };
        Row { namespace: namespace.into(), users: users.iter().map(user).collect() }
    }

    fn table() -> Identities {
        let rows = vec![
            row("team-a", &[("alice", 1000)]),
            row("team-b", &[("bob", 1001), ("carol", 1002)]),
            row("ml-*", &[("trainer", 2000)]),
            row("ml-1", &[("trainer", 2000)]),
            row("*", &[("guest", 3000)]),
        ];
        Identities::new(rows, None, None, false).unwrap()
    }

    #[test]
    fn a_secret_only_chooses_among_what_is_listed() {
        let table = table();
        let uid = |namespace, chosen| table.user(namespace, chosen).map(|user| user.uid);
        let nobody = |outcome: Result<u32, Unlisted>| matches!(outcome, Err(Unlisted::Nobody(_)));
        assert_eq!(uid(Some("team-a"), Some("alice")), Ok(1000));
        assert_eq!(uid(Some("team-a"), Some("guest")), Ok(3000));
        assert_eq!(uid(Some("team-b"), Some("carol")), Ok(1002));
        assert_eq!(uid(Some("other"), None), Ok(3000));
        assert_eq!(uid(None, None), Ok(3000));
        assert_eq!(uid(None, Some("guest")), Ok(3000));
        for (namespace, chosen) in [
            (Some("team-a"), "bob"),
            (Some("team-a"), "root"),
            (Some("team-a"), "hdfs"),
            (Some("team-a"), "1000"),
            (Some("team-a"), ""),
            (Some("team-aa"), "alice"),
            (Some("xml-1"), "trainer"),
            (None, "alice"),
        ] {
            assert!(nobody(uid(namespace, Some(chosen))), "{namespace:?} {chosen}");
        }
        match uid(Some("team-b"), None) {
            Err(Unlisted::Several(why)) => assert!(why.contains("bob, carol, guest"), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_is_listed_once_or_twice_alone_needs_no_choice() {
        let rows = vec![row("ml-*", &[("trainer", 2000)]), row("ml-1", &[("trainer", 2000)])];
        let table = Identities::new(rows, None, None, false).unwrap();
        assert_eq!(table.user(Some("ml-1"), None).unwrap().uid, 2000);
        assert!(matches!(table.user(Some("other"), None), Err(Unlisted::Nobody(_))));
        assert!(matches!(table.user(None, None), Err(Unlisted::Nobody(_))));
        assert_eq!(table.to_string(), "ml-*: trainer (2000:100,7); ml-1: trainer (2000:100,7)");
    }

    fn grouped(gid: u32, groups: Vec<u32>) -> Vec<Row> {
        let user = User { name: "x".into(), uid: 1, gid, groups };
        vec![Row { namespace: "a".into(), users: vec![user] }]
    }

    #[test]
    fn a_table_that_cannot_be_meant_is_refused() {
        for (rows, why) in [
            (vec![], "no row"),
            (vec![row("a", &[])], "no users"),
            (vec![row("A", &[("x", 1)])], "namespace"),
            (vec![row("a", &[("x", 0)])], "uid 0"),
            (vec![row("a", &[("x", u32::MAX)])], "nobody's"),
            (grouped(u32::MAX, vec![]), "no group's"),
            (grouped(100, vec![7, u32::MAX]), "no group's"),
            (vec![row("a", &[("root", 5)])], "superusers"),
            (vec![row("a", &[("yarn", 5)])], "superusers"),
            (vec![row("a", &[("x", 1), ("x", 2)])], "twice"),
            (vec![row("a", &[("", 1)])], "1 to 255"),
            (vec![row("a", &[("x y", 1)])], "white space"),
        ] {
            let error = Identities::new(rows, None, None, false).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let error = Identities::new(vec![row("a", &[("x", 8)])], None, Some(Controller::Uid(8)), false).unwrap_err();
        assert!(error.contains("controller's"), "{error}");
        let named = |name| Identities::new(vec![row("a", &[("x", 8)])], None, Some(Controller::Name(name)), true);
        assert!(named("x").unwrap_err().contains("controller's"));
        assert!(matches!(named("boss").unwrap().user(Some("a"), Some("boss")), Err(Unlisted::Nobody(_))));
        let many = || {
            let mut row = row("a", &[("x", 1)]);
            row.users[0].groups = (0..17).collect();
            vec![row]
        };
        assert!(Identities::new(many(), None, None, false).unwrap_err().contains("17 groups"));
        assert!(Identities::new(many(), None, None, true).is_ok());
        let own =
            Identities::new(vec![row("a", &[("hive", 9)])], Some(vec!["boss".into()]), Some(Controller::Uid(8)), false)
                .unwrap();
        assert_eq!(own.user(Some("a"), None).unwrap().uid, 9);
        assert!(own.user(Some("a"), Some("boss")).is_err());
    }
}
