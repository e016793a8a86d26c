//! Instants as text, in UTC, by the proleptic Gregorian calendar (Howard Hinnant's `civil_from_days`).

use std::fmt::Write as _;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const DAY_MILLIS: i64 = 86_400_000;

/// Year, month (1–12), day (1–31) of a day counted from 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let moved = (5 * of_year + 2) / 153;
    let day = of_year - (153 * moved + 2) / 5 + 1;
    let month = if moved < 10 { moved + 3 } else { moved - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`].
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let moved = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * moved + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Writes an instant by a `strftime`-like format.
pub(crate) fn format(millis: i64, format: &str) -> String {
    let millis = millis.clamp(-62_135_596_800_000, 253_402_300_799_999);
    let days = millis.div_euclid(DAY_MILLIS);
    let of_day = millis.rem_euclid(DAY_MILLIS);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60);
    let name = |names: &[&'static str], at: i64| {
        usize::try_from(at).ok().and_then(|at| names.get(at).copied()).unwrap_or_default()
    };
    let mut out = String::with_capacity(format.len() + 16);
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let written = match chars.next() {
            Some('Y') => write!(out, "{year:04}"),
            Some('m') => write!(out, "{month:02}"),
            Some('d') => write!(out, "{day:02}"),
            Some('H') => write!(out, "{hour:02}"),
            Some('M') => write!(out, "{minute:02}"),
            Some('S') => write!(out, "{second:02}"),
            Some('L') => write!(out, "{:03}", of_day % 1_000),
            Some('s') => write!(out, "{}", millis.div_euclid(1_000)),
            Some('j') => write!(out, "{:03}", days - days_of(year, 1, 1) + 1),
            Some('a') => write!(out, "{}", name(&DAYS, days.rem_euclid(7))),
            Some('b') => write!(out, "{}", name(&MONTHS, month - 1)),
            Some('F') => write!(out, "{year:04}-{month:02}-{day:02}"),
            Some('T') => write!(out, "{hour:02}:{minute:02}:{second:02}"),
            Some('%') => write!(out, "%"),
            Some(other) => write!(out, "%{other}"),
            None => write!(out, "%"),
        };
        written.unwrap_or_default();
    }
    out
}

/// The first directive of a format that [`format`] does not know; a blank for none at its end.
pub(crate) fn unknown_directive(format: &str) -> Option<char> {
    let mut chars = format.chars();
    while chars.any(|c| c == '%') {
        match chars.next() {
            Some(c) if "YmdHMSLsjabFT%".contains(c) => {}
            other => return Some(other.unwrap_or(' ')),
        }
    }
    None
}

/// Milliseconds since the epoch of an RFC 3339 instant such as `2026-05-01T12:00:00Z`.
pub(crate) fn parse_instant(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i64>().ok())?
    };
    let sign = |at: usize| text.as_bytes().get(at).copied();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let separators = [(4, b"-"), (7, b"-"), (13, b":"), (16, b":")];
    let is_formed = separators.iter().all(|(at, wanted)| sign(*at) == Some(wanted[0]))
        && matches!(sign(10), Some(b'T' | b't' | b' '));
    let days = days_of(year, month, day);
    if !is_formed || civil(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let rest = text.get(19..)?;
    let zone_at = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
    let fraction = rest[..zone_at].strip_prefix('.').unwrap_or_default();
    let millis = format!("{fraction:0<3}").get(..3)?.parse::<i64>().ok()?;
    let zone = &rest[zone_at..];
    let offset_minutes = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), ..] if zone.len() == 6 && zone.as_bytes()[3] == b':' => {
            let hours: i64 = zone.get(1..3)?.parse().ok()?;
            let minutes: i64 = zone.get(4..6)?.parse().ok()?;
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = days * 86_400 + hour * 3_600 + (minute - offset_minutes) * 60 + second;
    u64::try_from(seconds * 1_000 + millis).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_as_the_calendar_says() {
        assert_eq!(format(0, "%F %T %a %b %j"), "1970-01-01 00:00:00 Thu Jan 001");
        assert_eq!(format(951_782_400_123, "%F.%L"), "2000-02-29.123");
        assert_eq!(format(-1, "%F %T"), "1969-12-31 23:59:59");
        assert_eq!(format(0, "100%% %q %"), "100% %q %");
    }

    #[test]
    fn instants_parse_from_what_they_print() {
        assert_eq!(parse_instant("2000-02-29T00:00:00.123Z"), Some(951_782_400_123));
        assert_eq!(parse_instant("2000-02-29T02:00:00+02:00"), Some(951_782_400_000));
        for text in
            ["", "2000-02-30T00:00:00Z", "2000-02-28", "2000-02-28T24:00:00Z", "é000-02-28T"]
        {
            assert_eq!(parse_instant(text), None, "{text} was taken for an instant");
        }
    }
}
