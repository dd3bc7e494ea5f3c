//! Amounts as people write and read them.

use std::time::Duration;

/// `1.5 KiB`.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A size that can be typed in again: whole KiB, cut off.
#[must_use]
pub fn kib(bytes: u64) -> String {
    format!("{}KiB", bytes / 1024)
}

/// `4MiB`, `512KiB`, `1.5MB`, `65536`: bytes. A sign is kept, so that whoever knows the
/// range can name it.
///
/// # Errors
/// It is no number with a unit of bytes.
pub fn parse_bytes(text: &str) -> Result<i64, String> {
    let of_unit = |unit: &str| {
        Some(match unit {
            "" | "b" => 1.0,
            "k" | "kib" => 1024.0,
            "m" | "mib" => 1_048_576.0,
            "g" | "gib" => 1_073_741_824.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            _ => return None,
        })
    };
    number(text, of_unit)
        .and_then(whole)
        .ok_or_else(|| "not a size; write 4MiB, 512KiB, 1.5MB or bytes".to_owned())
}

/// `12.5MB/s`, `100Mbit/s`, bytes a second.
///
/// # Errors
/// It is no number above 0 with a unit of bytes or bits a second.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let bits = |unit: &str| {
        Some(match unit {
            "bit" => 0.125,
            "kbit" => 125.0,
            "mbit" => 125e3,
            "gbit" => 125e6,
            _ => return None,
        })
    };
    let amount = text.strip_suffix("/s").unwrap_or(text);
    number(amount, bits)
        .and_then(whole)
        .or_else(|| parse_bytes(amount).ok())
        .and_then(|rate| u64::try_from(rate).ok())
        .filter(|&rate| rate > 0)
        .ok_or_else(|| "not a bandwidth; write 12.5MB/s, 100Mbit/s or bytes a second".to_owned())
}

/// `40ms`, `1.5s`, `900us`.
///
/// # Errors
/// It is no time from a microsecond to a minute with its unit.
pub fn parse_delay(text: &str) -> Result<Duration, String> {
    let of_unit = |unit: &str| {
        Some(match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            _ => return None,
        })
    };
    number(text, of_unit)
        .filter(|seconds| (1e-6..=60.0).contains(seconds))
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "not a delay of 1us to 60s; write 40ms, 1.5s or 900us".to_owned())
}

/// The number times what its unit stands for.
fn number(text: &str, of_unit: impl Fn(&str) -> Option<f64>) -> Option<f64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let value: f64 = number.trim().parse().ok()?;
    Some(value * of_unit(unit)?).filter(|value| value.is_finite())
}

/// Rounded away from zero: a little that was asked for is not nothing.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "it is inside the range of i64, and whole"
)]
fn whole(value: f64) -> Option<i64> {
    let value = value.abs().ceil().copysign(value);
    (value.abs() < i64::MAX as f64).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b19_sizes_and_rates_have_units() {
        for (text, bytes) in [
            ("4MiB", 4 << 20),
            ("512KiB", 512 << 10),
            ("1.5MB", 1_500_000),
            ("65536", 65_536),
            ("1g", 1 << 30),
            ("0", 0),
            ("-4MiB", -(4 << 20)),
            ("0.1", 1),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in [
            "", "MiB", "4 apples", "4MiBs", "inf", "nan", "1e300", "auto",
        ] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_rate("100Mbit/s"), Ok(12_500_000));
        assert_eq!(parse_rate("12.5MB/s"), Ok(12_500_000));
        assert_eq!(parse_rate("125000"), Ok(125_000));
        for bad in ["0", "-1MB/s", "fast"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_delay("40ms"), Ok(Duration::from_millis(40)));
        assert_eq!(parse_delay("1.5s"), Ok(Duration::from_millis(1500)));
        for bad in ["40", "0ms", "-1ms", "2h", "61s"] {
            assert!(parse_delay(bad).is_err(), "{bad}");
        }
        assert_eq!((kib(4096), bytes(1536)), ("4KiB".into(), "1.5 KiB".into()));
    }
}
