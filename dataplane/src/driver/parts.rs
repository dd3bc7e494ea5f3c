//! Copies of frames, and addresses of buffers for the kernel: the one place of
//! the drivers that touches frame memory other than through slices of the pool.

use sluice_hugepages::pool::{BufId, Checksum, FRAME_LEN, Frame, HEADROOM, PAGE_LEN, Pool};

/// Appends the packet's bytes.
pub fn copy_to(pool: &Pool, frame: &Frame, bytes: &mut Vec<u8>) {
    for part in pool.parts(frame) {
        bytes.extend_from_slice(part);
    }
}

/// Makes `bytes` the packet of a new frame, behind the headroom.
///
/// # Panics
/// They do not fit its buffer.
pub fn write(pool: &mut Pool, frame: &mut Frame, bytes: &[u8]) {
    pool.set(frame, HEADROOM, bytes.len());
    pool.bytes_mut(frame).copy_from_slice(bytes);
}

/// The packet, with its marks, in a buffer of its own; `None` if there is none.
pub fn duplicate(pool: &mut Pool, frame: &Frame) -> Option<Frame> {
    match HEADROOM + pool.packet_len(frame) {
        0..=FRAME_LEN => duplicate_in_frame(pool, frame),
        len if len <= PAGE_LEN => {
            let copy = pool.alloc_page_frame()?;
            Some(fill_copy(pool, frame, copy))
        }
        _ => None,
    }
}

/// The packet, with its marks, in one frame of its own; `None` if there is none or it does not fit.
pub fn duplicate_in_frame(pool: &mut Pool, frame: &Frame) -> Option<Frame> {
    if HEADROOM + pool.packet_len(frame) > FRAME_LEN {
        return None;
    }
    let copy = pool.alloc_frame()?;
    Some(fill_copy(pool, frame, copy))
}

fn fill_copy(pool: &mut Pool, frame: &Frame, mut copy: Frame) -> Frame {
    let len = pool.packet_len(frame);
    let mut to = buffer_ptr(pool, &copy, HEADROOM, len);
    for part in pool.parts(frame) {
        // SAFETY: `to` counts up through the `len` bytes of `copy` that `buffer_ptr` checked; the copy
        // is a buffer of its own, so it does not overlap what is read, and nobody else refers to it.
        unsafe {
            std::ptr::copy_nonoverlapping(part.as_ptr(), to, part.len());
            to = to.add(part.len());
        }
    }
    pool.set(&mut copy, HEADROOM, len);
    copy.checksum = frame.checksum;
    copy.gso = frame.gso;
    copy
}

/// Where `offset..offset + len` of the frame's first buffer is, for the kernel to fill.
///
/// # Panics
/// That is not in the buffer.
pub fn buffer_ptr(pool: &Pool, frame: &Frame, offset: usize, len: usize) -> *mut u8 {
    assert!(
        offset + len <= pool.capacity(frame),
        "{offset} + {len} in a buffer of {}",
        pool.capacity(frame)
    );
    let at = frame.buf.0 as usize * FRAME_LEN + offset;
    assert!(
        at + len <= pool.len(),
        "buffer {} of a pool of {} bytes",
        frame.buf.0,
        pool.len()
    );
    // SAFETY: within the pool's memory (asserted).
    unsafe { pool.base().add(at) }
}

/// Copies `offset..offset + len` of one frame's first buffer to the same place in another's.
pub fn copy_between(pool: &mut Pool, from: &Frame, to: &Frame, offset: usize, len: usize) {
    assert!(from.buf != to.buf, "a buffer onto itself");
    let (from, to) = (
        buffer_ptr(pool, from, offset, len),
        buffer_ptr(pool, to, offset, len),
    );
    // SAFETY: both ranges are in their buffers (`buffer_ptr`), which are two, and the pool is borrowed
    // mutably, so nobody refers to them.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) }
}

/// A handle to give back a buffer that the kernel had, page or frame.
pub fn handle(buf: BufId) -> Frame {
    Frame {
        buf,
        offset: 0,
        len: 0,
        next: None,
        home: 0,
        checksum: Checksum::InPacket,
        gso: None,
    }
}
