//! A host on a link: smoltcp with Ethernet, ARP and one default route.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use sluice_proto::Time;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

const MTU: usize = 1500;
const SOCKET_LEN: usize = 128 * 1024;

/// Frames as they come and go.
#[derive(Debug, Default)]
pub struct Wire {
    pub received: VecDeque<Vec<u8>>,
    pub sent: VecDeque<Vec<u8>>,
}

pub struct Host {
    pub wire: Wire,
    pub mac: [u8; 6],
    interface: Interface,
    sockets: SocketSet<'static>,
    /// When a poll has something to do by itself; `None` after anything that may have
    /// changed it. Most of a run is rounds in which a host has nothing to do.
    due: Option<Time>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("wire", &self.wire)
            .finish_non_exhaustive()
    }
}

pub fn instant(now: Time) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).expect("simulated time is short"))
}

impl Host {
    pub fn new(address: Ipv4Addr, gateway: Ipv4Addr, mac: [u8; 6], seed: u64) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(EthernetAddress(mac).into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(IpAddress::Ipv4(address), 24))
                .expect("the first address");
        });
        interface
            .routes_mut()
            .add_default_ipv4_route(gateway)
            .expect("the first route");
        Self {
            wire,
            mac,
            interface,
            sockets: SocketSet::new(Vec::new()),
            due: None,
        }
    }

    pub fn open(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; SOCKET_LEN]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        self.due = None;
        self.sockets.add(socket)
    }

    pub fn connect(&mut self, handle: SocketHandle, remote: (Ipv4Addr, u16), local_port: u16) {
        self.due = None;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket
            .connect(self.interface.context(), remote, local_port)
            .expect("a fresh socket and a fixed address");
    }

    /// To look at.
    pub fn socket(&self, handle: SocketHandle) -> &tcp::Socket<'static> {
        self.sockets.get(handle)
    }

    /// To change.
    pub fn socket_mut(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.due = None;
        self.sockets.get_mut(handle)
    }

    pub fn close(&mut self, handle: SocketHandle) {
        self.due = None;
        self.sockets.remove(handle);
    }

    pub fn poll(&mut self, now: Time) {
        if self.wire.received.is_empty() && self.due.is_some_and(|due| now < due) {
            return;
        }
        self.due = None;
        self.interface
            .poll(instant(now), &mut self.wire, &mut self.sockets);
    }

    pub fn deadline(&mut self, now: Time) -> Time {
        let due = match self.due {
            Some(due) => due,
            None => match self.interface.poll_at(instant(now), &self.sockets) {
                None => Time::FAR,
                Some(at) => Time::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)),
            },
        };
        self.due = Some(due);
        due.max(now)
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + 14;
        capabilities
    }
}

#[derive(Debug)]
pub struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

#[derive(Debug)]
pub struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}
