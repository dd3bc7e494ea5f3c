//! Headers to bytes and back, on smoltcp's wire formats.
//!
//! What always holds: any bytes parse to a segment or to `None`, and a segment that is
//! written parses to itself.
//!
//! Not for: checksums. They are verified before a segment comes here and filled in
//! behind it, in one pass with the copy or by the port.

use crate::segment::{Flags, Options, SACK_BLOCKS_MAX, Segment, Timestamp};
use crate::seq::Seq;
use smoltcp::wire::{TcpOption, TcpPacket, TcpSeqNumber};

/// A TCP header without options.
pub const HEADER_LEN: usize = 20;

/// A TCP header with all the options it can hold (RFC 9293, 3.1).
pub const HEADER_LEN_MAX: usize = 60;

/// The SACK option's kind (RFC 2018, 3); read here since smoltcp leaves out the fourth block.
const KIND_SACK: u8 = 5;

/// The user timeout option's kind (RFC 5482, 3.1).
const KIND_USER_TIMEOUT: u8 = 28;

/// Reads a TCP header; also says where the payload begins in `packet`.
#[must_use]
pub fn parse(packet: &[u8]) -> Option<(Segment, usize)> {
    let packet = TcpPacket::new_checked(packet).ok()?;
    let mut flags = Flags::NONE;
    for (set, flag) in [
        (packet.fin(), Flags::FIN),
        (packet.syn(), Flags::SYN),
        (packet.rst(), Flags::RST),
        (packet.psh(), Flags::PSH),
        (packet.ack(), Flags::ACK),
        (packet.ece(), Flags::ECE),
        (packet.cwr(), Flags::CWR),
    ] {
        if set {
            flags = flags | flag;
        }
    }
    let segment = Segment {
        seq: Seq(packet.seq_number().0.cast_unsigned()),
        ack: Seq(packet.ack_number().0.cast_unsigned()),
        flags,
        window: packet.window_len(),
        options: parse_options(packet.options())?,
    };
    Some((segment, usize::from(packet.header_len())))
}

fn parse_options(mut bytes: &[u8]) -> Option<Options> {
    let mut options = Options::default();
    while !bytes.is_empty() {
        let (rest, option) = TcpOption::parse(bytes).ok()?;
        match option {
            TcpOption::EndOfList => break,
            TcpOption::MaxSegmentSize(mss) => options.mss = Some(mss),
            // RFC 7323, 2.3: a shift of more than 14 is taken for 14.
            TcpOption::WindowScale(shift) => options.window_scale = Some(shift.min(14)),
            TcpOption::SackPermitted => options.sack_permitted = true,
            TcpOption::TimeStamp { tsval, tsecr } => {
                options.timestamp = Some(Timestamp {
                    value: tsval,
                    echo: tsecr,
                });
            }
            TcpOption::SackRange(_) => {
                let whole = &bytes[..bytes.len() - rest.len()];
                for block in whole.get(2..)?.chunks_exact(8).take(SACK_BLOCKS_MAX) {
                    let word = |at: usize| {
                        let word = [block[at], block[at + 1], block[at + 2], block[at + 3]];
                        Seq(u32::from_be_bytes(word))
                    };
                    options.sack.push(word(0), word(4));
                }
            }
            TcpOption::Unknown {
                kind: KIND_USER_TIMEOUT,
                data: &[high, low],
            } => {
                let value = u32::from(u16::from_be_bytes([high & 0x7f, low]));
                // The first bit says minutes (RFC 5482, 3.1).
                let unit_s = if high & 0x80 == 0 { 1 } else { 60 };
                options.user_timeout_s = Some(value * unit_s);
            }
            TcpOption::NoOperation | TcpOption::Unknown { .. } => {}
        }
        bytes = rest;
    }
    Some(options)
}

/// Writes the header for a payload that follows; says how long it is. The checksum is 0.
///
/// # Panics
/// If `out` is shorter than [`HEADER_LEN_MAX`], or the options do not fit a header.
pub fn write(segment: &Segment, src_port: u16, dst_port: u16, out: &mut [u8]) -> usize {
    let len = HEADER_LEN + segment.options.len();
    assert!(len <= HEADER_LEN_MAX, "options of {len} bytes");
    let out = &mut out[..len];
    out.fill(0);
    let mut packet = TcpPacket::new_unchecked(&mut *out);
    packet.set_src_port(src_port);
    packet.set_dst_port(dst_port);
    packet.set_seq_number(TcpSeqNumber(segment.seq.0.cast_signed()));
    packet.set_ack_number(TcpSeqNumber(segment.ack.0.cast_signed()));
    packet.clear_flags();
    packet.set_header_len(u8::try_from(len).expect("at most 60"));
    packet.set_fin(segment.flags.has(Flags::FIN));
    packet.set_syn(segment.flags.has(Flags::SYN));
    packet.set_rst(segment.flags.has(Flags::RST));
    packet.set_psh(segment.flags.has(Flags::PSH));
    packet.set_ack(segment.flags.has(Flags::ACK));
    packet.set_ece(segment.flags.has(Flags::ECE));
    packet.set_cwr(segment.flags.has(Flags::CWR));
    packet.set_window_len(segment.window);
    write_options(&segment.options, &mut out[HEADER_LEN..]);
    len
}

fn write_options(options: &Options, mut out: &mut [u8]) {
    if let Some(mss) = options.mss {
        out = TcpOption::MaxSegmentSize(mss).emit(out);
    }
    if options.sack_permitted {
        out = TcpOption::SackPermitted.emit(out);
    }
    if let Some(Timestamp { value, echo }) = options.timestamp {
        if !options.sack_permitted {
            out = pad(out);
        }
        out = TcpOption::TimeStamp {
            tsval: value,
            tsecr: echo,
        }
        .emit(out);
    }
    if let Some(shift) = options.window_scale {
        out = TcpOption::WindowScale(shift).emit(out);
    }
    if let Some(seconds) = options.user_timeout_s {
        let word = match u16::try_from(seconds) {
            Ok(seconds) if seconds < 0x8000 => seconds,
            _ => u16::try_from((seconds / 60).min(0x7fff)).unwrap_or(0x7fff) | 0x8000,
        };
        let (option, rest) = out.split_at_mut(4);
        TcpOption::Unknown {
            kind: KIND_USER_TIMEOUT,
            data: &word.to_be_bytes(),
        }
        .emit(option);
        out = rest;
    }
    let blocks = options.sack.as_slice();
    if !blocks.is_empty() {
        out = pad(out);
        let len = 2 + 8 * blocks.len();
        out[0] = KIND_SACK;
        out[1] = u8::try_from(len).expect("four blocks at most");
        for (block, &(left, right)) in out[2..len].chunks_exact_mut(8).zip(blocks) {
            block[..4].copy_from_slice(&left.0.to_be_bytes());
            block[4..].copy_from_slice(&right.0.to_be_bytes());
        }
        out = &mut out[len..];
    }
    // What is left is padding, and zero is the end of the list.
    debug_assert!(out.len() < 4);
}

/// Two bytes that align what follows.
fn pad(out: &mut [u8]) -> &mut [u8] {
    TcpOption::NoOperation.emit(TcpOption::NoOperation.emit(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::SackBlocks;
    use proptest::prelude::*;

    fn options() -> impl Strategy<Value = Options> {
        let timestamp = proptest::option::of((any::<u32>(), any::<u32>()));
        let blocks = proptest::collection::vec((any::<u32>(), any::<u32>()), 0..=4);
        (
            any::<bool>(),
            timestamp,
            blocks,
            proptest::option::of(0u32..0x8000),
        )
            .prop_map(|(syn, timestamp, blocks, user_timeout_s)| {
                let mut sack = SackBlocks::default();
                if !syn {
                    let room = if timestamp.is_some() { 3 } else { 4 };
                    for (left, right) in blocks.into_iter().take(room) {
                        sack.push(Seq(left), Seq(right));
                    }
                }
                Options {
                    mss: syn.then_some(1460),
                    window_scale: syn.then_some(11),
                    sack_permitted: syn,
                    timestamp: timestamp.map(|(value, echo)| Timestamp { value, echo }),
                    sack,
                    user_timeout_s: user_timeout_s.filter(|_| syn),
                }
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]
        #[test]
        fn what_is_written_reads_the_same(seq: u32, ack: u32, window: u16, bits: u8, options in options()) {
            let mut flags = Flags::NONE;
            for (bit, flag) in [Flags::FIN, Flags::SYN, Flags::RST, Flags::PSH, Flags::ACK,
                Flags::ECE, Flags::CWR].into_iter().enumerate() {
                if bits >> bit & 1 != 0 {
                    flags = flags | flag;
                }
            }
            let segment = Segment { seq: Seq(seq), ack: Seq(ack), flags, window, options };
            let mut bytes = [0xff; HEADER_LEN_MAX];
            let len = write(&segment, 3260, 49152, &mut bytes);
            prop_assert_eq!(parse(&bytes[..len]), Some((segment, len)));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn user_timeout_in_minutes() {
        let segment = Segment {
            options: Options {
                user_timeout_s: Some(36_000),
                ..Options::default()
            },
            ..Segment::default()
        };
        let mut bytes = [0; HEADER_LEN_MAX];
        let len = write(&segment, 1, 2, &mut bytes);
        assert_eq!(&bytes[HEADER_LEN..len], [28, 4, 0x82, 0x58]);
        assert_eq!(
            parse(&bytes[..len]).unwrap().0.options.user_timeout_s,
            Some(36_000)
        );
    }
}
