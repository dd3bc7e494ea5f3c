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

#[cfg(test)]
mod tests {
    use super::*;

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
