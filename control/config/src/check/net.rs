//! Ports, routes and the portal: what must hold between addresses.

use std::net::{Ipv4Addr, SocketAddrV4};

use toml::Spanned;

use super::Checker;
use crate::raw::{self, Text};
use crate::{Cidr, Driver, Mode, PORTS_MAX, Port, ROUTES_MAX, Route};

/// RFC 791: every host takes 576 bytes; RFC 9000 aside, nothing below is of use.
const MTU_MIN: u64 = 576;
/// What jumbo-frame NICs agree on.
const MTU_MAX: u64 = 9000;
/// IFNAMSIZ less the NUL.
const DEVICE_LEN_MAX: usize = 15;
/// The same less `:NN`, the label of a further address.
const KERNEL_DEVICE_LEN_MAX: usize = 12;

impl Checker<'_> {
    pub(super) fn ports(&mut self, raw: &[Spanned<raw::Port>], driver: Driver) -> Vec<Port> {
        if raw.is_empty() {
            let hint =
                "no [[port]]: the router needs at least one, with name, device, address and mtu";
            self.fault(0..0, hint.to_owned());
        }
        if let Some(extra) = raw.get(PORTS_MAX) {
            self.fault(
                extra.span(),
                format!("more than {PORTS_MAX} ports; remove some"),
            );
        }
        let mut ports: Vec<Port> = Vec::new();
        for raw in raw {
            let raw = raw.get_ref();
            if !is_word(raw.name.get_ref(), DEVICE_LEN_MAX) {
                let hint = "a port's name is 1 to 15 letters, digits, '-', '_' or '.'";
                self.bad("name", &raw.name, hint);
            }
            let device = raw.device.get_ref();
            if device.is_empty()
                || device.len() > DEVICE_LEN_MAX
                || device.contains(|c: char| c == '/' || c.is_whitespace())
            {
                let hint =
                    "a device name is 1 to 15 bytes without '/' or blanks; `ip link` lists them";
                self.bad("device", &raw.device, hint);
            }
            let port = Port {
                name: raw.name.get_ref().clone(),
                device: device.clone(),
                address: self.port_address(&raw.address),
                mtu: u16::try_from(self.number("mtu", raw.mtu.as_ref(), 1500, MTU_MIN, MTU_MAX))
                    .expect("at most 9000"),
                driver: self.driver(raw.driver.as_ref(), driver),
            };
            for other in &ports {
                if other.name == port.name {
                    self.bad(
                        "name",
                        &raw.name,
                        "another port has this name; give each its own",
                    );
                }
                if other.device == port.device {
                    let hint = format!("port {} has this device; give each its own", other.name);
                    self.bad("device", &raw.device, &hint);
                }
                if other.address.overlaps(&port.address) {
                    let hint = format!(
                        "overlaps {} of port {}; give each port a net of its own",
                        other.address, other.name
                    );
                    self.bad("address", &raw.address, &hint);
                }
            }
            ports.push(port);
        }
        ports
    }

    pub(super) fn kernel_device(&mut self, raw: Option<&Text>, ports: &[Port]) -> Option<String> {
        let at = raw?;
        let device = at.get_ref();
        if !is_word(device, KERNEL_DEVICE_LEN_MAX) {
            let hint = "a device to be made: 1 to 12 letters, digits, '-', '_' or '.'";
            self.bad("device", at, hint);
        } else if let Some(port) = ports.iter().find(|port| port.device == *device) {
            let hint = format!(
                "port {} is on this device; name one that does not exist, it is made at start",
                port.name
            );
            self.bad("device", at, &hint);
        }
        Some(device.clone())
    }

    fn port_address(&mut self, at: &Text) -> Cidr {
        let harmless = Cidr::new(Ipv4Addr::UNSPECIFIED, 32).expect("32 is a length");
        match at.get_ref().parse::<Cidr>() {
            Err(error) => {
                self.bad("address", at, &error.to_string());
                harmless
            }
            Ok(address) if address.prefix_len() == 0 || !is_unicast(address.address()) => {
                let hint =
                    "must be a unicast address with the length of its net, as in 198.18.0.1/24";
                self.bad("address", at, hint);
                harmless
            }
            Ok(address) if !address.is_host(address.address()) => {
                let hint = "is the net's own or its broadcast address; use a host's";
                self.bad("address", at, hint);
                harmless
            }
            Ok(address) => address,
        }
    }

    pub(super) fn routes(&mut self, raw: &[Spanned<raw::Route>], ports: &[Port]) -> Vec<Route> {
        if let Some(extra) = raw.get(ROUTES_MAX) {
            self.fault(
                extra.span(),
                format!("more than {ROUTES_MAX} static routes; join some"),
            );
        }
        let mut routes: Vec<Route> = Vec::new();
        for raw in raw {
            let raw = raw.get_ref();
            let prefix = match raw.prefix.get_ref().parse::<Cidr>() {
                Ok(prefix) => prefix,
                Err(error) => {
                    self.bad("prefix", &raw.prefix, &error.to_string());
                    continue;
                }
            };
            if prefix.network() != prefix {
                let hint = format!("has host bits set; use \"{}\"", prefix.network());
                self.bad("prefix", &raw.prefix, &hint);
            }
            if routes.iter().any(|other| other.prefix == prefix) {
                self.bad(
                    "prefix",
                    &raw.prefix,
                    "another route has this prefix; keep one",
                );
            }
            if let Some(port) = ports.iter().find(|port| port.address.network() == prefix) {
                let hint = format!(
                    "is the connected net of port {}; remove the route",
                    port.name
                );
                self.bad("prefix", &raw.prefix, &hint);
            }
            let Ok(via) = raw.via.get_ref().parse::<Ipv4Addr>() else {
                let hint = "not an IPv4 address, as in 198.19.0.10";
                self.bad("via", &raw.via, hint);
                continue;
            };
            let connected = ports.iter().position(|port| port.address.is_host(via));
            match connected {
                None if !self.nets_known => {}
                None => {
                    let nets: Vec<String> = ports
                        .iter()
                        .map(|port| port.address.network().to_string())
                        .collect();
                    let hint = format!(
                        "is on no port's net ({}); use a next hop that is",
                        nets.join(", ")
                    );
                    self.bad("via", &raw.via, &hint);
                }
                Some(_) if ports.iter().any(|port| port.address.address() == via) => {
                    let hint = "is the relay's own address; use the next router's";
                    self.bad("via", &raw.via, hint);
                }
                Some(port) => routes.push(Route { prefix, via, port }),
            }
        }
        routes
    }

    pub(super) fn portal(
        &mut self,
        raw: &raw::Iscsi,
        mode: Mode,
        ports: &[Port],
    ) -> Option<SocketAddrV4> {
        let Some(at) = &raw.portal else {
            if let (Mode::Portal, Some(mode)) = (mode, &raw.mode) {
                let hint =
                    "needs `portal = \"ADDRESS:3260\"` under [iscsi], on the address of a port";
                self.bad("mode", mode, hint);
            }
            return None;
        };
        let portal = self.socket_address("portal", at)?;
        if self.nets_known
            && !ports
                .iter()
                .any(|port| port.address.address() == *portal.ip())
        {
            let own: Vec<String> = ports
                .iter()
                .map(|port| port.address.address().to_string())
                .collect();
            let hint = format!(
                "is not the address of a port ({}); use one of these",
                own.join(", ")
            );
            self.bad("portal", at, &hint);
        }
        Some(portal)
    }

    pub(super) fn socket_address(&mut self, key: &str, at: &Text) -> Option<SocketAddrV4> {
        let address = at.get_ref().parse::<SocketAddrV4>().ok();
        let usable = address.filter(|address| address.port() != 0 && is_unicast(*address.ip()));
        if usable.is_none() {
            self.bad(
                key,
                at,
                "must be a unicast IPv4 address and a port, as in 198.19.0.10:3260",
            );
        }
        usable
    }
}

fn is_unicast(address: Ipv4Addr) -> bool {
    !(address.is_multicast()
        || address.is_loopback()
        || address.octets()[0] == 0
        || address.octets()[0] >= 240)
}

fn is_word(text: &str, len_max: usize) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= len_max && text.bytes().all(word)
}
