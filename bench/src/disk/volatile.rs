//! What a disk with a volatile write cache holds, and what a power loss leaves
//! of it.
//!
//! What always holds: a read sees the newest write; what has settled survives
//! [`Disk::lose_power`] whole; of what has not, any subset does, torn between
//! sectors, as a disk may write its cache back in any order.
//!
//! Not for: when a write settles ([`super::host`] has the clock).

use sluice_bench::random::Random;

/// What a disk writes whole or not at all, in bytes.
pub const SECTOR_LEN: usize = 512;

/// One write, in the order of their coming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Unsettled {
    ticket: Ticket,
    offset: usize,
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
pub struct Disk {
    /// What a read sees.
    current: Vec<u8>,
    /// What would be left.
    stable: Vec<u8>,
    unsettled: Vec<Unsettled>,
    tickets: u64,
}

/// What a power loss did to the writes that had not settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    pub kept: u64,
    pub torn: u64,
    pub lost: u64,
}

impl Disk {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.current.len()
    }

    /// Bytes from `offset`, fewer at the end.
    pub fn read(&self, offset: usize, len: usize) -> &[u8] {
        let from = offset.min(self.current.len());
        &self.current[from..from.saturating_add(len).min(self.current.len())]
    }

    /// The length is a file system's matter, which has a journal of its own: it is
    /// taken to survive. What is cut off is gone.
    pub fn resize(&mut self, len: usize) {
        self.current.resize(len, 0);
        self.stable.resize(len, 0);
        self.unsettled
            .retain(|write| write.offset + write.bytes.len() <= len);
    }

    /// Takes a write into the cache; it grows the disk.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Ticket {
        let end = offset + bytes.len();
        if end > self.current.len() {
            self.resize(end);
        }
        self.current[offset..end].copy_from_slice(bytes);
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        self.unsettled.push(Unsettled {
            ticket,
            offset,
            bytes: bytes.to_vec(),
        });
        ticket
    }

    /// One write is on stable media, as O_DSYNC promises of its own bytes.
    pub fn settle(&mut self, ticket: Ticket) {
        if let Some(at) = self.unsettled.iter().position(|w| w.ticket == ticket) {
            let write = self.unsettled.remove(at);
            self.make_stable(&write);
        }
    }

    /// What a synchronize that comes now has to make stable.
    pub fn newest(&self) -> Ticket {
        Ticket(self.tickets)
    }

    /// Everything that came before `newest` is on stable media.
    pub fn settle_before(&mut self, newest: Ticket) {
        for write in std::mem::take(&mut self.unsettled) {
            if write.ticket < newest {
                self.make_stable(&write);
            } else {
                self.unsettled.push(write);
            }
        }
    }

    /// What is newer and in the same place goes along: a disk may write that at any time.
    fn make_stable(&mut self, write: &Unsettled) {
        let range = write.offset..write.offset + write.bytes.len();
        self.stable[range.clone()].copy_from_slice(&self.current[range]);
    }

    /// The cache is gone, but for what was on its way to the media.
    pub fn lose_power(&mut self, random: &mut Random) -> Loss {
        let mut loss = Loss::default();
        for write in std::mem::take(&mut self.unsettled) {
            let way = random.below(3);
            let mut sectors = [0_u64; 2];
            for (index, sector) in write.bytes.chunks(SECTOR_LEN).enumerate() {
                let is_kept = way == 0 || (way == 1 && random.below(2) == 0);
                sectors[usize::from(is_kept)] += 1;
                if is_kept {
                    let offset = write.offset + index * SECTOR_LEN;
                    self.stable[offset..offset + sector.len()].copy_from_slice(sector);
                }
            }
            match sectors {
                [0, _] => loss.kept += 1,
                [_, 0] => loss.lost += 1,
                _ => loss.torn += 1,
            }
        }
        self.current.clone_from(&self.stable);
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_settled_survives_and_of_the_rest_any_sector_may() {
        let (mut kept, mut torn, mut lost) = (0, 0, 0);
        for seed in 0..64 {
            let mut disk = Disk::default();
            disk.resize(64 * SECTOR_LEN);
            let first = disk.write(0, &[1; 16 * SECTOR_LEN]);
            disk.write(16 * SECTOR_LEN, &[2; 16 * SECTOR_LEN]);
            disk.settle(first);
            disk.write(8 * SECTOR_LEN, &[3; SECTOR_LEN]);
            assert_eq!(disk.read(8 * SECTOR_LEN, 1), [3], "a read sees the newest");
            let loss = disk.lose_power(&mut Random::new(seed));
            assert_eq!(loss.kept + loss.torn + loss.lost, 2);
            (kept, torn, lost) = (kept + loss.kept, torn + loss.torn, lost + loss.lost);
            for index in 0..16 {
                let sector = disk.read(index * SECTOR_LEN, SECTOR_LEN);
                let may_be: &[u8] = if index == 8 { &[1, 3] } else { &[1] };
                assert!(may_be.contains(&sector[0]) && sector.iter().all(|b| *b == sector[0]));
            }
            for index in 16..32 {
                let sector = disk.read(index * SECTOR_LEN, SECTOR_LEN);
                assert!([0, 2].contains(&sector[0]) && sector.iter().all(|b| *b == sector[0]));
            }
        }
        assert!(kept > 0 && torn > 0 && lost > 0, "{kept} {torn} {lost}");
    }

    #[test]
    fn a_synchronize_settles_what_came_before_it_and_no_more() {
        let mut disk = Disk::default();
        disk.write(0, &[1; SECTOR_LEN]);
        let asked = disk.newest();
        disk.write(SECTOR_LEN, &[2; SECTOR_LEN]);
        disk.settle_before(asked);
        let seed = (0..)
            .find(|&seed| {
                let mut random = Random::new(seed);
                random.below(3) == 2
            })
            .expect("one of them loses the write");
        assert_eq!(disk.lose_power(&mut Random::new(seed)).lost, 1);
        assert_eq!(disk.read(0, 1), [1]);
        assert_eq!(disk.read(SECTOR_LEN, 1), [0]);
    }

    #[test]
    fn an_older_write_that_settles_late_does_not_undo_a_newer_one() {
        let mut disk = Disk::default();
        let old = disk.write(0, &[1; SECTOR_LEN]);
        let new = disk.write(0, &[2; SECTOR_LEN]);
        disk.settle(new);
        disk.settle(old);
        disk.lose_power(&mut Random::new(1));
        assert_eq!(disk.read(0, 1), [2]);
    }
}
