//! Short forms of numbers.

/// `3d4h`, `5m3s`, `12s`, `340ms`.
pub(super) fn age(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{s}s"),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        3600..86400 => format!("{}h{}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{}h", s / 86400, s % 86400 / 3600),
    }
}

/// `38M`.
pub(super) fn bytes(n: u64) -> String {
    match n {
        0..1_048_576 => format!("{}K", n >> 10),
        1_048_576..10_737_418_240 => format!("{}M", n >> 20),
        _ => format!("{}G", n >> 30),
    }
}

/// `211/1M`: a count against its limit.
pub(super) fn of_limit(count: u32, max: u64) -> String {
    let short = match max {
        0 => return count.to_string(),
        1..10_000 => max.to_string(),
        10_000..1_000_000 => format!("{}k", max / 1000),
        _ => format!("{}M", max / 1_000_000),
    };
    format!("{count}/{short}")
}

/// UTC time of day and date of a wall clock: `2026-11-23 14:05:09.123`.
pub(super) fn wall(ms: i64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    humantime::format_rfc3339_millis(time).to_string().replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([age(5), age(12_000), age(303_000), age(273_600_000)], ["5ms", "12s", "5m3s", "3d4h"]);
        assert_eq!([bytes(2048), bytes(40 << 20), bytes(20 << 30)], ["2K", "40M", "20G"]);
        assert_eq!([of_limit(7, 0), of_limit(7, 1024), of_limit(7, 65_536), of_limit(7, 1 << 20)], ["7", "7/1024", "7/65k", "7/1M"]);
        assert_eq!(wall(1_700_000_000_123), "2023-11-14 22:13:20.123Z");
    }
}
