//! Mode parameters: what the storage says of its write cache, and what the
//! computer is told of the relay's (C-1).
//!
//! The answer to a MODE SENSE passes through, with WCE and DPOFUA made true of
//! the relay. A storage without a Caching mode page is answered for, since an
//! initiator that finds no page assumes that every write is durable.

use arrayvec::ArrayVec;

use super::{be16, opcode};

/// Page code of the Caching mode page (SBC-4, Caching mode page).
pub const CACHING_PAGE: u8 = 0x08;
/// PAGE LENGTH of it: the bytes after the two of its header.
const CACHING_PAGE_LEN: u8 = 0x12;
/// "Return all mode pages".
const ALL_PAGES: u8 = 0x3F;
const WCE: u8 = 1 << 2;
/// In the DEVICE-SPECIFIC PARAMETER field of the header (SBC-4, Mode parameter
/// header for direct access block devices).
const DPOFUA: u8 = 1 << 4;
const WP: u8 = 1 << 7;

/// Which of the two headers leads the mode data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Six,
    Ten,
}

impl Form {
    const fn header_len(self) -> usize {
        match self {
            Self::Six => 4,
            Self::Ten => 8,
        }
    }

    const fn device_specific(self) -> usize {
        match self {
            Self::Six => 2,
            Self::Ten => 3,
        }
    }

    /// Where the first page begins.
    fn first_page(self, data: &[u8]) -> Option<usize> {
        let descriptors = match self {
            Self::Six => usize::from(*data.get(3)?),
            Self::Ten => usize::from(be16(data, 6)?),
        };
        Some(self.header_len() + descriptors)
    }

    /// End of what MODE DATA LENGTH vouches for; it does not count itself.
    fn end(self, data: &[u8]) -> Option<usize> {
        let end = match self {
            Self::Six => usize::from(*data.first()?) + 1,
            Self::Ten => usize::from(be16(data, 0)?) + 2,
        };
        Some(end.min(data.len()))
    }
}

/// A MODE SENSE (6) or (10) command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeSense {
    form: Form,
    /// PC: which values are asked for.
    control: PageControl,
    page: u8,
    subpage: u8,
    allocation_len: u16,
}

/// PAGE CONTROL field (SPC-5, MODE SENSE (6) command).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageControl {
    Current,
    Changeable,
    Default,
    Saved,
}

/// What the storage's own mode data say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeState {
    /// WP: the medium is write protected.
    pub write_protected: bool,
    /// The storage honours DPO and FUA.
    pub dpofua: bool,
    /// WCE of the Caching mode page; `None` if the page is not in the data.
    pub wce: Option<bool>,
}

impl ModeSense {
    /// The CDB if it is a MODE SENSE (6) or (10).
    #[must_use]
    pub fn from_cdb(cdb: &[u8]) -> Option<Self> {
        let form = match *cdb.first()? {
            opcode::MODE_SENSE_6 => Form::Six,
            opcode::MODE_SENSE_10 => Form::Ten,
            _ => return None,
        };
        let control = match cdb.get(2)? >> 6 {
            0 => PageControl::Current,
            1 => PageControl::Changeable,
            2 => PageControl::Default,
            _ => PageControl::Saved,
        };
        let allocation_len = match form {
            Form::Six => u16::from(*cdb.get(4)?),
            Form::Ten => be16(cdb, 7)?,
        };
        let (page, subpage) = (cdb[2] & 0x3F, *cdb.get(3)?);
        Some(Self {
            form,
            control,
            page,
            subpage,
            allocation_len,
        })
    }

    /// The CDB with which the relay asks the storage for its caching page.
    #[must_use]
    pub const fn caching_page_cdb(allocation_len: u8) -> [u8; 16] {
        let mut cdb = [0; 16];
        cdb[0] = opcode::MODE_SENSE_6;
        cdb[1] = 1 << 3; // DBD: no block descriptors
        cdb[2] = CACHING_PAGE;
        cdb[4] = allocation_len;
        cdb
    }

    /// Whether the answer would carry the Caching mode page.
    #[must_use]
    pub const fn wants_caching_page(&self) -> bool {
        matches!(
            (self.page, self.subpage),
            (CACHING_PAGE, 0) | (ALL_PAGES, 0 | 0xFF)
        )
    }

    /// What the storage's answer says. `None` if it is too short for a header.
    #[must_use]
    pub fn parse(&self, data: &[u8]) -> Option<ModeState> {
        let device_specific = *data.get(self.form.device_specific())?;
        Some(ModeState {
            write_protected: device_specific & WP != 0,
            dpofua: device_specific & DPOFUA != 0,
            wce: self.caching_flags(data).map(|at| data[at] & WCE != 0),
        })
    }

    /// Rewrites the storage's whole answer for the computer: WCE = 1 that
    /// cannot be changed, and DPOFUA, since the relay itself honours FUA (C-2).
    /// Bytes cut off by the allocation length are left alone.
    pub fn report_relay_cache(&self, data: &mut [u8]) {
        if let Some(device_specific) = data.get_mut(self.form.device_specific()) {
            *device_specific |= DPOFUA;
        }
        if let Some(at) = self.caching_flags(data) {
            match self.control {
                PageControl::Changeable => data[at] &= !WCE,
                PageControl::Current | PageControl::Default | PageControl::Saved => data[at] |= WCE,
            }
        }
    }

    /// The answer for a storage that has no Caching mode page, when the
    /// computer asked for that page alone: header, no block descriptors, page.
    /// `None` for any other request.
    #[must_use]
    pub fn caching_page_answer(&self) -> Option<ArrayVec<u8, 28>> {
        if (self.page, self.subpage) != (CACHING_PAGE, 0) {
            return None;
        }
        let header_len = self.form.header_len();
        let len = header_len + 2 + usize::from(CACHING_PAGE_LEN);
        let mut data: ArrayVec<u8, 28> = std::iter::repeat_n(0, len).collect();
        let len_byte = match self.form {
            Form::Six => 0,
            Form::Ten => 1,
        };
        data[len_byte] = u8::try_from(len - len_byte - 1).expect("28 bytes at most");
        data[self.form.device_specific()] = DPOFUA;
        data[header_len] = CACHING_PAGE;
        data[header_len + 1] = CACHING_PAGE_LEN;
        data[header_len + 2] = match self.control {
            PageControl::Changeable => 0,
            PageControl::Current | PageControl::Default | PageControl::Saved => WCE,
        };
        data.truncate(usize::from(self.allocation_len));
        Some(data)
    }

    /// Puts the Caching mode page of the relay behind the `len` bytes of all pages of a
    /// storage that has none. How many bytes of `data` the answer has then; `None` if
    /// nothing is to be added: other pages were asked for, it is there, or the answer was
    /// cut off, and nobody knows.
    pub fn add_caching_page(&self, data: &mut [u8], len: usize) -> Option<usize> {
        let answer = data.get(..len)?;
        let told = match self.form {
            Form::Six => usize::from(*answer.first()?) + 1,
            Form::Ten => usize::from(be16(answer, 0)?) + 2,
        };
        let is_whole = told == len && self.form.first_page(answer)? <= len;
        if self.page != ALL_PAGES || !is_whole || self.caching_flags(answer).is_some() {
            return None;
        }
        let mut page = [0; 2 + CACHING_PAGE_LEN as usize];
        page[0] = CACHING_PAGE;
        page[1] = CACHING_PAGE_LEN;
        page[2] = match self.control {
            PageControl::Changeable => 0,
            PageControl::Current | PageControl::Default | PageControl::Saved => WCE,
        };
        let whole = len + page.len();
        match self.form {
            Form::Six => data[0] = u8::try_from(whole - 1).ok()?,
            Form::Ten => {
                let told = u16::try_from(whole - 2).ok()?;
                data[..2].copy_from_slice(&told.to_be_bytes());
            }
        }
        let room = usize::from(self.allocation_len).min(data.len());
        let end = whole.min(room);
        data[len..end].copy_from_slice(&page[..end - len]);
        Some(end)
    }

    /// Where the flags byte of the Caching mode page is, if it is there.
    fn caching_flags(&self, data: &[u8]) -> Option<usize> {
        let end = self.form.end(data)?;
        let mut at = self.form.first_page(data)?;
        while at < end {
            let (code, has_subpage) = (data[at] & 0x3F, data[at] & 0x40 != 0);
            if code == CACHING_PAGE && !has_subpage {
                return (at + 2 < end).then_some(at + 2);
            }
            at += if has_subpage {
                4 + usize::from(be16(data, at + 2)?)
            } else {
                2 + usize::from(*data.get(at + 1)?)
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RCD, which the relay leaves as the storage says it.
    const RCD: u8 = 1 << 0;
    const SENSE_6: [u8; 6] = [0x1A, 0, 0x3F, 0, 0xFF, 0];
    const SENSE_10: [u8; 10] = [0x5A, 0, 0x3F, 0xFF, 0, 0, 0, 0x02, 0, 0];

    /// A read-write error recovery page, a page with a subpage, a caching page.
    fn pages(flags: u8) -> Vec<u8> {
        let mut pages = vec![0x01, 0x0A];
        pages.extend([0; 10]);
        pages.extend([0x4A, 0x05, 0, 4, 1, 2, 3, 4]);
        pages.extend([0x88, 0x12, flags]);
        pages.extend([0; 17]);
        pages
    }

    fn data_6(flags: u8) -> Vec<u8> {
        let pages = pages(flags);
        let len = u8::try_from(3 + 8 + pages.len()).unwrap();
        [vec![len, 0, 0x80, 8], vec![0; 8], pages].concat()
    }

    fn data_10(flags: u8) -> Vec<u8> {
        let pages = pages(flags);
        let len = u8::try_from(6 + 16 + pages.len()).unwrap();
        [vec![0, len, 0, 0x10, 1, 0, 0, 16], vec![0; 16], pages].concat()
    }

    #[test]
    fn the_storage_is_understood() {
        let six = ModeSense::from_cdb(&SENSE_6).unwrap();
        let state = ModeState {
            write_protected: true,
            dpofua: false,
            wce: Some(true),
        };
        assert_eq!(six.parse(&data_6(WCE)), Some(state));
        let ten = ModeSense::from_cdb(&SENSE_10).unwrap();
        let state = ModeState {
            write_protected: false,
            dpofua: true,
            wce: Some(false),
        };
        assert_eq!(ten.parse(&data_10(0)), Some(state));
        assert_eq!(six.parse(&data_6(WCE)[..20]).unwrap().wce, None);
        assert_eq!(six.parse(&[3, 0]), None);
    }

    #[test]
    fn c1_wce_and_dpofua_are_reported() {
        for (cdb, mut data) in [(&SENSE_6[..], data_6(RCD)), (&SENSE_10[..], data_10(RCD))] {
            let sense = ModeSense::from_cdb(cdb).unwrap();
            assert!(sense.wants_caching_page());
            let before = data.clone();
            sense.report_relay_cache(&mut data);
            let state = sense.parse(&data).unwrap();
            assert_eq!((state.wce, state.dpofua), (Some(true), true));
            let changed = before.iter().zip(&data).filter(|(a, b)| a != b).count();
            assert!(changed <= 2, "nothing but two bits changes");
        }
    }

    #[test]
    fn c1_wce_is_not_changeable() {
        let cdb = [0x1A, 0, 0x40 | 0x08, 0, 0xFF, 0];
        let sense = ModeSense::from_cdb(&cdb).unwrap();
        let mut data = data_6(WCE | RCD);
        sense.report_relay_cache(&mut data);
        assert_eq!(sense.parse(&data).unwrap().wce, Some(false));
    }

    #[test]
    fn a_storage_without_the_page_is_answered_for() {
        for cdb in [
            &[0x1A, 8, 8, 0, 0xFF, 0][..],
            &[0x5A, 8, 8, 0, 0, 0, 0, 0, 0xFF, 0][..],
        ] {
            let sense = ModeSense::from_cdb(cdb).unwrap();
            let data = sense.caching_page_answer().unwrap();
            let state = sense.parse(&data).unwrap();
            assert_eq!((state.wce, state.dpofua), (Some(true), true));
        }
        let short = ModeSense::from_cdb(&[0x1A, 8, 8, 0, 4, 0]).unwrap();
        assert_eq!(short.caching_page_answer().unwrap()[..], [23, 0, DPOFUA, 0]);
        assert!(
            ModeSense::from_cdb(&SENSE_6)
                .unwrap()
                .caching_page_answer()
                .is_none()
        );
        let own = ModeSense::caching_page_cdb(64);
        assert!(
            ModeSense::from_cdb(&own)
                .unwrap()
                .caching_page_answer()
                .is_some()
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            ten: bool,
            mut data in proptest::collection::vec(any::<u8>(), 0..96),
        ) {
            let cdb: &[u8] = if ten { &SENSE_10 } else { &SENSE_6 };
            let sense = ModeSense::from_cdb(cdb).unwrap();
            let _ = sense.parse(&data);
            sense.report_relay_cache(&mut data);
        }
    }
}
