//! From PDUs to a byte stream: one PDU at a time is written into whatever room
//! the stream has, with padding and digests, resuming at any byte.
//!
//! What always holds: a PDU that was begun is finished before the next; its
//! digests are the ones in force when it was begun. Not for: choosing what
//! goes next; that is the target's or the initiator's queue.

use super::wire::{AhsBytes, BHS_LEN, Bhs};

const DIGEST_LEN: usize = 4;
const HEAD_LEN_MAX: usize = BHS_LEN + AhsBytes::LEN_MAX + DIGEST_LEN;

/// Room kept for data that the connection itself holds while it goes out:
/// the longest ping that is echoed. Login and text may grow it.
pub(super) const INLINE_LEN: usize = 4096;

/// Where the data segment of a PDU comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    None,
    /// What [`Outbound::inline`] holds.
    Inline,
    /// `len` bytes from `offset` of what the caller knows as `token`.
    Fetched {
        token: u64,
        offset: u32,
        len: u32,
    },
}

/// The PDU that is on its way out.
#[derive(Debug)]
pub(super) struct Outbound {
    head: [u8; HEAD_LEN_MAX],
    head_len: usize,
    head_sent: usize,
    payload: Payload,
    data_len: usize,
    data_sent: usize,
    /// Padding, then the data digest.
    tail: [u8; 3 + DIGEST_LEN],
    tail_len: usize,
    tail_sent: usize,
    crc: u32,
    with_data_digest: bool,
    busy: bool,
    pub(super) inline: Vec<u8>,
    header_digest: bool,
    data_digest: bool,
}

impl Outbound {
    pub(super) fn new() -> Self {
        Self {
            head: [0; HEAD_LEN_MAX],
            head_len: 0,
            head_sent: 0,
            payload: Payload::None,
            data_len: 0,
            data_sent: 0,
            tail: [0; 3 + DIGEST_LEN],
            tail_len: 0,
            tail_sent: 0,
            crc: 0,
            with_data_digest: false,
            busy: false,
            inline: Vec::with_capacity(INLINE_LEN),
            header_digest: false,
            data_digest: false,
        }
    }

    /// Digests for every PDU begun from now on: (header, data).
    pub(super) const fn set_digests(&mut self, digests: (bool, bool)) {
        self.header_digest = digests.0;
        self.data_digest = digests.1;
    }

    /// Whether no PDU is under way.
    pub(super) const fn is_idle(&self) -> bool {
        !self.busy
    }

    /// The token that the PDU under way still reads from.
    pub(super) const fn fetching(&self) -> Option<u64> {
        match self.payload {
            Payload::Fetched { token, .. } if self.busy && self.data_sent < self.data_len => {
                Some(token)
            }
            _ => None,
        }
    }

    /// Starts a PDU.
    pub(super) fn begin(&mut self, bhs: Bhs, payload: Payload) {
        self.begin_with(bhs, &[], payload);
    }

    /// Starts a PDU with additional header segments, in whole words.
    pub(super) fn begin_with(&mut self, mut bhs: Bhs, ahs: &[u8], payload: Payload) {
        assert!(!self.busy, "one PDU at a time");
        let data_len = match payload {
            Payload::None => 0,
            Payload::Inline => u32::try_from(self.inline.len()).expect("inline data is small"),
            Payload::Fetched { len, .. } => len,
        };
        bhs.set_data_len(data_len);
        // TotalAHSLength counts words (RFC 7143 11.2.1.5).
        bhs.0[4] = u8::try_from(ahs.len() / 4).expect("at most AhsBytes::LEN_MAX");
        let end = BHS_LEN + ahs.len();
        self.head[..BHS_LEN].copy_from_slice(&bhs.0);
        self.head[BHS_LEN..end].copy_from_slice(ahs);
        self.head_len = end;
        if self.header_digest {
            let digest = crc32c::crc32c(&self.head[..end]).to_le_bytes();
            self.head[end..end + DIGEST_LEN].copy_from_slice(&digest);
            self.head_len += DIGEST_LEN;
        }
        self.head_sent = 0;
        self.payload = payload;
        self.data_len = usize::try_from(data_len).expect("24-bit length");
        self.data_sent = 0;
        let padding = self.data_len.wrapping_neg() & 3;
        self.with_data_digest = self.data_digest && data_len > 0;
        self.tail = [0; 3 + DIGEST_LEN];
        self.tail_len = padding + if self.with_data_digest { DIGEST_LEN } else { 0 };
        self.tail_sent = 0;
        self.crc = 0;
        self.busy = true;
    }

    /// Writes what fits into `out`; gives how many bytes. `fetch` fills a slice
    /// from a token's data at an offset.
    pub(super) fn write(
        &mut self,
        out: &mut [u8],
        fetch: &mut impl FnMut(u64, u32, &mut [u8]),
    ) -> usize {
        if !self.busy {
            return 0;
        }
        let mut written = copy_from(&self.head[..self.head_len], &mut self.head_sent, out);
        let room = out.len() - written;
        let take = (self.data_len - self.data_sent).min(room);
        if take > 0 {
            let slot = &mut out[written..written + take];
            match self.payload {
                Payload::None => unreachable!("no payload has no length"),
                Payload::Inline => {
                    slot.copy_from_slice(&self.inline[self.data_sent..self.data_sent + take]);
                }
                Payload::Fetched { token, offset, .. } => {
                    let sent = u32::try_from(self.data_sent).expect("24-bit length");
                    fetch(token, offset + sent, slot);
                }
            }
            if self.with_data_digest {
                self.crc = crc32c::crc32c_append(self.crc, slot);
            }
            self.data_sent += take;
            written += take;
        }
        if self.data_sent == self.data_len && self.head_sent == self.head_len {
            if self.with_data_digest && self.tail_sent == 0 {
                let at = self.tail_len - DIGEST_LEN;
                let crc = crc32c::crc32c_append(self.crc, &self.tail[..at]);
                self.tail[at..self.tail_len].copy_from_slice(&crc.to_le_bytes());
            }
            written += copy_from(
                &self.tail[..self.tail_len],
                &mut self.tail_sent,
                &mut out[written..],
            );
            self.busy = self.tail_sent < self.tail_len;
        }
        written
    }
}

/// Copies from `source[*sent..]` what fits, and moves `sent`.
fn copy_from(source: &[u8], sent: &mut usize, out: &mut [u8]) -> usize {
    let take = (source.len() - *sent).min(out.len());
    out[..take].copy_from_slice(&source[*sent..*sent + take]);
    *sent += take;
    take
}

#[cfg(test)]
mod tests {
    use super::super::inbound::{Framed, Inbound};
    use super::super::wire::Opcode;
    use super::*;

    /// RFC 3720 B.4: 32 bytes of zeroes have the digest aa 36 91 8a on the wire.
    #[test]
    fn crc32c_is_the_rfcs() {
        assert_eq!(
            crc32c::crc32c(&[0; 32]).to_le_bytes(),
            [0xaa, 0x36, 0x91, 0x8a]
        );
    }

    #[test]
    fn every_cut_of_the_stream_gives_the_same_pdu() {
        for (header_digest, data_digest, len) in [
            (false, false, 5),
            (true, false, 7),
            (true, true, 9),
            (false, true, 0),
        ] {
            for out_len in 1..64 {
                let mut outbound = Outbound::new();
                outbound.set_digests((header_digest, data_digest));
                let mut inbound = Inbound::new(1024);
                inbound.enter_full_feature((header_digest, data_digest), 1024);
                outbound.begin(
                    Bhs::new(Opcode::DataIn),
                    Payload::Fetched {
                        token: 3,
                        offset: 100,
                        len,
                    },
                );
                let (mut data, mut ended) = (Vec::new(), false);
                while !outbound.is_idle() {
                    let mut out = vec![0; out_len];
                    let written = outbound.write(&mut out, &mut |token, offset, slot| {
                        assert_eq!(token, 3);
                        for (at, byte) in slot.iter_mut().enumerate() {
                            *byte = u8::try_from(offset as usize + at).unwrap();
                        }
                    });
                    let mut rest = &out[..written];
                    loop {
                        let (used, step) = inbound.step(rest).unwrap();
                        rest = &rest[used..];
                        match step {
                            Some(Framed::Data(bytes)) => data.extend_from_slice(bytes),
                            Some(Framed::End { intact }) => ended = intact,
                            Some(Framed::Header) => {}
                            None => break,
                        }
                    }
                }
                let expected: Vec<u8> = (100..100 + u8::try_from(len).unwrap()).collect();
                assert_eq!(data, expected);
                assert!(ended, "the whole PDU arrived with good digests");
            }
        }
    }
}
