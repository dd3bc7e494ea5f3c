//! From a byte stream to PDUs: headers are gathered, data segments pass
//! through as they stream in, digests are checked.
//!
//! What always holds: input may be cut anywhere; a data byte is handed out
//! once, in order, and never beyond the announced length; nothing is buffered
//! but one header. Data is handed out *before* its digest is known, so what it
//! was written to counts only after [`Framed::End`] said `intact`.

use super::violation::Violation;
use super::wire::{BHS_LEN, Bhs};

/// Longest sum of additional header segments: an extended CDB (4 bytes of
/// head, 244 of CDB) and a bidirectional read length (8).
const AHS_LEN_MAX: usize = 4 + super::wire::EXTENDED_CDB_LEN_MAX + 8;
/// A CRC32C, for header or data (RFC 7143 11.2.3).
const DIGEST_LEN: usize = 4;
const HEADER_LEN_MAX: usize = BHS_LEN + AHS_LEN_MAX + DIGEST_LEN;

/// One step through a PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framed<'a> {
    /// The header is here: see [`Inbound::bhs`] and [`Inbound::ahs`].
    Header,
    /// The next bytes of the data segment.
    Data(&'a [u8]),
    /// The PDU is over. `intact` is false if the data digest was wrong.
    End { intact: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Header,
    Data,
    /// Padding and data digest.
    Trailer,
}

/// Cuts a byte stream into PDUs.
#[derive(Debug)]
pub(super) struct Inbound {
    header: [u8; HEADER_LEN_MAX],
    /// Bytes of `header` that are here, and how many there must be.
    have: usize,
    need: usize,
    part: Part,
    data_left: u32,
    trailer: [u8; 3 + DIGEST_LEN],
    trailer_have: usize,
    trailer_need: usize,
    crc: u32,
    header_digest: bool,
    data_digest: bool,
    /// Largest DataSegmentLength taken: our MaxRecvDataSegmentLength.
    data_len_max: u32,
}

impl Inbound {
    pub(super) const fn new(data_len_max: u32) -> Self {
        Self {
            header: [0; HEADER_LEN_MAX],
            have: 0,
            need: BHS_LEN,
            part: Part::Header,
            data_left: 0,
            trailer: [0; 3 + DIGEST_LEN],
            trailer_have: 0,
            trailer_need: 0,
            crc: 0,
            header_digest: false,
            data_digest: false,
            data_len_max,
        }
    }

    /// Switches to what login negotiated; the next PDU is the first under it.
    pub(super) fn enter_full_feature(&mut self, digests: (bool, bool), data_len_max: u32) {
        assert!(self.at_boundary(), "digests start at a PDU boundary");
        (self.header_digest, self.data_digest) = digests;
        self.data_len_max = data_len_max;
    }

    /// Whether the next byte starts a PDU.
    pub(super) const fn at_boundary(&self) -> bool {
        matches!(self.part, Part::Header) && self.have == 0
    }

    /// The current PDU's header; valid from its `Header` to its `End`.
    pub(super) fn bhs(&self) -> Bhs {
        let mut bytes = [0; BHS_LEN];
        bytes.copy_from_slice(&self.header[..BHS_LEN]);
        Bhs(bytes)
    }

    /// The current PDU's additional header segments.
    pub(super) fn ahs(&self) -> &[u8] {
        let len = usize::from(self.header[4]) * 4;
        &self.header[BHS_LEN..BHS_LEN + len]
    }

    /// Takes bytes from `input` up to the next step; gives how many it took.
    /// No step means that it needs more input.
    pub(super) fn step<'a>(
        &mut self,
        input: &'a [u8],
    ) -> Result<(usize, Option<Framed<'a>>), Violation> {
        match self.part {
            Part::Header => self.gather_header(input),
            Part::Data => {
                let room = usize::try_from(self.data_left).expect("24-bit length");
                let (bytes, _) = input.split_at(room.min(input.len()));
                if bytes.is_empty() {
                    return Ok((0, None));
                }
                if self.data_digest {
                    self.crc = crc32c::crc32c_append(self.crc, bytes);
                }
                self.data_left -= u32::try_from(bytes.len()).expect("at most data_left");
                if self.data_left == 0 {
                    self.part = Part::Trailer;
                }
                Ok((bytes.len(), Some(Framed::Data(bytes))))
            }
            Part::Trailer => Ok(self.gather_trailer(input)),
        }
    }

    fn gather_header<'a>(
        &mut self,
        input: &'a [u8],
    ) -> Result<(usize, Option<Framed<'a>>), Violation> {
        let mut used = 0;
        loop {
            let take = (self.need - self.have).min(input.len() - used);
            self.header[self.have..self.have + take].copy_from_slice(&input[used..used + take]);
            self.have += take;
            used += take;
            if self.have < self.need {
                return Ok((used, None));
            }
            if self.need > BHS_LEN || self.full_header_len()? == BHS_LEN {
                break;
            }
            self.need = self.full_header_len()?;
        }
        if self.header_digest {
            let (covered, digest) = self.header[..self.need].split_at(self.need - DIGEST_LEN);
            if crc32c::crc32c(covered).to_le_bytes() != *digest {
                return Err(Violation::HeaderDigest);
            }
        }
        self.data_left = self.bhs().data_len();
        if self.data_left > self.data_len_max {
            return Err(Violation::DataTooLong);
        }
        let padding = (self.data_left.wrapping_neg() & 3) as usize;
        // An empty data segment has neither padding nor digest (11.2.3).
        let has_digest = self.data_digest && self.data_left > 0;
        self.trailer_have = 0;
        self.trailer_need = padding + if has_digest { DIGEST_LEN } else { 0 };
        self.crc = 0;
        self.part = if self.data_left > 0 {
            Part::Data
        } else {
            Part::Trailer
        };
        Ok((used, Some(Framed::Header)))
    }

    fn full_header_len(&self) -> Result<usize, Violation> {
        let ahs_len = usize::from(self.header[4]) * 4;
        if ahs_len > AHS_LEN_MAX {
            return Err(Violation::AhsTooLong);
        }
        let digest = if self.header_digest { DIGEST_LEN } else { 0 };
        Ok(BHS_LEN + ahs_len + digest)
    }

    fn gather_trailer<'a>(&mut self, input: &'a [u8]) -> (usize, Option<Framed<'a>>) {
        let take = (self.trailer_need - self.trailer_have).min(input.len());
        self.trailer[self.trailer_have..self.trailer_have + take].copy_from_slice(&input[..take]);
        self.trailer_have += take;
        if self.trailer_have < self.trailer_need {
            return (take, None);
        }
        let mut intact = true;
        if self.trailer_need >= DIGEST_LEN {
            // The data digest covers the padding too (11.2.3).
            let at = self.trailer_need - DIGEST_LEN;
            let crc = crc32c::crc32c_append(self.crc, &self.trailer[..at]);
            intact = crc.to_le_bytes() == self.trailer[at..self.trailer_need];
        }
        self.part = Part::Header;
        self.have = 0;
        self.need = BHS_LEN;
        (take, Some(Framed::End { intact }))
    }
}
