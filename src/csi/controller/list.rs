//! Lists over all stores, in the order of the stores' names and of their records' keys. A token is the place of the last
//! volume that was looked at, so it holds whatever is made and deleted meanwhile, and in another controller too.

use std::fmt;

use tonic::Status;

use super::super::status;
use super::super::v1::{ListVolumesRequest, ListVolumesResponse, list_volumes_response};
use super::super::volumes::{Record, record};
use super::{Controller, create};
use crate::config::stores::{Store, Stores};

/// The most entries of one answer, also where no bound is given: what is read for one call, and what fits into a message.
const MOST: usize = 1000;

/// A place in the list: everything up to this record's key in this store has been seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) store: String,
    key: String,
}

impl Token {
    pub(super) fn after(store: &Store, record: &Record) -> Token {
        Token::after_name(store, &record.name)
    }

    /// Behind what has this name.
    pub(super) fn after_name(store: &Store, name: &str) -> Token {
        Token { store: store.name.clone(), key: record::key_of(name) }
    }

    /// Whether `other` is a place further on.
    pub(super) fn is_before(&self, other: &Token) -> bool {
        (&self.store, &self.key) < (&other.store, &other.key)
    }

    /// Reads what a caller brings back.
    ///
    /// # Errors
    /// ABORTED where it is none of these stores', upon which a caller begins anew.
    pub(super) fn read(text: &str, stores: &Stores) -> Result<Option<Token>, Status> {
        if text.is_empty() {
            return Ok(None);
        }
        let token = text.split_once('/').filter(|(store, key)| {
            let is_hash = key.len() == 64 && key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            is_hash && stores.get(store).is_some()
        });
        let (store, key) = token.ok_or_else(|| {
            status::aborted("starting_token is none that a list of this driver ended with; begin anew")
        })?;
        Ok(Some(Token { store: store.to_owned(), key: key.to_owned() }))
    }

    /// Where to begin in `store`; `None` for at its first volume.
    pub(super) fn within(token: Option<&Token>, store: &Store) -> Option<String> {
        token.filter(|token| token.store == store.name).map(|token| token.key.clone())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.store, self.key)
    }
}

/// How many entries an answer may have.
pub(super) fn most(max_entries: i32) -> Result<usize, Status> {
    match usize::try_from(max_entries) {
        Ok(0) => Ok(MOST),
        Ok(most) => Ok(most.min(MOST)),
        Err(_) => Err(status::invalid("max_entries cannot be negative")),
    }
}

/// The stores that have records, from the token's on.
pub(super) fn stores_from<'a>(stores: &'a Stores, token: Option<&'a Token>) -> impl Iterator<Item = &'a Store> {
    let from = move |store: &&Store| token.is_none_or(|token| store.name >= token.store);
    stores.iter().filter(|store| store.controller_credential.is_some()).filter(from)
}

impl Controller {
    /// ListVolumes. A store that does not answer fails the whole list, since a volume that is not in it is taken for
    /// deleted.
    pub(super) async fn list(&self, request: &ListVolumesRequest) -> Result<ListVolumesResponse, Status> {
        let stores = self.0.stores.current();
        let most = most(request.max_entries)?;
        let token = Token::read(&request.starting_token, &stores)?;
        let mut entries = Vec::new();
        let mut last = None;
        for store in stores_from(&stores, token.as_ref()) {
            let after = Token::within(token.as_ref(), store);
            let page = self.volumes(store)?.page(after.as_deref(), most - entries.len()).await?;
            for record in &page.volumes {
                let volume = create::volume(store, record, &self.0.driver)?;
                entries.push(list_volumes_response::Entry { volume: Some(volume), status: None });
                last = Some(Token::after(store, record));
            }
            if page.more {
                let next_token = last.map_or_else(String::new, |token| token.to_string());
                return Ok(ListVolumesResponse { entries, next_token });
            }
        }
        Ok(ListVolumesResponse { entries, next_token: String::new() })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_token_is_a_place_and_nothing_else() {
        let text = "stores: [{name: lake, backend: s3, endpoint: 'http://127.0.0.1:9', bucket: data}]";
        let stores = Stores::parse(text, Path::new("")).unwrap();
        let key = "0123456789abcdef".repeat(4);
        let token = Token::read(&format!("lake/{key}"), &stores).unwrap().unwrap();
        assert_eq!(token, Token { store: "lake".into(), key: key.clone() });
        assert_eq!(token.to_string(), format!("lake/{key}"));
        assert_eq!(Token::read("", &stores).unwrap(), None);
        let upper = key.to_uppercase();
        for bad in ["x", "lake", "lake/", "lake/..", &key, &format!("sea/{key}"), &format!("lake/{key}0"), &upper] {
            let error = Token::read(bad, &stores).unwrap_err();
            assert_eq!(error.code(), tonic::Code::Aborted, "{bad}");
        }
    }

    #[test]
    fn an_answer_has_a_bound_of_its_own() {
        assert_eq!(most(0).unwrap(), MOST);
        assert_eq!(most(7).unwrap(), 7);
        assert_eq!(most(i32::MAX).unwrap(), MOST);
        assert!(most(-1).is_err());
    }
}
