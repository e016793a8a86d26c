//! Values with units: durations, sizes, rates, shares.

use std::time::Duration;

/// Longest duration that has a meaning here: 365 days.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Text that is no value of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// A number that says nothing of its unit.
    #[error("`{number}` lacks a unit")]
    BareNumber {
        /// The number.
        number: String,
        /// What would have been right.
        form: &'static str,
    },
    /// Something else.
    #[error("`{text}` is not {expected}")]
    Malformed {
        /// The text.
        text: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// More than makes sense.
    #[error("`{text}` is more than {limit}")]
    TooMuch {
        /// The text.
        text: String,
        /// The most that makes sense.
        limit: &'static str,
    },
}

impl UnitError {
    /// What would have been right.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::BareNumber { form, .. } => Some(format!("write {form}")),
            Self::Malformed { .. } | Self::TooMuch { .. } => None,
        }
    }
}

/// Units of time with their nanoseconds.
pub(crate) const TIME_UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3_600e9),
    ("d", 86_400e9),
];

/// Units of size with their bytes.
pub(crate) const SIZE_UNITS: [(&str, f64); 7] = [
    ("B", 1.0),
    ("KiB", 1_024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
];

fn split_number(text: &str) -> Option<(f64, &str)> {
    let end =
        text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let number = text[..end].replace('_', "");
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    number.parse::<f64>().ok().filter(|n| n.is_finite()).map(|n| (n, &text[end..]))
}

fn shown(text: &str) -> String {
    crate::yaml::shorten(text)
}

/// Reads `250ms`, `1m30s`; zero needs no unit.
///
/// # Errors
///
/// If it is something else, or longer than makes sense.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let malformed = || UnitError::Malformed {
        text: shown(text),
        expected: "a duration such as `250ms` or `1m30s`",
    };
    let mut rest = text.trim();
    let mut nanos = 0.0;
    let mut last_unit = f64::INFINITY;
    if let Some((number, "")) = split_number(rest) {
        if number == 0.0 {
            return Ok(Duration::ZERO);
        }
        let number = shown(text);
        return Err(UnitError::BareNumber { number, form: "`500ms`, `30s` or `1m30s`" });
    }
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(malformed)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let unit = &after[..end];
        let (_, factor) =
            TIME_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?;
        if factor >= last_unit {
            return Err(malformed());
        }
        last_unit = factor;
        nanos += number * factor;
        rest = &after[end..];
    }
    if last_unit.is_infinite() {
        return Err(malformed());
    }
    let duration = Duration::try_from_secs_f64((nanos / 1e9).min(1e12)).unwrap_or(Duration::MAX);
    if duration > DURATION_MAX {
        return Err(UnitError::TooMuch { text: shown(text), limit: "365 days" });
    }
    Ok(whole_nanos(nanos))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most 365 days of nanoseconds, never negative"
)]
fn whole_nanos(nanos: f64) -> Duration {
    Duration::from_nanos(nanos.round() as u64)
}

/// `10KiB`, `5MB`.
pub(crate) fn size(text: &str) -> Result<u64, UnitError> {
    let malformed =
        || UnitError::Malformed { text: shown(text), expected: "a size such as `10KiB` or `5MB`" };
    let (number, unit) = split_number(text.trim()).ok_or_else(malformed)?;
    if unit.is_empty() && number != 0.0 {
        return Err(UnitError::BareNumber {
            number: shown(text),
            form: "`512B`, `10KiB` or `5MB`",
        });
    }
    let unit = if unit.is_empty() { "B" } else { unit.trim_start() };
    let (_, factor) =
        SIZE_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?;
    let bytes = number * factor;
    if bytes > 1e15 {
        return Err(UnitError::TooMuch { text: shown(text), limit: "1000000 GB" });
    }
    Ok(whole(bytes))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the callers have checked the range"
)]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

/// `500/s`, `30/m`, as starts per second.
pub(crate) fn rate(text: &str) -> Result<f64, UnitError> {
    let malformed =
        || UnitError::Malformed { text: shown(text), expected: "a rate such as `500/s` or `30/m`" };
    let (number, unit) = split_number(text.trim()).ok_or_else(malformed)?;
    let per = match unit.trim() {
        "/s" => 1.0,
        "/m" => 60.0,
        "/h" => 3_600.0,
        "" if number == 0.0 => 1.0,
        "" => {
            let number = shown(text);
            return Err(UnitError::BareNumber { number, form: "`500/s` or `30/m`" });
        }
        _ => return Err(malformed()),
    };
    let rate = number / per;
    if rate > 1e9 {
        return Err(UnitError::TooMuch { text: shown(text), limit: "1000000000/s" });
    }
    Ok(rate)
}

/// `1%`, as a share from 0 to 1.
pub(crate) fn share(text: &str) -> Result<f64, UnitError> {
    let malformed =
        || UnitError::Malformed { text: shown(text), expected: "a percentage such as `1%`" };
    let (number, unit) = split_number(text.trim()).ok_or_else(malformed)?;
    match unit.trim() {
        "%" if number <= 100.0 => Ok(number / 100.0),
        "%" => Err(UnitError::TooMuch { text: shown(text), limit: "100%" }),
        "" if number == 0.0 => Ok(0.0),
        "" => Err(UnitError::BareNumber { number: shown(text), form: "a percentage such as `1%`" }),
        _ => Err(malformed()),
    }
}

/// A duration as a person would write it.
pub(crate) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        _ if !duration.subsec_nanos().is_multiple_of(1_000_000) => format!("{duration:?}"),
        0 => "0s".to_owned(),
        _ if !millis.is_multiple_of(1_000) => format!("{millis}ms"),
        _ => {
            let seconds = millis / 1_000;
            let parts = [(seconds / 3_600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_carry_their_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(size("10KiB"), Ok(10_240));
        assert_eq!(size("5MB"), Ok(5_000_000));
        assert_eq!(rate("500/s").unwrap().to_string(), "500");
        assert_eq!(rate("30/m").unwrap().to_string(), "0.5");
        assert_eq!(share("1%").unwrap().to_string(), "0.01");
    }

    #[test]
    fn a_bare_number_is_told_the_form() {
        for error in [duration("30").unwrap_err(), size("5").unwrap_err(), rate("9").unwrap_err()] {
            assert!(
                error.to_string().contains("lacks a unit") && error.hint().is_some(),
                "{error}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "s", "1x", "1s1m", "-1s", "1ss", "999999d", "1 s 2", "..s", "1e9s"] {
            assert!(duration(text).is_err(), "{text} was taken for a duration");
        }
        assert!(share("101%").is_err());
        assert!(rate("1/y").is_err());
    }

    #[test]
    fn durations_are_shown_as_written() {
        for text in ["250ms", "1m30s", "2h", "10s", "0s"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in ".{0,12}", figures in "[0-9._]{0,25}[a-zµ/%]{0,4}") {
            for text in [text, figures] {
                let _readers =
                    (duration(&text).is_ok(), size(&text).is_ok(), rate(&text).is_ok(), share(&text).is_ok());
            }
        }

        #[test]
        fn durations_parse_from_what_they_show(millis in 0u64..31_536_000_000) {
            let wanted = Duration::from_millis(millis);

            prop_assert_eq!(duration(&show_duration(wanted)), Ok(wanted));
        }

        #[test]
        fn parts_of_a_duration_add_up(hours in 0u32..100, minutes in 0u32..100, seconds in 0u32..100) {
            let text = format!("{hours}h{minutes}m{seconds}s");
            let wanted = u64::from(hours) * 3_600 + u64::from(minutes) * 60 + u64::from(seconds);

            prop_assert_eq!(duration(&text), Ok(Duration::from_secs(wanted)));
        }
    }
}
