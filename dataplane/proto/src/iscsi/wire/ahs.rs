//! Additional Header Segments (RFC 7143 11.2.2): the extended CDB and the
//! expected read length of a bidirectional command.
//!
//! Not for: unknown segment types, which are skipped as the RFC asks of types
//! that it leaves to later documents.

use super::Malformed;

/// Longest part of a CDB beyond its first 16 bytes: SPC's variable-length
/// CDBs end at 260 bytes.
pub const EXTENDED_CDB_LEN_MAX: usize = 260 - 16;

const EXTENDED_CDB: u8 = 1;
const BIDIRECTIONAL_READ_LEN: u8 = 2;

/// What the additional header segments of a SCSI Command say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AhsSegments<'a> {
    /// CDB bytes from byte 16 on; empty where the CDB fits the BHS.
    pub extended_cdb: &'a [u8],
    /// Expected Bidirectional Read Data Length in bytes, if given.
    pub bidirectional_read_len: Option<u32>,
}

impl<'a> AhsSegments<'a> {
    /// Reads all segments of `bytes`, whose length is TotalAHSLength.
    ///
    /// # Errors
    /// [`Malformed::Field`] where a segment does not end inside `bytes`, comes
    /// twice, or has a length that its type does not allow.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut segments = Self::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            // AHSLength (2) counts what follows AHSType (1), padding excluded.
            let [high, low, kind, tail @ ..] = rest else {
                return Err(Malformed::Field);
            };
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            let body = tail.get(..len).ok_or(Malformed::Field)?;
            match kind & 0x3f {
                EXTENDED_CDB => {
                    let cdb = body.get(1..).ok_or(Malformed::Field)?;
                    let fits = (1..=EXTENDED_CDB_LEN_MAX).contains(&cdb.len());
                    if !fits || !segments.extended_cdb.is_empty() {
                        return Err(Malformed::Field);
                    }
                    segments.extended_cdb = cdb;
                }
                BIDIRECTIONAL_READ_LEN => {
                    let [_, a, b, c, d] = body else {
                        return Err(Malformed::Field);
                    };
                    if segments.bidirectional_read_len.is_some() {
                        return Err(Malformed::Field);
                    }
                    segments.bidirectional_read_len = Some(u32::from_be_bytes([*a, *b, *c, *d]));
                }
                _ => {}
            }
            // TotalAHSLength is in words, so a padded segment ends inside.
            let padded = (3 + len).next_multiple_of(4);
            rest = rest.get(padded..).ok_or(Malformed::Field)?;
        }
        Ok(segments)
    }
}

/// Additional header segments on their way out, padded to words.
#[derive(Clone, Copy, Debug, Default)]
pub struct AhsBytes {
    bytes: [u8; Self::LEN_MAX],
    len: usize,
}

impl AhsBytes {
    /// 16 bytes of CDB with 4 before them, and a read length of 8.
    pub const LEN_MAX: usize = 28;

    /// Bytes 16 to 31 of a CDB (RFC 7143 11.2.2.3).
    pub fn extended_cdb(&mut self, rest: &[u8; 16]) {
        self.push(EXTENDED_CDB, rest);
    }

    /// Expected Bidirectional Read Data Length (11.2.2.4).
    pub fn bidirectional_read_len(&mut self, len: u32) {
        self.push(BIDIRECTIONAL_READ_LEN, &len.to_be_bytes());
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// One segment: AHSLength counts the reserved byte and the body.
    fn push(&mut self, kind: u8, body: &[u8]) {
        let to = &mut self.bytes[self.len..];
        let len = u16::try_from(1 + body.len()).expect("a segment of ours");
        to[..2].copy_from_slice(&len.to_be_bytes());
        to[2] = kind;
        to[4..4 + body.len()].copy_from_slice(body);
        self.len += (4 + body.len()).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let rest = *b"0123456789abcdef";
        let mut ahs = AhsBytes::default();
        ahs.extended_cdb(&rest);
        ahs.bidirectional_read_len(70_000);
        assert_eq!(ahs.as_slice().len(), AhsBytes::LEN_MAX);
        let segments = AhsSegments::parse(ahs.as_slice()).unwrap();
        assert_eq!(segments.extended_cdb, rest);
        assert_eq!(segments.bidirectional_read_len, Some(70_000));
    }

    #[test]
    fn an_extended_cdb_and_a_read_length() {
        let bytes = [
            0, 9, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, // 8 more CDB bytes
            0, 5, 2, 0, 0, 0, 16, 0, // 4096 bytes to read
        ];
        let segments = AhsSegments::parse(&bytes).unwrap();
        assert_eq!(segments.extended_cdb, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(segments.bidirectional_read_len, Some(4096));
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        for bytes in [
            &[0u8, 9, 1, 0][..],
            &[0, 0, 1, 0],
            &[0, 1, 1, 0],
            &[0, 4, 2, 0, 0, 0, 1, 0],
            &[255, 255, 1, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(AhsSegments::parse(bytes), Err(Malformed::Field));
        }
    }
}
