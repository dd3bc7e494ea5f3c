//! The pool against an oracle that knows each frame that was handed out, and how large each
//! reservation is to be: steps of any kind, a stop after any store, and the life after it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What happens, and two numbers that say to what and how much.
pub(super) type Step = (u8, usize, usize);

/// More than there are kinds of steps.
pub(super) const STEPS: u8 = 40;
/// Reservations that the steps are about; the first is none.
const NUMBERS: usize = 6;

pub(super) fn step() -> impl Strategy<Value = Step> {
    (0..STEPS, any::<usize>(), any::<usize>())
}

/// A frame that the test has.
struct Had {
    frame: Frame,
    reservation: Reservation,
    /// In its first and last byte.
    stamp: u8,
}

/// What waits to go out: a packet, and what it is to say.
struct Packet {
    head: Frame,
    says: Vec<u8>,
    names: Vec<usize>,
}

pub(super) struct Model {
    pub pool: Pool,
    /// Frames on their way, and pages as one frame.
    moving: Vec<Had>,
    /// Frames that connections keep.
    kept: Vec<Had>,
    packets: Vec<Packet>,
    runs: Vec<(PageRun, u8)>,
    goals: [usize; NUMBERS],
    /// Frames that were given back while packets named them.
    orphans: BTreeMap<usize, Reservation>,
    floors: (usize, usize),
    next_stamp: u8,
}

fn number(at: usize) -> Reservation {
    // The last that there can be among them.
    let at = at % NUMBERS;
    let number = if at == NUMBERS - 1 {
        crate::tables::RESERVATIONS_MAX - 1
    } else {
        at
    };
    Reservation(u16::try_from(number).unwrap())
}

fn place(reservation: Reservation) -> usize {
    (0..NUMBERS)
        .find(|&at| number(at) == reservation)
        .expect("one of the test's")
}

impl Model {
    pub fn new(pool: Pool) -> Model {
        Model {
            pool,
            moving: vec![],
            kept: vec![],
            packets: vec![],
            runs: vec![],
            goals: [0; NUMBERS],
            orphans: BTreeMap::new(),
            floors: (0, 0),
            next_stamp: 1,
        }
    }

    fn blown(&self) -> bool {
        self.pool.fuse().is_blown()
    }

    fn stamp(&mut self) -> u8 {
        self.next_stamp = self.next_stamp.wrapping_add(1);
        self.next_stamp
    }

    fn have(&mut self, frame: Frame, reservation: Reservation) -> Had {
        let stamp = self.stamp();
        let buffer = self.pool.buffer_mut(&frame);
        (buffer[0], buffer[buffer.len() - 1]) = (stamp, stamp);
        Had {
            frame,
            reservation,
            stamp,
        }
    }

    fn is_intact(&mut self, had: &Had) {
        let buffer = self.pool.buffer_mut(&had.frame);
        let ends = [buffer[0], buffer[buffer.len() - 1]];
        assert_eq!(ends, [had.stamp; 2], "overwritten");
    }

    pub fn step(&mut self, (kind, at, much): Step) {
        match kind {
            0..=5 => self.allocate(kind == 0),
            6..=11 => self.release_moving(at),
            12 => self.link(at, much),
            13 | 14 => self.lease(1 + much % 4),
            15 | 16 if !self.runs.is_empty() => self.release_run(at),
            17..=23 => self.take(number(at)),
            24..=29 if !self.kept.is_empty() => self.release_kept(at),
            30..=32 => self.reserve(number(at), much % 12),
            33 => self.reserve(number(at), much % 700),
            34 => self.cancel(number(at)),
            35 | 36 if !self.kept.is_empty() => self.gather(at, much),
            37 | 38 if !self.packets.is_empty() => self.release_packet(at),
            39 => {
                self.floors = (at % 100, much % 100);
                self.pool.set_floors(self.floors.0, self.floors.1);
            }
            _ => {}
        }
    }

    fn allocate(&mut self, page: bool) {
        let before = self.pool.stats();
        let frame = if page {
            self.pool.alloc_page_frame()
        } else {
            self.pool.alloc_frame()
        };
        // Floors are not for what is on its way.
        assert!(
            page || frame.is_some() || (before.frames_free == 0 && before.pages_free == 0),
            "{before:?}"
        );
        if let Some(frame) = frame
            && !self.blown()
        {
            let had = self.have(frame, Reservation::NONE);
            self.moving.push(had);
        }
    }

    fn release_moving(&mut self, at: usize) {
        if self.moving.is_empty() {
            return;
        }
        let had = self.moving.swap_remove(at % self.moving.len());
        self.is_intact(&had);
        self.pool.release(had.frame);
    }

    /// A chain of two, which is given back as one.
    fn link(&mut self, at: usize, much: usize) {
        if self.moving.len() < 2 {
            return;
        }
        let tail = self.moving.swap_remove(at % self.moving.len());
        let mut head = self.moving.swap_remove(much % self.moving.len());
        self.is_intact(&tail);
        self.is_intact(&head);
        self.pool.link(&mut head.frame, tail.frame);
        self.pool.release(head.frame);
    }

    fn lease(&mut self, count: usize) {
        let may = count * FRAMES_PER_PAGE <= self.available();
        let Some(run) = self.pool.lease_pages(count, Owner::Staging) else {
            return;
        };
        assert!(may, "a lease of what packets on their way need");
        if !self.blown() {
            let stamp = self.stamp();
            self.pool.run_bytes_mut(&run).fill(stamp);
            self.runs.push((run, stamp));
        }
    }

    fn release_run(&mut self, at: usize) {
        let (run, stamp) = self.runs.swap_remove(at % self.runs.len());
        assert!(self.pool.run_bytes(&run).iter().all(|&byte| byte == stamp));
        self.pool.release_pages(run);
    }

    fn available(&self) -> usize {
        let stats = self.pool.stats();
        (stats.frames_free + stats.pages_free * FRAMES_PER_PAGE).saturating_sub(self.floors.0)
    }

    fn take(&mut self, reservation: Reservation) {
        let expected = if reservation == Reservation::NONE {
            self.available() > self.floors.1
        } else {
            self.listed(reservation) > 0
        };
        let frame = self.pool.take(reservation, Owner::Tcp(7));
        assert_eq!(frame.is_some(), expected, "{reservation:?}");
        if let Some(frame) = frame
            && !self.blown()
        {
            let had = self.have(frame, reservation);
            self.kept.push(had);
        }
    }

    fn release_kept(&mut self, at: usize) {
        let had = self.kept.swap_remove(at % self.kept.len());
        self.is_intact(&had);
        let frame = had.frame.buf.0 as usize;
        if self.pool.is_held(&had.frame) {
            self.orphans.insert(frame, had.reservation);
        }
        self.pool.release(had.frame);
    }

    fn reserve(&mut self, reservation: Reservation, frames: usize) {
        if reservation == Reservation::NONE {
            return;
        }
        let before = (self.pool.stats(), self.pool.reserved(reservation));
        let held = self.goal(reservation).max(self.in_use(reservation));
        let free = self.available();
        let result = self.pool.reserve(reservation, frames);
        if frames > held && frames - held > free {
            assert_eq!(result, Err(OutOfBuffers { free }));
            let after = (self.pool.stats(), self.pool.reserved(reservation));
            assert_eq!(after, before, "all or nothing");
        } else {
            assert_eq!(result, Ok(()));
            self.goals[place(reservation)] = frames;
        }
    }

    fn cancel(&mut self, reservation: Reservation) {
        if reservation != Reservation::NONE {
            self.pool.cancel(reservation);
            self.goals[place(reservation)] = 0;
        }
    }

    /// A packet that names a few frames that are kept, or one of them more than once.
    fn gather(&mut self, at: usize, much: usize) {
        let Some(mut head) = self.pool.alloc_frame() else {
            return;
        };
        if self.blown() {
            return;
        }
        self.pool.set(&mut head, HEADROOM, 1);
        self.pool.bytes_mut(&head)[0] = 0xaa;
        let count = 1 + much % PIECES_MAX;
        let named = (0..count)
            .map(|piece| &self.kept[(at % self.kept.len() + piece * 3) % self.kept.len()]);
        let parts = named.clone().map(|had| (&had.frame, FRAME_LEN - 1, 1));
        if !self.pool.gather(&mut head, parts) {
            self.pool.release(head);
            return;
        }
        let mut says = vec![0xaa];
        says.extend(named.clone().map(|had| had.stamp));
        let names = named.map(|had| had.frame.buf.0 as usize).collect();
        self.packets.push(Packet { head, says, names });
    }

    fn release_packet(&mut self, at: usize) {
        let packet = self.packets.swap_remove(at % self.packets.len());
        self.pool.release(packet.head);
        for frame in packet.names {
            if !self
                .packets
                .iter()
                .any(|packet| packet.names.contains(&frame))
            {
                self.orphans.remove(&frame);
            }
        }
    }

    fn goal(&self, reservation: Reservation) -> usize {
        self.goals[place(reservation)]
    }

    fn in_use(&self, reservation: Reservation) -> usize {
        let kept = self.kept.iter().map(|had| had.reservation);
        let all = kept.chain(self.orphans.values().copied());
        all.filter(|&of| of == reservation).count()
    }

    /// A list has what is missing of the goal, and never more.
    fn listed(&self, reservation: Reservation) -> usize {
        self.goal(reservation)
            .saturating_sub(self.in_use(reservation))
    }

    fn held(&self) -> [usize; NUMBERS] {
        std::array::from_fn(|at| self.goals[at].max(self.in_use(number(at))))
    }

    /// The words, the lists, the tables and the oracle must tell the same story.
    pub fn check(&self) {
        for packet in &self.packets {
            assert_eq!(
                self.pool.packet(&packet.head),
                packet.says,
                "a packet has changed"
            );
        }
        assert_eq!(self.pool.available(), self.available());
        for at in 1..NUMBERS {
            let reservation = number(at);
            let expected = Reserved {
                goal: self.goal(reservation),
                listed: self.listed(reservation),
                in_use: self.in_use(reservation),
            };
            let known = expected != Reserved::default();
            assert_eq!(self.pool.reserved(reservation), known.then_some(expected));
        }
        let mut owned = self.places();
        let counted = walk(&self.pool, |frame, word| {
            let mine = owned[frame].take();
            match word.state {
                State::InUse | State::PageFrame => {
                    assert_eq!(mine, Some(word.reservation), "frame {frame}");
                }
                _ => assert_eq!(mine, None, "frame {frame}"),
            }
        });
        assert!(owned.iter().all(Option::is_none), "a frame is not in use");
        let stats = self.pool.stats();
        let refused = PoolStats {
            frames_refused: stats.frames_refused,
            takes_refused: stats.takes_refused,
            pages_refused: stats.pages_refused,
            ..counted
        };
        assert_eq!(refused, stats);
    }

    /// By frame, what the test has.
    fn places(&self) -> Vec<Option<Reservation>> {
        let mut owned = vec![None; self.pool.stats().pages * FRAMES_PER_PAGE];
        let had = self.moving.iter().chain(&self.kept);
        let had = had.map(|had| (had.frame.buf.0 as usize, had.reservation));
        let heads = self.packets.iter().map(|packet| packet.head.buf.0 as usize);
        let heads = heads.map(|frame| (frame, Reservation::NONE));
        let orphans = self.orphans.iter().map(|(&frame, &of)| (frame, of));
        for (frame, reservation) in had.chain(heads).chain(orphans) {
            let before = owned[frame].replace(reservation);
            assert_eq!(before, None, "frame {frame} was given out twice");
        }
        owned
    }

    /// The world stops after so many stores more, if the steps make as many; then the next life.
    pub fn crash(&mut self, steps: impl IntoIterator<Item = Step>, stores: u64) {
        self.pool.set_fuse(Fuse::after(stores));
        let mut before = self.held();
        for step in steps {
            if self.blown() {
                break;
            }
            before = self.held();
            self.step(step);
        }
        let after = self.held();
        let goals = self.goals;
        let pool = std::mem::replace(&mut self.pool, Pool::anonymous(1));
        *self = Model::new(Pool::attach(pool.into_region(), Fuse::NEVER));
        for at in 1..NUMBERS {
            let found = self.pool.reserved(number(at)).unwrap_or_default();
            assert_eq!((found.goal, found.in_use), (found.listed, 0));
            let (least, most) = (before[at].min(after[at]), before[at].max(after[at]));
            assert!(
                (least..=most).contains(&found.listed),
                "{found:?}, which had {} before the step that was cut and {} after",
                before[at],
                after[at]
            );
            self.goals[at] = found.listed;
        }
        self.check();
        // Who made them says how large they are to be.
        for (at, &goal) in goals.iter().enumerate().take(NUMBERS).skip(1) {
            self.reserve(number(at), goal);
        }
        self.check();
    }

    /// Everything comes back: all pages are whole.
    pub fn end(mut self) {
        for had in self.moving.drain(..).chain(self.kept.drain(..)) {
            self.pool.release(had.frame);
        }
        for packet in self.packets.drain(..) {
            self.pool.release(packet.head);
        }
        for (run, _) in self.runs.drain(..) {
            self.pool.release_pages(run);
        }
        (1..NUMBERS).for_each(|at| self.pool.cancel(number(at)));
        self.pool.set_floors(0, 0);
        let pages = self.pool.stats().pages;
        assert!(self.pool.lease_pages(pages, Owner::Staging).is_some());
    }
}

/// Each frame's word is shown, and what they say is counted; the lists must be the same.
pub(super) fn walk(pool: &Pool, mut see: impl FnMut(usize, Word)) -> PoolStats {
    let pages = pool.stats().pages;
    let mut counted = PoolStats {
        pages,
        ..PoolStats::default()
    };
    let mut listed = vec![Reservation::NONE; pages * FRAMES_PER_PAGE];
    for (row, number) in pool.lists.rows.iter().zip(0u16..) {
        let (mut at, mut count) = (row.head, 0);
        while at != NOWHERE {
            let of = std::mem::replace(&mut listed[at as usize], Reservation(number));
            assert_eq!(of, Reservation::NONE, "frame {at} is on two lists");
            (at, count) = (pool.lists.next[at as usize], count + 1);
        }
        assert_eq!(count, row.listed);
    }
    for page in 0..pages {
        let first = page * FRAMES_PER_PAGE;
        let word = |frame: usize| Word::decode(pool.load(frame)).expect("a word of the pool's");
        assert_eq!(
            pool.whole.contains(page),
            word(first).state == State::PageFree
        );
        match word(first).state {
            State::PageFree => counted.pages_free += 1,
            State::PageLeased => counted.pages_leased += 1,
            State::PageFrame => {
                counted.page_frames_in_use += 1;
                see(first, word(first));
            }
            _ => {
                counted.pages_divided += 1;
                let mut free = 0;
                let lists = &mut listed[first..first + FRAMES_PER_PAGE];
                for (frame, list) in (first..).zip(lists) {
                    let word = word(frame);
                    match word.state {
                        State::Free => {
                            counted.frames_free += 1;
                            free |= 1 << (frame - first);
                        }
                        State::Reserved => {
                            counted.frames_reserved += 1;
                            let on = std::mem::replace(list, Reservation::NONE);
                            assert_eq!(on, word.reservation);
                        }
                        State::InUse => counted.frames_in_use += 1,
                        other => panic!("{other:?} in a divided page"),
                    }
                    see(frame, word);
                }
                assert_eq!(pool.free[page], free);
                assert_eq!(pool.place[page] == NOWHERE, free == 0);
            }
        }
    }
    assert!(
        listed.iter().all(|&of| of == Reservation::NONE),
        "a frame is listed that is not reserved"
    );
    counted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn b01_each_frame_is_in_exactly_one_place(steps in prop::collection::vec(step(), 0..300)) {
        let mut model = Model::new(Pool::anonymous(6));
        for step in steps {
            model.step(step);
            model.check();
        }
        model.end();
    }

    /// After a stop at any store, the words give a whole pool again: reservations stand, and
    /// every frame can be handed out exactly once.
    #[test]
    fn b01_a_pool_is_rebuilt_after_a_stop_at_any_store(
        before in prop::collection::vec(step(), 0..60),
        cut in prop::collection::vec(step(), 1..20),
        stop in 0..60u64,
    ) {
        // A pool over all of its region, as production has it.
        let mut model = Model::new(Pool::new(Region::anonymous(1)));
        before.into_iter().for_each(|step| model.step(step));
        model.crash(cut, stop);
        // And once more: what the first attach stored must be as good.
        model.crash([], 0);
        model.end();
    }
}

/// xorshift64*: all that the steps need.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
    }

    fn step(&mut self) -> Step {
        let kind = self.next() % usize::from(STEPS);
        (u8::try_from(kind).unwrap(), self.next(), self.next())
    }
}

/// So many steps, each checked; one in some hundred is cut short by a stop at any store.
fn long_life(seed: u64, steps: usize) {
    let mut random = Random(seed);
    let mut model = Model::new(Pool::new(Region::anonymous(1)));
    let (mut done, mut crashes, mut met) = (0, 0, [false; 3]);
    while done < steps {
        if random.next().is_multiple_of(400) {
            let cut: Vec<Step> = (0..1 + random.next() % 8).map(|_| random.step()).collect();
            done += cut.len();
            crashes += 1;
            model.crash(cut, random.next() as u64 % 40);
            // What little is left is fought for: of some lives most of the pool is leased.
            model.lease(1 + random.next() % 30);
        }
        model.step(random.step());
        model.check();
        done += 1;
        let too_many = |at| model.in_use(number(at)) > model.goals[at];
        met[0] |= model.available() == 0;
        met[1] |= !model.orphans.is_empty();
        met[2] |= (1..NUMBERS).any(too_many);
    }
    assert!(
        crashes > steps / 1000 && met == [true; 3],
        "{crashes} {met:?}"
    );
    model.end();
}

#[test]
fn b01_nothing_is_lost_or_in_two_places_in_a_long_life() {
    for seed in 1..=3 {
        long_life(seed, 10_000);
    }
}

/// `cargo test -p sluice-hugepages --lib -- --ignored`, as `scripts/test --full` runs it.
#[test]
#[ignore = "a million steps take a while"]
fn b01_nothing_is_lost_or_in_two_places_in_a_million_steps() {
    for seed in 1..=10 {
        long_life(seed * 7919, 100_000);
    }
}
