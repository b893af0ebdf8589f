//! Keeps what is being fetched: blocks are written in the background while their bytes go to the reader.

use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use super::slot::Claim;
use super::store::Store;

/// So many bytes are written at once.
const BATCH: u64 = 512 << 10;

/// What one body is kept of.
#[derive(Debug)]
pub(super) struct Keeping {
    store: Arc<Store>,
    /// The blocks to keep that were not handed over yet.
    claim: Claim,
    /// Where the body's next byte stands in the version.
    at: u64,
    /// Bytes from the claim's start on.
    gathered: Vec<Bytes>,
}

impl Keeping {
    /// Of a body that begins at byte `at`.
    pub(super) fn of(store: &Arc<Store>, claim: Claim, at: u64) -> Keeping {
        Keeping { store: store.clone(), claim, at, gathered: Vec::new() }
    }

    /// Takes the body's next piece in.
    pub(super) async fn take(&mut self, piece: &Bytes) {
        let layout = self.claim.slot.layout;
        let wanted = layout.bytes(&self.claim.blocks);
        let begin = self.at;
        self.at += piece.len() as u64;
        if self.claim.blocks.is_empty() || self.at <= wanted.start {
            return;
        }
        let (from, to) = (wanted.start.saturating_sub(begin), self.at.min(wanted.end).saturating_sub(begin));
        // Once something is gathered, it goes on where that ends.
        let from = if self.gathered.is_empty() { from } else { 0 };
        self.gathered.push(piece.slice(from as usize..to as usize));
        if self.at - wanted.start >= BATCH || self.at >= wanted.end {
            self.hand_over().await;
        }
    }

    /// Hands the whole blocks over that were gathered.
    async fn hand_over(&mut self) {
        let layout = self.claim.slot.layout;
        let wanted = layout.bytes(&self.claim.blocks);
        let end = if self.at >= wanted.end { self.claim.blocks.end } else { self.at / layout.block };
        let part = self.claim.split(end);
        let bytes = layout.bytes(&part.blocks);
        let mut left = bytes.end - bytes.start;
        if left == 0 {
            return;
        }
        let length = left;
        let mut whole = Vec::with_capacity(self.gathered.len());
        for mut piece in mem::take(&mut self.gathered) {
            let taken = piece.split_to(left.min(piece.len() as u64) as usize);
            left -= taken.len() as u64;
            for (piece, list) in [(taken, &mut whole), (piece, &mut self.gathered)] {
                if !piece.is_empty() {
                    list.push(piece);
                }
            }
        }
        if let Some(lease) = self.store.pay(length).await {
            self.store.keep(part, whole, lease);
        }
    }
}
