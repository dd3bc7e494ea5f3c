//! ARCHITECTURE.md draws what outlives a process byte by byte: as the code that reads
//! and writes it does, word for word.

use std::path::Path;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The drawing in a module's own words: its first block of text.
fn drawing(source: &str) -> String {
    let lines = source.lines().skip_while(|line| *line != "//! ```text");
    let drawing = lines.skip(1).take_while(|line| *line != "//! ```");
    let text: Vec<_> = drawing
        .map(|line| line.trim_start_matches("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    text.join("\n")
}

#[test]
fn the_formats_are_drawn_as_the_code_has_them() {
    let map = read("ARCHITECTURE.md");
    for path in [
        "hugepages/src/log/layout.rs",
        "dataplane/journal/src/layout.rs",
    ] {
        let drawing = drawing(&read(path));
        assert!(
            drawing.lines().count() > 30,
            "{path} has no drawing:\n{drawing}"
        );
        assert!(
            map.contains(&format!("```text\n{drawing}\n```")),
            "ARCHITECTURE.md, Formats, is to have this, as {path} has it:\n{drawing}"
        );
    }
}
