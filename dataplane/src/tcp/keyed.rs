//! Keyed hashes of a connection's addresses: the flow table's index, initial
//! sequence numbers (RFC 6528) and ephemeral ports (RFC 6056 3.3.3).
//!
//! All from SipHash-2-4 under one key that `main` draws at start, each with a
//! tag of its own, so that what one of them shows on the wire tells nothing
//! about another, and a peer cannot aim at one bucket of the table.

use std::net::{Ipv4Addr, SocketAddrV4};

use sluice_proto::Time;

/// A connection's two ends, ours first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FourTuple {
    pub local: SocketAddrV4,
    pub remote: SocketAddrV4,
}

#[derive(Clone, Copy)]
enum Tag {
    Index = 1,
    Isn = 2,
    Port = 3,
    Timestamp = 4,
    Flow = 5,
}

/// The key, and what is derived from it.
#[derive(Clone, Copy)]
pub(super) struct Keyed {
    key: [u64; 2],
}

// The key must not reach a log.
impl std::fmt::Debug for Keyed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Keyed")
    }
}

impl Keyed {
    pub fn new(key: [u8; 16]) -> Self {
        let key = u128::from_le_bytes(key);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        Self {
            key: [key as u64, (key >> 64) as u64],
        }
    }

    /// Where the flow table looks for a connection first.
    pub fn index(&self, tuple: &FourTuple) -> u64 {
        self.hash(Tag::Index, tuple)
    }

    /// RFC 6528 3: a clock of 4 us ticks plus a secret function of the
    /// connection, so that numbers of one connection rise from incarnation to
    /// incarnation and those of others say nothing about it.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "sequence numbers are modulo 2^32"
    )]
    pub fn isn(&self, tuple: &FourTuple, now: Time) -> u32 {
        let clock = (now.as_micros() / 4) as u32;
        clock.wrapping_add(self.hash(Tag::Isn, tuple) as u32)
    }

    /// RFC 7323 5.4: added to the clock of timestamps, constant for two ends, so that
    /// those of a later connection are later.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "timestamps are modulo 2^32"
    )]
    pub fn timestamp_offset(&self, tuple: &FourTuple) -> u32 {
        let ends = FourTuple {
            local: SocketAddrV4::new(*tuple.local.ip(), 0),
            remote: SocketAddrV4::new(*tuple.remote.ip(), 0),
        };
        self.hash(Tag::Timestamp, &ends) as u32
    }

    /// What tells flows of a path apart that would otherwise do the same at the same time.
    pub fn flow_seed(&self, tuple: &FourTuple, now: Time) -> u64 {
        self.hash(Tag::Flow, tuple) ^ now.as_nanos()
    }

    /// RFC 6056 3.3.3: where the search for a free port to `remote` begins.
    pub fn port_offset(&self, local: Ipv4Addr, remote: SocketAddrV4) -> u64 {
        self.hash(
            Tag::Port,
            &FourTuple {
                local: SocketAddrV4::new(local, 0),
                remote,
            },
        )
    }

    fn hash(&self, tag: Tag, tuple: &FourTuple) -> u64 {
        let address = |end: &SocketAddrV4| u64::from(end.ip().to_bits());
        let port = |end: &SocketAddrV4| u64::from(end.port());
        siphash24(
            self.key,
            [
                address(&tuple.local) << 32 | address(&tuple.remote),
                (tag as u64) << 32 | port(&tuple.local) << 16 | port(&tuple.remote),
            ],
        )
    }
}

/// SipHash-2-4 (Aumasson, Bernstein 2012) of exactly sixteen bytes, given as
/// two little-endian words.
fn siphash24(key: [u64; 2], message: [u64; 2]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    // The last word is the length in its top byte, above no further bytes.
    for word in [message[0], message[1], 16 << 56] {
        v[3] ^= word;
        sip_round(&mut v);
        sip_round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    for _ in 0..4 {
        sip_round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

const fn sip_round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn tuple(port: u16) -> FourTuple {
        FourTuple {
            local: SocketAddrV4::new(Ipv4Addr::new(198, 19, 0, 10), 3260),
            remote: SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 10), port),
        }
    }

    #[test]
    fn siphash_matches_the_reference_vector_of_sixteen_bytes() {
        // vectors_sip64[16] of the reference implementation: key 00..0f, message 00..0f.
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(
            siphash24(key, key).to_le_bytes(),
            [0xdb, 0x9b, 0xc2, 0x57, 0x7f, 0xcc, 0x2a, 0x3f]
        );
    }

    #[test]
    fn initial_sequence_numbers_differ_by_connection_and_by_key_and_rise_in_time() {
        let keyed = Keyed::new([7; 16]);
        let now = Time::from_millis(5);
        let seen: BTreeSet<u32> = (0..1000).map(|port| keyed.isn(&tuple(port), now)).collect();
        assert_eq!(seen.len(), 1000);
        let steps: BTreeSet<u32> = (1..1000)
            .map(|port| {
                keyed
                    .isn(&tuple(port), now)
                    .wrapping_sub(keyed.isn(&tuple(port - 1), now))
            })
            .collect();
        assert_eq!(
            steps.len(),
            999,
            "neighbouring connections are not a constant apart"
        );
        assert_ne!(
            Keyed::new([8; 16]).isn(&tuple(1), now),
            keyed.isn(&tuple(1), now)
        );
        let later = keyed.isn(&tuple(1), Time::from_millis(9));
        assert_eq!(later.wrapping_sub(keyed.isn(&tuple(1), now)), 1000);
    }
}
