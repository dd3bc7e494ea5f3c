//! The committed inputs of a target, and others made from them: what runs as an
//! ordinary test, without coverage and the same each time.
//!
//! A corpus is a text file: an input a line in hexadecimal. A line that begins
//! with `#` tells what the inputs up to the next empty line once found.

use sluice_sim::random::Random;

/// The inputs in the text of a corpus.
///
/// # Panics
/// If a line is neither hexadecimal nor a comment.
#[must_use]
pub fn inputs(text: &str) -> Vec<Vec<u8>> {
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(input).collect()
}

fn input(line: &str) -> Vec<u8> {
    assert!(
        line.len().is_multiple_of(2),
        "hexadecimal, two digits a byte: {line}"
    );
    let digits = line.as_bytes().chunks(2);
    digits
        .map(|pair| {
            let pair = str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(pair, 16).expect("hexadecimal, two digits a byte")
        })
        .collect()
}

/// An input made from one or two of `corpus`, with a little damage.
///
/// # Panics
/// If the corpus is empty.
#[must_use]
pub fn mutated(corpus: &[Vec<u8>], random: &mut Random, len_max: usize) -> Vec<u8> {
    const EDGES: [u8; 8] = [0, 1, 7, 0x40, 0x7f, 0x80, 0xfe, 0xff];
    let below = |random: &mut Random, bound: usize| {
        usize::try_from(random.of(bound as u64)).expect("below a length")
    };
    let mut input = corpus[below(random, corpus.len())].clone();
    for _ in 0..=random.of(4) {
        let at = below(random, input.len() + 1);
        match random.of(6) {
            0 if at < input.len() => input[at] ^= 1 << random.of(8),
            1 if at < input.len() => input[at] = EDGES[below(random, EDGES.len())],
            2 => {
                let byte = random.draw().to_be_bytes()[0];
                input.insert(at, byte);
            }
            3 => {
                let end = (at + 1 + below(random, 8)).min(input.len());
                input.drain(at..end);
            }
            4 => {
                let other = &corpus[below(random, corpus.len())];
                let from = below(random, other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let piece = input[at..(at + 24).min(input.len())].to_vec();
                let to = below(random, input.len() + 1);
                input.splice(to..to, piece);
            }
        }
    }
    input.truncate(len_max);
    input
}
