//! An identity of the relay's own for a logical unit (C-15), in place of the
//! storage's: where a computer could reach the storage directly too, multipath
//! would take the two for paths of one unit, and write around the cache.
//!
//! What an initiator tells units apart by is replaced in the answers to INQUIRY:
//! the unit serial number (VPD 80h), the designators of the unit (VPD 83h,
//! SPC-5 Device Identification page) and the vendor specific bytes. What would
//! still name the storage's unit is not offered: target port groups (ALUA) and
//! third-party copies.

use sha2::{Digest, Sha256};

use super::opcode;

const SERIAL_NUMBER: u8 = 0x80;
const DEVICE_IDENTIFICATION: u8 = 0x83;
const THIRD_PARTY_COPY: u8 = 0x8F;

/// A unit's own name: 60 bits, the same after every start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity(u64);

/// What [`Identity::present`] leaves of an answer, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presented {
    /// In the computer's room.
    pub len: usize,
    /// Of a page that is the relay's own, up to the allocation length: what a residual
    /// counts from (RFC 7143 11.4.5), whatever the storage's page had.
    pub own_len: Option<usize>,
}

impl Identity {
    /// Of the unit `lun` (the 8-byte field as a big-endian number) of a target,
    /// as it stands at this storage.
    #[must_use]
    pub fn of(target: &str, storage: &str, lun: u64) -> Self {
        let mut hash = Sha256::new();
        for part in ["sluice unit", target, storage] {
            hash.update(u64::try_from(part.len()).expect("64 bits").to_be_bytes());
            hash.update(part);
        }
        hash.update(lun.to_be_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let first = digest.first_chunk().expect("32 bytes");
        Self(u64::from_be_bytes(*first) >> 4)
    }

    /// NAA Locally Assigned (SPC-5, NAA designator format 3h).
    #[must_use]
    pub const fn naa(self) -> [u8; 8] {
        (0x3 << 60 | self.0).to_be_bytes()
    }

    /// In hexadecimal digits.
    #[must_use]
    pub fn serial_number(self) -> [u8; 16] {
        let mut digits = [0; 16];
        for (digit, at) in digits.iter_mut().zip((0..16).rev()) {
            let nibble = (u64::from_be_bytes(self.naa()) >> (4 * at)) & 0xF;
            *digit = b"0123456789abcdef"[usize::try_from(nibble).expect("four bits")];
        }
        digits
    }

    /// Puts this identity in the answer to an INQUIRY. `data` is the room that
    /// the computer gave, of which the first `received` bytes came from the
    /// storage; what there is now.
    pub fn present(self, cdb: &[u8], data: &mut [u8], received: usize) -> Presented {
        let as_it_was = Presented {
            len: received,
            own_len: None,
        };
        let &[opcode::INQUIRY, flags, page, high, low, ..] = cdb else {
            return as_it_was;
        };
        let allocated = usize::from(u16::from_be_bytes([high, low]));
        if flags & 1 == 0 {
            if let Some(byte) = data[..received].get_mut(5) {
                // TPGS and 3PC (SPC-5, Standard INQUIRY data).
                *byte &= !0x38;
            }
            for byte in data[..received].iter_mut().take(56).skip(36) {
                *byte = 0;
            }
            return as_it_was;
        }
        let mut own = [0; 256];
        let len = match page {
            SERIAL_NUMBER => {
                own[4..20].copy_from_slice(&self.serial_number());
                20
            }
            DEVICE_IDENTIFICATION => self.designators(&data[..received], &mut own),
            _ => return as_it_was,
        };
        (own[0], own[1]) = (data.first().copied().unwrap_or(0), page);
        let page_len = u16::try_from(len - 4).expect("below 256");
        own[2..4].copy_from_slice(&page_len.to_be_bytes());
        let own_len = len.min(allocated);
        let sent = own_len.min(data.len());
        data[..sent].copy_from_slice(&own[..sent]);
        Presented {
            len: sent,
            own_len: Some(own_len),
        }
    }

    /// The unit's own designator, and of the storage's page those of target
    /// ports and target devices, as many as fit.
    fn designators(self, page: &[u8], own: &mut [u8; 256]) -> usize {
        // Binary, of the logical unit, NAA.
        own[4..8].copy_from_slice(&[0x01, 0x03, 0, 8]);
        own[8..16].copy_from_slice(&self.naa());
        let mut len = 16;
        let mut rest = page.get(4..).unwrap_or_default();
        while let [_, kind, _, designator_len, ..] = *rest {
            let Some((whole, later)) = rest.split_at_checked(4 + usize::from(designator_len))
            else {
                break;
            };
            rest = later;
            let association = kind >> 4 & 0x3;
            if association != 0
                && let Some(place) = own.get_mut(len..len + whole.len())
            {
                place.copy_from_slice(whole);
                len += whole.len();
            }
        }
        len
    }
}

/// Whether the command would name the storage's own unit: it is answered
/// INVALID COMMAND OPERATION CODE where the relay has an identity of its own.
#[must_use]
pub fn names_storage_unit(cdb: &[u8]) -> bool {
    match *cdb {
        [opcode::EXTENDED_COPY | opcode::RECEIVE_COPY_RESULTS, ..] => true,
        [opcode::MAINTENANCE_IN, action, ..] => {
            u16::from(action & 0x1F) == opcode::maintenance_in::REPORT_TARGET_PORT_GROUPS
        }
        [opcode::INQUIRY, flags, THIRD_PARTY_COPY, ..] => flags & 1 != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Identity {
        Identity::of("iqn.2004-03.example:vol0", "198.19.0.10:3260", 1 << 48)
    }

    fn inquiry(flags: u8, page: u8, room: u16) -> [u8; 6] {
        let [high, low] = room.to_be_bytes();
        [opcode::INQUIRY, flags, page, high, low, 0]
    }

    #[test]
    fn every_unit_has_its_own_and_keeps_it() {
        let other = [
            Identity::of("iqn.2004-03.example:vol1", "198.19.0.10:3260", 1 << 48),
            Identity::of("iqn.2004-03.example:vol0", "198.19.0.11:3260", 1 << 48),
            Identity::of("iqn.2004-03.example:vol0", "198.19.0.10:3260", 2 << 48),
        ];
        assert!(!other.contains(&unit()));
        assert_eq!(unit().naa()[0] >> 4, 3);
        // What computers have written down must be found again after an upgrade.
        assert_eq!(&unit().serial_number(), SERIAL);
    }

    const SERIAL: &[u8; 16] = b"31aaf856b2754d62";

    #[test]
    fn pages_of_identity_are_the_relays() {
        let mut data = vec![0xEE; 64];
        data[..8].copy_from_slice(&[0x00, 0x80, 0, 4, b'o', b'l', b'd', b'!']);
        let len = unit().present(&inquiry(1, 0x80, 64), &mut data, 8).len;
        assert_eq!(data[..4], [0x00, 0x80, 0, 16]);
        assert_eq!((&data[4..len], len), (&SERIAL[..], 20));
        // The storage's: NAA of the unit, relative port, name of the target.
        let mut page = vec![0x00, 0x83, 0, 0];
        page.extend([0x01, 0x03, 0, 8, 0x60, 1, 2, 3, 4, 5, 6, 7]);
        page.extend([0x51, 0x94, 0, 4, 0, 0, 0, 1]);
        page.extend([0x53, 0xA8, 0, 4, b'i', b'q', b'n', 0]);
        let storage_len = page.len();
        page.resize(256, 0);
        let len = unit()
            .present(&inquiry(1, 0x83, 256), &mut page, storage_len)
            .len;
        assert_eq!(usize::from(page[3]) + 4, len);
        assert_eq!(page[4..8], [0x01, 0x03, 0, 8]);
        assert_eq!(page[8..16], unit().naa());
        assert_eq!(page[16..24], [0x51, 0x94, 0, 4, 0, 0, 0, 1]);
        assert_eq!(&page[24..len], [0x53, 0xA8, 0, 4, b'i', b'q', b'n', 0]);
    }

    #[test]
    fn no_length_is_too_short_or_too_hostile() {
        for page in [0x80, 0x83] {
            for room in 0..40_u16 {
                for received in 0..=usize::from(room) {
                    let mut data = vec![0xFF; usize::from(room)];
                    let len = unit()
                        .present(&inquiry(1, page, room), &mut data, received)
                        .len;
                    assert!(len <= usize::from(room));
                }
            }
        }
        // Designators that promise more than there is end the list.
        let mut page = vec![0xFF; 600];
        assert_eq!(
            unit().present(&inquiry(1, 0x83, 600), &mut page, 600).len,
            16
        );
    }

    #[test]
    fn nothing_else_is_told_of_the_storage() {
        let mut data = vec![0xFF; 96];
        assert_eq!(unit().present(&inquiry(0, 0, 96), &mut data, 96).len, 96);
        assert_eq!((data[5], data[36], data[55], data[56]), (0xC7, 0, 0, 0xFF));
        assert_eq!(unit().present(&inquiry(0, 0, 5), &mut data[..5], 5).len, 5);
        let untouched = data.clone();
        assert_eq!(unit().present(&inquiry(1, 0xB0, 96), &mut data, 64).len, 64);
        assert_eq!(unit().present(&[0x28; 10], &mut data, 64).len, 64);
        assert_eq!(data, untouched);
        assert!(names_storage_unit(&[0xA3, 0x0A]) && names_storage_unit(&[0x83, 0]));
        assert!(!names_storage_unit(&[0xA3, 0x0C]) && !names_storage_unit(&[0x12, 0, 0x8F]));
    }
}
