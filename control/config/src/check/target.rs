//! Targets: names, who may log in, and how the storage is reached.

use toml::Spanned;

use super::Checker;
use crate::iscsi_name::check_iscsi_name;
use crate::raw::{self, Number, Text};
use crate::{
    Config, Durability, IdentityPolicy, Initiators, LANES_MAX, RESERVATIONS_MAX, TARGETS_MAX,
    Target, lun_from_number,
};

impl Checker<'_> {
    pub(super) fn targets(&mut self, raw: &[Spanned<raw::Target>], config: &Config) -> Vec<Target> {
        if let Some(extra) = raw.get(TARGETS_MAX) {
            self.fault(
                extra.span(),
                format!("more than {TARGETS_MAX} targets; remove some"),
            );
        }
        let mut targets: Vec<Target> = Vec::new();
        for raw in raw {
            let raw = raw.get_ref();
            let name = self.iscsi_name("name", &raw.name);
            if targets.iter().any(|other| other.name == name) {
                self.bad("name", &raw.name, "another target has this name; keep one");
            }
            let initiators = self.initiators(&raw.initiators);
            let durability = self.durability(raw.durability.as_ref(), config);
            let Some(address) = self.socket_address("address", &raw.address) else {
                continue;
            };
            if config
                .ports
                .iter()
                .any(|port| port.address.address() == *address.ip())
            {
                let hint = "is the relay's own address; use the storage's";
                self.bad("address", &raw.address, hint);
            } else if self.nets_known && config.route_port(*address.ip()).is_none() {
                let hint = "no port's net and no route leads there; add a [[route]] for it";
                self.bad("address", &raw.address, hint);
            }
            targets.push(Target {
                name,
                address,
                initiators,
                shared: raw.shared,
                durability,
                identity: self.identity(raw.identity.as_ref()),
                chap: raw.chap,
                luns: self.luns(raw.luns.as_deref()),
                lanes: self.lanes(raw.lanes.as_ref()),
                buffer_id: self.buffer_id(raw.buffer_id.as_ref()),
            });
        }
        targets
    }

    fn identity(&mut self, raw: Option<&Text>) -> IdentityPolicy {
        match raw.map(|text| (text, text.get_ref().as_str())) {
            None | Some((_, "pass")) => IdentityPolicy::Pass,
            Some((_, "own")) => IdentityPolicy::Own,
            Some((at, _)) => {
                self.bad("identity", at, "must be \"pass\" or \"own\"");
                IdentityPolicy::Pass
            }
        }
    }

    fn lanes(&mut self, raw: Option<&Number>) -> u32 {
        let lanes = self.number("lanes", raw, 1, 1, u64::from(LANES_MAX));
        u32::try_from(lanes).expect("LANES_MAX")
    }

    fn buffer_id(&mut self, raw: Option<&Number>) -> Option<u16> {
        let at = raw?;
        let max = u64::from(RESERVATIONS_MAX) - 1;
        let id = self.number("buffer_id", Some(at), 1, 1, max);
        Some(u16::try_from(id).expect("below RESERVATIONS_MAX"))
    }

    fn luns(&mut self, raw: Option<&[Spanned<i64>]>) -> Vec<u64> {
        let Some(raw) = raw else {
            return lun_from_number(1).into_iter().collect();
        };
        let mut luns = Vec::new();
        for number in raw {
            let lun = u16::try_from(*number.get_ref())
                .ok()
                .and_then(lun_from_number);
            match lun {
                Some(lun) => luns.push(lun),
                None => self.fault(
                    number.span(),
                    format!("luns: {} is not a LUN; use 0 to 16383", number.get_ref()),
                ),
            }
        }
        luns
    }

    fn initiators(&mut self, raw: &Spanned<Vec<Text>>) -> Initiators {
        let list = raw.get_ref();
        let any = list.iter().any(|name| name.get_ref() == "*");
        if list.is_empty() {
            let hint = "admits nobody; use [\"*\"] for any initiator, or list their names";
            self.bad("initiators", raw, hint);
        }
        if any && list.len() > 1 {
            self.bad(
                "initiators",
                raw,
                "\"*\" admits any initiator; use it alone, or leave it out",
            );
        }
        if any {
            return Initiators::Any;
        }
        Initiators::Named(
            list.iter()
                .map(|name| self.iscsi_name("initiators", name))
                .collect(),
        )
    }

    fn durability(&mut self, raw: Option<&Text>, config: &Config) -> Durability {
        match raw.map(|at| (at, at.get_ref().as_str())) {
            None | Some((_, "memory")) => Durability::Memory,
            Some((_, "storage")) => Durability::Storage,
            Some((at, "journal")) => {
                if config.journal.is_none() {
                    let hint = "needs a journal; add [journal] with path = \"...\", a file or block device on a local disk";
                    self.bad("durability", at, hint);
                }
                Durability::Journal
            }
            Some((at, _)) => {
                let hint = "must be \"memory\", \"journal\" or \"storage\"";
                self.bad("durability", at, hint);
                Durability::Memory
            }
        }
    }

    /// Names are compared in lower case (RFC 7143 4.2.7.1).
    fn iscsi_name(&mut self, key: &str, at: &Text) -> String {
        let name = at.get_ref().to_lowercase();
        if let Err(error) = check_iscsi_name(&name) {
            self.bad(key, at, &error.to_string());
        }
        name
    }
}
