//! The model's numbers: gains, bounds and rounds; gains are thousandths.

/// 2.77 doubles the flight each round trip.
pub(super) const STARTUP_GAIN: u32 = 2770;
pub(super) const DRAIN_GAIN: u32 = 350;
pub(super) const UP_GAIN: u32 = 1250;
pub(super) const DOWN_GAIN: u32 = 750;
/// Paced a little below the bandwidth, so that no queue stays.
pub(super) const MARGIN: u32 = 990;
/// Of the flight that is bandwidth times round trip: room for acknowledgements that come late.
pub(super) const WINDOW_GAIN: u32 = 1500;
pub(super) const UP_WINDOW_GAIN: u32 = 1850;
pub(super) const STARTUP_WINDOW_GAIN: u32 = 2000;
/// What is left free below the flight that was too much.
pub(super) const HEADROOM: u32 = 850;
/// Room beyond that, the same for every flow: so flows that share a queue come to share it alike.
pub(super) const EXTRA_SEGMENTS: u64 = 16;
/// The response to losses, and to marks.
pub(super) const LOSS_BETA: u32 = 700;
pub(super) const MARK_BETA: u32 = 850;

/// Bandwidth that grows so much from round to round is still being found.
pub(super) const STARTUP_GROWTH: u32 = 1250;
pub(super) const STARTUP_ROUNDS: u32 = 3;
/// Growth after a probe that makes the next one follow at once.
pub(super) const PROBE_GROWTH: u32 = 1150;

/// Rounds of cruising between two probes, and as many more by chance, so that flows that
/// share a path do not probe together.
pub(super) const CRUISE_ROUNDS: u64 = 4;
pub(super) const CRUISE_ROUNDS_CHANCE: u64 = 3;

/// Rounds that a probe or its draining may last.
pub(super) const UP_ROUNDS_MAX: u64 = 2;
pub(super) const DOWN_ROUNDS_MAX: u64 = 3;
