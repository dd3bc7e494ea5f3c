//! A packet's place in its frame: the link header put on and taken off, what
//! stands behind the packet cut off, bytes copied between frames.
//!
//! Marks count from the first byte of the frame's data, so they move with it.

use sluice_hugepages::pool::{Checksum, Frame, Pool};

use super::ethernet::ETHERNET_LEN;
use crate::checksum;

/// [`ETHERNET_LEN`] as frames count.
const LINK: u16 = 14;
const _: () = assert!(LINK as usize == ETHERNET_LEN);

/// Makes room for the link header in front of an IPv4 packet.
///
/// # Panics
/// If the buffer has no such room: a bug of whoever made the packet.
pub(super) fn push_link(frame: &mut Frame) {
    frame.offset = frame
        .offset
        .checked_sub(LINK)
        .expect("a packet of the relay's own has room for its link header");
    frame.len += u32::from(LINK);
    if let Checksum::Partial { start, .. } = &mut frame.checksum {
        *start += LINK;
    }
    if let Some(gso) = &mut frame.gso {
        gso.header_len += LINK;
    }
}

/// Takes the link header off. False, and nothing changed, if a mark points
/// into it, which no driver's does.
#[must_use]
pub(super) fn pull_link(frame: &mut Frame) -> bool {
    if let Checksum::Partial { start, .. } = &mut frame.checksum {
        let Some(moved) = start.checked_sub(LINK) else {
            return false;
        };
        *start = moved;
    }
    if let Some(gso) = &mut frame.gso {
        // Only a hint (virtio 1.2 5.1.6.2), never relied on.
        gso.header_len = gso.header_len.saturating_sub(LINK);
    }
    frame.offset += LINK;
    frame.len -= u32::from(LINK);
    true
}

/// Cuts off what stands behind the packet: Ethernet pads frames to 60 bytes.
#[inline]
pub(super) fn trim(frame: &mut Frame, total_len: u16) {
    let len = u32::from(LINK) + u32::from(total_len);
    if frame.next.is_none() && frame.len > len {
        frame.len = len;
    }
}

/// Bytes of the packet, its link header included.
#[inline]
pub(super) fn packet_len(pool: &Pool, frame: &Frame) -> usize {
    // Chains are rare, and walking them is not to be on the way of all others.
    if frame.next.is_some() {
        pool.packet_len(frame)
    } else {
        frame.len as usize
    }
}

pub(super) fn set_len(frame: &mut Frame, len: usize) {
    frame.len = u32::try_from(len).expect("within a buffer");
}

/// Completes a partial transport checksum. False if it does not lie in the packet.
#[must_use]
pub(super) fn complete_checksum(pool: &mut Pool, frame: &mut Frame) -> bool {
    let Checksum::Partial { start, offset } = frame.checksum else {
        return true;
    };
    frame.checksum = Checksum::InPacket;
    checksum::complete(pool.bytes_mut(frame), start, offset).is_ok()
}

/// Copies between two frames, a piece at a time through the stack: the pool
/// lends the bytes of one frame at a time.
pub(super) fn copy(
    pool: &mut Pool,
    (from, from_at): (&Frame, usize),
    (to, to_at): (&Frame, usize),
    len: usize,
) {
    let mut piece = [0; 512];
    let mut done = 0;
    while done < len {
        let count = (len - done).min(piece.len());
        piece[..count].copy_from_slice(&pool.bytes(from)[from_at + done..][..count]);
        pool.bytes_mut(to)[to_at + done..][..count].copy_from_slice(&piece[..count]);
        done += count;
    }
}
