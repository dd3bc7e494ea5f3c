//! `iscsi-load`: reads and writes at a chosen depth against an iSCSI target,
//! with latencies and, if asked, every block checked against its stamp.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use sluice_bench::host;
use sluice_bench::load::image::Image;
use sluice_bench::load::session::{Login, Session};
use sluice_bench::load::workload::{Hot, LOGIN_PAUSE, Plan, STAMP_LEN, Workload};
use sluice_bench::order::trace::Trace;
use sluice_proto::iscsi::chap::{ChapName, Credential, SECRET_LEN_MAX, SECRET_LEN_MIN, Secret};

/// Exit codes: 0 all answered and right, 1 errors or wrong blocks, 2 usage, 3 no session.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Portal to dial.
    #[arg(long)]
    portal: SocketAddr,
    /// Target name.
    #[arg(long)]
    target: String,
    #[arg(long, default_value_t = 1)]
    lun: u8,
    #[arg(long, default_value = "iqn.2004-03.example.bench:load")]
    initiator: String,
    /// Bytes of the volume to use, in MiB.
    #[arg(long, default_value_t = 16)]
    span_mib: u64,
    /// MiB of the volume that are left alone before those
    #[arg(long, default_value_t = 0)]
    skip_mib: u64,
    /// Bytes a request, a multiple of 4096.
    #[arg(long, default_value_t = 4096)]
    request_len: u32,
    #[arg(long, default_value_t = 1)]
    depth: usize,
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Ends the run though `count` is not reached, as SIGINT does.
    #[arg(long, default_value_t = 60)]
    seconds_max: u64,
    #[arg(long, default_value_t = 0)]
    read_percent: u32,
    /// Of the writes, so many with FUA.
    #[arg(long, default_value_t = 0, value_name = "PERCENT")]
    fua_percent: u32,
    /// SYNCHRONIZE CACHE after so many reads and writes.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    sync_every: Option<u64>,
    /// What is neither written with FUA nor synchronized may be lost when the session
    /// breaks: the image keeps what may not, and reads may find what is as old as that.
    #[arg(long, requires_all = ["verify", "image", "reconnect"])]
    may_lose_unsynced: bool,
    #[arg(long)]
    sequential: bool,
    /// So many of the requests go to the first blocks of the span
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100), conflicts_with = "sequential")]
    hot_percent: Option<u32>,
    /// So many of its blocks are those
    #[arg(long, default_value_t = 5, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    hot_span_percent: u32,
    /// Ping the target so often, and tell how late the answers are
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    ping_ms: Option<u64>,
    /// Requests a second.
    #[arg(long)]
    rate: Option<f64>,
    /// Check what is read against what was written (blocks not written yet must be zero).
    #[arg(long)]
    verify: bool,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Note every acknowledged write in this image of the volume, made if it is
    /// not there, and let --verify compare with it: it outlives the run.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Note there, in their order, what is written and synchronized and when that is
    /// answered, for order-check.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Log in again for so many seconds when the session breaks, and send again
    /// what had no answer.
    #[arg(long, value_name = "SECONDS")]
    reconnect: Option<u64>,
    /// CHAP name; without one nothing is proved.
    #[arg(long, requires = "chap_secret_file")]
    chap_user: Option<String>,
    /// File with its secret (a newline at the end does not count).
    #[arg(long, value_name = "FILE", requires = "chap_user")]
    chap_secret_file: Option<PathBuf>,
    /// CHAP name that the target must prove itself by.
    #[arg(long, requires_all = ["chap_user", "mutual_secret_file"])]
    mutual_user: Option<String>,
    /// File with its secret.
    #[arg(long, value_name = "FILE", requires = "mutual_user")]
    mutual_secret_file: Option<PathBuf>,
    /// CRC32C over headers, or no session.
    #[arg(long)]
    header_digest: bool,
    /// CRC32C over data, or no session.
    #[arg(long)]
    data_digest: bool,
    /// Bytes a block of the volume.
    #[arg(long, default_value_t = 512)]
    block_len: u32,
}

fn main() -> ExitCode {
    // What is under way is answered first.
    let stop = host::stop_on(&[libc::SIGINT]);
    let arguments = Arguments::parse();
    if arguments.request_len == 0 || !arguments.request_len.is_multiple_of(STAMP_LEN) {
        eprintln!(
            "iscsi-load: --request-len {} is no multiple of {STAMP_LEN}",
            arguments.request_len
        );
        return ExitCode::from(2);
    }
    if arguments.depth == 0 || arguments.span_mib * 1024 * 1024 < u64::from(arguments.request_len) {
        eprintln!("iscsi-load: --depth must be at least 1 and --span-mib hold a request");
        return ExitCode::from(2);
    }
    let span_bytes = arguments.span_mib * 1024 * 1024;
    let opened = arguments.image.as_deref();
    let image = match opened.map(|path| Image::open(path, span_bytes)).transpose() {
        Ok(image) => image,
        Err(error) => {
            eprintln!("iscsi-load: {error}");
            return ExitCode::from(2);
        }
    };
    let trace = match arguments.trace.as_deref().map(Trace::create).transpose() {
        Ok(trace) => trace,
        Err(error) => {
            eprintln!("iscsi-load: cannot make the trace: {error}");
            return ExitCode::from(2);
        }
    };
    let [a, b, c, d] = std::process::id().to_be_bytes();
    let chap = match chap(&arguments) {
        Ok(chap) => chap,
        Err(error) => {
            eprintln!("iscsi-load: {error}");
            return ExitCode::from(2);
        }
    };
    let login = Login {
        chap,
        header_digest: arguments.header_digest,
        data_digest: arguments.data_digest,
        address: arguments.portal,
        initiator: arguments.initiator,
        target: arguments.target,
        isid: [0x80, a, b, c, d, 0],
        patience: Duration::from_secs(15),
    };
    let reconnect_max = arguments.reconnect.map(Duration::from_secs);
    // The relay may die before the first login is over, too.
    let begun = Instant::now();
    let session = loop {
        match Session::login(&login) {
            Ok(session) => break session,
            Err(_) if reconnect_max.is_some_and(|limit| begun.elapsed() < limit) => {
                std::thread::sleep(LOGIN_PAUSE);
            }
            Err(error) => {
                eprintln!("iscsi-load: {error}");
                return ExitCode::from(3);
            }
        }
    };
    let plan = Plan {
        lun: u64::from(arguments.lun) << 48,
        skip_bytes: arguments.skip_mib * 1024 * 1024,
        span_bytes,
        request_len: arguments.request_len,
        depth: arguments.depth,
        count: arguments.count,
        time_max: Duration::from_secs(arguments.seconds_max),
        stop,
        read_percent: arguments.read_percent.min(100),
        fua_percent: arguments.fua_percent.min(100),
        sync_every: arguments.sync_every,
        may_lose_unsynced: arguments.may_lose_unsynced,
        sequential: arguments.sequential,
        hot: arguments.hot_percent.map(|percent| Hot {
            percent,
            span_percent: arguments.hot_span_percent,
        }),
        ping_period: arguments.ping_ms.map(Duration::from_millis),
        rate: arguments.rate,
        verify: arguments.verify,
        seed: arguments.seed,
        reconnect_max,
    };
    let mut workload = Workload::new(plan, arguments.block_len, image);
    if let Some(trace) = trace {
        workload = workload.traced(trace);
    }
    match workload.run(session, &login) {
        Ok(report) => {
            println!(
                "{}",
                serde_json::to_string(&report).expect("a report is plain data")
            );
            ExitCode::from(u8::from(report.errors > 0 || report.blocks_wrong > 0))
        }
        Err(error) => {
            eprintln!("iscsi-load: {error}");
            ExitCode::from(3)
        }
    }
}

/// What is proved, and what is asked for in return.
fn chap(arguments: &Arguments) -> Result<Option<(Credential, Option<Credential>)>, String> {
    let own = credential(
        arguments.chap_user.as_deref(),
        arguments.chap_secret_file.as_ref(),
    )?;
    let mutual = credential(
        arguments.mutual_user.as_deref(),
        arguments.mutual_secret_file.as_ref(),
    )?;
    Ok(own.map(|own| (own, mutual)))
}

fn credential(user: Option<&str>, file: Option<&PathBuf>) -> Result<Option<Credential>, String> {
    let (Some(user), Some(file)) = (user, file) else {
        return Ok(None);
    };
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("{shown}: {error}"))?;
    let secret = Secret::new(text.trim_end_matches('\n').as_bytes()).ok_or_else(|| {
        format!("{shown}: a secret has {SECRET_LEN_MIN} to {SECRET_LEN_MAX} bytes")
    })?;
    let name =
        ChapName::from(user).map_err(|_| format!("{user}: a CHAP name has 255 bytes at most"))?;
    Ok(Some(Credential { name, secret }))
}
