//! Chains of buffers: a GSO frame in 4 KiB buffers, MTU 9000.
//!
//! What always holds: the head's data is described by its handle, that of the
//! others by a private table. Not for: cutting a chain into packets.

use super::{BufId, Frame, Pool};

/// What a chain remembers of a buffer that is not its first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub offset: u16,
    pub len: u32,
    pub next: Option<BufId>,
}

impl Pool {
    /// Appends `tail`, itself a chain or not, to the chain of `head`.
    pub fn link(&mut self, head: &mut Frame, tail: Frame) {
        let link = Link {
            offset: tail.offset,
            len: tail.len,
            next: tail.next,
        };
        self.links[tail.buf.0 as usize] = link;
        let Some(mut last) = head.next else {
            head.next = Some(tail.buf);
            return;
        };
        while let Some(next) = self.links[last.0 as usize].next {
            last = next;
        }
        self.links[last.0 as usize].next = Some(tail.buf);
    }

    /// Takes all but the first buffer off a chain, as a frame of its own.
    pub fn unlink(&mut self, head: &mut Frame) -> Option<Frame> {
        let buf = head.next.take()?;
        let Link { offset, len, next } = self.links[buf.0 as usize];
        Some(Frame {
            buf,
            offset,
            len,
            next,
            ..self.handle(0)
        })
    }

    /// The data of each buffer of a chain, in order.
    pub fn parts<'a>(&'a self, frame: &Frame) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let first = Link {
            offset: frame.offset,
            len: frame.len,
            next: frame.next,
        };
        let mut at = Some((frame.buf, first));
        std::iter::from_fn(move || {
            let (buf, link) = at?;
            at = link.next.map(|next| (next, self.links[next.0 as usize]));
            Some(self.part(buf, link.offset as usize, link.len as usize))
        })
    }

    /// Bytes of the packet in all its buffers.
    pub fn packet_len(&self, frame: &Frame) -> usize {
        match frame.next {
            None => frame.len as usize,
            Some(_) => self.parts(frame).map(<[u8]>::len).sum(),
        }
    }
}
