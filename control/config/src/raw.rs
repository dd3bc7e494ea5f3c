//! The file as it stands, every value with its place in the text. No key that
//! is not listed here, or in the table of flush parameters, is accepted.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

pub(crate) type Text = Spanned<String>;
/// Signed, so that a negative number gets a message of ours, with its range.
pub(crate) type Number = Spanned<i64>;
/// Its keys are looked at with their values: serde's flatten would forget where they stand.
pub(crate) type Flush = BTreeMap<Text, Number>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    #[serde(default)]
    pub dataplane: DataPlane,
    #[serde(default)]
    pub control: Control,
    #[serde(default)]
    pub kernel: Kernel,
    #[serde(default)]
    pub port: Vec<Spanned<Port>>,
    #[serde(default)]
    pub route: Vec<Spanned<Route>>,
    #[serde(default)]
    pub iscsi: Iscsi,
    #[serde(default)]
    pub flush: Flush,
    pub journal: Option<Spanned<Journal>>,
    #[serde(default)]
    pub target: Vec<Spanned<Target>>,
    #[serde(default)]
    pub reservation: Vec<Spanned<Reservation>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataPlane {
    pub driver: Option<Text>,
    pub frames_mib: Option<Number>,
    pub log_mib: Option<Number>,
    pub directory: Option<Text>,
    pub fallback_directory: Option<Text>,
    pub segment: Option<Text>,
    pub spin_us: Option<Number>,
    pub busy_poll: Option<bool>,
    pub cpu: Option<Number>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Control {
    pub socket: Option<Text>,
    pub state: Option<Text>,
    pub cache_warning_percent: Option<Number>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kernel {
    pub device: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Port {
    pub name: Text,
    pub device: Text,
    pub address: Text,
    pub mtu: Option<Number>,
    pub driver: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    pub prefix: Text,
    pub via: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Iscsi {
    pub mode: Option<Text>,
    pub portal: Option<Text>,
    pub sessions_max: Option<Number>,
    pub secrets: Option<Text>,
    pub lan_header_digest: Option<Text>,
    pub lan_data_digest: Option<Text>,
    pub wan_header_digest: Option<Text>,
    pub wan_data_digest: Option<Text>,
    pub wan_send_kib: Option<Number>,
    pub wan_receive_kib: Option<Number>,
    pub wan_ecn: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Journal {
    pub path: Text,
    pub size_mib: Option<Number>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    pub name: Text,
    pub address: Text,
    pub initiators: Spanned<Vec<Text>>,
    #[serde(default)]
    pub shared: bool,
    pub durability: Option<Text>,
    pub identity: Option<Text>,
    pub chap: Option<bool>,
    pub luns: Option<Vec<Spanned<i64>>>,
    pub lanes: Option<Number>,
    pub buffer_id: Option<Number>,
}

/// [`crate::ReservationEntry`], with the places.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reservation {
    pub kind: Text,
    pub local: Option<Text>,
    pub remote: Option<Text>,
    pub port: Option<Number>,
    pub buffer_id: Option<Number>,
    pub size: Option<Text>,
    pub size_kib: Option<Number>,
    pub sessions: Option<Number>,
    pub connections: Option<Number>,
}
