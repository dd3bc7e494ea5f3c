//! Ports, routes, neighbours, paths, and what connections over them hold.

use std::io::Write;
use std::time::Duration;

use serde_json::json;
use sluice_hugepages::tables::{Allocation, Neighbour, Path, Port, Route};

use super::super::Answer;
use super::super::args::PathName;
use super::super::table::{self, TextTable};
use super::{Source, hex, list};

pub(super) fn ports(source: &Source, err: &mut dyn Write) -> Answer {
    let mut text = TextTable::new(&[
        "port",
        "device",
        "driver",
        "address",
        ">mtu",
        "link",
        ">rx packets",
        ">rx",
        ">tx packets",
        ">tx",
        ">drops",
        "why this driver",
    ]);
    let mut json = Vec::new();
    for (index, port) in source.rows::<Port>(err) {
        let address = format!("{}/{}", port.address, port.prefix_len);
        json.push(json!({
            "index": index,
            "name": port.name.as_str(),
            "device": port.device.as_str(),
            "driver": port.driver.as_str(),
            "why": port.why.as_str(),
            "mac": hex(&port.mac, ":"),
            "address": address,
            "mtu": port.mtu,
            "link": port.link.as_str(),
            "rx": { "packets": port.rx_packets, "bytes": port.rx_bytes, "drops": port.rx_drops },
            "tx": { "packets": port.tx_packets, "bytes": port.tx_bytes, "drops": port.tx_drops },
        }));
        text.row([
            port.name.to_string(),
            port.device.to_string(),
            port.driver.to_string(),
            address,
            port.mtu.to_string(),
            port.link.as_str().to_owned(),
            port.rx_packets.to_string(),
            table::bytes(port.rx_bytes),
            port.tx_packets.to_string(),
            table::bytes(port.tx_bytes),
            port.rx_drops.saturating_add(port.tx_drops).to_string(),
            port.why.to_string(),
        ]);
    }
    list(json, &text)
}

/// Names of the ports by index, for tables that refer to them.
fn port_name(ports: &[(usize, Port)], index: u8) -> String {
    let port = ports.iter().find(|(own, _)| *own == usize::from(index));
    port.map_or_else(|| index.to_string(), |(_, port)| port.name.to_string())
}

pub(super) fn routes(source: &Source, err: &mut dyn Write) -> Answer {
    let ports = source.rows::<Port>(err);
    let mut text = TextTable::new(&["prefix", "via", "port"]);
    let mut json = Vec::new();
    for (_, route) in source.rows::<Route>(err) {
        let prefix = format!("{}/{}", route.prefix, route.prefix_len);
        let via = route.via.map(|via| via.to_string());
        let port = port_name(&ports, route.port);
        let kind = if via.is_some() { "static" } else { "connected" };
        json.push(json!({ "prefix": prefix, "via": via, "port": port, "kind": kind }));
        text.row([prefix, via.unwrap_or_else(|| "connected".to_owned()), port]);
    }
    list(json, &text)
}

pub(super) fn neighbours(source: &Source, err: &mut dyn Write) -> Answer {
    let ports = source.rows::<Port>(err);
    let mut text = TextTable::new(&["address", "mac", "port", "state", ">confirmed"]);
    let mut json = Vec::new();
    for (_, neighbour) in source.rows::<Neighbour>(err) {
        let port = port_name(&ports, neighbour.port);
        let mac = hex(&neighbour.mac, ":");
        let age_s = (neighbour.confirmed_ns > 0).then(|| source.age_s(neighbour.confirmed_ns));
        json.push(json!({
            "address": neighbour.address.to_string(),
            "mac": mac,
            "port": port,
            "state": neighbour.state.as_str(),
            "confirmed_s": age_s,
        }));
        let confirmed = age_s.map_or_else(
            || "never".to_owned(),
            |age| format!("{} ago", table::seconds(age)),
        );
        text.row([
            neighbour.address.to_string(),
            mac,
            port,
            neighbour.state.as_str().to_owned(),
            confirmed,
        ]);
    }
    list(json, &text)
}

pub(super) fn paths(only: Option<&PathName>, source: &Source, err: &mut dyn Write) -> Answer {
    let mut text = TextTable::new(&[
        "local",
        "remote",
        ">sessions",
        ">bandwidth/s",
        ">measured",
        ">min rtt",
        ">rtt",
        "bounded by",
        "typed in",
        ">changes",
        ">recommended",
    ]);
    let mut json = Vec::new();
    let unknown = || "not known".to_owned();
    let of_us = |us: u64| table::seconds(Duration::from_micros(us).as_secs_f64());
    for (_, path) in source.rows::<Path>(err) {
        if only.is_some_and(|only| (only.local, only.remote) != (path.local, path.remote)) {
            continue;
        }
        let bandwidth_age_s = path.bandwidth_at_ns.map(|at| source.age_s(at));
        let min_rtt_age_s = path.min_rtt_at_ns.map(|at| source.age_s(at));
        json.push(json!({
            "local": path.local.to_string(),
            "remote": path.remote.to_string(),
            "sessions": path.sessions,
            "connections": 1,
            "bandwidth_bytes_per_s": bandwidth_age_s.map(|_| path.bandwidth_bytes_per_s),
            "bandwidth_age_s": bandwidth_age_s,
            "min_rtt_us": min_rtt_age_s.map(|_| path.min_rtt_us),
            "min_rtt_age_s": min_rtt_age_s,
            "rtt_us": (path.rtt_us > 0).then_some(path.rtt_us),
            "limit": path.limit.as_str(),
            "typed_bytes_per_s": path.typed_bytes_per_s,
            "typed_rtt_us": path.typed_rtt_us,
            "changes": path.changes,
            "changed_s": path.changed_at_ns.map(|at| source.age_s(at)),
            "probes": path.probes,
            "measured": path.measured,
            "recommended_bytes": path.recommended_bytes,
        }));
        let rate = path.typed_bytes_per_s;
        let rate = rate.map(|rate| format!("{}/s", table::bytes(rate)));
        let typed: Vec<String> = rate
            .into_iter()
            .chain(path.typed_rtt_us.map(of_us))
            .collect();
        text.row([
            path.local.to_string(),
            path.remote.to_string(),
            path.sessions.to_string(),
            bandwidth_age_s.map_or_else(unknown, |_| table::bytes(path.bandwidth_bytes_per_s)),
            bandwidth_age_s.map_or_else(
                || "never".to_owned(),
                |age| format!("{} ago", table::seconds(age)),
            ),
            min_rtt_age_s.map_or_else(unknown, |_| of_us(path.min_rtt_us)),
            match path.rtt_us {
                0 => unknown(),
                us => of_us(us),
            },
            path.limit.as_str().to_owned(),
            if typed.is_empty() {
                "-".to_owned()
            } else {
                typed.join(", ")
            },
            path.changes.to_string(),
            path.recommended_bytes.map_or_else(unknown, table::bytes),
        ]);
    }
    list(json, &text)
}

/// What connections to storages hold (B-3).
pub(super) fn allocations(source: &Source, err: &mut dyn Write) -> Answer {
    let mut text = TextTable::new(&[
        "target",
        "local",
        "remote",
        ">id",
        ">held",
        ">at most",
        ">unacknowledged",
        ">refused",
    ]);
    let mut json = Vec::new();
    for (_, row) in source.rows::<Allocation>(err) {
        json.push(json!({
            "target": row.target.as_str(),
            "local": row.local.to_string(),
            "remote": row.remote.to_string(),
            "buffer_id": (row.buffer_id > 0).then_some(row.buffer_id),
            "allocated_bytes": row.allocated_bytes,
            "limit_bytes": row.limit_bytes,
            "unacknowledged_bytes": row.unacknowledged_bytes,
            "refused": row.refused,
        }));
        text.row([
            row.target.to_string(),
            row.local.to_string(),
            row.remote.to_string(),
            match row.buffer_id {
                0 => "free list".to_owned(),
                id => id.to_string(),
            },
            table::bytes(row.allocated_bytes),
            table::bytes(row.limit_bytes),
            table::bytes(row.unacknowledged_bytes),
            row.refused.to_string(),
        ]);
    }
    list(json, &text)
}
