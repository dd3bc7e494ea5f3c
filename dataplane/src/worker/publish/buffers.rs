//! What operators see of memory buffers (Spec B): the pool, reservations, who holds what,
//! and events of what is short (B-16, B-20).

use std::time::Duration;

use sluice_hugepages::pool::{FRAME_LEN, PoolStats};
use sluice_hugepages::tables::{self, Table, text};
use sluice_proto::Time;

use super::Publisher;
use crate::worker::buffers::Notice;
use crate::worker::step::Worker;

/// Between two events of memory that is short, at least; while it goes on, longer and longer.
const SHORT_PERIOD: Duration = Duration::from_secs(1);
const SHORT_PERIOD_MAX: Duration = Duration::from_secs(60);
/// So far must the used share of the log fall below the threshold before it can be crossed again.
const CACHE_HYSTERESIS_PERCENT: u64 = 5;

/// What is watched from round to round.
#[derive(Debug)]
pub(super) struct Watch {
    /// Asked for in vain, and when it was told last.
    refused: u64,
    told_refused: u64,
    told_at: Time,
    pause: Duration,
    cache_is_short: bool,
    /// Rows shown last time, so that those gone are cleared.
    reservations: usize,
    allocations: usize,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            refused: 0,
            told_refused: 0,
            told_at: Time::ZERO,
            pause: SHORT_PERIOD,
            cache_is_short: false,
            reservations: 0,
            allocations: 0,
        }
    }
}

impl Watch {
    /// How often buffers were asked for in vain, if it is time to tell (B-20).
    fn short(&mut self, now: Time, refused: u64) -> Option<u64> {
        let is_new = refused > self.refused;
        self.refused = refused;
        if now.since(self.told_at) >= self.pause * 2 {
            // It was over for as long as it was not told of.
            self.pause = SHORT_PERIOD;
        }
        let first = self.told_refused == 0;
        if !is_new || !first && now.since(self.told_at) < self.pause {
            return None;
        }
        if !first {
            self.pause = (self.pause * 2).min(SHORT_PERIOD_MAX);
        }
        let more = refused - self.told_refused;
        (self.told_refused, self.told_at) = (refused, now);
        Some(more)
    }

    /// Whether the used share of the log has crossed the threshold upwards (B-16).
    fn cache_runs_short(&mut self, used: u64, total: u64, warning_percent: u8) -> bool {
        let at_least = |percent: u64| used * 100 >= total * percent;
        let warning = u64::from(warning_percent);
        let was_short = self.cache_is_short;
        self.cache_is_short = match was_short {
            false => total > 0 && at_least(warning),
            true => at_least(warning.saturating_sub(CACHE_HYSTERESIS_PERCENT).max(1)),
        };
        !was_short && self.cache_is_short
    }
}

fn refused_of(pool: &PoolStats) -> u64 {
    pool.frames_refused + pool.takes_refused + pool.pages_refused
}

impl Publisher {
    pub(super) fn buffers(&mut self, worker: &Worker) {
        let pool = worker.pool.stats();
        let room = worker.relay.log.room();
        let (backing, why) = &self.facts.frames_backing;
        self.segment.put(
            0,
            &tables::Buffers {
                backing: *backing,
                why: text(why),
                pages_free: pool.pages_free as u64,
                pages_leased: pool.pages_leased as u64,
                pages_divided: pool.pages_divided as u64,
                frames_free: pool.frames_free as u64,
                frames_reserved: pool.frames_reserved as u64,
                frames_in_use: pool.frames_in_use as u64,
                free_bytes: (worker.pool.available() * FRAME_LEN) as u64,
                log_backing: self.facts.log_backing,
                log_segments: room.segments_total as u64,
                log_segments_free: room.segments_free as u64,
                log_bytes: self.facts.log_bytes,
                log_live_bytes: room.dirty_bytes,
            },
        );
    }

    /// The reservation table and the allocation table (B-3).
    pub(super) fn reservations(&mut self, worker: &mut Worker) {
        let Worker {
            relay, tcp, pool, ..
        } = worker;
        let segment = &mut self.segment;
        let mut allocations = 0;
        for row in relay.allocations(tcp) {
            segment.put(allocations, &row);
            allocations += 1;
        }
        relay.count_flows(tcp);
        if allocations < self.watch.allocations {
            segment.clear_from(Table::Allocations, allocations);
        }
        self.watch.allocations = allocations;
        relay.show_reservations(pool, |place, row| segment.put(place, &row));
        let reservations = relay.reservations.len();
        if reservations < self.watch.reservations {
            segment.clear_from(Table::Reservations, reservations);
        }
        self.watch.reservations = reservations;
    }

    /// What has become of reservations, and what is short.
    pub(super) fn tell_of_buffers(&mut self, now: Time, worker: &mut Worker) {
        let Worker { relay, pool, .. } = worker;
        while let Some((at, notice)) = relay.reservations.next_notice() {
            match notice {
                Notice::Changed {
                    target,
                    before,
                    now: is,
                } => {
                    self.events
                        .reservation(&mut self.segment, at, &target, before, is);
                }
                Notice::Failed {
                    target,
                    before,
                    wanted,
                    free,
                } => self.events.reservation_failed(
                    &mut self.segment,
                    at,
                    &target,
                    before,
                    (wanted, free),
                ),
            }
        }
        let refused = refused_of(&pool.stats()) + relay.reservations.counts.failed;
        if let Some(more) = self.watch.short(now, refused) {
            relay.counters.memory_short += 1;
            let free = (pool.available() * FRAME_LEN) as u64;
            self.events.memory_short(&mut self.segment, now, more, free);
        }
        let room = relay.log.room();
        let total = room.segments_total as u64;
        let used = total - room.segments_free as u64;
        let warning = relay.config.cache_warning_percent;
        if self.watch.cache_runs_short(used, total, warning) {
            relay.counters.cache_short += 1;
            let fullest = relay
                .volume_keys()
                .max_by_key(|key| relay.flush.dirty_bytes(key.0));
            let fullest = fullest.map(|key| {
                let volume = relay.volume(key);
                (volume.target_name, volume.lun)
            });
            self.events.cache_short(
                &mut self.segment,
                now,
                fullest,
                (used * 100 / total, warning),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b20_short_memory_is_told_at_once_and_then_ever_rarer() {
        let mut watch = Watch::default();
        let at = Time::from_millis;
        assert_eq!(watch.short(at(5000), 0), None);
        assert_eq!(watch.short(at(5100), 3), Some(3));
        assert_eq!(watch.short(at(5200), 3), None, "nothing new");
        let told: Vec<u64> = (1..=600)
            .filter(|tenth| watch.short(at(5200 + tenth * 100), 3 + tenth).is_some())
            .collect();
        assert_eq!(told, [9, 29, 69, 149, 309], "1, 2, 4, 8, 16 s");
        // It ends, and begins again.
        assert_eq!(watch.short(at(300_000), 603), None);
        assert_eq!(watch.short(at(300_100), 604), Some(604 - 312));
    }

    #[test]
    fn b16_the_threshold_is_crossed_upwards_once_until_it_is_left_well_below() {
        let mut watch = Watch::default();
        let mut crossed = |used| watch.cache_runs_short(used, 100, 75);
        let used = [74, 75, 90, 74, 71, 75, 70, 74, 69, 75, 80];
        let found: Vec<bool> = used.into_iter().map(&mut crossed).collect();
        let expected = [1, 9].map(|at| used[at]);
        let crossings: Vec<u64> = used
            .into_iter()
            .zip(&found)
            .filter_map(|(used, crossed)| crossed.then_some(used))
            .collect();
        assert_eq!(crossings, expected);
        assert_eq!(found.iter().position(|&crossed| crossed), Some(1));
        assert!(found[9]);
        assert!(!Watch::default().cache_runs_short(0, 0, 1), "no log");
    }
}
