//! From the text to a checked [`Config`]: every value once on its own, then
//! what must hold between values. Faults are collected, not returned at the
//! first, so that one run shows all of them.

mod net;
mod reservation;
mod target;

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use crate::budget::{self, MemoryBudget};
use crate::raw::{self, Number, Text};
use crate::{
    Config, Control, DataPlane, Digest, Digests, Driver, Fault, Flush, FlushParameter, FlushSet,
    Iscsi, Journal, LANES_MAX, Mode, Port,
};

const MIB: u64 = 1 << 20;
/// Longest a held write may wait: well below the 30 s after which Linux gives a command up (C-16).
const HELD_WRITE_MS_MAX: u64 = 25_000;
/// What a journal has beside all of its log, at least: the room that it keeps for
/// writing its oldest records again, and as much to write them to.
const JOURNAL_SPARE_MIB: u64 = 16;
/// Most of one: 1 TiB is no limit to anyone.
const JOURNAL_MIB_MAX: u64 = 1 << 20;
/// `sun_path` has 108 bytes, the last a NUL.
const SOCKET_PATH_LEN_MAX: usize = 107;

/// Checks a whole text. The faults come in the order of their lines.
pub(crate) fn config(text: &str) -> Result<Config, Vec<Fault>> {
    let raw: raw::File = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let message = error.message().replace('\n', "; ");
        vec![Fault {
            line: line_of(text, at),
            message,
        }]
    })?;
    let mut checker = Checker {
        text,
        faults: Vec::new(),
        nets_known: true,
    };
    let config = checker.whole(&raw);
    if checker.faults.is_empty() {
        return Ok(config);
    }
    checker.faults.sort_by_key(|fault| fault.line);
    Err(checker.faults)
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count()
}

/// Collects faults. A value at fault is replaced by something harmless, so
/// that the checks after it can go on; the result is then thrown away.
pub(crate) struct Checker<'a> {
    text: &'a str,
    faults: Vec<Fault>,
    /// Ports and routes are as meant. If not, what would only follow from their faults is not shown.
    nets_known: bool,
}

impl Checker<'_> {
    fn whole(&mut self, raw: &raw::File) -> Config {
        let driver = self.driver(raw.dataplane.driver.as_ref(), Driver::Auto);
        let ports = self.ports(&raw.port, driver);
        let kernel_device = self.kernel_device(raw.kernel.device.as_ref(), &ports);
        self.nets_known = self.faults.is_empty();
        let routes = self.routes(&raw.route, &ports);
        self.nets_known = self.faults.is_empty();
        let (dataplane, iscsi) = self.memory(raw, driver, &ports);
        let flush = self.flush(&raw.flush, dataplane.log_bytes);
        let control = self.control(&raw.control);
        let journal = self.journal(raw.journal.as_ref(), &dataplane);
        let mut config = Config {
            dataplane,
            control,
            kernel_device,
            ports,
            routes,
            iscsi,
            flush,
            journal,
            targets: Vec::new(),
            reservations: Vec::new(),
        };
        config.targets = self.targets(&raw.target, &config);
        config.reservations = self.reservations(raw, &config);
        config
    }

    /// `[dataplane]` and `[iscsi]`: the two say together how much memory there is and what it is for.
    fn memory(&mut self, raw: &raw::File, driver: Driver, ports: &[Port]) -> (DataPlane, Iscsi) {
        let own = &raw.dataplane;
        let mode = match raw
            .iscsi
            .mode
            .as_ref()
            .map(|mode| (mode, mode.get_ref().as_str()))
        {
            None | Some((_, "transparent")) => Mode::Transparent,
            Some((_, "portal")) => Mode::Portal,
            Some((at, _)) => {
                self.bad("mode", at, "must be \"transparent\" or \"portal\"");
                Mode::Transparent
            }
        };
        let wan_send_bytes = self.pages("wan_send_kib", raw.iscsi.wan_send_kib.as_ref(), 1024);
        let wan_receive_bytes =
            self.pages("wan_receive_kib", raw.iscsi.wan_receive_kib.as_ref(), 256);
        let session_bytes = budget::session_bytes(wan_send_bytes, wan_receive_bytes);
        // What is wrong with a target's number is said where the target is looked at.
        let lanes = raw.target.iter().map(|target| {
            let lanes = target.get_ref().lanes.as_ref();
            lanes.map_or(1, |lanes| (*lanes.get_ref()).clamp(1, LANES_MAX.into()))
        });
        let lanes_beside = lanes.map(|lanes| lanes - 1).sum::<i64>();
        let lanes_beside = u32::try_from(lanes_beside).unwrap_or(u32::MAX);
        let lanes_bytes =
            u64::from(lanes_beside) * budget::wan_buffers_bytes(wan_send_bytes, wan_receive_bytes);

        let frames_min = budget::frames_bytes_min(ports, session_bytes, lanes_bytes) / MIB;
        let frames_bytes = self.hugepages("frames_mib", own.frames_mib.as_ref(), 256, frames_min);
        // Directory, one segment to write, one to move live records to, one to spare.
        let log_bytes = self.hugepages("log_mib", own.log_mib.as_ref(), 256, 8);
        let sessions_kept =
            u32::try_from(budget::sessions_in_directory(log_bytes)).unwrap_or(u32::MAX);
        let sessions_kept = sessions_kept.saturating_sub(lanes_beside).max(1);
        let reserved_bytes = self.reserved_bytes(raw, wan_send_bytes);
        let room_bytes = budget::room_bytes(frames_bytes, ports);
        // With every buffer full: nobody borrows.
        let full_bytes = room_bytes.saturating_sub(reserved_bytes + lanes_bytes);
        let sessions_full = budget::sessions_that_fit(full_bytes, session_bytes).max(1);
        // With the buffers that each must have.
        let lanes_least_bytes = u64::from(lanes_beside) * budget::WAN_FLOW_BYTES_LEAST;
        let least_bytes = room_bytes.saturating_sub(reserved_bytes + lanes_least_bytes);
        let sessions_fit =
            budget::sessions_that_fit(least_bytes, budget::SESSION_BYTES_LEAST).max(1);
        let reservable = room_bytes.saturating_sub(lanes_least_bytes + budget::SESSION_BYTES_LEAST);
        self.reservations_fit(raw, wan_send_bytes, (reservable, frames_bytes));
        let beside = match (lanes_beside, reserved_bytes) {
            (0, 0) => String::new(),
            (lanes, 0) => format!(" beside {lanes} lanes"),
            (0, reserved) => format!(" beside {} MiB of reservations", reserved.div_ceil(MIB)),
            (lanes, reserved) => format!(
                " beside {lanes} lanes and {} MiB of reservations",
                reserved.div_ceil(MIB)
            ),
        };
        let sessions_max = match raw.iscsi.sessions_max.as_ref() {
            // Half of what fits: the rest is for packets on their way and for flows that close.
            None => (sessions_full / 2).max(1).min(sessions_kept),
            Some(at) => match u32::try_from(*at.get_ref()) {
                Ok(sessions) if (1..=sessions_fit.min(sessions_kept)).contains(&sessions) => {
                    sessions
                }
                Ok(sessions) if (1..=sessions_fit).contains(&sessions) => {
                    let hint = format!(
                        "must be 1 to {sessions_kept}, as many as log_mib = {} has rows for in its directory{}; raise log_mib for more",
                        log_bytes / MIB,
                        match lanes_beside {
                            0 => String::new(),
                            lanes => format!(" beside {lanes} lanes"),
                        }
                    );
                    self.bad("sessions_max", at, &hint);
                    1
                }
                _ => {
                    let hint = format!(
                        "must be 1 to {sessions_fit}, what fits in frames_mib = {}{beside} at {} KiB a session; raise frames_mib for more",
                        frames_bytes / MIB,
                        budget::SESSION_BYTES_LEAST / 1024,
                    );
                    self.bad("sessions_max", at, &hint);
                    1
                }
            },
        };
        let dataplane = DataPlane {
            driver,
            frames_bytes,
            log_bytes,
            directory: self.path("directory", own.directory.as_ref(), "/dev/hugepages/sluice"),
            fallback_directory: self.path(
                "fallback_directory",
                own.fallback_directory.as_ref(),
                "/dev/shm/sluice",
            ),
            segment: self.path("segment", own.segment.as_ref(), crate::DEFAULT_SEGMENT),
            spin: Duration::from_micros(self.number(
                "spin_us",
                own.spin_us.as_ref(),
                50,
                0,
                1_000_000,
            )),
            busy_poll: own.busy_poll.unwrap_or(false),
            cpu: own.cpu.as_ref().map(|cpu| {
                usize::try_from(self.number("cpu", Some(cpu), 0, 0, 4095)).expect("at most 4095")
            }),
        };
        let iscsi = Iscsi {
            mode,
            portal: self.portal(&raw.iscsi, mode, ports),
            sessions_max,
            secrets: raw
                .iscsi
                .secrets
                .as_ref()
                .map(|path| self.path("secrets", Some(path), "")),
            lan_digests: Digests {
                header: self.digest("lan_header_digest", raw.iscsi.lan_header_digest.as_ref()),
                data: self.digest("lan_data_digest", raw.iscsi.lan_data_digest.as_ref()),
            },
            wan_digests: Digests {
                header: self.digest("wan_header_digest", raw.iscsi.wan_header_digest.as_ref()),
                data: self.digest("wan_data_digest", raw.iscsi.wan_data_digest.as_ref()),
            },
            wan_send_bytes,
            wan_receive_bytes,
            lanes_beside,
            wan_ecn: raw.iscsi.wan_ecn.unwrap_or(true),
        };
        let budget = MemoryBudget::derive(&dataplane, &iscsi, ports, 0);
        assert!(
            !self.faults.is_empty()
                || budget.ports_bytes + budget.staging_bytes + budget.flows_least_bytes
                    <= budget.frames_bytes,
            "sessions_max was checked against the same sums"
        );
        (dataplane, iscsi)
    }

    fn flush(&mut self, raw: &raw::Flush, log_bytes: u64) -> Flush {
        const HELD: &str = "held_write_max_ms";
        let mut set = FlushSet::defaults(log_bytes);
        let mut held = None;
        for (key, at) in raw {
            let name = key.get_ref().as_str();
            match FlushParameter::of_key(name) {
                Some(parameter) => match parameter.check(*at.get_ref(), log_bytes) {
                    Ok(value) => set.set(parameter, value),
                    Err(error) => self.bad(name, at, &format!("must be {}", error.range())),
                },
                None if name == HELD => held = Some(at),
                None => self.fault(key.span(), crate::flush::unknown_key(name, &[HELD])),
            }
        }
        let held_ms = self.number(HELD, held, 10_000, 100, HELD_WRITE_MS_MAX);
        Flush {
            set,
            held_write_max: Duration::from_millis(held_ms),
        }
    }

    fn control(&mut self, raw: &raw::Control) -> Control {
        let socket = self.path("socket", raw.socket.as_ref(), crate::DEFAULT_SOCKET);
        if let Some(at) = &raw.socket
            && at.get_ref().len() > SOCKET_PATH_LEN_MAX
        {
            self.bad(
                "socket",
                at,
                "the path of a Unix socket has at most 107 bytes; use a shorter one",
            );
        }
        let state = self.path("state", raw.state.as_ref(), "/var/lib/sluice/state.toml");
        let percent = raw.cache_warning_percent.as_ref();
        let percent = self.number("cache_warning_percent", percent, 75, 1, 100);
        Control {
            socket,
            state,
            cache_warning_percent: u8::try_from(percent).expect("at most 100"),
        }
    }

    /// Larger than the log, or it could not go round while the log is full.
    fn journal(
        &mut self,
        raw: Option<&Spanned<raw::Journal>>,
        dataplane: &DataPlane,
    ) -> Option<Journal> {
        let raw = raw?.get_ref();
        let log_mib = dataplane.log_bytes / MIB;
        let min = (log_mib * 3).div_ceil(2).max(log_mib + JOURNAL_SPARE_MIB);
        let default = (log_mib * 2).max(min);
        let size_mib = match &raw.size_mib {
            None => default,
            Some(at) => match u64::try_from(*at.get_ref()) {
                Ok(value) if (min..=JOURNAL_MIB_MAX).contains(&value) => value,
                _ => {
                    let hint = format!(
                        "must be {min} to {JOURNAL_MIB_MAX}: one and a half times log_mib = {log_mib} at least, and {JOURNAL_SPARE_MIB} more than that"
                    );
                    self.bad("size_mib", at, &hint);
                    default
                }
            },
        };
        let path = self.path("path", Some(&raw.path), "");
        for (name, other) in [
            ("directory", &dataplane.directory),
            ("fallback_directory", &dataplane.fallback_directory),
        ] {
            if path.starts_with(other) {
                let hint = format!(
                    "is in dataplane.{name}, which is memory and lost with the power; name a file on a local disk"
                );
                self.bad("path", &raw.path, &hint);
            }
        }
        Some(Journal {
            path,
            size_bytes: size_mib * MIB,
        })
    }

    fn driver(&mut self, raw: Option<&Text>, default: Driver) -> Driver {
        let Some(at) = raw else { return default };
        match at.get_ref().as_str() {
            "auto" => Driver::Auto,
            "af_xdp" => Driver::AfXdp,
            "af_packet" => Driver::AfPacket,
            _ => {
                self.bad(
                    "driver",
                    at,
                    "must be \"auto\", \"af_xdp\" or \"af_packet\"",
                );
                default
            }
        }
    }

    fn digest(&mut self, key: &str, raw: Option<&Text>) -> Digest {
        let Some(at) = raw else {
            return Digest::default();
        };
        match at.get_ref().as_str() {
            "never" => Digest::Never,
            "allowed" => Digest::Allowed,
            "preferred" => Digest::Preferred,
            "required" => Digest::Required,
            _ => {
                let hint = "must be \"never\", \"allowed\", \"preferred\" or \"required\"";
                self.bad(key, at, hint);
                Digest::default()
            }
        }
    }

    fn path(&mut self, key: &str, raw: Option<&Text>, default: &str) -> PathBuf {
        let Some(at) = raw else {
            return PathBuf::from(default);
        };
        if !at.get_ref().starts_with('/') || at.get_ref().contains('\0') {
            self.bad(key, at, "must be an absolute path");
        }
        PathBuf::from(at.get_ref())
    }

    fn number(&mut self, key: &str, raw: Option<&Number>, default: u64, min: u64, max: u64) -> u64 {
        let Some(at) = raw else { return default };
        match u64::try_from(*at.get_ref()) {
            Ok(value) if (min..=max).contains(&value) => value,
            _ => {
                self.bad(key, at, &format!("must be {min} to {max}"));
                default
            }
        }
    }

    /// A size in MiB that is cut into 2 MiB hugepages; answers bytes.
    fn hugepages(&mut self, key: &str, raw: Option<&Number>, default: u64, min: u64) -> u64 {
        // Offsets into a region are kept in 32 bits of 4 KiB units; 4 TiB is far below that.
        let max = 4 << 20;
        let value = self.number(key, raw, default.max(min), min, max);
        if let Some(at) = raw
            && !value.is_multiple_of(2)
        {
            self.bad(
                key,
                at,
                &format!("must be a multiple of 2 (one hugepage); use {}", value + 1),
            );
        }
        value * MIB
    }

    /// A size in KiB that is leased in whole 64 KiB pages; answers bytes.
    fn pages(&mut self, key: &str, raw: Option<&Number>, default: u64) -> u32 {
        let value = self.number(key, raw, default, 64, 64 * 1024);
        if let Some(at) = raw
            && !value.is_multiple_of(64)
        {
            let up = value.next_multiple_of(64);
            self.bad(
                key,
                at,
                &format!("must be a multiple of 64 (one page); use {up}"),
            );
        }
        u32::try_from(value * 1024).expect("at most 64 MiB")
    }

    /// `KEY = VALUE: hint`, the value as it stands in the text.
    pub(crate) fn bad<T>(&mut self, key: &str, at: &Spanned<T>, hint: &str) {
        let value = self.text.get(at.span()).unwrap_or("?").to_owned();
        self.fault(at.span(), format!("{key} = {value}: {hint}"));
    }

    pub(crate) fn fault(&mut self, span: Range<usize>, message: String) {
        let line = line_of(self.text, span.start);
        self.faults.push(Fault { line, message });
    }
}
