//! Every interleaving of the two sides of a ring and of a seqlock row, by loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p sluice-hugepages --test loom --release`.
#![cfg(loom)]

use std::ops::Deref;

use loom::sync::Arc;
use loom::thread;
use sluice_hugepages::atomic::AtomicU64;
use sluice_hugepages::ring::{Consumer, Producer, PushError, RingShape};
use sluice_hugepages::shm::seqlock::{self, Read};

#[derive(Clone)]
struct Cells(Arc<Vec<AtomicU64>>);

impl Cells {
    fn new(count: usize) -> Self {
        Self(Arc::new((0..count).map(|_| AtomicU64::new(0)).collect()))
    }
}

impl Deref for Cells {
    type Target = [AtomicU64];
    fn deref(&self) -> &[AtomicU64] {
        &self.0
    }
}

/// Two messages through one slot: it is used again while the other side looks.
#[test]
fn a_ring_hands_over_whole_messages_in_order() {
    loom::model(|| {
        let shape = RingShape {
            slots: 1,
            message_words: 1,
        };
        let cells = Cells::new(shape.cells());
        let mut consumer = Consumer::attach(cells.clone(), shape);
        let mut producer = Producer::attach(cells, shape);
        let writer = thread::spawn(move || {
            let mut pushed = 0;
            for value in 1..=2 {
                match producer.push(&[value]) {
                    Ok(()) => pushed = value,
                    Err(PushError::Full) => break,
                    Err(PushError::Fault(_)) => panic!("an honest peer"),
                }
            }
            (producer, pushed)
        });
        let mut message = [0];
        let mut last = 0;
        for _ in 0..2 {
            if consumer.pop(&mut message).expect("an honest peer") {
                assert_eq!(message[0], last + 1);
                last = message[0];
            }
        }
        let (_producer, pushed) = writer.join().unwrap();
        while consumer.pop(&mut message).expect("an honest peer") {
            assert_eq!(message[0], last + 1);
            last = message[0];
        }
        assert_eq!(last, pushed);
    });
}

#[test]
fn a_row_is_read_whole_or_stale() {
    loom::model(|| {
        let cells = Cells::new(seqlock::CELL_HEADER + 2);
        seqlock::write(&cells, Some(&[1, 1]));
        let shared = cells.clone();
        let writer = thread::spawn(move || {
            seqlock::write(&shared, Some(&[2, 2]));
        });
        let mut row = [0; 2];
        match seqlock::read(&cells, &mut row) {
            Read::Present => assert!(row == [1, 1] || row == [2, 2], "{row:?}"),
            Read::Empty => panic!("a row was there all the time"),
            Read::Stale => {}
        }
        writer.join().unwrap();
        assert_eq!(seqlock::read(&cells, &mut row), Read::Present);
        assert_eq!(row, [2, 2]);
    });
}
