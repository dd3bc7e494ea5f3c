//! Frames of any kind into the LAN port of the whole worker: ARP, fragments,
//! ICMP, TCP to the relay and past it, with options, flags and lengths that do
//! not fit, and plain bytes.
//!
//! A bystander on the same port goes on, and every frame buffer comes back.

use std::net::Ipv4Addr;
use std::time::Duration;

use sluice_sim::site::{RELAY_LAN, STORAGE, Session, Site, Size};

use crate::source::Source;

const GOOD: u8 = 0;
const RELAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Nobody of the site's; what the relay answers goes nowhere.
const SENDER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 77);
const BYSTANDER: usize = 1;
const FRAMES_MAX: usize = 200;
const SIZE: Size = Size {
    sessions_max: 6,
    pool_pages: 256,
    log_len: 8 * 1024 * 1024,
    ..Size::SMALL
};
/// Neighbours that nobody is, handshakes and half-open connections end in less
/// than so many times this.
const SILENCE: Duration = Duration::from_secs(3);
const SILENCES_MAX: u32 = 60;

pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let mut site = Site::of(SIZE, |_| ());
    let mut bystander = site.login(BYSTANDER, 1, 1);
    let mut writes = 0;
    serve(&mut site, &mut bystander, &mut writes);
    site.run(Duration::from_secs(1));
    let before = in_use(&site);
    for count in 0..FRAMES_MAX {
        if source.is_empty() {
            break;
        }
        let frame = frame(&mut source);
        if !frame.is_empty() {
            site.inject_lan(&frame);
        }
        if count % 4 == 3 {
            site.run(Duration::from_micros(50 << (source.below(12))));
        }
        if count % 32 == 31 {
            serve(&mut site, &mut bystander, &mut writes);
        }
    }
    for _ in 0..SILENCES_MAX {
        serve(&mut site, &mut bystander, &mut writes);
        site.run(SILENCE);
        if in_use(&site) == before && site.usage().sessions == 1 {
            return;
        }
    }
    let usage = site.usage();
    panic!(
        "{usage:?}, buffers in use {:?}, before {before:?}",
        in_use(&site)
    );
}

fn serve(site: &mut Site, bystander: &mut Session, writes: &mut u32) {
    *writes += 1;
    let lba = u64::from(*writes % 50);
    assert_eq!(site.write(bystander, lba, *writes), Some(GOOD));
    assert_eq!(site.read(bystander, lba), Some((GOOD, Some(*writes))));
}

/// Frame buffers, whole pages as buffers, pages leased.
fn in_use(site: &Site) -> (usize, usize, usize) {
    let stats = site.worker.pool.stats();
    let whole = stats.pages_free + stats.pages_divided + stats.pages_leased;
    assert_eq!(whole + stats.page_frames_in_use, stats.pages);
    (
        stats.frames_in_use,
        stats.page_frames_in_use,
        stats.pages_leased,
    )
}

fn sum(mut sum: u32, bytes: &[u8]) -> u32 {
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    sum
}

fn folded(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).expect("folded")).to_be_bytes()
}

fn frame(source: &mut Source<'_>) -> Vec<u8> {
    let [kind, how] = source.array();
    if kind % 8 == 0 {
        let len = usize::from(source.byte());
        return source.bytes(len).to_vec();
    }
    let mut frame = Vec::from(RELAY_MAC);
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 0x77]);
    if kind % 8 == 1 {
        frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1 + (how & 1)]);
        frame.extend_from_slice(&[2, 0, 0, 0, 0, 0x77]);
        let sender = if how & 2 == 0 {
            SENDER
        } else {
            Ipv4Addr::from(source.array())
        };
        frame.extend_from_slice(&sender.octets());
        frame.extend_from_slice(&[0; 6]);
        frame.extend_from_slice(&RELAY_LAN.octets());
    } else {
        frame.extend_from_slice(&[8, 0]);
        frame.extend_from_slice(&packet(source, kind, how));
    }
    // Some bytes of it, sums not made right.
    for _ in 0..(how >> 6) {
        let at = source.below(64).min(frame.len() - 1);
        frame[at] = source.byte();
    }
    if how & 0x30 == 0x30 {
        let cut = source.below(64);
        frame.truncate(cut.max(14));
    }
    frame
}

/// An IPv4 packet with its sums right.
fn packet(source: &mut Source<'_>, kind: u8, how: u8) -> Vec<u8> {
    let destination = match how & 7 {
        0..=3 => STORAGE,
        4 => RELAY_LAN,
        5 => Ipv4Addr::new(198, 19, 0, 99),
        6 => Ipv4Addr::new(198, 18, 0, 10),
        _ => Ipv4Addr::from(source.array()),
    };
    let protocol = match kind % 8 {
        2..=5 => 6,
        6 => 1,
        _ => 17,
    };
    let body = match protocol {
        6 => segment(source, destination),
        1 => {
            let [code, len] = source.array();
            let mut body = vec![code % 20, code >> 5, 0, 0, 0, 1, 0, 2];
            body.extend_from_slice(source.bytes(usize::from(len)));
            let check = folded(sum(0, &body));
            body[2..4].copy_from_slice(&check);
            body
        }
        _ => {
            let [len] = source.array();
            let mut body = vec![0x30, 0, 0x0c, 0xbc, 0, len, 0, 0];
            body.resize(8 + usize::from(len) * 6, 1);
            body
        }
    };
    let options = if how & 8 == 0 { 0 } else { source.below(11) };
    // Lengths that say something else, under a sum that is right.
    let lies = source.byte();
    let words = u8::try_from(options).expect("ten words");
    let words = if lies & 0xc0 == 0xc0 {
        words ^ lies & 7
    } else {
        words
    };
    let mut header = vec![0x45 + words, 0];
    let len = u16::try_from(20 + options * 4 + body.len()).expect("a short packet");
    let len = match lies & 0x38 {
        0x38 => source.half(),
        0x30 => u16::from(source.byte()),
        _ => len,
    };
    header.extend_from_slice(&len.to_be_bytes());
    // Identification; fragments of it now and then.
    let fragment = source.byte();
    let fragment = if fragment >= 0xe0 {
        source.half()
    } else {
        0x4000
    };
    header.extend_from_slice(&[0, 1]);
    header.extend_from_slice(&fragment.to_be_bytes());
    header.extend_from_slice(&[
        if how & 0x10 == 0 { 64 } else { source.byte() },
        protocol,
        0,
        0,
    ]);
    header.extend_from_slice(&SENDER.octets());
    header.extend_from_slice(&destination.octets());
    for _ in 0..options {
        header.extend_from_slice(&source.array::<4>());
    }
    let check = folded(sum(0, &header));
    header[10..12].copy_from_slice(&check);
    header.extend_from_slice(&body);
    header
}

fn segment(source: &mut Source<'_>, destination: Ipv4Addr) -> Vec<u8> {
    let [ports, flags, numbers, len] = source.array();
    let mut body = vec![
        0x9c,
        ports & 7,
        0x0c,
        if ports < 0xf0 { 0xbc } else { 0xbd },
    ];
    let number = |bits: u8, source: &mut Source<'_>| match bits & 3 {
        0 => 1,
        1 => 2,
        2 => u32::from(source.half()),
        _ => source.word(),
    };
    body.extend_from_slice(&number(numbers, source).to_be_bytes());
    body.extend_from_slice(&number(numbers >> 2, source).to_be_bytes());
    let options = usize::from(numbers >> 4) % 11;
    let words = u8::try_from(5 + options).expect("ten words");
    let words = if flags & 0xc0 == 0xc0 {
        ports >> 3 & 15
    } else {
        words
    };
    body.extend_from_slice(&[words << 4, flags & 0x3f]);
    body.extend_from_slice(&source.half().to_be_bytes());
    body.extend_from_slice(&[0; 4]);
    for _ in 0..options {
        body.extend_from_slice(&source.array::<4>());
    }
    body.extend_from_slice(source.bytes(usize::from(len & 0x7f)));
    let mut pseudo = SENDER.octets().to_vec();
    pseudo.extend_from_slice(&destination.octets());
    pseudo.extend_from_slice(&[0, 6]);
    let tcp_len = u16::try_from(body.len()).expect("a short segment");
    pseudo.extend_from_slice(&tcp_len.to_be_bytes());
    let check = folded(sum(sum(0, &pseudo), &body));
    body[16..18].copy_from_slice(&check);
    body
}
