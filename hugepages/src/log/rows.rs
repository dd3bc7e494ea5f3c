//! What the directory's rows say: volumes and nexuses, as plain types.
//!
//! What always holds: a row's bytes are hostile until decoded. Not for: where
//! rows stand and how they are updated ([`super::directory`]).

use std::net::{Ipv4Addr, SocketAddrV4};

use arrayvec::ArrayString;

use super::layout::ROW_BODY_LEN;

/// Longest iSCSI name in bytes: RFC 7143 §4.2.7.2 allows 223.
pub const NAME_LEN_MAX: usize = 224;

/// What an operator or the user server has said of a volume for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeFlags(pub u32);

impl VolumeFlags {
    /// Given away to another relay: writes are refused until it comes back.
    pub const REFUSES_WRITES: VolumeFlags = VolumeFlags(1);
    /// The storage runs out of space: nothing is acknowledged before it has it,
    /// until the operator says that there is room again (C-4).
    pub const WRITE_THROUGH: VolumeFlags = VolumeFlags(2);
    /// A reservation is or may be held: nothing is acknowledged before the
    /// storage has been asked who holds it (C-9).
    pub const RESERVED: VolumeFlags = VolumeFlags(4);

    /// Records of it were found damaged, and the operator has not given them up: for
    /// a log that is made from its journal, which knows nothing of them.
    pub const DAMAGED: VolumeFlags = VolumeFlags(8);

    /// Whether all of `flags` are set.
    pub const fn contains(self, flags: VolumeFlags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Both sets of flags.
    #[must_use]
    pub const fn with(self, flags: VolumeFlags) -> VolumeFlags {
        VolumeFlags(self.0 | flags.0)
    }

    /// These flags without those of the other set.
    #[must_use]
    pub const fn without(self, flags: VolumeFlags) -> VolumeFlags {
        VolumeFlags(self.0 & !flags.0)
    }
}

/// A volume whose writes the log keeps (the durable part of A-7's target row).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeEntry {
    pub target_name: ArrayString<NAME_LEN_MAX>,
    /// The eight bytes of the LUN (SAM-5 §4.7), first byte highest.
    pub lun: u64,
    /// The storage's portal.
    pub storage: SocketAddrV4,
    /// Bytes a block: a power of two, 512 to 4096.
    pub block_len: u32,
    /// Size of the volume in blocks.
    pub blocks: u64,
    pub flags: VolumeFlags,
}

/// An initiator and target that met here (the durable part of A-6's session
/// row): enough to log in to the storage again by ourselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NexusEntry {
    pub initiator_name: ArrayString<NAME_LEN_MAX>,
    pub target_name: ArrayString<NAME_LEN_MAX>,
    pub storage: SocketAddrV4,
    pub computer: SocketAddrV4,
    /// The computer's ISID (RFC 7143 §11.12.5).
    pub lan_isid: [u8; 6],
    /// The ISID that the relay uses towards the storage.
    pub wan_isid: [u8; 6],
}

/// A row's body.
pub(super) trait Row: Sized {
    fn encode(&self) -> [u8; ROW_BODY_LEN];
    /// `None` when the bytes are not such a row.
    fn decode(body: &[u8; ROW_BODY_LEN]) -> Option<Self>;
}

impl Row for VolumeEntry {
    fn encode(&self) -> [u8; ROW_BODY_LEN] {
        let mut body = [0; ROW_BODY_LEN];
        let mut to = Writer(&mut body);
        to.name(&self.target_name);
        to.address(self.storage);
        to.put(&self.lun.to_le_bytes());
        to.put(&self.blocks.to_le_bytes());
        to.put(&self.block_len.to_le_bytes());
        to.put(&self.flags.0.to_le_bytes());
        body
    }

    fn decode(body: &[u8; ROW_BODY_LEN]) -> Option<VolumeEntry> {
        let mut from = Reader(body);
        let target_name = from.name()?;
        let storage = from.address();
        let entry = VolumeEntry {
            target_name,
            storage,
            lun: u64::from_le_bytes(from.take()),
            blocks: u64::from_le_bytes(from.take()),
            block_len: u32::from_le_bytes(from.take()),
            flags: VolumeFlags(u32::from_le_bytes(from.take())),
        };
        entry.has_valid_block_len().then_some(entry)
    }
}

impl VolumeEntry {
    pub(super) fn has_valid_block_len(&self) -> bool {
        self.block_len.is_power_of_two() && (512..=4096).contains(&self.block_len)
    }

    /// Whether the blocks under `len` bytes at `lba` are whole and inside the volume.
    /// Whether so many bytes from a block on are whole blocks of it.
    pub fn holds(&self, lba: u64, len: u64) -> bool {
        let block_len = u64::from(self.block_len);
        let end = lba.checked_add(len / block_len);
        len.is_multiple_of(block_len) && end.is_some_and(|end| end <= self.blocks)
    }
}

impl Row for NexusEntry {
    fn encode(&self) -> [u8; ROW_BODY_LEN] {
        let mut body = [0; ROW_BODY_LEN];
        let mut to = Writer(&mut body);
        to.name(&self.initiator_name);
        to.name(&self.target_name);
        to.address(self.storage);
        to.address(self.computer);
        to.put(&self.lan_isid);
        to.put(&self.wan_isid);
        body
    }

    fn decode(body: &[u8; ROW_BODY_LEN]) -> Option<NexusEntry> {
        let mut from = Reader(body);
        Some(NexusEntry {
            initiator_name: from.name()?,
            target_name: from.name()?,
            storage: from.address(),
            computer: from.address(),
            lan_isid: from.take(),
            wan_isid: from.take(),
        })
    }
}

/// Fields in order. Both rows' fields are of fixed sizes that add up to less
/// than a body: 256 and 476 bytes.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let (field, rest) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        field.copy_from_slice(bytes);
        self.0 = rest;
    }

    fn name(&mut self, name: &ArrayString<NAME_LEN_MAX>) {
        let len = u16::try_from(name.len()).expect("a name has at most 224 bytes");
        let mut field = [0; NAME_LEN_MAX];
        field[..name.len()].copy_from_slice(name.as_bytes());
        self.put(&len.to_le_bytes());
        self.put(&field);
    }

    fn address(&mut self, address: SocketAddrV4) {
        self.put(&address.ip().octets());
        self.put(&address.port().to_le_bytes());
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("a body holds all fields");
        self.0 = rest;
        *field
    }

    fn name(&mut self) -> Option<ArrayString<NAME_LEN_MAX>> {
        let len = usize::from(u16::from_le_bytes(self.take()));
        let field: [u8; NAME_LEN_MAX] = self.take();
        let text = std::str::from_utf8(field.get(..len)?).ok()?;
        ArrayString::from(text).ok()
    }

    fn address(&mut self) -> SocketAddrV4 {
        let octets: [u8; 4] = self.take();
        SocketAddrV4::new(Ipv4Addr::from(octets), u16::from_le_bytes(self.take()))
    }
}
