//! What every store and every wrapper of one must do.
//!
//! Each promise is a function that takes an empty backend; [`suite`] makes a test of each. Where stores differ in
//! fact, the promise asks [`Traits`](super::Traits) and checks both sides.

mod fetching;
mod in_place;
mod moving;
mod reading;
pub(crate) mod steps;
mod tree;
mod writing;

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::{
    Attributes, Backend, Base, CreateOptions, ErrorKind, Intent, Kind, Meta, Name, Path, RenameOptions, Result, Rights,
    Upload, Version,
};

/// An empty backend, and what must live as long as it (a server, a directory).
pub(crate) type Stand = (Arc<dyn Backend>, Box<dyn Any + Send>);

/// Makes a test of every promise. `$make` is an async function that gives a new [`Stand`], or `None` where this
/// machine cannot.
macro_rules! suite {
    ($make:expr) => {
        $crate::backend::contract::suite!($make =>
            the_root_is_always_there, what_is_absent_is_not_found, odd_names_are_kept,
            a_listing_shows_each_entry_once, a_large_directory_is_listed_whole, a_list_is_of_one_directory,
            a_directory_can_be_made_and_removed, only_empty_directories_are_removed,
            removal_asks_for_the_kind, the_root_stays, a_name_is_kept_or_refused, a_deep_file_is_found,
            neighbours_are_not_children, a_file_is_read_as_it_was_written, every_range_gives_its_bytes,
            an_empty_file_is_a_file, a_replaced_version_is_stale, a_read_proves_its_path_where_told,
            a_large_file_survives_odd_chunks,
            a_dropped_read_is_harmless, an_empty_range_gives_nothing, a_replacement_never_tears_a_read,
            nothing_is_seen_before_publish, an_upload_goes_on_after_publish, written_bytes_can_be_peeked,
            absent_means_absent, the_loser_of_two_writers_is_stale, last_wins_where_asked,
            an_abort_leaves_nothing, publishing_again_changes_nothing, a_file_may_be_emptied,
            an_abort_keeps_what_was_published, a_dropped_upload_was_never_seen,
            a_removed_file_stays_removed, one_of_many_creators_wins, attributes_do_not_touch_the_bytes,
            a_file_needs_its_directory, a_file_moves_whole, a_move_may_replace, a_move_is_pinned,
            directories_move_as_far_as_told, a_file_moves_while_written,
            a_move_onto_itself_changes_nothing, a_directory_replaces_only_an_empty_one,
            a_move_asks_for_the_kind, a_small_file_is_fetched_whole, what_is_fetched_is_the_newest,
            what_is_too_long_is_not_fetched, only_files_are_fetched,
            a_file_is_changed_in_place_or_never, any_offset_is_written_or_only_the_end,
            a_file_that_is_written_is_followed_by_its_handle, one_of_many_makes_a_file, attributes_are_kept_or_refused,
            rights_are_as_the_store_says, links_are_made_or_refused
        );
    };
    ($make:expr => $($promise:ident),+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let make = $make;
                if let Some((backend, _keep)) = make().await {
                    $crate::backend::contract::$promise(backend).await;
                }
            }
        )+
    };
}
pub(crate) use fetching::*;
pub(crate) use in_place::*;
pub(crate) use moving::*;
pub(crate) use reading::*;
pub(crate) use suite;
pub(crate) use tree::*;
pub(crate) use writing::*;

use steps::path;

type Store = Arc<dyn Backend>;

/// Bytes in which every position can be told from its neighbours; at most 24 MiB.
fn pattern(length: usize) -> Bytes {
    static WHOLE: LazyLock<Bytes> =
        LazyLock::new(|| (0..24_usize << 20).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect::<Vec<_>>().into());
    WHOLE.slice(..length)
}

async fn upload(store: &Store, at: &str, base: Base) -> Box<dyn Upload> {
    steps::begin(&**store, at, base).await
}

async fn publish(upload: &mut Box<dyn Upload>) -> Result<Meta> {
    upload.publish(&Attributes::default()).await
}

async fn put(store: &Store, at: &str, content: impl Into<Bytes>) -> Version {
    let mut writing = upload(store, at, Base::Any).await;
    let content = content.into();
    if !content.is_empty() {
        writing.write(content).await.unwrap();
    }
    publish(&mut writing).await.unwrap().version().cloned().unwrap()
}

async fn bytes(store: &Store, file: &Version, range: Range<u64>) -> Result<Vec<u8>> {
    steps::part(&**store, file, range).await
}

async fn content(store: &Store, at: &str) -> Vec<u8> {
    steps::content(&**store, &steps::version(&**store, at).await).await.unwrap()
}

async fn names(store: &Store, dir: &str) -> Vec<String> {
    let mut names: Vec<_> = store.list(&path(dir)).map_ok(|entry| entry.name.to_string()).try_collect().await.unwrap();
    names.sort();
    names
}

async fn kind_of_error<T: std::fmt::Debug>(outcome: impl Future<Output = Result<T>>) -> ErrorKind {
    outcome.await.unwrap_err().kind
}

fn moving(kind: Kind) -> RenameOptions {
    RenameOptions { kind, version: None, replace: true }
}
