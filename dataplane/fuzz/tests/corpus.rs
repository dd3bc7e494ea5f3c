//! Every fuzz target over its committed corpus, and over as many inputs made
//! from it as ordinary tests have time for. With coverage: `scripts/fuzz`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test ends where its files are not, and says what it found"
)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use sluice_fuzz::corpus;
use sluice_sim::random::Random;

/// Runs the corpus and `count` more; an input that panics is kept, and named.
fn survives(name: &str, count: u64) {
    let target = sluice_fuzz::target(name).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join(format!("corpus/{name}.hex"))).unwrap();
    let committed = corpus::inputs(&text);
    assert!(!committed.is_empty());
    let mut random = Random::new(17);
    let made = (0..count).map(|_| corpus::mutated(&committed, &mut random, target.input_len_max));
    for input in committed.iter().cloned().chain(made) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("finding-{name}"));
            std::fs::write(&file, &input).unwrap();
            eprintln!(
                "again: cargo run -p sluice-fuzz -- {name} {}",
                file.display()
            );
            resume_unwind(panic);
        }
    }
}

#[test]
fn target_stream_survives_its_corpus() {
    survives("target-stream", 10_000);
}

#[test]
fn initiator_stream_survives_its_corpus() {
    survives("initiator-stream", 10_000);
}

#[test]
fn login_text_survives_its_corpus() {
    survives("login-text", 40_000);
}

#[test]
fn cdbs_survive_their_corpus() {
    survives("cdb", 400_000);
}

#[test]
fn sessions_survive_their_corpus() {
    survives("session", 300);
}

#[test]
fn frames_survive_their_corpus() {
    survives("frames", 200);
}

#[test]
fn damaged_logs_survive_their_corpus() {
    survives("log-attach", 500);
}

#[test]
fn damaged_journals_survive_their_corpus() {
    survives("journal-replay", 1_000);
}

#[test]
fn wan_connections_survive_their_corpus() {
    survives("wan-connection", 2_000);
}

#[test]
fn control_segments_survive_their_corpus() {
    survives("control-segment", 300);
}
