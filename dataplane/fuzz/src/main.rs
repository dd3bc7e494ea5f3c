//! Runs fuzz targets. As scripts/fuzz builds it (feature `coverage`) it is a
//! libFuzzer program whose target stands in `SLUICE_FUZZ_TARGET`; else it runs
//! one over the files that are named: `fuzz TARGET FILE…`.
#![cfg_attr(feature = "coverage", no_main)]

#[cfg(feature = "coverage")]
mod driven {
    use std::sync::LazyLock;

    static RUN: LazyLock<fn(&[u8])> = LazyLock::new(|| {
        let name = std::env::var("SLUICE_FUZZ_TARGET").expect("SLUICE_FUZZ_TARGET names a target");
        let target = sluice_fuzz::target(&name);
        target
            .unwrap_or_else(|| panic!("no fuzz target is called {name}"))
            .run
    });

    libfuzzer_sys::fuzz_target!(|input: &[u8]| RUN(input));
}

#[cfg(not(feature = "coverage"))]
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the command line"
)]
fn main() -> std::process::ExitCode {
    use std::process::ExitCode;

    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let Some(target) = sluice_fuzz::target(&name) else {
        eprintln!("usage: fuzz TARGET FILE…; the targets are:");
        for target in &sluice_fuzz::TARGETS {
            eprintln!("  {}", target.name);
        }
        return ExitCode::from(2);
    };
    for file in arguments {
        match std::fs::read(&file) {
            Ok(input) => {
                println!("{name}: {file}");
                (target.run)(&input);
            }
            Err(error) => {
                eprintln!("fuzz: cannot read {file}: {error}");
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::SUCCESS
}
