//! Reservations: which commands change them, what a storage says of them, and
//! what each kind forbids (SPC-4 5.12, PERSISTENT RESERVE IN 6.15 and OUT 6.16).
//!
//! Parsing is of parameter data alone. Who "this initiator" is, and what
//! follows for a command, is the caller's to say.

use super::{be16, be32, be64, opcode};

/// Service actions of PERSISTENT RESERVE IN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveIn {
    ReadKeys,
    ReadReservation,
    ReadFullStatus,
}

impl ReserveIn {
    /// The CDB that asks for at most `allocation_len` bytes.
    #[must_use]
    pub const fn cdb(self, allocation_len: u16) -> [u8; 16] {
        let mut cdb = [0; 16];
        cdb[0] = opcode::PERSISTENT_RESERVE_IN;
        cdb[1] = match self {
            Self::ReadKeys => 0x00,
            Self::ReadReservation => 0x01,
            Self::ReadFullStatus => 0x03,
        };
        [cdb[7], cdb[8]] = allocation_len.to_be_bytes();
        cdb
    }
}

/// RELEASE (6) of the whole logical unit (SPC-2).
#[must_use]
pub const fn release_6_cdb() -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode::RELEASE_6;
    cdb
}

/// A command that may change who holds a reservation, or who is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// RESERVE (6) or (10), SPC-2.
    Reserve,
    /// RELEASE (6) or (10), SPC-2.
    Release,
    /// PERSISTENT RESERVE OUT, whatever its service action.
    Persistent,
}

impl Change {
    #[must_use]
    pub const fn from_cdb(cdb: &[u8; 16]) -> Option<Self> {
        match cdb[0] {
            opcode::RESERVE_6 | opcode::RESERVE_10 => Some(Self::Reserve),
            opcode::RELEASE_6 | opcode::RELEASE_10 => Some(Self::Release),
            opcode::PERSISTENT_RESERVE_OUT => Some(Self::Persistent),
            _ => None,
        }
    }
}

/// What a PERSISTENT RESERVE OUT that ended GOOD has done to registrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// The nexus it came by is registered with this key now; with 0 no more.
    Own(u64),
    /// Other nexuses may have been registered too (SPEC_I_PT, REGISTER AND
    /// MOVE): only the storage can say which.
    Others,
    /// At most, registrations were taken away.
    Unchanged,
}

/// Reads the command and as much of its parameter list as has to be looked at.
#[must_use]
pub fn registration(cdb: &[u8; 16], parameters: &[u8]) -> Registration {
    /// SPEC_I_PT of the basic parameter list.
    const SPECIFIED_PORTS: u8 = 1 << 3;
    match cdb[1] & 0x1F {
        // REGISTER, REGISTER AND IGNORE EXISTING KEY
        0x00 | 0x06 => match (be64(parameters, 8), parameters.get(20)) {
            (Some(_), Some(flags)) if flags & SPECIFIED_PORTS != 0 => Registration::Others,
            (Some(key), _) => Registration::Own(key),
            (None, _) => Registration::Others,
        },
        // RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT AND ABORT
        0x01..=0x05 => Registration::Unchanged,
        _ => Registration::Others,
    }
}

/// The type of a persistent reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    WriteExclusive,
    ExclusiveAccess,
    WriteExclusiveRegistrants,
    ExclusiveAccessRegistrants,
    WriteExclusiveAll,
    ExclusiveAccessAll,
}

impl Kind {
    /// From the low half of the SCOPE and TYPE byte. `None` for obsolete and reserved codes.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code & 0x0F {
            0x1 => Self::WriteExclusive,
            0x3 => Self::ExclusiveAccess,
            0x5 => Self::WriteExclusiveRegistrants,
            0x6 => Self::ExclusiveAccessRegistrants,
            0x7 => Self::WriteExclusiveAll,
            0x8 => Self::ExclusiveAccessAll,
            _ => return None,
        })
    }

    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::WriteExclusive => 0x1,
            Self::ExclusiveAccess => 0x3,
            Self::WriteExclusiveRegistrants => 0x5,
            Self::ExclusiveAccessRegistrants => 0x6,
            Self::WriteExclusiveAll => 0x7,
            Self::ExclusiveAccessAll => 0x8,
        }
    }

    /// Every registered nexus may do what the holder may.
    #[must_use]
    pub const fn admits_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Every registered nexus is a holder.
    #[must_use]
    pub const fn is_held_by_all(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }

    /// Others may not even read.
    #[must_use]
    pub const fn forbids_reads(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess | Self::ExclusiveAccessRegistrants | Self::ExclusiveAccessAll
        )
    }
}

/// A persistent reservation as READ RESERVATION tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The holder's key; 0 where every registrant holds it.
    pub key: u64,
    pub kind: Kind,
}

/// Parameter data that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveInError {
    #[error("PERSISTENT RESERVE IN answered {got} bytes, and says that it has {says}")]
    Short { got: usize, says: usize },
    #[error("a reservation of the unknown type {0:X}h")]
    Kind(u8),
}

/// The list after the header, all of it (6.15.2: PRGENERATION, ADDITIONAL LENGTH).
fn list(data: &[u8]) -> Result<&[u8], ReserveInError> {
    let got = data.len();
    let says = be32(data, 4).map_or(0, |len| len as usize);
    data.get(8..)
        .and_then(|list| list.get(..says))
        .ok_or(ReserveInError::Short { got, says })
}

/// READ KEYS (6.15.2).
///
/// # Errors
/// Not all keys are there.
pub fn keys(data: &[u8]) -> Result<impl Iterator<Item = u64> + Clone + '_, ReserveInError> {
    let list = list(data)?;
    Ok((0..list.len() / 8).filter_map(|at| be64(list, at * 8)))
}

/// READ RESERVATION (6.15.3). `None`: there is none.
///
/// # Errors
/// Too few bytes, or a type that is not known.
pub fn held(data: &[u8]) -> Result<Option<Held>, ReserveInError> {
    let list = list(data)?;
    if list.is_empty() {
        return Ok(None);
    }
    let (Some(key), Some(&code)) = (be64(list, 0), list.get(13)) else {
        return Err(ReserveInError::Short {
            got: data.len(),
            says: 24,
        });
    };
    let kind = Kind::from_code(code).ok_or(ReserveInError::Kind(code & 0x0F))?;
    Ok(Some(Held { key, kind }))
}

/// A registered nexus as READ FULL STATUS tells of it (6.15.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registrant<'a> {
    pub key: u64,
    /// It holds the reservation, which is of this kind.
    pub holds: Option<Kind>,
    /// The TransportID, checked by [`Registrant::is`] only.
    transport: &'a [u8],
}

/// READ FULL STATUS.
///
/// # Errors
/// Not all descriptors are there, or a holder's type is not known.
pub fn full_status(
    data: &[u8],
) -> Result<impl Iterator<Item = Registrant<'_>> + Clone, ReserveInError> {
    let list = list(data)?;
    for descriptor in descriptors(list) {
        descriptor?;
    }
    Ok(descriptors(list).filter_map(Result::ok))
}

fn descriptors(
    mut list: &[u8],
) -> impl Iterator<Item = Result<Registrant<'_>, ReserveInError>> + Clone {
    std::iter::from_fn(move || {
        const HEAD: usize = 24;
        if list.is_empty() {
            return None;
        }
        let says = HEAD + be32(list, 20).map_or(0, |len| len as usize);
        let short = ReserveInError::Short {
            got: list.len(),
            says,
        };
        let (Some(key), Some(transport)) = (be64(list, 0), list.get(HEAD..says)) else {
            list = &[];
            return Some(Err(short));
        };
        let (flags, code) = (list[12], list[13]);
        list = &list[says..];
        let holds = if flags & 1 == 0 {
            None
        } else if let Some(kind) = Kind::from_code(code) {
            Some(kind)
        } else {
            list = &[];
            return Some(Err(ReserveInError::Kind(code & 0x0F)));
        };
        Some(Ok(Registrant {
            key,
            holds,
            transport,
        }))
    })
}

impl Registrant<'_> {
    /// Whether this is the initiator port of that name and ISID: the TransportID
    /// for SCSI over iSCSI, format 01b (7.6.4.6, RFC 7143 4.4.1).
    #[must_use]
    pub fn is(&self, initiator_name: &str, isid: [u8; 6]) -> bool {
        const PORT_OF_ISCSI: u8 = 0x45;
        if self.transport.first() != Some(&PORT_OF_ISCSI) {
            return false;
        }
        let len = be16(self.transport, 2).map_or(0, usize::from);
        let Some(text) = self.transport.get(4..).and_then(|text| text.get(..len)) else {
            return false;
        };
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(len);
        let Some((name, rest)) = text[..end].split_at_checked(initiator_name.len()) else {
            return false;
        };
        let digits = rest
            .strip_prefix(b",i,0x")
            .or_else(|| rest.strip_prefix(b",i,0X"));
        let Some(digits) = digits.and_then(|digits| str::from_utf8(digits).ok()) else {
            return false;
        };
        let mut port = [0; 8];
        port[2..].copy_from_slice(&isid);
        name.eq_ignore_ascii_case(initiator_name.as_bytes())
            && digits.len() == 12
            && !digits.starts_with('+')
            && u64::from_str_radix(digits, 16) == Ok(u64::from_be_bytes(port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &str = "iqn.2004-03.example:a";
    const ISID: [u8; 6] = [0x80, 1, 2, 3, 0xAB, 0xCD];

    /// 4 bytes of header, then the port's name with a NUL, in a multiple of four.
    fn transport_id() -> Vec<u8> {
        let text = format!("{NAME},i,0x80010203abcd");
        let len = (text.len() + 1).next_multiple_of(4);
        let mut bytes = vec![0x45, 0, 0, u8::try_from(len).unwrap()];
        bytes.extend(text.bytes());
        bytes.resize(4 + len, 0);
        bytes
    }

    fn answer(list: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 7];
        bytes.extend(u32::try_from(list.len()).unwrap().to_be_bytes());
        bytes.extend(list);
        bytes
    }

    fn descriptor(key: u64, holds: Option<Kind>, transport: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 24];
        bytes[..8].copy_from_slice(&key.to_be_bytes());
        bytes[12] = u8::from(holds.is_some());
        bytes[13] = holds.map_or(0, Kind::code);
        bytes[20..].copy_from_slice(&u32::try_from(transport.len()).unwrap().to_be_bytes());
        bytes.extend(transport);
        bytes
    }

    #[test]
    fn keys_and_reservation() {
        let mut list = 5_u64.to_be_bytes().to_vec();
        list.extend(9_u64.to_be_bytes());
        let data = answer(&list);
        assert_eq!(keys(&data).unwrap().collect::<Vec<_>>(), [5, 9]);
        assert!(keys(&data[..20]).is_err(), "cut short, it is no list");

        assert_eq!(held(&answer(&[])), Ok(None));
        let mut list = 9_u64.to_be_bytes().to_vec();
        list.extend([0, 0, 0, 0, 0, 0x05, 0, 0]);
        let kind = Kind::WriteExclusiveRegistrants;
        assert_eq!(held(&answer(&list)), Ok(Some(Held { key: 9, kind })));
        list[13] = 0x02;
        assert_eq!(held(&answer(&list)), Err(ReserveInError::Kind(2)));
        assert!(held(&[0; 7]).is_err());
    }

    #[test]
    fn full_status_names_ports() {
        let kind = Kind::ExclusiveAccess;
        let ours = transport_id();
        let mut list = descriptor(1, None, &[0; 24]);
        list.extend(descriptor(2, Some(kind), &ours));
        let data = answer(&list);
        let found: Vec<_> = full_status(&data).unwrap().collect();
        assert_eq!(found.len(), 2);
        assert!(!found[0].is(NAME, ISID));
        assert!(found[1].is(NAME, ISID) && found[1].is(&NAME.to_uppercase(), ISID));
        assert_eq!((found[1].key, found[1].holds), (2, Some(kind)));
        assert!(!found[1].is("iqn.2004-03.example:", ISID));
        assert!(!found[1].is(NAME, [0; 6]));
        assert!(full_status(&data[..data.len() - 1]).is_err());
    }

    #[test]
    fn what_a_registration_does() {
        let mut cdb = [0; 16];
        cdb[0] = opcode::PERSISTENT_RESERVE_OUT;
        let mut parameters = [0; 24];
        parameters[15] = 3;
        assert_eq!(registration(&cdb, &parameters), Registration::Own(3));
        parameters[20] = 8;
        assert_eq!(registration(&cdb, &parameters), Registration::Others);
        assert_eq!(registration(&cdb, &[]), Registration::Others);
        cdb[1] = 4;
        assert_eq!(registration(&cdb, &parameters), Registration::Unchanged);
        cdb[1] = 7;
        assert_eq!(registration(&cdb, &parameters), Registration::Others);
    }

    #[test]
    fn what_each_kind_forbids() {
        for code in 0..16 {
            if let Some(kind) = Kind::from_code(code) {
                assert_eq!(kind.code(), code);
            }
        }
        assert!(!Kind::WriteExclusive.admits_registrants());
        assert!(Kind::ExclusiveAccessRegistrants.admits_registrants());
        assert!(Kind::ExclusiveAccessAll.forbids_reads());
        assert!(!Kind::WriteExclusiveAll.forbids_reads());
    }

    proptest! {
        #[test]
        fn any_parameter_data_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = keys(&bytes).map(Iterator::count);
            let _ = held(&bytes);
            if let Ok(found) = full_status(&bytes) {
                for registrant in found {
                    let _ = registrant.is(NAME, ISID);
                }
            }
            let _ = registration(&[0x5F; 16], &bytes);
        }
    }
}
