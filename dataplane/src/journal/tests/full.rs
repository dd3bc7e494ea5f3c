//! A journal with little room left goes on.

use super::*;

/// 1 MiB, and its blocks.
const LONG: usize = 1 << 20;

fn once_more(mut request: Request) -> Request {
    if let Request::Write { entry, again, .. } = &mut request {
        (entry.completes, *again) = (true, true);
    }
    request
}

/// The free of what keeps the tail waits in line behind a write which waits for
/// the tail: it is written again, its free comes after, and all that was asked for is done.
#[test]
fn a22_what_keeps_the_tail_is_written_again_though_its_free_is_asked_for() {
    let log = vec![0x5a; LOG_LEN];
    let mut disk = ModelDisk::new(blocks());
    let mut core = Core::format(1, blocks(), 16);
    core.request(write(0, 1, &log, 0, 4096));
    settle(&mut core, &mut disk, &log);
    for record in [9, 10] {
        core.request(write(record, u64::from(record), &log, 4096, LONG));
        core.request(Request::Free { record });
    }
    settle(&mut core, &mut disk, &log);
    let (mut head, mut spans) = (Block::ZERO, Vec::new());
    let mut again = Vec::new();
    for record in 1..=8 {
        core.request(write(record, 10 + u64::from(record), &log, 4096, LONG));
    }
    for record in 0..=8 {
        core.request(Request::Free { record });
    }
    // The worker still has the bytes of record 0: its free is not durable.
    loop {
        while let Some((record, identity)) = core.wanted() {
            again.push(record);
            core.request(match record {
                0 => once_more(write(0, 1, &log, 0, 4096)),
                _ => once_more(write(record, identity.sequence, &log, 4096, LONG)),
            });
        }
        let Some(op) = core.next(&mut head, &mut spans) else {
            break;
        };
        core.done(disk.write_pieces(of_log(op, &head, &spans, &log)));
    }
    assert!(core.is_idle(), "{:?}", core.progress());
    assert!(again.contains(&0), "{again:?}");
    assert!(found(&mut disk).records.is_empty());
}

/// A record that is wanted again, and whose free is in the journal before its
/// second writing comes: that is not written.
#[test]
fn a22_what_was_freed_is_not_brought_back_by_being_written_again() {
    let log = vec![0x5a; LOG_LEN];
    let mut disk = ModelDisk::new(blocks());
    let mut core = Core::format(1, blocks(), 16);
    core.request(write(0, 1, &log, 0, 4096));
    for record in 1..=6 {
        core.request(write(record, u64::from(record) + 1, &log, 4096, LONG));
    }
    settle(&mut core, &mut disk, &log);
    core.request(Request::Free { record: 6 });
    settle(&mut core, &mut disk, &log);
    let (record, identity) = core.wanted().expect("there is little room");
    assert_eq!((record, identity.sequence), (0, 1));
    core.request(Request::Free { record: 0 });
    settle(&mut core, &mut disk, &log);
    core.request(once_more(write(0, 1, &log, 0, 4096)));
    settle(&mut core, &mut disk, &log);
    let found = found(&mut disk);
    assert!(!found.records.contains_key(&identity));
    assert_eq!(found.records.len(), 5);
}
