//! What others ask of the queue: what is durable, and how much is not.

use super::node::Node;
use super::volume::Span;
use super::{FlushQueue, NONE};
use crate::Time;

impl FlushQueue {
    /// Whether everything committed at or before `sequence` is durable at the
    /// storage, changes that passed through included: what a SYNCHRONIZE CACHE
    /// or FUA write of that place waits for (C-2).
    #[must_use]
    pub fn durable_through(&self, volume: u16, sequence: u64) -> bool {
        let oldest = self.oldest(volume);
        let passed = !self.volumes[usize::from(volume)].passed_unsynced();
        passed && oldest.is_none_or(|node| node.sequence > sequence)
    }

    /// Whether a change passed through that no sync has covered.
    #[must_use]
    pub fn passed_unsynced(&self, volume: u16) -> bool {
        self.volumes[usize::from(volume)].passed_unsynced()
    }

    /// Whether a sync is in flight.
    #[must_use]
    pub fn is_syncing(&self, volume: u16) -> bool {
        self.volumes[usize::from(volume)].sync_in_flight
    }

    /// Whether nothing is left to send or to sync.
    #[must_use]
    pub fn is_drained(&self, volume: u16) -> bool {
        self.durable_through(volume, u64::MAX)
    }

    /// Whether a record that is not durable, or stands behind one that is not,
    /// has a block in the range. Looks at each; for small ranges [`crate::cache::index::Index::overlaps`] is cheaper.
    #[must_use]
    pub fn overlaps_dirty(&self, volume: u16, lba: u64, blocks: u64) -> bool {
        let span = Span {
            lba,
            end: lba.saturating_add(blocks),
        };
        self.newest_dirty_where(volume, |node| node.span().overlaps(span))
            .is_some()
    }

    /// Bytes of the volume that are not durable at the storage.
    #[must_use]
    pub fn dirty_bytes(&self, volume: u16) -> u64 {
        self.volumes[usize::from(volume)].dirty.bytes
    }

    /// Records of the volume that are not durable at the storage.
    #[must_use]
    pub fn records(&self, volume: u16) -> usize {
        self.volumes[usize::from(volume)].dirty.records
    }

    /// When the oldest of them arrived.
    #[must_use]
    pub fn oldest_dirty(&self, volume: u16) -> Option<Time> {
        self.oldest(volume).map(|node| node.arrived)
    }

    /// When the newest of all that is kept of the volume arrived, if any of it is not durable.
    #[must_use]
    pub fn newest_dirty(&self, volume: u16) -> Option<Time> {
        let queue = &self.volumes[usize::from(volume)];
        (queue.undurable != NONE).then(|| self.nodes[queue.tail as usize].arrived)
    }

    /// The oldest's place in the order of arrival.
    #[must_use]
    pub fn oldest_sequence(&self, volume: u16) -> Option<u64> {
        self.oldest(volume).map(|node| node.sequence)
    }

    /// The epoch of the oldest of them.
    #[must_use]
    pub fn oldest_epoch(&self, volume: u16) -> Option<u64> {
        self.oldest(volume).map(|node| node.epoch)
    }

    /// Writes and bytes on their way to the storage.
    #[must_use]
    pub fn in_flight(&self, volume: u16) -> (usize, u64) {
        let queue = &self.volumes[usize::from(volume)];
        (queue.in_flight.len(), queue.bytes_in_flight)
    }

    fn oldest(&self, volume: u16) -> Option<&Node> {
        let oldest = self.volumes[usize::from(volume)].undurable;
        (oldest != NONE).then(|| &self.nodes[oldest as usize])
    }

    /// The sequence of the newest record for which `wanted` holds, among those
    /// that are not durable or stand behind one that is not.
    pub(super) fn newest_dirty_where(
        &self,
        volume: u16,
        wanted: impl Fn(&Node) -> bool,
    ) -> Option<u64> {
        let queue = &self.volumes[usize::from(volume)];
        if queue.undurable == NONE {
            return None;
        }
        let mut at = queue.tail;
        loop {
            let node = &self.nodes[at as usize];
            if wanted(node) {
                return Some(node.sequence);
            }
            if at == queue.undurable {
                return None;
            }
            at = node.older;
        }
    }
}
