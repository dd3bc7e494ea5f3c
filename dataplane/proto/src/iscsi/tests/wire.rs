//! What `emit` writes, `parse` reads back; what `parse` takes, `emit` writes
//! as it was, but for reserved fields.

use crate::iscsi::wire::{
    AsyncMessage, BHS_LEN, Bhs, DataIn, DataOut, LoginRequestPdu, LoginResponsePdu, LogoutRequest,
    LogoutResponse, NopIn, NopOut, R2t, Reject, ScsiCommand, ScsiResponse, TaskManagementRequest,
    TaskManagementResponse, TextRequest, TextResponse,
};
use proptest::prelude::*;

/// Any header at all: if it parses, its struct survives the wire.
macro_rules! survives {
    ($bhs:expr, $($pdu:ident),+) => {
        $(if let Ok(pdu) = $pdu::parse(&$bhs) {
            prop_assert_eq!($pdu::parse(&pdu.emit()), Ok(pdu), "{}", stringify!($pdu));
        })+
    };
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_parses_survives_the_wire(bytes in proptest::array::uniform(any::<u8>())) {
        let bhs = Bhs(bytes);
        survives!(
            bhs, ScsiCommand, TaskManagementRequest, DataOut, NopOut, TextRequest, LoginRequestPdu,
            LogoutRequest, ScsiResponse, TaskManagementResponse, DataIn, R2t, TextResponse
        );
        let pdu = NopIn::parse(&bhs);
        prop_assert_eq!(NopIn::parse(&pdu.emit()), pdu);
        let pdu = AsyncMessage::parse(&bhs);
        prop_assert_eq!(AsyncMessage::parse(&pdu.emit()), pdu);
        let pdu = LogoutResponse::parse(&bhs);
        prop_assert_eq!(LogoutResponse::parse(&pdu.emit()), pdu);
        let pdu = Reject::parse(&bhs);
        prop_assert_eq!(Reject::parse(&pdu.emit()), pdu);
        if let Ok(pdu) = LoginResponsePdu::parse(&bhs) {
            prop_assert_eq!(LoginResponsePdu::parse(&pdu.emit()), Ok(pdu));
        }
    }
}

/// A WRITE(10) as RFC 7143 11.3 lays it out.
#[test]
fn a_command_byte_by_byte() {
    let mut bytes = [0; BHS_LEN];
    bytes[..8].copy_from_slice(&[0x41, 0xa1, 0, 0, 0, 0, 2, 0]);
    bytes[8..16].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    bytes[16..32].copy_from_slice(&[0, 0, 0, 9, 0, 0, 16, 0, 0, 0, 0, 5, 0, 0, 0, 6]);
    bytes[32..42].copy_from_slice(&[0x2a, 0, 0, 0, 0, 7, 0, 0, 8, 0]);
    let bhs = Bhs(bytes);
    let command = ScsiCommand::parse(&bhs).unwrap();
    assert!(command.immediate && command.is_final && command.write && !command.read);
    assert_eq!(
        (command.lun, command.itt, command.expected_len),
        (1 << 48, 9, 4096)
    );
    assert_eq!((command.cmd_sn, command.exp_stat_sn), (5, 6));
    assert_eq!(bhs.data_len(), 512);
    let mut again = command.emit();
    again.set_data_len(512);
    assert_eq!(again, bhs);
}
