//! A link of the WAN that takes shorter packets than the relay's port, and the router
//! before it: it drops what is too long, and says so (RFC 1191) or does not.

use std::time::Duration;

use sluice_dataplane::checksum;
use sluice_proto::Time;

use crate::random::Random;

const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const ICMP_LEN: usize = 8;
/// Of what is dropped, the header and the 8 bytes behind it (RFC 792).
const QUOTED_LEN: usize = IPV4_LEN + 8;

/// From the relay to the storage.
#[derive(Clone, Copy, Debug)]
pub struct Narrow {
    mtu: u16,
    from: Time,
    speaks: bool,
    pub dropped: u64,
}

impl Narrow {
    /// What a seed has of it, if anything.
    pub fn draw(random: &mut Random) -> Option<Self> {
        let mtu = [576, 1000, 1280, 1400][random.below(4)];
        let narrow = Self {
            mtu,
            from: Time::ZERO + Duration::from_millis(random.of(10_000)),
            // Below what is tried after a black hole, a silent one takes minutes.
            speaks: random.chance(70) || mtu < 1200,
            dropped: 0,
        };
        random.chance(30).then_some(narrow)
    }

    /// Whether the frame goes on, and if not, what is said of it.
    pub fn takes(&mut self, now: Time, frame: &[u8]) -> Result<(), Option<Vec<u8>>> {
        let is_ipv4 = frame.get(12..15) == Some(&[0x08, 0x00, 0x45]);
        let len = frame.len() - ETHERNET_LEN;
        if now < self.from || !is_ipv4 || len <= usize::from(self.mtu) {
            return Ok(());
        }
        self.dropped += 1;
        Err(self.speaks.then(|| self.says(frame)))
    }

    /// *Fragmentation needed*, in the name of the next hop.
    fn says(self, frame: &[u8]) -> Vec<u8> {
        let packet = &frame[ETHERNET_LEN..];
        let mut message = vec![3, 4, 0, 0, 0, 0];
        message.extend(self.mtu.to_be_bytes());
        message.extend(&packet[..QUOTED_LEN]);
        let sum = !checksum::sum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut header = [0; IPV4_LEN];
        let len = u16::try_from(IPV4_LEN + ICMP_LEN + QUOTED_LEN).expect("56");
        header[0] = 0x45;
        header[2..4].copy_from_slice(&len.to_be_bytes());
        header[8..10].copy_from_slice(&[64, 1]);
        header[12..16].copy_from_slice(&packet[16..20]);
        header[16..].copy_from_slice(&packet[12..16]);
        checksum::fill_ipv4(&mut header);
        [&frame[6..12], &frame[..6], &[0x08, 0x00], &header, &message].concat()
    }
}
