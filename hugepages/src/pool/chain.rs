//! Chains of buffers: a GSO frame in 4 KiB buffers, MTU 9000.
//!
//! What always holds: the head's data is described by its handle, that of the
//! others by a private table. Not for: cutting a chain into packets.

use super::{BufId, Frame, Next, Pool};

/// What a chain remembers of a buffer that is not its first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub offset: u16,
    pub len: u32,
    pub next: Option<BufId>,
}

impl Pool {
    /// Appends `tail`, itself a chain or not, to the chain of `head`.
    ///
    /// # Panics
    /// When either was gathered.
    pub fn link(&mut self, head: &mut Frame, tail: Frame) {
        let link = Link {
            offset: tail.offset,
            len: tail.len,
            next: chained(tail.next),
        };
        self.links[tail.buf.0 as usize] = link;
        let Some(mut last) = chained(head.next) else {
            head.next = Some(Next::Buffer(tail.buf));
            return;
        };
        while let Some(next) = self.links[last.0 as usize].next {
            last = next;
        }
        self.links[last.0 as usize].next = Some(tail.buf);
    }

    /// Takes all but the first buffer off a chain, as a frame of its own.
    ///
    /// # Panics
    /// When it was gathered.
    pub fn unlink(&mut self, head: &mut Frame) -> Option<Frame> {
        let buf = chained(head.next.take())?;
        let Link { offset, len, next } = self.links[buf.0 as usize];
        Some(Frame {
            buf,
            offset,
            len,
            next: next.map(Next::Buffer),
            ..self.handle(0)
        })
    }

    /// The data of each buffer of a chain, or of the buffer and what was gathered, in order.
    pub fn parts<'a>(&'a self, frame: &Frame) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (next, list) = match frame.next {
            None => (None, None),
            Some(Next::Buffer(buf)) => (Some(buf), None),
            Some(Next::Gathered(list)) => (None, Some(list)),
        };
        let first = Link {
            offset: frame.offset,
            len: frame.len,
            next,
        };
        let mut at = Some((frame.buf, first));
        let buffers = std::iter::from_fn(move || {
            let (buf, link) = at?;
            at = link.next.map(|next| (next, self.links[next.0 as usize]));
            Some(self.part(buf, link.offset as usize, link.len as usize))
        });
        buffers.chain(self.pieces(list))
    }

    /// Copies the packet's bytes from `at` on, as many as there are and `out` takes; how many.
    pub fn read(&self, frame: &Frame, mut at: usize, out: &mut [u8]) -> usize {
        let mut done = 0;
        for part in self.parts(frame) {
            let from = at.min(part.len());
            let count = (part.len() - from).min(out.len() - done);
            out[done..done + count].copy_from_slice(&part[from..from + count]);
            (at, done) = (at - from, done + count);
        }
        done
    }

    /// The packet's bytes in one piece, for who looks at packets without haste.
    pub fn packet(&self, frame: &Frame) -> Vec<u8> {
        self.parts(frame).collect::<Vec<_>>().concat()
    }

    /// Bytes of the packet in all its parts.
    pub fn packet_len(&self, frame: &Frame) -> usize {
        match frame.next {
            None => frame.len as usize,
            Some(_) => self.parts(frame).map(<[u8]>::len).sum(),
        }
    }
}

fn chained(next: Option<Next>) -> Option<BufId> {
    match next? {
        Next::Buffer(buf) => Some(buf),
        Next::Gathered(_) => panic!("a gathered packet is no chain"),
    }
}
