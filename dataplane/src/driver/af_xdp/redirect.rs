//! The XDP program of a port: hands the frames of a queue to the socket that
//! stands for the queue in a map, and to the kernel's stack where none does.
//!
//! Loaded by `bpf(2)` itself: five instructions need no compiler. Attached as a
//! link, so that it goes when the process does, killed or not.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

// linux/bpf.h
const BPF_MAP_CREATE: u32 = 0;
const BPF_MAP_UPDATE_ELEM: u32 = 2;
const BPF_PROG_LOAD: u32 = 5;
const BPF_LINK_CREATE: u32 = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_PSEUDO_MAP_FD: u8 = 1;
const BPF_FUNC_REDIRECT_MAP: i32 = 51;
const XDP_PASS: i32 = 2;
/// Byte of `struct xdp_md` at which `rx_queue_index` stands.
const RX_QUEUE_INDEX: i16 = 16;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Insn {
    code: u8,
    /// Destination register in the low half, source in the high.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// `union bpf_attr`, of which each command reads its own part; zeroes behind.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
struct Attr([u32; 32]);

impl Attr {
    const fn zeroed() -> Self {
        Self([0; 32])
    }

    fn set_u64(&mut self, word: usize, value: u64) {
        let bytes = value.to_ne_bytes();
        self.0[word] = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        self.0[word + 1] = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    }

    fn set_fd(&mut self, word: usize, fd: &OwnedFd) {
        self.0[word] = fd.as_raw_fd().cast_unsigned();
    }
}

/// # Safety
/// Pointers in `attr` must be valid for what `command` reads.
unsafe fn bpf(command: u32, attr: &mut Attr) -> io::Result<i64> {
    // SAFETY: `attr` is as long as said and outlives the call; the pointers in it are the caller's promise.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<Attr>(),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(done)
    }
}

/// # Safety
/// As for [`bpf`], and `command` must be one that makes a file descriptor.
unsafe fn bpf_fd(command: u32, attr: &mut Attr) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; the descriptor is new and nobody else's.
    unsafe {
        let fd = bpf(command, attr)?;
        Ok(OwnedFd::from_raw_fd(
            i32::try_from(fd).expect("a file descriptor is an int"),
        ))
    }
}

/// An attached redirect program; dropping it detaches.
#[derive(Debug)]
pub struct Redirect {
    // Detached first, then what it used.
    _link: OwnedFd,
    _program: OwnedFd,
    _map: OwnedFd,
}

impl Redirect {
    /// Sends the frames of `queue` of the device to `socket` (an AF_XDP socket).
    ///
    /// # Errors
    /// The step that failed, and the kernel's reason; `EBUSY` while another program is attached.
    pub fn attach(
        ifindex: u32,
        queue: u32,
        socket: &OwnedFd,
    ) -> Result<Self, (&'static str, io::Error)> {
        let map = Self::map(queue + 1).map_err(|error| ("make the XSKMAP", error))?;
        let program =
            Self::program(&map).map_err(|error| ("load the XDP redirect program", error))?;
        let value = socket.as_raw_fd();
        let mut update = Attr::zeroed();
        update.set_fd(0, &map);
        update.set_u64(2, (&raw const queue).expose_provenance() as u64);
        update.set_u64(4, (&raw const value).expose_provenance() as u64);
        // SAFETY: key and value are u32s that outlive the call, as the map was made with.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut update) }
            .map_err(|error| ("put the socket into the XSKMAP", error))?;
        let mut create = Attr::zeroed();
        create.set_fd(0, &program);
        create.0[1] = ifindex;
        create.0[2] = BPF_XDP;
        // No mode asked for: the device's own XDP where its driver has it, else the generic one.
        // SAFETY: no pointers in this command.
        let link = unsafe { bpf_fd(BPF_LINK_CREATE, &mut create) }
            .map_err(|error| ("attach the XDP redirect program", error))?;
        Ok(Self {
            _link: link,
            _program: program,
            _map: map,
        })
    }

    fn map(entries: u32) -> io::Result<OwnedFd> {
        let mut attr = Attr::zeroed();
        attr.0[0] = BPF_MAP_TYPE_XSKMAP;
        (attr.0[1], attr.0[2], attr.0[3]) = (4, 4, entries);
        // SAFETY: no pointers in this command.
        unsafe { bpf_fd(BPF_MAP_CREATE, &mut attr) }
    }

    fn program(map: &OwnedFd) -> io::Result<OwnedFd> {
        let insn = |code, registers, offset, immediate| Insn {
            code,
            registers,
            offset,
            immediate,
        };
        let instructions = [
            // r2 = ctx->rx_queue_index
            insn(0x61, 0x12, RX_QUEUE_INDEX, 0),
            // r1 = map (a wide instruction, two slots)
            insn(0x18, BPF_PSEUDO_MAP_FD << 4 | 1, 0, map.as_raw_fd()),
            insn(0, 0, 0, 0),
            // r3 = what to do where the map has no socket
            insn(0xb7, 3, 0, XDP_PASS),
            // return bpf_redirect_map(r1, r2, r3)
            insn(0x85, 0, 0, BPF_FUNC_REDIRECT_MAP),
            insn(0x95, 0, 0, 0),
        ];
        let mut attr = Attr::zeroed();
        attr.0[0] = BPF_PROG_TYPE_XDP;
        attr.0[1] = u32::try_from(instructions.len()).expect("six");
        attr.set_u64(2, instructions.as_ptr().expose_provenance() as u64);
        attr.set_u64(4, c"Apache-2.0".as_ptr().expose_provenance() as u64);
        // SAFETY: instructions and licence outlive the call; the counts are theirs.
        unsafe { bpf_fd(BPF_PROG_LOAD, &mut attr) }
    }
}
