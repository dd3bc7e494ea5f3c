//! `reserve edit`: the same as `add`, asked for value by value (B-19). It reads lines, so that a
//! script can answer too.

use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddrV4};

use sluice_config::{RESERVATION_KIB_MIN, ReservationEntry};
use sluice_hugepages::tables::{Path, Reservation};

use super::super::args::{Size, SizeArgs, size};
use super::super::{Answer, Args, CliError, table};
use super::show::Sizes;
use super::{Order, make, named};
use crate::amount;
use crate::sizing::{Advice, whole_buffers, wire};

pub(super) fn edit<'a>(
    input: &'a mut dyn BufRead,
    args: &Args,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
) -> Result<Answer, CliError> {
    let reader = args.reader(err)?;
    let sizes = Sizes::read(&reader, args);
    // Standard output is the answer's, which in JSON is nothing else.
    let tell = if args.json { err } else { out };
    let mut asker = Asker { input, tell };
    let kind = asker.ask(
        "reserve for  1 a pair of addresses  2 a pair and a port  3 connections, by buffer id [1]",
        |answer| match answer {
            "" | "1" | "pair" => Ok("pair"),
            "2" | "port" => Ok("pair-port"),
            "3" | "connection" => Ok("connection"),
            _ => Err("1, 2 or 3".to_owned()),
        },
    )?;
    let entry = target(kind, &sizes.paths, &mut asker)?;
    let mut counts = [None; 2];
    if kind != "connection" {
        for (count, what) in counts
            .iter_mut()
            .zip(["sessions", "connections of each session"])
        {
            *count = asker.ask(&format!("{what} [as many as there are]"), counted)?;
        }
    }
    let rows = reader.rows::<Reservation>().rows;
    // A new connection has no target yet that could be looked up.
    let wanted = entry.target().ok().map(wire);
    let known = rows
        .iter()
        .map(|(_, row)| row)
        .find(|row| Some(row.target) == wanted);
    let own = known.map_or(0, |row| row.reserved_bytes);
    let of = |count: Option<i64>| {
        count
            .and_then(|count| u16::try_from(count).ok())
            .unwrap_or(0)
    };
    let advice = wanted.map_or_else(Advice::default, |target| {
        sizes.paths().advice(target, of(counts[0]), of(counts[1]))
    });
    let recommended = advice.recommended.map(whole_buffers);
    if known.is_some() {
        asker.tell(&format!("it has {} now", table::bytes(own)));
    }
    let most = own.saturating_add(sizes.free_bytes);
    asker.tell(&format!(
        "free: {}   recommended: {}{}",
        amount::kib(sizes.free_bytes),
        if advice.at_least { "at least " } else { "" },
        recommended.map_or_else(|| "not known yet".to_owned(), amount::kib)
    ));
    if recommended.is_some_and(|bytes| bytes > most) {
        asker.tell(&format!(
            "warning: what is recommended does not fit; an automatic size takes what is free, {}",
            amount::kib(most)
        ));
    }
    let size = asker.ask("size: auto, or as in 4MiB [auto]", |answer| {
        sized(answer, most)
    })?;
    let order = Order {
        entry,
        size: SizeArgs {
            size: Some(size),
            sessions: counts[0],
            connections: counts[1],
        },
    };
    asker.tell(&format!("as one line: {order}"));
    let confirmed = asker.ask("do it? y or n", |answer| match answer {
        "y" | "yes" => Ok(true),
        "n" | "no" => Ok(false),
        _ => Err("y or n".to_owned()),
    })?;
    if !confirmed {
        return Err(cancelled());
    }
    make(&order, false, args)
}

fn target(kind: &str, paths: &[Path], asker: &mut Asker<'_>) -> Result<ReservationEntry, CliError> {
    let entry = ReservationEntry {
        kind: kind.to_owned(),
        ..ReservationEntry::default()
    };
    if kind == "connection" {
        let buffer_id = asker.ask("buffer id [the lowest that is free]", counted)?;
        return Ok(ReservationEntry { buffer_id, ..entry });
    }
    let with_port = kind == "pair-port";
    let mut offers: Vec<(Ipv4Addr, SocketAddrV4)> = Vec::new();
    for path in paths {
        let port = if with_port { path.remote.port() } else { 0 };
        let offer = (path.local, SocketAddrV4::new(*path.remote.ip(), port));
        if !offers.contains(&offer) {
            offers.push(offer);
        }
    }
    let of = |(local, remote): (Ipv4Addr, SocketAddrV4)| ReservationEntry {
        local: Some(local.to_string()),
        remote: Some(remote.ip().to_string()),
        port: with_port.then(|| remote.port().into()),
        ..entry.clone()
    };
    for (number, offer) in (1..).zip(&offers) {
        asker.tell(&format!("  {number}  {}", named(&of(*offer))));
    }
    let form = if with_port {
        "LOCAL REMOTE:PORT"
    } else {
        "LOCAL REMOTE"
    };
    asker.ask(&format!("which: a number, or {form}"), |answer| {
        let typed = || {
            let (local, remote) = answer.split_once(char::is_whitespace)?;
            let remote = remote.trim();
            let remote = if with_port {
                remote.parse().ok()?
            } else {
                SocketAddrV4::new(remote.parse().ok()?, 0)
            };
            Some((local.parse().ok()?, remote))
        };
        let numbered = || {
            let number: usize = answer.parse().ok()?;
            offers.get(number.checked_sub(1)?).copied()
        };
        let Some(chosen) = numbered().or_else(typed) else {
            return Err(format!("{answer:?} is neither a number above nor {form}"));
        };
        if !offers.contains(&chosen) {
            return Err(format!(
                "{answer}: there is no such path; `sluicectl path show` lists them"
            ));
        }
        Ok(of(chosen))
    })
}

fn counted(answer: &str) -> Result<Option<i64>, String> {
    match answer.parse() {
        _ if answer.is_empty() => Ok(None),
        Ok(count) if (1..=i64::from(u16::MAX)).contains(&count) => Ok(Some(count)),
        _ => Err(format!("{answer:?} is not a whole number from 1 on")),
    }
}

/// B-15: a size of zero or less, or beyond what is free, is refused and asked for again.
fn sized(answer: &str, most: u64) -> Result<Size, String> {
    if answer.is_empty() {
        return Ok(Size::Automatic);
    }
    let size = size(answer).map_err(|why| format!("{answer:?} is {why}"))?;
    let Size::Bytes(bytes) = size else {
        return Ok(size);
    };
    let least = RESERVATION_KIB_MIN * 1024;
    match u64::try_from(bytes) {
        Ok(bytes) if (least..=most).contains(&bytes) => Ok(size),
        _ => Err(format!(
            "{answer} cannot be reserved: {} to {} can",
            amount::kib(least),
            amount::kib(most)
        )),
    }
}

fn cancelled() -> CliError {
    CliError::Failed("cancelled; nothing was changed".to_owned())
}

struct Asker<'a> {
    input: &'a mut dyn BufRead,
    tell: &'a mut dyn Write,
}

impl Asker<'_> {
    fn tell(&mut self, line: &str) {
        // Nobody who listens is no reason not to take the answers.
        let _ = writeln!(self.tell, "{line}");
    }

    /// Until the answer is one; the end of the input cancels.
    fn ask<T>(
        &mut self,
        question: &str,
        mut read: impl FnMut(&str) -> Result<T, String>,
    ) -> Result<T, CliError> {
        loop {
            let _ = write!(self.tell, "{question}: ").and_then(|()| self.tell.flush());
            let mut line = String::new();
            match self.input.read_line(&mut line) {
                Ok(bytes) if bytes > 0 => {}
                _ => {
                    self.tell("");
                    return Err(cancelled());
                }
            }
            match read(line.trim()) {
                Ok(value) => return Ok(value),
                Err(why) => self.tell(&why),
            }
        }
    }
}
