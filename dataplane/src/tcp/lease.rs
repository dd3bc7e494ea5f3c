//! A flow's stream buffers: pages leased from the pool, lent to its socket.
//!
//! Flows of a long-lived table want buffers that live as long as the table.
//! This file has the functions that make such slices out of leased pages and
//! received frames. What they rely on, and who sees to it:
//! - the pages are leased to this flow alone, whole, and the frame is held by it
//!   alone; nobody else makes slices of them (the pool hands them out once;
//!   neither a lease nor a frame is `Clone`);
//! - slices are dropped before their lease or frame is released
//!   ([`Flow::dissolve`](super::flow::Flow), and the order of its fields);
//! - the pool's memory stays mapped while a flow lives (whoever owns a pool
//!   and a [`Tcp`](super::Tcp) drops the latter first).

use sluice_hugepages::pool::{Frame, Owner, PAGE_LEN, PageRun, Pool};

/// Pages a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    pub rx_pages: u32,
    pub tx_pages: u32,
}

/// Of a flow that we open: the window that it promises, in pages, and the most frames that it
/// holds of what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WanBuffers {
    pub rx_pages: u32,
    pub tx_frames: u32,
}

impl Buffers {
    /// Bytes of an accepted flow's receive buffer.
    ///
    /// A single page counts one byte less: 65,535 is the most a window says
    /// without a scale (RFC 9293 3.1), so a small flow needs none.
    pub(super) const fn rx_len(self) -> usize {
        match self.rx_pages as usize * PAGE_LEN {
            PAGE_LEN => PAGE_LEN - 1,
            len => len,
        }
    }

    /// The window scale that goes with it, as smoltcp chooses it.
    pub(super) const fn window_scale(self) -> u8 {
        let bits = usize::BITS - self.rx_len().leading_zeros();
        #[expect(clippy::cast_possible_truncation, reason = "below 64")]
        let scale = bits.saturating_sub(16) as u8;
        scale
    }

    /// The window of a SYN, which is never scaled (RFC 7323 2.2).
    pub(super) const fn syn_window(self) -> u16 {
        #[expect(clippy::cast_possible_truncation, reason = "checked")]
        let window = if self.rx_len() > 65_535 {
            65_535
        } else {
            self.rx_len() as u16
        };
        window
    }
}

/// The pages of one accepted flow.
#[derive(Debug)]
pub(super) struct Lease {
    rx: PageRun,
    tx: PageRun,
    buffers: Buffers,
}

impl Lease {
    /// Leases both directions, or nothing.
    pub fn take(pool: &mut Pool, owner: u32, buffers: Buffers) -> Option<Self> {
        let rx = pool.lease_pages(buffers.rx_pages as usize, Owner::Tcp(owner))?;
        let Some(tx) = pool.lease_pages(buffers.tx_pages as usize, Owner::Tcp(owner)) else {
            pool.release_pages(rx);
            return None;
        };
        Some(Self { rx, tx, buffers })
    }

    pub fn release(self, pool: &mut Pool) {
        pool.release_pages(self.rx);
        pool.release_pages(self.tx);
    }

    /// The receive and the send buffer.
    ///
    /// # Safety
    /// At most one pair of slices lives for a lease; they are gone before it
    /// is released, and before `pool` is dropped.
    pub unsafe fn lend(&self, pool: &Pool) -> [&'static mut [u8]; 2] {
        let tx_len = pool.run_bytes(&self.tx).len();
        let rx_len = self.buffers.rx_len();
        assert!(
            rx_len <= pool.run_bytes(&self.rx).len(),
            "the run is as long as was asked for"
        );
        [(&self.rx, rx_len), (&self.tx, tx_len)].map(|(run, len)| {
            // SAFETY: the run spans `len` mapped, initialised bytes that the
            // pool hands out to nobody else while it is leased; the caller
            // holds that they are lent once, and not beyond the lease.
            unsafe { std::slice::from_raw_parts_mut(pool.run_ptr(run), len) }
        })
    }
}

/// A part of the data of a received frame, to read for as long as the frame is held.
///
/// # Safety
/// The slice is gone before `frame` is released or handed on, and before `pool` is dropped.
///
/// # Panics
/// If the part is not in the frame's data.
pub(super) unsafe fn lend_received(
    pool: &Pool,
    frame: &Frame,
    part: std::ops::Range<usize>,
) -> &'static [u8] {
    let bytes = &pool.bytes(frame)[part];
    // SAFETY: mapped, initialised bytes of a frame that is in use and whose handle the
    // caller holds, so that nobody writes to it; not kept beyond that, as the caller promises.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) }
}
