//! A veth pair between two network namespaces of its own, and a raw socket at
//! its far end: the wire that the driver tests run over.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// IEEE 802: for experiments on a local network. Frames of other types are not ours.
pub const ETHERTYPE_EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];

/// Runs a command, which must succeed.
pub fn run(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs `task` on a thread in the namespace.
pub fn within<T: Send>(namespace: &str, task: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let file = File::open(format!("/run/netns/{namespace}")).unwrap();
                // SAFETY: setns(2) takes no pointers; this thread ends with the task.
                let done = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(done, 0, "{}", io::Error::last_os_error());
                task()
            })
            .join()
            .unwrap()
    })
}

/// Two namespaces; deleted when dropped.
pub struct Namespaces(pub Vec<String>);

impl Namespaces {
    pub fn new(count: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // SAFETY: geteuid(2) cannot fail.
        let euid = unsafe { libc::geteuid() };
        assert_eq!(
            euid, 0,
            "driver tests make network namespaces: run them as root"
        );
        // Relaxed: only the number matters.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let names =
            (0..count).map(|end| format!("sluice-drv-{}-{number}-{end}", std::process::id()));
        let namespaces = Self(names.collect());
        for name in &namespaces.0 {
            run(&format!("ip netns add {name}"));
            // Router solicitations and the like would be frames that nobody sent.
            run(&format!(
                "ip netns exec {name} sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"
            ));
        }
        namespaces
    }

    /// A veth pair between two of them.
    pub fn link(&self, (from, from_name): (usize, &str), (to, to_name): (usize, &str)) {
        let (from, to) = (&self.0[from], &self.0[to]);
        run(&format!(
            "ip -n {from} link add {from_name} type veth peer name {to_name} netns {to}"
        ));
        run(&format!("ip -n {from} link set {from_name} up"));
        run(&format!("ip -n {to} link set {to_name} up"));
        // The kernel gives a link its queue some time after its carrier, and
        // drops what is sent before.
        for (namespace, name) in [(from, from_name), (to, to_name)] {
            eventually("the link is up", || {
                let shown = Command::new("ip")
                    .args(["-n", namespace, "-br", "link", "show", "dev", name])
                    .output()
                    .unwrap();
                let shown = String::from_utf8(shown.stdout).unwrap();
                (shown.split_whitespace().nth(1) == Some("UP")).then_some(())
            });
        }
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// A raw socket on a device, without the drivers under test.
pub struct RawPeer(OwnedFd);

impl RawPeer {
    /// In the calling thread's namespace.
    pub fn open(device: &str) -> Self {
        let name = std::ffi::CString::new(device).unwrap();
        // SAFETY: plain calls with a string, a zeroed struct of integers and its length.
        unsafe {
            let fd = libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                0,
            );
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            let fd = OwnedFd::from_raw_fd(fd);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
            address.sll_protocol = u16::from_ne_bytes(ETHERTYPE_EXPERIMENTAL);
            address.sll_ifindex = i32::try_from(libc::if_nametoindex(name.as_ptr())).unwrap();
            let len = u32::try_from(size_of_val(&address)).unwrap();
            let done = libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len);
            assert_eq!(done, 0, "{}", io::Error::last_os_error());
            let buffer: libc::c_int = 8 << 20;
            let option = (&raw const buffer).cast();
            assert_eq!(
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVBUFFORCE,
                    option,
                    4
                ),
                0
            );
            Self(fd)
        }
    }

    pub fn send(&self, bytes: &[u8]) {
        // SAFETY: the buffer is as long as said.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(
            usize::try_from(sent),
            Ok(bytes.len()),
            "{}",
            io::Error::last_os_error()
        );
    }

    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 4096];
        // SAFETY: the buffer is as long as said.
        let len = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                0,
            )
        };
        bytes.truncate(usize::try_from(len).ok()?);
        Some(bytes)
    }
}

/// Calls `step` until it gives something, for at most two seconds.
pub fn eventually<T>(what: &str, mut step: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(done) = step() {
            return done;
        }
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "not within two seconds: {what}"
        );
        std::thread::sleep(Duration::from_micros(100));
    }
}
