//! What an operator can ask of the emulated WAN, in an operator's units, and
//! what that means for each direction's [`Profile`].
//!
//! Always holds: settings that are in use passed [`Settings::check`].

use crate::link::{Profile, Share};
use serde::{Deserialize, Serialize};

/// Smallest default queue: some forty full frames, so that a short path still
/// takes a burst.
const QUEUE_KIB_MIN: u64 = 64;

/// Longest run of lost packets that can be asked for.
const LOSS_RUN_MAX: i64 = 1000;

/// Both directions of the WAN; each gets half of the round trip.
#[derive(Clone, Debug, PartialEq, Serialize, clap::Args)]
pub struct Settings {
    /// Round-trip time in milliseconds, half of it each way
    #[arg(long, default_value_t = 40.0)]
    pub rtt_ms: f64,
    /// Rate each way in Mbit/s of Ethernet frames; 0 for no limit
    #[arg(long, default_value_t = 100.0)]
    pub rate_mbit: f64,
    /// Share of IP packets lost, in per cent, each way
    #[arg(long = "loss-pct", visible_alias = "loss", default_value_t = 0.0)]
    pub loss_pct: f64,
    /// Packets lost in a row, at least; the share stays what it is
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=LOSS_RUN_MAX))]
    pub loss_run: u32,
    /// Queue each way in KiB; 0 for one bandwidth-delay product (at least 64)
    #[arg(long, default_value_t = 0)]
    pub queue_kib: u64,
    /// Share of IP packets held back, in per cent
    #[arg(long = "reorder-pct", visible_alias = "reorder", default_value_t = 0.0)]
    pub reorder_pct: f64,
    /// How long a reordered packet is held back, in milliseconds
    #[arg(long, default_value_t = 2.0)]
    pub reorder_ms: f64,
    /// Share of IP packets delivered twice, in per cent
    #[arg(
        long = "duplicate-pct",
        visible_alias = "duplicate",
        default_value_t = 0.0
    )]
    pub duplicate_pct: f64,
    /// Seed from which loss, reordering and duplication are drawn
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A change: what is given is changed, the rest stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// Round-trip time in milliseconds
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// Rate each way in Mbit/s; 0 for no limit
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_mbit: Option<f64>,
    /// Share of IP packets lost, in per cent
    #[arg(long = "loss-pct", visible_alias = "loss")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_pct: Option<f64>,
    /// Packets lost in a row, at least
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=LOSS_RUN_MAX))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_run: Option<u32>,
    /// Queue each way in KiB; 0 for one bandwidth-delay product
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_kib: Option<u64>,
    /// Share of IP packets held back, in per cent
    #[arg(long = "reorder-pct", visible_alias = "reorder")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reorder_pct: Option<f64>,
    /// How long a reordered packet is held back, in milliseconds
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reorder_ms: Option<f64>,
    /// Share of IP packets delivered twice, in per cent
    #[arg(long = "duplicate-pct", visible_alias = "duplicate")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate_pct: Option<f64>,
    /// New seed; packets are numbered from 0 again
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// A setting out of its range.
#[derive(Clone, Debug, PartialEq)]
pub struct OutOfRange {
    name: &'static str,
    value: f64,
    max: f64,
}

impl std::fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let OutOfRange { name, value, max } = self;
        write!(f, "{name} is {value}: give a number from 0 to {max}")
    }
}

impl std::error::Error for OutOfRange {}

impl Settings {
    pub fn check(&self) -> Result<(), OutOfRange> {
        let ranges = [
            ("rtt_ms", self.rtt_ms, 60_000.0),
            ("rate_mbit", self.rate_mbit, 100_000.0),
            ("loss_pct", self.loss_pct, 100.0),
            ("reorder_pct", self.reorder_pct, 100.0),
            ("reorder_ms", self.reorder_ms, 60_000.0),
            ("duplicate_pct", self.duplicate_pct, 100.0),
        ];
        for (name, value, max) in ranges {
            // NaN is in no range.
            if !(0.0..=max).contains(&value) {
                return Err(OutOfRange { name, value, max });
            }
        }
        Ok(())
    }

    /// These settings with `change` made to them, checked.
    pub fn changed(&self, change: &Change) -> Result<Settings, OutOfRange> {
        let settings = Settings {
            rtt_ms: change.rtt_ms.unwrap_or(self.rtt_ms),
            rate_mbit: change.rate_mbit.unwrap_or(self.rate_mbit),
            loss_pct: change.loss_pct.unwrap_or(self.loss_pct),
            loss_run: change.loss_run.unwrap_or(self.loss_run),
            queue_kib: change.queue_kib.unwrap_or(self.queue_kib),
            reorder_pct: change.reorder_pct.unwrap_or(self.reorder_pct),
            reorder_ms: change.reorder_ms.unwrap_or(self.reorder_ms),
            duplicate_pct: change.duplicate_pct.unwrap_or(self.duplicate_pct),
            seed: change.seed.unwrap_or(self.seed),
        };
        settings.check()?;
        Ok(settings)
    }

    /// What each direction does under these settings.
    pub fn profile(&self) -> Profile {
        let rtt_ns = scale(self.rtt_ms, 1e6);
        let rate_bps = scale(self.rate_mbit, 1e6);
        Profile {
            delay_ns: rtt_ns / 2,
            rate_bps,
            queue_bytes_max: match self.queue_kib {
                0 => scale(self.rate_mbit * self.rtt_ms, 1e3 / 8.0).max(QUEUE_KIB_MIN * 1024),
                kib => kib * 1024,
            },
            // A packet arrives where none of the last `loss_run` numbers begins a run.
            loss: Share::from_percent(
                100.0 * (1.0 - (1.0 - self.loss_pct / 100.0).powf(1.0 / f64::from(self.loss_run))),
            ),
            loss_run: self.loss_run,
            duplicate: Share::from_percent(self.duplicate_pct),
            reorder: Share::from_percent(self.reorder_pct),
            reorder_hold_ns: scale(self.reorder_ms, 1e6),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked settings are not negative and their products stay below 2^53"
)]
fn scale(value: f64, factor: f64) -> u64 {
    (value * factor).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            rtt_ms: 40.0,
            rate_mbit: 100.0,
            loss_pct: 0.0,
            loss_run: 1,
            queue_kib: 0,
            reorder_pct: 0.0,
            reorder_ms: 2.0,
            duplicate_pct: 0.0,
            seed: 1,
        }
    }

    #[test]
    fn the_default_queue_is_one_bdp() {
        let profile = settings().profile();
        assert_eq!(profile.delay_ns, 20_000_000);
        assert_eq!(profile.queue_bytes_max, 500_000);
        let short = Settings {
            rtt_ms: 0.2,
            ..settings()
        }
        .profile();
        assert_eq!(short.queue_bytes_max, 65_536);
        assert_eq!(short.delay_ns, 100_000);
    }

    #[test]
    fn a_change_leaves_the_rest_and_is_checked() {
        let change = Change {
            loss_pct: Some(1.5),
            ..Change::default()
        };
        let changed = settings().changed(&change).expect("in range");
        assert_eq!(
            changed,
            Settings {
                loss_pct: 1.5,
                ..settings()
            }
        );
        for bad in [-1.0, 101.0, f64::NAN] {
            let change = Change {
                loss_pct: Some(bad),
                ..Change::default()
            };
            let error = settings().changed(&change).expect_err("out of range");
            assert!(error.to_string().starts_with("loss_pct is"), "{error}");
        }
    }
}
