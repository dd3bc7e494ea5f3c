//! The board against the examples of RFC 2018, 5, and against a model.

use super::*;
use proptest::prelude::*;

/// Segments of 500 bytes from 5000 on, as in the RFC.
fn board(segments: u64) -> Scoreboard {
    let mut board = Scoreboard::new(64);
    for n in 0..segments {
        let start = 5000 + 500 * n;
        let at = Time::from_millis(n);
        board.push(start, start + 500, at, Snapshot::default(), false);
    }
    board
}

fn states(board: &Scoreboard) -> String {
    board
        .ring
        .iter()
        .map(|sent| match sent.state {
            State::Flying => '.',
            State::Lost => 'x',
            State::Sacked => 's',
        })
        .collect()
}

fn ends(board: &mut Scoreboard, una: u64, blocks: &[(u64, u64)]) -> Vec<u64> {
    let mut ends = Vec::new();
    board.acknowledge(una, |delivered| ends.push(delivered.end));
    board.sack(blocks, |delivered| ends.push(delivered.end));
    ends
}

#[test]
fn rfc_2018_case_2_the_first_segment_is_lost() {
    let mut board = board(8);
    for last in 1..8u64 {
        let right = 5500 + 500 * last;
        assert_eq!(ends(&mut board, 5000, &[(5500, right)]), [right]);
    }
    assert_eq!(states(&board), ".sssssss");
    assert_eq!(board.in_flight(), 500);
    assert_eq!(ends(&mut board, 9000, &[]), [5500], "the hole only");
    assert!(board.is_empty() && board.in_flight() == 0 && board.sacked_segments() == 0);
}

#[test]
fn rfc_2018_case_3_every_second_segment_is_lost() {
    let mut board = board(8);
    assert_eq!(ends(&mut board, 5500, &[]), [5500]);
    assert_eq!(ends(&mut board, 5500, &[(6000, 6500)]), [6500]);
    assert_eq!(
        ends(&mut board, 5500, &[(7000, 7500), (6000, 6500)]),
        [7500]
    );
    let blocks = [(8000, 8500), (7000, 7500), (6000, 6500)];
    assert_eq!(ends(&mut board, 5500, &blocks), [8500]);
    assert_eq!(states(&board), ".s.s.s.");
    // The fourth segment comes, delayed.
    let blocks = [(6000, 7500), (8000, 8500)];
    assert_eq!(ends(&mut board, 5500, &blocks), [7000]);
    // And then the second.
    assert_eq!(ends(&mut board, 7500, &[(8000, 8500)]), [6000]);
    assert_eq!(states(&board), ".s.");
}

#[test]
fn a_partly_covered_segment_is_not_sacked() {
    let mut board = board(4);
    assert!(ends(&mut board, 5000, &[(5600, 6400)]).is_empty());
    assert_eq!(ends(&mut board, 5000, &[(5600, 6600)]), [6500]);
    assert_eq!(ends(&mut board, 5000, &[(5500, 6600)]), [6000]);
    assert_eq!(
        ends(&mut board, 5250, &[]),
        [5250],
        "the front of a segment"
    );
    assert_eq!(board.first().unwrap().start, 5250);
    assert_eq!(board.in_flight(), 250 + 500);
}

#[test]
fn lost_segments_are_resent_lowest_first_and_fly_last() {
    let mut board = board(6);
    for _ in 0..4 {
        let id = board.first_flying().unwrap();
        board.mark_lost(id);
    }
    assert_eq!(
        (states(&board).as_str(), board.lost_bytes()),
        ("xxxx..", 2000)
    );
    let first = board.first_lost().unwrap();
    board.resend(first, Time::from_millis(50), Snapshot::default());
    board.mark_lost(first);
    assert_eq!(board.first_lost(), Some(first), "again the lowest");
    board.resend(first, Time::from_millis(60), Snapshot::default());
    assert_eq!(board[first].retransmissions, 2);
    board.restore_lost();
    let mut order = Vec::new();
    let mut at = board.first_flying();
    while let Some(id) = at {
        order.push(board[id].start);
        at = board.next_flying(id);
    }
    assert_eq!(order, [5500, 6000, 6500, 7000, 7500, 5000], "by time sent");
    assert_eq!(board.in_flight(), 3000);
}

#[test]
fn a_reneging_receiver_is_sent_all_of_it_again() {
    let mut board = board(4);
    ends(&mut board, 5000, &[(5500, 7000)]);
    board.mark_all_lost(false);
    assert_eq!(states(&board), "xsss");
    board.mark_all_lost(true);
    assert_eq!(
        (states(&board).as_str(), board.lost_bytes()),
        ("xxxx", 2000)
    );
    assert_eq!(ends(&mut board, 5000, &[(5500, 7000)]), [6000, 6500, 7000]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]
    /// The lists, sums and states agree with one walk over the ring, and nothing is
    /// delivered twice.
    #[test]
    fn sums_and_lists_agree(steps in proptest::collection::vec((0u8..7, 0u64..40, 0u64..40), 1..200)) {
        let mut board = Scoreboard::new(64);
        let (mut una, mut nxt) = (1000u64, 1000u64);
        let mut delivered = 0u64;
        for (n, (what, a, b)) in (0u64..).zip(steps) {
            let now = Time::from_millis(n);
            match what {
                0 | 1 => {
                    let end = nxt + 1 + a;
                    board.push(nxt, end, now, Snapshot::default(), false);
                    nxt = end;
                }
                2 => {
                    una = (una + a * 3).min(nxt);
                    board.acknowledge(una, |part| delivered += u64::from(part.bytes));
                }
                3 => {
                    let left = (una + a * 4).min(nxt);
                    let blocks = [(left, (left + b * 4).min(nxt)), (left + 60, (left + 90).min(nxt))];
                    let blocks: Vec<_> = blocks.into_iter().filter(|b| b.0 < b.1).collect();
                    board.sack(&blocks, |part| delivered += u64::from(part.bytes));
                }
                4 => if let Some(id) = board.first_flying() { board.mark_lost(id) },
                5 => if let Some(id) = board.first_lost() { board.resend(id, now, Snapshot::default()) },
                _ => if a < 4 { board.restore_lost() } else if a < 6 { board.mark_all_lost(false) },
            }
            let sum = |state| board.ring.iter().filter(|s| s.state == state).map(|s| u64::from(s.bytes())).sum::<u64>();
            prop_assert_eq!(board.in_flight(), sum(State::Flying));
            prop_assert_eq!(board.lost_bytes(), sum(State::Lost));
            prop_assert_eq!(delivered + sum(State::Flying) + sum(State::Lost), nxt - 1000);
            let (mut listed, mut at, mut last) = (0, board.first_flying(), Time::ZERO);
            while let Some(id) = at {
                listed += u64::from(board[id].bytes());
                prop_assert!(board[id].sent_at >= last, "by time");
                last = board[id].sent_at;
                at = board.next_flying(id);
            }
            prop_assert_eq!(listed, board.in_flight());
        }
    }
}
