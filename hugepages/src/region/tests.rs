//! Region tests: on tmpfs always, on hugetlbfs where the machine lets us.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A directory of this test alone, removed with what is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &str) -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed); // A number, it orders nothing.
        let path = Path::new(parent).join(format!("sluice-region-{}-{unique}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    fn spec(&self) -> RegionSpec {
        RegionSpec {
            directories: Directories {
                hugetlbfs: None,
                tmpfs: self.0.clone(),
            },
            name: "log".into(),
            len: HUGEPAGE_LEN,
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn write_first(region: &Region, byte: u8) {
    // SAFETY: the region is mapped, longer than a byte, and no one else holds it.
    unsafe { region.ptr().write(byte) }
}

fn read_first(region: &Region) -> u8 {
    // SAFETY: as above.
    unsafe { region.ptr().read() }
}

#[test]
fn bytes_outlive_the_process_and_are_found_again() {
    let scratch = Scratch::new("/dev/shm");
    let spec = scratch.spec();
    let region = Region::open(&spec).unwrap();
    assert!(!region.reattached());
    assert_eq!(region.backing(), &Backing::Tmpfs(StepDown::NotConfigured));
    assert_eq!(read_first(&region), 0);
    write_first(&region, 7);
    drop(region);

    let region = Region::open(&spec).unwrap();
    assert!(region.reattached());
    assert_eq!(read_first(&region), 7);
    drop(region);

    Region::discard(&spec).unwrap();
    let region = Region::open(&spec).unwrap();
    assert!(!region.reattached());
    assert_eq!(read_first(&region), 0);
}

#[test]
fn a_second_data_plane_is_refused() {
    let scratch = Scratch::new("/dev/shm");
    let held = Region::open(&scratch.spec()).unwrap();
    assert!(matches!(
        Region::open(&scratch.spec()),
        Err(RegionError::Busy { .. })
    ));
    assert!(matches!(
        Region::discard(&scratch.spec()),
        Err(RegionError::Busy { .. })
    ));
    drop(held);
    assert!(Region::open(&scratch.spec()).unwrap().reattached());
}

#[test]
fn another_length_is_refused_and_says_what_to_do() {
    let scratch = Scratch::new("/dev/shm");
    drop(Region::open(&scratch.spec()).unwrap());
    let longer = RegionSpec {
        len: 2 * HUGEPAGE_LEN,
        ..scratch.spec()
    };
    let error = Region::open(&longer).unwrap_err();
    assert!(matches!(error, RegionError::LenDiffers { .. }));
    assert!(error.to_string().contains("2097152"), "{error}");
}

#[test]
fn bad_specs_are_refused() {
    let scratch = Scratch::new("/dev/shm");
    for len in [0, 4096, HUGEPAGE_LEN + 1] {
        let spec = RegionSpec {
            len,
            ..scratch.spec()
        };
        assert!(matches!(Region::open(&spec), Err(RegionError::Len { .. })));
    }
    for name in ["", "..", "a/b"] {
        let spec = RegionSpec {
            name: name.into(),
            ..scratch.spec()
        };
        assert!(matches!(Region::open(&spec), Err(RegionError::Name { .. })));
    }
    let too_long = RegionSpec {
        len: 1 << 50,
        ..scratch.spec()
    };
    assert!(matches!(
        Region::open(&too_long),
        Err(RegionError::Full { .. })
    ));
    assert_eq!(
        std::fs::read_dir(&scratch.0).unwrap().count(),
        0,
        "nothing is left behind"
    );
}

#[test]
fn a_directory_that_is_not_hugetlbfs_is_a_step_down_that_says_so() {
    let scratch = Scratch::new("/dev/shm");
    let mut spec = scratch.spec();
    let elsewhere = Scratch::new("/dev/shm");
    spec.directories.hugetlbfs = Some(elsewhere.0.clone());
    let region = Region::open(&spec).unwrap();
    assert!(matches!(
        region.backing(),
        Backing::Tmpfs(StepDown::NotHugetlbfs { .. })
    ));
    assert!(region.backing().to_string().contains("mount -t hugetlbfs"));
}

#[test]
fn an_interrupted_making_is_begun_again() {
    let scratch = Scratch::new("/dev/shm");
    File::create(scratch.0.join("log")).unwrap();
    assert!(!Region::open(&scratch.spec()).unwrap().reattached());
}

/// Runs on a thread of its own, whose mount namespace ends with it, so that
/// no mount outlives the test.
#[test]
fn hugetlbfs_first_then_tmpfs() {
    let scratch = Scratch::new("/dev/shm");
    let mount_point = Scratch::new("/dev/shm");
    let (spec, directory) = (scratch.spec(), mount_point.0.clone());
    let outcome = std::thread::spawn(move || {
        mount_hugetlbfs(&directory)?;
        raise_free_hugepages(2)?;
        on_hugetlbfs(spec, &directory);
        Ok::<(), String>(())
    })
    .join()
    .expect("the test's own thread");
    if let Err(why) = outcome {
        eprintln!("SKIPPED hugetlbfs_first_then_tmpfs: {why}");
    }
}

fn on_hugetlbfs(mut spec: RegionSpec, directory: &Path) {
    spec.directories.hugetlbfs = Some(directory.to_path_buf());
    let region = Region::open(&spec).unwrap();
    assert_eq!(region.backing(), &Backing::Hugetlbfs);
    assert_eq!(region.ptr().addr() % HUGEPAGE_LEN, 0);
    write_first(&region, 9);
    drop(region);
    let region = Region::open(&spec).unwrap();
    assert!(region.reattached());
    assert_eq!(read_first(&region), 9);
    drop(region);

    // Both places hold something: refused, since either may be the true one.
    std::fs::write(spec.directories.tmpfs.join("log"), b"x").unwrap();
    assert!(matches!(Region::open(&spec), Err(RegionError::Two { .. })));
    std::fs::remove_file(spec.directories.tmpfs.join("log")).unwrap();
    Region::discard(&spec).unwrap();

    // A pool too small is a step down at open, and leaves no file behind.
    let too_long = RegionSpec {
        len: 1 << 44,
        ..spec.clone()
    };
    match Region::make_on_hugetlbfs(&too_long).unwrap() {
        Err(StepDown::Failed { what, .. }) => assert!(what.contains("8388608 hugepages"), "{what}"),
        other => panic!("16 TiB of hugepages: {other:?}"),
    }
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), 0);

    // What an earlier start put on tmpfs stays there.
    let on_tmpfs = RegionSpec {
        directories: Directories {
            hugetlbfs: None,
            ..spec.directories.clone()
        },
        ..spec.clone()
    };
    drop(Region::open(&on_tmpfs).unwrap());
    let region = Region::open(&spec).unwrap();
    assert!(region.reattached());
    assert!(matches!(
        region.backing(),
        Backing::Tmpfs(StepDown::FoundThere { .. })
    ));
}

fn mount_hugetlbfs(directory: &Path) -> Result<(), String> {
    let target = CString::new(directory.as_os_str().as_bytes()).unwrap();
    let fs = c"hugetlbfs";
    let root = c"/";
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: plain system calls on NUL-terminated strings that live through them; the
    // namespace changes for this thread only.
    let done = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(
                fs.as_ptr(),
                root.as_ptr(),
                std::ptr::null(),
                private,
                std::ptr::null(),
            ) == 0
            && libc::mount(
                fs.as_ptr(),
                target.as_ptr(),
                fs.as_ptr(),
                0,
                std::ptr::null(),
            ) == 0
    };
    if done {
        Ok(())
    } else {
        Err(format!(
            "no hugetlbfs mount: {}",
            io::Error::last_os_error()
        ))
    }
}

/// Raised and never lowered: other tests on the machine may be using them.
fn raise_free_hugepages(wanted: usize) -> Result<(), String> {
    let count = "/proc/sys/vm/nr_hugepages";
    let free = || -> usize {
        let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("HugePages_Free:"));
        line.and_then(|free| free.trim().parse().ok()).unwrap_or(0)
    };
    if free() < wanted {
        let now: usize = std::fs::read_to_string(count)
            .map_err(|error| format!("{count}: {error}"))?
            .trim()
            .parse()
            .map_err(|error| format!("{count}: {error}"))?;
        std::fs::write(count, (now + wanted).to_string())
            .map_err(|error| format!("{count}: {error}"))?;
    }
    if free() < wanted {
        Err(format!("fewer than {wanted} free hugepages"))
    } else {
        Ok(())
    }
}
