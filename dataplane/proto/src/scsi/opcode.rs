//! Operation codes, and service actions of those that share one (SPC-5, SBC-4).

pub const TEST_UNIT_READY: u8 = 0x00;
pub const REQUEST_SENSE: u8 = 0x03;
pub const FORMAT_UNIT: u8 = 0x04;
pub const READ_6: u8 = 0x08;
pub const WRITE_6: u8 = 0x0A;
pub const INQUIRY: u8 = 0x12;
pub const MODE_SELECT_6: u8 = 0x15;
pub const RESERVE_6: u8 = 0x16;
pub const RELEASE_6: u8 = 0x17;
pub const MODE_SENSE_6: u8 = 0x1A;
pub const START_STOP_UNIT: u8 = 0x1B;
pub const PREVENT_ALLOW_MEDIUM_REMOVAL: u8 = 0x1E;
pub const READ_CAPACITY_10: u8 = 0x25;
pub const READ_10: u8 = 0x28;
pub const WRITE_10: u8 = 0x2A;
pub const WRITE_AND_VERIFY_10: u8 = 0x2E;
pub const VERIFY_10: u8 = 0x2F;
pub const PRE_FETCH_10: u8 = 0x34;
pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
pub const WRITE_SAME_10: u8 = 0x41;
pub const UNMAP: u8 = 0x42;
pub const SANITIZE: u8 = 0x48;
pub const LOG_SENSE: u8 = 0x4D;
/// Bidirectional; SBC-3 was the last to have it.
pub const XDWRITEREAD_10: u8 = 0x53;
pub const MODE_SELECT_10: u8 = 0x55;
pub const RESERVE_10: u8 = 0x56;
pub const RELEASE_10: u8 = 0x57;
pub const MODE_SENSE_10: u8 = 0x5A;
pub const PERSISTENT_RESERVE_IN: u8 = 0x5E;
pub const PERSISTENT_RESERVE_OUT: u8 = 0x5F;
/// CDBs longer than 16 bytes: additional length in byte 7, service action in bytes 8 and 9.
pub const VARIABLE_LENGTH: u8 = 0x7F;
pub const EXTENDED_COPY: u8 = 0x83;
pub const RECEIVE_COPY_RESULTS: u8 = 0x84;
pub const READ_16: u8 = 0x88;
pub const COMPARE_AND_WRITE: u8 = 0x89;
pub const WRITE_16: u8 = 0x8A;
pub const ORWRITE_16: u8 = 0x8B;
pub const WRITE_AND_VERIFY_16: u8 = 0x8E;
pub const VERIFY_16: u8 = 0x8F;
pub const PRE_FETCH_16: u8 = 0x90;
pub const SYNCHRONIZE_CACHE_16: u8 = 0x91;
pub const WRITE_SAME_16: u8 = 0x93;
pub const WRITE_ATOMIC_16: u8 = 0x9C;
/// Service action in bits 0 to 4 of byte 1.
pub const SERVICE_ACTION_IN_16: u8 = 0x9E;
pub const REPORT_LUNS: u8 = 0xA0;
/// Service action in bits 0 to 4 of byte 1.
pub const MAINTENANCE_IN: u8 = 0xA3;
pub const READ_12: u8 = 0xA8;
pub const WRITE_12: u8 = 0xAA;
pub const WRITE_AND_VERIFY_12: u8 = 0xAE;
pub const VERIFY_12: u8 = 0xAF;

/// Service actions of [`SERVICE_ACTION_IN_16`].
pub mod service_action_in_16 {
    pub const READ_CAPACITY_16: u16 = 0x10;
    pub const GET_LBA_STATUS_16: u16 = 0x12;
}

/// Service actions of [`MAINTENANCE_IN`].
pub mod maintenance_in {
    pub const REPORT_IDENTIFYING_INFORMATION: u16 = 0x05;
    pub const REPORT_TARGET_PORT_GROUPS: u16 = 0x0A;
    pub const REPORT_SUPPORTED_OPERATION_CODES: u16 = 0x0C;
    pub const REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS: u16 = 0x0D;
    pub const REPORT_TIMESTAMP: u16 = 0x0F;
}

/// Service actions of [`VARIABLE_LENGTH`], all of 32 bytes.
pub mod variable_length {
    pub const READ_32: u16 = 0x0009;
    pub const VERIFY_32: u16 = 0x000A;
    pub const WRITE_32: u16 = 0x000B;
    pub const WRITE_AND_VERIFY_32: u16 = 0x000C;
    pub const WRITE_SAME_32: u16 = 0x000D;
    pub const ORWRITE_32: u16 = 0x000E;
}
