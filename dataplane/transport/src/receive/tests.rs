//! Reassembly: the examples of RFC 2018, 5, and RFC 2883, 4, as a receiver sees them, and
//! a model of bytes.

use super::*;
use proptest::prelude::*;

const MSS: u64 = 500;

fn receive(next: u64) -> Receive<u64> {
    let mut receive = Receive::new(next, 60_000, 64);
    receive.promise(MSS, 1, 1 << 30);
    receive
}

/// Segments of 500 bytes; each is lent as the offset it begins at.
fn take(receive: &mut Receive<u64>, start: u64) -> Taken {
    receive.take(start, 500, start).0
}

/// The acknowledgement after a segment: the number and the blocks.
fn ack(receive: &mut Receive<u64>, start: u64) -> (u64, Vec<(u64, u64)>) {
    take(receive, start);
    (receive.next(), receive.blocks(4).to_vec())
}

#[test]
fn rfc_2018_case_2() {
    let mut receive = receive(5000);
    for start in (5500..9000).step_by(500) {
        assert_eq!(ack(&mut receive, start), (5000, vec![(5500, start + 500)]));
    }
}

#[test]
fn rfc_2018_case_3() {
    let mut receive = receive(5000);
    assert_eq!(ack(&mut receive, 5000), (5500, vec![]));
    assert_eq!(ack(&mut receive, 6000), (5500, vec![(6000, 6500)]));
    assert_eq!(
        ack(&mut receive, 7000),
        (5500, vec![(7000, 7500), (6000, 6500)])
    );
    let blocks = vec![(8000, 8500), (7000, 7500), (6000, 6500)];
    assert_eq!(ack(&mut receive, 8000), (5500, blocks));
    // The fourth segment arrives late, then the second.
    assert_eq!(
        ack(&mut receive, 6500),
        (5500, vec![(6000, 7500), (8000, 8500)])
    );
    assert_eq!(ack(&mut receive, 5500), (7500, vec![(8000, 8500)]));
}

#[test]
fn rfc_2883_4_1_1_a_duplicate_segment() {
    let mut receive = receive(3000);
    take(&mut receive, 3000);
    take(&mut receive, 3500);
    assert_eq!(ack(&mut receive, 3000), (4000, vec![(3000, 3500)]));
    assert!(!receive.has_blocks(), "reported once");
}

#[test]
fn rfc_2883_4_1_2_out_of_order_and_a_duplicate() {
    let mut receive = receive(3000);
    take(&mut receive, 3000);
    assert_eq!(ack(&mut receive, 4500), (3500, vec![(4500, 5000)]));
    let blocks = vec![(3000, 3500), (4500, 5000)];
    assert_eq!(ack(&mut receive, 3000), (3500, blocks));
}

#[test]
fn rfc_2883_4_1_3_a_duplicate_of_what_is_out_of_order() {
    let mut receive = receive(3500);
    take(&mut receive, 3500);
    for start in [4500, 5000] {
        take(&mut receive, start);
    }
    let blocks = vec![(5000, 5500), (4500, 5500)];
    receive.blocks(4);
    assert_eq!(ack(&mut receive, 5000), (4000, blocks));
}

#[test]
fn rfc_2883_4_2_1_a_part_that_was_there() {
    let mut receive = receive(500);
    take(&mut receive, 500);
    take(&mut receive, 1500);
    receive.blocks(4);
    // 1000-2000 comes, of which 1500-2000 is known.
    receive.take(1000, 1000, 1000);
    assert_eq!(
        (receive.next(), receive.blocks(4).to_vec()),
        (2000, vec![(1500, 2000)])
    );
}

#[test]
fn one_byte_segments_cannot_take_all_frames() {
    let mut receive = receive(0);
    let mut taken = 0;
    for n in 0..1000 {
        let (what, back) = receive.take(2 + 2 * n, 1, n);
        taken += u32::from(what == Taken::OutOfOrder);
        assert_eq!(back.is_none(), what == Taken::OutOfOrder);
    }
    assert_eq!((taken, receive.frames_held()), (48, 48));
    assert!(matches!(receive.take(0, 2, 7).0, Taken::InOrder { .. }));
}

#[test]
fn the_window_does_not_shrink_and_does_not_dribble() {
    let mut receive = Receive::new(0, 4000, 64);
    assert_eq!(receive.promise(MSS, 1, 65_535), 4000);
    for start in (0..4000).step_by(500) {
        take(&mut receive, start);
    }
    assert_eq!(receive.promise(MSS, 1, 65_535), 0);
    receive.set_limit(1000);
    assert_eq!(receive.promise(MSS, 1, 65_535), 0);
    receive.set_limit(4000);
    assert!(!receive.is_update_due(MSS));
    receive.read();
    assert!(receive.is_update_due(MSS), "from nothing to a segment");
    assert_eq!(receive.promise(MSS, 1, 65_535), 500);
    assert_eq!(
        receive.take(4000, 600, 0).0,
        Taken::InOrder { filled: false }
    );
    assert_eq!(receive.next(), 4500, "nothing beyond the edge");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]
    /// Segments of any size in any order: every byte once, in order, from the right place
    /// of the right frame; the blocks say what is held.
    #[test]
    fn every_byte_once_and_in_order(
        steps in proptest::collection::vec((0u64..3000, 1u32..400, 0u8..3), 1..300),
    ) {
        let mut receive: Receive<u64> = Receive::new(100, 2000, 40);
        receive.promise(100, 1, 1 << 20);
        let (mut read, mut known) = (100u64, std::collections::BTreeSet::new());
        for (offset, len, reads) in steps {
            let start = receive.next().saturating_sub(200) + offset % 1500;
            let before = receive.next();
            let (taken, back) = receive.take(start, len, start);
            prop_assert_eq!(back.is_some(), matches!(taken, Taken::Duplicate | Taken::Refused));
            if back.is_none() {
                for byte in start..(start + u64::from(len)).min(receive.edge()) {
                    known.insert(byte);
                }
            }
            prop_assert!(receive.next() >= before);
            for (left, right) in receive.blocks(4).into_iter().skip(1) {
                for byte in left..right {
                    prop_assert!(known.contains(&byte), "{byte} is not held");
                }
            }
            for _ in 0..reads {
                if let Some(part) = receive.read() {
                    prop_assert_eq!(part.frame + u64::from(part.at), read);
                    read += u64::from(part.len);
                }
            }
            prop_assert!(receive.frames_held() <= 40);
            receive.promise(100, 1, 1 << 20);
        }
        while let Some(part) = receive.read() {
            prop_assert_eq!(part.frame + u64::from(part.at), read);
            read += u64::from(part.len);
        }
        prop_assert_eq!(read, receive.next());
        while receive.next_discarded().is_some() {}
        prop_assert_eq!(receive.frames_held(), 0);
    }
}
