//! CDBs that the relay itself sends, and the answer to REPORT LUNS.

use super::{be32, be64, opcode};

/// In byte 1 of reads and writes of ten bytes and more (SBC-4).
pub const DPO: u8 = 1 << 4;
pub const FUA: u8 = 1 << 3;

/// READ (10), or READ (16) for a block that does not fit 32 bits (SBC-4).
#[must_use]
pub fn read(lba: u64, blocks: u32) -> [u8; 16] {
    transfer(opcode::READ_10, opcode::READ_16, lba, blocks)
}

/// WRITE (10), or WRITE (16) for a block that does not fit 32 bits (SBC-4).
#[must_use]
pub fn write(lba: u64, blocks: u32) -> [u8; 16] {
    transfer(opcode::WRITE_10, opcode::WRITE_16, lba, blocks)
}

/// WRITE (10 or 16) with FUA: GOOD means stable media.
#[must_use]
pub fn write_fua(lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = write(lba, blocks);
    cdb[1] |= FUA;
    cdb
}

fn transfer(ten: u8, sixteen: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    match (u32::try_from(lba), u16::try_from(blocks)) {
        (Ok(lba), Ok(blocks)) => {
            cdb[0] = ten;
            cdb[2..6].copy_from_slice(&lba.to_be_bytes());
            cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
        }
        _ => {
            cdb[0] = sixteen;
            cdb[2..10].copy_from_slice(&lba.to_be_bytes());
            cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        }
    }
    cdb
}

/// SYNCHRONIZE CACHE (10) of the whole volume: LBA 0, zero blocks (SBC-4).
#[must_use]
pub fn synchronize_cache() -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode::SYNCHRONIZE_CACHE_10;
    cdb
}

#[must_use]
pub fn report_luns(allocation_len: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode::REPORT_LUNS;
    cdb[6..10].copy_from_slice(&allocation_len.to_be_bytes());
    cdb
}

#[must_use]
pub fn read_capacity_10() -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode::READ_CAPACITY_10;
    cdb
}

#[must_use]
pub fn read_capacity_16(allocation_len: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode::SERVICE_ACTION_IN_16;
    cdb[1] = 0x10;
    cdb[10..14].copy_from_slice(&allocation_len.to_be_bytes());
    cdb
}

/// The LUNs of a REPORT LUNS answer, as far as its bytes go (SPC-5).
pub fn luns(answer: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let listed = be32(answer, 0).unwrap_or(0) as usize / 8;
    (0..listed).map_while(|at| be64(answer, 8 + at * 8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::{Access, classify};

    #[test]
    fn transfers_say_what_they_were_asked() {
        for (lba, blocks) in [
            (0, 1),
            (u64::from(u32::MAX), 65535),
            (1 << 32, 1),
            (5, 65536),
            (1 << 40, 1 << 20),
        ] {
            assert_eq!(
                classify(&read(lba, blocks)),
                Ok(Access::Read {
                    lba,
                    blocks,
                    fua: false
                })
            );
            assert_eq!(
                classify(&write(lba, blocks)),
                Ok(Access::Write {
                    lba,
                    blocks,
                    fua: false
                })
            );
            assert_eq!(
                classify(&write_fua(lba, blocks)),
                Ok(Access::Write {
                    lba,
                    blocks,
                    fua: true
                })
            );
        }
        assert!(matches!(
            classify(&synchronize_cache()),
            Ok(Access::Sync {
                lba: 0,
                immed: false,
                ..
            })
        ));
    }

    #[test]
    fn luns_stop_where_the_bytes_do() {
        let mut answer = vec![0, 0, 0, 24, 0, 0, 0, 0];
        answer.extend_from_slice(&0_u64.to_be_bytes());
        answer.extend_from_slice(&(1_u64 << 48).to_be_bytes());
        assert_eq!(luns(&answer).collect::<Vec<_>>(), [0, 1 << 48]);
        assert_eq!(luns(&[0, 0]).count(), 0);
    }
}
