//! Limits on how many may start in a time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// How many may start in a time: `100/s`, `30/m` or `1000/h`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    count: f64,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Unit {
    fn seconds(self) -> f64 {
        match self {
            Unit::Second => 1.0,
            Unit::Minute => 60.0,
            Unit::Hour => 3600.0,
        }
    }
}

impl Rate {
    /// From one start to the next, at an even pace.
    pub fn interval(self) -> Duration {
        Duration::from_secs_f64(self.unit.seconds() / self.count)
    }

    /// How far starts may run ahead of an even pace: a tenth of a second's, or none.
    fn slack(self) -> Duration {
        Duration::from_millis(100)
    }
}

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a rate: write `100/s`, `30/m` or `1000/h`");
        let (count, unit) = text.split_once('/').ok_or_else(bad)?;
        let count = count.trim().parse::<f64>().ok().filter(|count| (1e-3..=1e6).contains(count)).ok_or_else(bad)?;
        let unit = match unit.trim() {
            "s" => Unit::Second,
            "m" => Unit::Minute,
            "h" => Unit::Hour,
            _ => return Err(bad()),
        };
        Ok(Self { count, unit })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Second => "s",
            Unit::Minute => "m",
            Unit::Hour => "h",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

impl TryFrom<String> for Rate {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> String {
        rate.to_string()
    }
}

/// Keeps to a rate: the generic cell rate algorithm (ITU-T I.371), which needs no more than a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// When the next start would be at an even pace.
    next: Timestamp,
}

impl Pace {
    /// When the next one may start, if it is not yet.
    pub(crate) fn not_before(&self, rate: Option<Rate>, now: Timestamp) -> Option<Timestamp> {
        let earliest = self.next - rate?.slack();
        (earliest > now).then_some(earliest)
    }

    /// One starts.
    pub(crate) fn started(&mut self, rate: Option<Rate>, now: Timestamp) {
        if let Some(rate) = rate {
            self.next = self.next.max(now) + rate.interval();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written() {
        for text in ["100/s", "30/m", "0.5/h"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for bad in ["100", "0/s", "many/s", "1/d", "-1/s", "nan/s"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rate_is_kept_to() {
        let (rate, mut pace) = ("20/s".parse().ok(), Pace::default());
        let mut now = Timestamp::from_origin(Duration::from_secs(100));
        let mut starts = 0;
        for _ in 0..10_000 {
            if pace.not_before(rate, now).is_none() {
                pace.started(rate, now);
                starts += 1;
            }
            now = now + Duration::from_millis(1);
        }

        assert!((200..=203).contains(&starts), "{starts} in ten seconds");
    }
}
