//! Read data on its way out, in the order the caller handed it over.
//!
//! ```text
//!  | out; token not yet taken back | on its way | waiting |
//!  0                            finished               len
//! ```
//!
//! What always holds: capacity is fixed; each item gives its token back once,
//! whether its bytes went out or were dropped, and never while a PDU under way
//! still reads from it.

use super::TargetConn;
use super::task::TaskId;
use crate::iscsi::outbound::Outbound;
use std::collections::VecDeque;

/// A piece of read data.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataItem {
    pub(super) task: TaskId,
    pub(super) token: u64,
    pub(super) token_offset: u32,
    pub(super) buffer_offset: u32,
    pub(super) len: u32,
    /// Bytes in PDUs that were begun.
    pub(super) begun: u32,
}

#[derive(Debug)]
pub(super) struct DataQueue {
    items: VecDeque<DataItem>,
    finished: usize,
    capacity: usize,
    /// Items ever put in.
    put: u64,
}

impl DataQueue {
    pub(super) fn new(capacity: u16) -> Self {
        Self {
            items: VecDeque::with_capacity(usize::from(capacity)),
            finished: 0,
            capacity: usize::from(capacity),
            put: 0,
        }
    }

    pub(super) fn room(&self) -> usize {
        self.capacity - self.items.len()
    }

    /// Stands for everything that is queued now.
    pub(super) const fn queued_until(&self) -> u64 {
        self.put
    }

    /// Whether everything queued up to `mark` is in PDUs that were begun.
    pub(super) fn begun_until(&self, mark: u64) -> bool {
        let waiting = self.waiting().count() as u64;
        self.put - waiting >= mark
    }

    pub(super) fn push(&mut self, item: DataItem, outbound: &Outbound) {
        assert!(self.room() > 0, "room was checked");
        self.put += 1;
        self.items.push_back(item);
        self.settle(outbound);
    }

    /// Nothing more of this task goes out but the PDU under way.
    pub(super) fn drop_task(&mut self, task: TaskId, outbound: &Outbound) {
        for item in self.items.range_mut(self.finished..) {
            if item.task == task {
                item.len = item.begun;
            }
        }
        self.settle(outbound);
    }

    /// Nothing more goes out but the PDU under way.
    pub(super) fn drop_all(&mut self, outbound: &Outbound) {
        for item in self.items.range_mut(self.finished..) {
            item.len = item.begun;
        }
        self.settle(outbound);
    }

    /// Moves `finished` over items whose bytes are all out.
    pub(super) fn settle(&mut self, outbound: &Outbound) {
        while let Some(item) = self.items.get(self.finished) {
            let under_way = item.begun > 0 && outbound.fetching() == Some(item.token);
            if item.begun < item.len || under_way {
                break;
            }
            self.finished += 1;
        }
    }

    pub(super) fn first_waiting(&mut self) -> Option<&mut DataItem> {
        self.items
            .range_mut(self.finished..)
            .find(|item| item.begun < item.len)
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting().next().is_some()
    }

    fn waiting(&self) -> impl Iterator<Item = &DataItem> {
        self.items
            .range(self.finished..)
            .filter(|item| item.begun < item.len)
    }
}

impl TargetConn {
    /// A token of `data_in` whose bytes are all out (or were dropped): once for
    /// each call of `data_in`, in their order.
    pub fn next_released(&mut self) -> Option<u64> {
        let queue = &mut self.data;
        if queue.finished == 0 {
            return None;
        }
        queue.finished -= 1;
        queue.items.pop_front().map(|item| item.token)
    }

    /// How many pieces [`TargetConn::data_in`] takes now.
    #[must_use]
    pub fn data_in_room(&self) -> usize {
        self.data.room()
    }
}
