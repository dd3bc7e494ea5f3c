//! No buffer leaked (B-2): when the computers have gone for good and all is
//! drained, the relay has neither session nor command, its log no record, and
//! its memory is as it was at its start.

use std::time::Duration;

use sluice_hugepages::pool::PoolStats;

use super::World;
use crate::client::Client;

/// In which whatever is left must be gone: a nexus logs out for 15 s at most, and may
/// have to come back first.
const GOING_MAX: Duration = Duration::from_secs(60);

impl World {
    /// What the relay still holds; `None` if that is nothing.
    fn held(&mut self) -> Option<String> {
        let fresh = self.fresh;
        let worker = self.worker();
        let usage = worker.relay.usage();
        let records = worker.relay.log().records().count();
        let pool = worker.pool.stats();
        let busy = |of: &PoolStats| (of.pages_leased, of.page_frames_in_use, of.frames_in_use);
        // The nexus of a computer that may be registered stays, with its flow: the computer
        // must find its registration (C-9). That goes for one whose answer got lost, too.
        let registered =
            |client: &Client| client.counters.reserves_good + client.counters.reserves_unclear > 0;
        let registered = self.clients.iter().any(registered);
        let nothing = usage.sessions == 0
            && usage.tasks == 0
            && usage.wan_tasks == 0
            && usage.staging_pages == 0
            && usage.held == 0
            && records == 0
            && (registered || usage.nexuses == 0 && busy(&pool) == busy(&fresh));
        (!nothing).then(|| format!("{usage:?}, {records} records, {pool:?}; at start {fresh:?}"))
    }

    /// All is drained: the computers leave, and nothing may stay of them.
    pub(super) fn look_for_leaks(&mut self) {
        self.met.leak_checks += 1;
        let (now, end) = (self.now, self.now + GOING_MAX);
        let Self {
            clients, oracles, ..
        } = self;
        for client in clients {
            client.retire(now, oracles);
        }
        while self.held().is_some() && self.now < end && self.holds() {
            self.round();
            self.advance();
        }
        if let Some(held) = self.held() {
            self.report("no buffer leaked", held);
        } else if self.holds() {
            self.judge_reservations();
        }
    }
}
