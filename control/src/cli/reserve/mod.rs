//! `reserve`: memory buffers for connections to storages (Spec B). The daemon makes and ends
//! reservations; what there is is read from the segment.

mod dialogue;
mod show;

use std::fmt;
use std::io::{IsTerminal, Write, stdin};

use serde_json::json;
use sluice_config::ReservationEntry;

pub(super) use self::show::show;
use super::args::{ReserveAction, Size, SizeArgs, Target};
use super::{Answer, Args, CliError, table};
use crate::client;
use crate::protocol::{BuffersReply, Reply, Request};

const BUFFER_KIB: u64 = 4;

pub(super) fn reserve(
    what: Option<&ReserveAction>,
    args: &Args,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<Answer, CliError> {
    match what {
        Some(ReserveAction::Add { target }) => make(&Order::of(target), false, args),
        Some(ReserveAction::Update { target }) => make(&Order::of(target), true, args),
        Some(ReserveAction::Cancel { target }) => {
            let reservation = entry_of(target);
            let name = named(&reservation);
            let reply = ask(&Request::Cancel { reservation }, args)?;
            let text = format!(
                "{name}: cancelled; {} are free",
                table::bytes(reply.free_bytes)
            );
            let json = json!({ "ok": true, "free_bytes": reply.free_bytes });
            Ok(Answer::done(json, text))
        }
        Some(ReserveAction::Show { target }) => {
            show(target.as_ref().map(entry_of).as_ref(), args, err)
        }
        Some(ReserveAction::Attach { buffer_id, target }) => attach(Some(*buffer_id), target, args),
        Some(ReserveAction::Detach { target }) => attach(None, target, args),
        Some(ReserveAction::Edit) => dialogue::edit(&mut stdin().lock(), args, out, err),
        None if stdin().is_terminal() => dialogue::edit(&mut stdin().lock(), args, out, err),
        None => Err(CliError::Usage(
            "reserve: say add, update, cancel, show, attach or detach; or edit, for the dialogue"
                .to_owned(),
        )),
    }
}

fn attach(buffer_id: Option<i64>, target: &str, args: &Args) -> Result<Answer, CliError> {
    let request = Request::Present {
        target: target.to_owned(),
        buffer_id,
    };
    ask(&request, args)?;
    let json = json!({ "ok": true, "target": target, "buffer_id": buffer_id });
    let what = buffer_id.map_or("no buffer id".to_owned(), |id| format!("buffer id {id}"));
    Ok(Answer::done(
        json,
        format!("connections of {target} present {what}"),
    ))
}

/// A reservation as the command line has it.
#[derive(Clone, Debug)]
struct Order {
    /// Its target.
    entry: ReservationEntry,
    size: SizeArgs,
}

impl Order {
    fn of(target: &Target<SizeArgs>) -> Self {
        let (Target::Pair { with, .. }
        | Target::Port { with, .. }
        | Target::Connection { with, .. }) = target;
        Self {
            entry: entry_of(target),
            size: *with,
        }
    }

    fn request(&self, update: bool) -> Request {
        let mut reservation = self.entry.clone();
        (reservation.sessions, reservation.connections) =
            (self.size.sessions, self.size.connections);
        match self.size.size {
            None => {}
            Some(Size::Automatic) => reservation.size = Some("automatic".to_owned()),
            Some(Size::Bytes(bytes)) => reservation.size_kib = Some(kib_of(bytes)),
        }
        Request::Reserve {
            reservation,
            update,
        }
    }
}

/// The same as one line.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sluicectl reserve add {}", named(&self.entry))?;
        match self.size.size {
            None => {}
            Some(Size::Automatic) => f.write_str(" --size auto")?,
            Some(Size::Bytes(bytes)) => write!(f, " --size {}KiB", kib_of(bytes))?,
        }
        for (option, value) in [
            ("sessions", self.size.sessions),
            ("connections", self.size.connections),
        ] {
            if let Some(value) = value {
                write!(f, " --{option} {value}")?;
            }
        }
        Ok(())
    }
}

/// Whole memory buffers; of what is no size the nearest KiB.
fn kib_of(bytes: i64) -> i64 {
    let kib = bytes.unsigned_abs().div_ceil(1024);
    let kib = if bytes > 0 {
        kib.next_multiple_of(BUFFER_KIB)
    } else {
        kib
    };
    kib.cast_signed() * bytes.signum()
}

fn make(order: &Order, update: bool, args: &Args) -> Result<Answer, CliError> {
    let reply = ask(&order.request(update), args)?;
    let mut entry = order.entry.clone();
    if entry.kind == "connection" {
        entry.buffer_id = Some(reply.buffer_id.into());
    }
    let mut text = format!(
        "{}: {} reserved, buffer id {}; {} are free",
        named(&entry),
        table::bytes(reply.reserved_bytes),
        reply.buffer_id,
        table::bytes(reply.free_bytes),
    );
    if let Some(warning) = &reply.warning {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    let json = json!({
        "ok": true,
        "buffer_id": reply.buffer_id,
        "reserved_bytes": reply.reserved_bytes,
        "allocated_bytes": reply.allocated_bytes,
        "free_bytes": reply.free_bytes,
        "recommended_bytes": reply.recommended_bytes,
        "warning": reply.warning,
    });
    Ok(Answer::done(json, text))
}

fn ask(request: &Request, args: &Args) -> Result<BuffersReply, CliError> {
    match client::ask(&args.socket()?, request)? {
        Reply::Buffers(reply) => Ok(reply),
        Reply::Failed { kind, message } => Err(CliError::Refused { kind, message }),
        _ => Err(CliError::other_answer()),
    }
}

fn entry_of<T: clap::Args>(target: &Target<T>) -> ReservationEntry {
    let of = |kind: &str| ReservationEntry {
        kind: kind.to_owned(),
        ..ReservationEntry::default()
    };
    match target {
        Target::Pair { local, remote, .. } => ReservationEntry {
            local: Some(local.to_string()),
            remote: Some(remote.to_string()),
            ..of("pair")
        },
        Target::Port { local, remote, .. } => ReservationEntry {
            local: Some(local.to_string()),
            remote: Some(remote.ip().to_string()),
            port: Some(remote.port().into()),
            ..of("pair-port")
        },
        Target::Connection { id, .. } => ReservationEntry {
            buffer_id: *id,
            ..of("connection")
        },
    }
}

/// As the command line names it.
fn named(entry: &ReservationEntry) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_default();
    let (local, remote) = (or_none(&entry.local), or_none(&entry.remote));
    match (entry.kind.as_str(), entry.port, entry.buffer_id) {
        ("pair-port", Some(port), _) => format!("port {local} {remote}:{port}"),
        ("connection", _, Some(id)) => format!("connection {id}"),
        ("connection", ..) => "connection".to_owned(),
        _ => format!("pair {local} {remote}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b19_a_size_is_whole_buffers_and_keeps_its_sign() {
        for (bytes, kib) in [
            (1, 4),
            (4096, 4),
            (4097, 8),
            (1_500_000, 1468),
            (0, 0),
            (-1, -1),
            (-4096, -4),
            (i64::MIN, -(1 << 53)),
        ] {
            assert_eq!(kib_of(bytes), kib, "{bytes}");
        }
    }
}
