//! What a run has met, by name: kinds of fault and states, so that a campaign can
//! say which none has.

use sluice_dataplane::worker::Mode;
use sluice_hugepages::tables::Durability;
use sluice_proto::Time;

use super::{Outcome, World};
use crate::client::ClientCounters;
use crate::link::Link;
use crate::oracle::{Oracle, Violation};
use crate::storage::Volume;

impl World {
    pub(super) fn outcome(mut self, seed: u64, rounds: u64) -> Outcome {
        let (storage, met, buffers) = (self.storage.counters, self.met, self.reserver.met);
        let trouble = self.storage.trouble_counters;
        let worker = self.worker();
        let counters = worker.relay.counters.rows();
        let counters: Vec<_> = counters
            .into_iter()
            .chain(worker.tcp.counters().named())
            .collect();
        for (name, count) in counters {
            *self.relays.entry(name).or_default() += count;
        }
        // Relay counters only say what a run has met; no rule looks at them.
        let relay = |name: &str| self.relays.get(name).copied().unwrap_or(0);
        let portal = u64::from(self.config.mode == Mode::Portal);
        let client = |of: fn(&ClientCounters) -> u64| {
            let counters = self.clients.iter().map(|client| of(&client.counters));
            counters.sum::<u64>()
        };
        let contracts = || self.config.targets.iter().map(|target| target.durability);
        let contract = |of: Durability| u64::from(contracts().all(|contract| contract == of));
        let several = |yes: bool| u64::from(yes);
        let computers = self.clients.len();
        let block_4096 = |volume: &Volume| volume.block_len == 4096;
        let sum = |f: fn(&Link) -> u64| self.links.iter().map(f).sum::<u64>();
        let judged = |of: fn(&Oracle) -> u64| self.oracles.iter().map(of).sum::<u64>();
        let coverage = vec![
            ("frames_lost", sum(|link| link.counters.lost)),
            ("frames_duplicated", sum(|link| link.counters.duplicated)),
            ("frames_reordered", sum(|link| link.counters.reordered)),
            ("frames_cut", sum(|link| link.counters.cut)),
            ("frames_marked", sum(|link| link.counters.marked)),
            (
                "syns_that_ask_dropped",
                sum(|link| link.counters.asking_dropped),
            ),
            ("ecn_agreed", self.ecn.counters.agreed),
            ("ecn_marks_of_relay", self.ecn.counters.marked),
            ("ecn_relay_slowed", self.ecn.counters.slowed),
            ("ecn_relay_echoed", self.ecn.counters.echoed),
            ("frames_too_big", self.narrow.map_or(0, |it| it.dropped)),
            ("too_big_believed", relay("wan_too_big")),
            ("black_holes_found", relay("wan_black_holes")),
            ("wan_cuts", met.cuts),
            ("wan_half_cuts", met.half_cuts),
            ("relay_pauses", met.pauses),
            ("relay_clock_leaps", met.leaps),
            ("relay_logs_lost", met.logs_lost),
            ("log_payloads_rotted", met.payloads_rotted),
            ("log_headers_rotted", met.headers_rotted),
            ("log_rows_rotted", met.rows_rotted),
            ("journal_payloads_rotted", met.journal_payloads_rotted),
            ("journal_heads_rotted", met.journal_heads_rotted),
            ("journal_headers_rotted", met.journal_headers_rotted),
            ("records_restored_torn", met.torn_restored),
            ("records_unsound", relay("record_unsound")),
            ("writes_given_up", met.given_up),
            ("operator_retries", met.retries),
            ("leak_checks", met.leak_checks),
            ("relay_crashes", met.crashes - met.crashes_in_step),
            ("relay_crashes_in_step", met.crashes_in_step),
            ("storage_power_failures", storage.power_failures),
            ("storage_resets", storage.resets),
            ("storage_strays", storage.strays),
            ("storage_connections_broken", storage.broken),
            ("storage_shut_out", storage.shut_out),
            ("storage_writes_lingering", storage.lingering),
            ("storage_sessions_left_behind", storage.left_behind),
            ("storage_strays_done", storage.strays_done),
            ("storage_commands_aborted", storage.aborted),
            ("storage_reinstatements", storage.reinstated),
            ("storage_writes_through", storage.write_through),
            ("storage_changes_passed", storage.changes_passed),
            ("storage_hangs", met.hangs),
            ("storage_busy", storage.busy),
            ("storage_failed_for_now", trouble.for_now),
            ("storage_refused_for_good", trouble.for_good),
            ("storage_conflicts", trouble.conflicts),
            ("storage_deferred_errors", trouble.deferred),
            ("storage_dropped_unsynced", trouble.dropped),
            ("storage_short_writes", trouble.short),
            ("storage_silences", trouble.silent),
            ("storage_disconnects", trouble.disconnected),
            ("storage_failing_writes", trouble.writes),
            ("storage_failing_syncs", trouble.syncs),
            ("storage_failing_changes", trouble.changes),
            ("storage_failing_reads", trouble.reads),
            ("volumes_failed", relay("volume_failed")),
            ("storage_writes", storage.writes),
            ("storage_reads", storage.reads),
            ("storage_syncs", storage.syncs),
            ("storage_destaged", storage.destaged),
            ("logins", client(|of| of.logins)),
            ("sessions_lost", client(|of| of.sessions_lost)),
            ("computer_dropped", client(|of| of.dropped_by_choice)),
            ("writes_good", client(|of| of.writes_good)),
            (
                "computer_dropped_in_silence",
                client(|of| of.dropped_in_silence),
            ),
            ("fua_good", client(|of| of.fua_good)),
            ("ordered_good", client(|of| of.ordered_good)),
            ("passed_writes_good", client(|of| of.passed_writes_good)),
            ("compares_good", client(|of| of.compares_good)),
            ("compares_failed", client(|of| of.compares_failed)),
            ("verifies_good", client(|of| of.verifies_good)),
            ("unmaps_good", client(|of| of.unmaps_good)),
            ("reads_good", client(|of| of.reads_good)),
            ("syncs_good", client(|of| of.syncs_good)),
            ("busy", client(|of| of.busy)),
            ("attentions", client(|of| of.attentions)),
            ("errors", client(|of| of.errors)),
            ("reserves_good", client(|of| of.reserves_good)),
            ("reservation_conflicts", client(|of| of.conflicts)),
            ("storage_reservation_conflicts", storage.conflicts),
            ("writes_judged", relay("write_left_to_storage")),
            ("fences_known", judged(|oracle| oracle.fences)),
            (
                "computer_came_back_as_before",
                client(|of| of.came_back_as_before),
            ),
            ("computer_came_back_anew", client(|of| of.came_back_anew)),
            ("computer_logged_out", client(|of| of.logged_out)),
            ("tasks_aborted", client(|of| of.tasks_aborted)),
            ("task_sets_aborted", client(|of| of.task_sets_aborted)),
            ("units_reset", client(|of| of.units_reset)),
            ("targets_reset", client(|of| of.targets_reset)),
            ("commands_ended", client(|of| of.ended)),
            ("commands_ended_by_others", client(|of| of.task_aborted)),
            ("computers_1", several(computers == 1)),
            ("computers_2_shared", several(computers == 2 && self.shared)),
            ("computers_3_shared", several(computers == 3 && self.shared)),
            ("computers_2_apart", several(computers == 2 && !self.shared)),
            ("computers_3_apart", several(computers == 3 && !self.shared)),
            ("luns_1", several(self.luns == 1)),
            ("luns_2", several(self.luns == 2)),
            ("luns_3", several(self.luns == 3)),
            (
                "blocks_of_4096",
                several(self.storage.volumes.iter().any(block_4096)),
            ),
            ("chap_lan", several(self.sides[0].chap)),
            ("chap_wan", several(self.sides[1].chap)),
            ("digests_lan", several(self.sides[0].digests)),
            ("digests_wan", several(self.sides[1].digests)),
            ("mode_transparent", 1 - portal),
            ("mode_portal", portal),
            ("writes_held", relay("write_held_for_room")),
            ("writes_behind_a_command", relay("write_behind_command")),
            ("reads_cached", relay("read_cached")),
            ("reads_partly_cached", relay("read_partly_cached")),
            ("reads_uncached", relay("read_uncached")),
            ("records_superseded", relay("record_superseded")),
            ("records_moved", relay("record_moved")),
            ("lane_writes", relay("lane_write")),
            ("lane_writes_given_back", relay("lane_write_given_back")),
            ("records_joined", relay("record_joined")),
            ("commands_overwrote", relay("command_overwrote")),
            ("computer_reinstatements", relay("session_reinstated")),
            ("busy_wait_limit", relay("busy_wait_limit")),
            ("busy_no_staging", relay("busy_no_staging")),
            ("relay_power_losses", met.power_losses),
            ("relay_power_losses_in_start", met.power_losses_in_start),
            (
                "relay_power_losses_behind_group",
                met.power_losses_behind_group,
            ),
            ("records_restored", met.restored),
            (
                "journal_writes",
                self.journal.as_ref().map_or(0, |it| it.writes),
            ),
            ("journal_stalls", met.journal_stalls),
            ("journal_faults", met.journal_faults),
            ("journals_given_up", relay("journal_given_up")),
            ("journal_troubles", relay("journal_trouble")),
            ("contract_memory", contract(Durability::Memory)),
            ("contract_journal", contract(Durability::Journal)),
            ("contract_storage", contract(Durability::Storage)),
            (
                "contracts_mixed_with_journal",
                several(self.journal.is_some() && contract(Durability::Journal) == 0),
            ),
            ("buffers_reserved", buffers.made),
            ("buffers_changed", buffers.changed),
            ("buffers_cancelled", buffers.cancelled),
            ("buffers_out_of_memory", buffers.out_of_memory),
            ("buffers_still_held", buffers.still_held),
            ("buffers_presented", buffers.presented),
            ("buffers_reserved_again", buffers.made_again),
            ("buffers_taken", buffers.taken),
            ("buffers_all_taken", buffers.full),
            ("buffers_beyond_limit", buffers.more_than_limit),
            ("reads_checked", judged(|oracle| oracle.reads_checked)),
            ("images_checked", judged(|oracle| oracle.images_checked)),
        ];
        let mut violations = std::mem::take(&mut self.violations);
        for (number, volume) in self.storage.volumes.iter().enumerate() {
            if volume.torn > 0 {
                violations.push(Violation {
                    rule: "no torn write",
                    detail: format!("{} blocks written were of no write", volume.torn),
                });
            }
            let broken = &mut self.oracles[number].violations;
            violations.extend(broken.drain(..).map(|violation| Violation {
                detail: format!("volume {number}: {}", violation.detail),
                ..violation
            }));
        }
        Outcome {
            seed,
            violations,
            coverage,
            simulated: self.now.since(Time::ZERO),
            rounds,
            events: self.schedule.len(),
        }
    }
}
