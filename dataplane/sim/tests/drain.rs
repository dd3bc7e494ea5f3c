//! A relay that drains: nothing is acknowledged from its cache any more, all
//! that was gets to the storage, and who waits is told what holds it up.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its site does not hold"
)]

use std::time::Duration;

use sluice_hugepages::tables::{Command, Drain, Durability, HeldUp, Outcome, Scope};
use sluice_proto::scsi::{Sense, cdb};
use sluice_sim::block::{self, BLOCK_LEN};
use sluice_sim::site::{Session, Site, Size};
use sluice_sim::storage::{Fault, Refusal};

const GOOD: u8 = 0;

struct Draining {
    site: Site,
    session: Session,
}

impl Draining {
    fn new(durability: Durability) -> Self {
        let size = Size {
            durability,
            ..Size::SMALL
        };
        let mut site = Site::of(size, |_| ());
        let session = site.login(0, 0, 1);
        site.run(Duration::from_millis(100));
        Self { site, session }
    }

    fn begin_write(&mut self, lba: u64, number: u32) -> u32 {
        let mut data = [0; BLOCK_LEN];
        block::fill(&mut data, number, lba);
        let pdu = Site::command(&mut self.session, 0x20, 512, &cdb::write(lba, 1)).data(&data);
        self.site.send(&self.session, &pdu.bytes());
        pdu.itt()
    }

    fn write(&mut self, lba: u64, number: u32) -> Option<u8> {
        self.site.write(&mut self.session, lba, number)
    }

    fn answer(&mut self, itt: u32) -> Option<u8> {
        let answer = self.site.finish(&self.session, itt);
        answer.map(|(status, _)| status)
    }

    fn ask(&mut self, command: &Command) -> (Outcome, u32) {
        let now = self.site.now;
        self.site.worker.relay.command_from_control(now, command)
    }

    fn drain(&mut self, on: bool) -> u32 {
        let (outcome, volumes) = self.ask(&Command::Drain { on });
        assert_eq!(outcome, Outcome::Done);
        volumes
    }

    fn state(&self) -> (Drain, HeldUp) {
        let relay = &self.site.worker.relay;
        let key = sluice_dataplane::worker::task::VolumeKey(0);
        (relay.drain_of(Some(key)), relay.held_up(key))
    }

    /// The newest write of a block that a power failure of the storage leaves.
    fn media(&self, lba: usize) -> u32 {
        self.site.storage.volumes[0].media[lba]
    }

    fn run(&mut self, millis: u64) {
        self.site.run(Duration::from_millis(millis));
    }
}

fn a_drain_ends(durability: Durability) {
    let mut relay = Draining::new(durability);
    relay.site.storage.hangs = true;
    for number in 1..=20 {
        assert_eq!(relay.write(u64::from(number), number), Some(GOOD));
    }
    assert_eq!(relay.drain(true), 1);
    assert_eq!(relay.drain(true), 1, "asked twice it is the same drain");
    assert_eq!(relay.state().0, Drain::Draining);
    let late = relay.begin_write(40, 40);
    assert_eq!(relay.answer(late), None, "not from the cache any more");
    relay.site.storage.hangs = false;
    assert_eq!(relay.answer(late), Some(GOOD));
    assert_eq!(relay.media(40), 40, "answered when it was on stable media");
    // There is always a write that is not at the storage, and it ends all the same.
    let mut under_way = relay.begin_write(100, 100);
    for number in 101..=500 {
        let next = relay.begin_write(u64::from(number), number);
        assert_eq!(relay.answer(under_way), Some(GOOD));
        assert_eq!(relay.media(number as usize - 1), number - 1);
        under_way = next;
    }
    assert_eq!(relay.state().0, Drain::Drained);
    assert!((1..=20).all(|number| relay.media(number) as usize == number));
    assert_eq!(relay.answer(under_way), Some(GOOD));
    // Log, journal and the storage's own cache are lost: nobody misses anything.
    relay.site.storage.fail_power();
    relay.site = relay.site.lose_power();
    relay.run(100);
    relay.session = relay.site.login(0, 0, 2);
    for number in (1..=20).chain([40]).chain(100..=500) {
        let read = relay.site.read(&mut relay.session, u64::from(number));
        assert_eq!(read, Some((GOOD, Some(number))));
    }
}

#[test]
fn a_drain_ends_though_writes_go_on() {
    a_drain_ends(Durability::Memory);
}

#[test]
fn a_drain_of_a_journal_ends_too() {
    a_drain_ends(Durability::Journal);
}

#[test]
fn a_drain_that_is_cancelled_caches_again() {
    let mut relay = Draining::new(Durability::Memory);
    relay.write(3, 3).unwrap();
    relay.drain(true);
    relay.run(500);
    assert_eq!(relay.state(), (Drain::Drained, HeldUp::No));
    relay.site.storage.hangs = true;
    let waits = relay.begin_write(4, 4);
    assert_eq!(relay.answer(waits), None);
    relay.drain(false);
    assert_eq!(relay.state().0, Drain::No);
    assert_eq!(relay.write(5, 5), Some(GOOD), "from the cache");
    assert_eq!(relay.answer(waits), None, "what waits for it, waits for it");
    relay.site.storage.hangs = false;
    assert_eq!(relay.answer(waits), Some(GOOD));
    // A drain ends with its process.
    relay.drain(true);
    relay.site = relay.site.restart();
    relay.run(100);
    assert_eq!(relay.state().0, Drain::No);
}

#[test]
fn a_drain_says_what_holds_it_up() {
    let mut relay = Draining::new(Durability::Memory);
    relay.site.storage.refusals.push(Refusal {
        lba: 7,
        blocks: 1,
        fault: Fault::Sense(Sense::UNRECOVERED_READ_ERROR),
        times: u32::MAX,
    });
    relay.write(7, 7).unwrap();
    relay.write(8, 8).unwrap();
    relay.drain(true);
    relay.run(1000);
    assert_eq!(relay.state(), (Drain::Draining, HeldUp::Failed));
    relay.site.storage.refusals.clear();
    relay.ask(&Command::RetryFailed { scope: Scope::All });
    relay.run(1000);
    assert_eq!(relay.state(), (Drain::Drained, HeldUp::No));
    assert_eq!((relay.media(7), relay.media(8)), (7, 8));

    relay.drain(false);
    relay.site.storage.bars = Some("");
    relay.site.storage.cut_first();
    relay.write(9, 9).unwrap();
    relay.drain(true);
    relay.run(3000);
    assert_eq!(relay.state(), (Drain::Draining, HeldUp::Storage));
    relay.site.storage.bars = None;
    relay.run(10_000);
    assert_eq!(relay.state(), (Drain::Drained, HeldUp::No));
}
