//! Amounts of resources, and the texts they are written as: `500m` or `2` cores, `512Mi`, `10Mbps`, `gpus=2`.
//!
//! The notation is that of Kubernetes quantities
//! (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>), with `bps` for rates.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use compact_str::CompactString;
use serde::{Deserialize, Deserializer, Serialize};

use crate::names::excerpt;

/// An amount of each resource: what a task needs, or what an agent has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Resources {
    /// Thousandths of a CPU core.
    pub cpu_millis: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Disk in bytes.
    pub disk_bytes: u64,
    /// Network bandwidth in bits per second.
    pub network_bps: u64,
}

impl Resources {
    /// Nothing of anything.
    pub const ZERO: Resources = Resources { cpu_millis: 0, memory_bytes: 0, disk_bytes: 0, network_bps: 0 };

    /// Names of the dimensions, in the order of [`Resources::dimensions`].
    pub const NAMES: [&'static str; 4] = ["cpu", "memory", "disk", "network"];

    /// The amounts in the order CPU, memory, disk, network.
    pub fn dimensions(&self) -> [u64; 4] {
        [self.cpu_millis, self.memory_bytes, self.disk_bytes, self.network_bps]
    }

    /// The other way round.
    pub fn from_dimensions([cpu_millis, memory_bytes, disk_bytes, network_bps]: [u64; 4]) -> Self {
        Self { cpu_millis, memory_bytes, disk_bytes, network_bps }
    }

    /// Whether this fits into `room`, in every dimension.
    pub fn fits(&self, room: &Resources) -> bool {
        self.dimensions().into_iter().zip(room.dimensions()).all(|(need, has)| need <= has)
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Resources) -> Resources {
        self.zip(other, u64::saturating_add)
    }

    /// What is left when `other` is taken away; never below zero.
    #[must_use]
    pub fn minus(&self, other: &Resources) -> Resources {
        self.zip(other, u64::saturating_sub)
    }

    /// The greater amount in each dimension.
    #[must_use]
    pub fn most(&self, other: &Resources) -> Resources {
        self.zip(other, u64::max)
    }

    /// This, and `other` in each dimension of which this has nothing.
    #[must_use]
    pub fn or(&self, other: &Resources) -> Resources {
        self.zip(other, |this, other| if this > 0 { this } else { other })
    }

    fn zip(&self, other: &Resources, f: impl Fn(u64, u64) -> u64) -> Resources {
        let (a, b) = (self.dimensions(), other.dimensions());
        Resources::from_dimensions(std::array::from_fn(|i| f(a[i], b[i])))
    }
}

/// Amounts of resources that are counted, and mean nothing to the mesh but their number: `gpus=2, licences=1`.
///
/// Each has a name of its own, and an amount above zero: of what is not named there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<CompactString, u64>")]
pub struct Countables(BTreeMap<CompactString, u64>);

impl Countables {
    /// Longest name of a countable resource, in bytes.
    pub const MAX_NAME_LEN: usize = 64;

    /// Nothing of anything.
    pub const ZERO: Countables = Countables(BTreeMap::new());

    /// Checks names and takes them with their amounts.
    pub fn new(amounts: impl IntoIterator<Item = (impl AsRef<str>, u64)>) -> Result<Self, BadCountables> {
        let mut all = Self::ZERO;
        for (name, amount) in amounts {
            all.add(name.as_ref(), amount)?;
        }
        all.0.retain(|_, amount| *amount > 0);
        Ok(all)
    }

    fn add(&mut self, name: &str, amount: u64) -> Result<(), BadCountables> {
        if Resources::NAMES.contains(&name) {
            return Err(BadCountables::Taken(name.to_owned()));
        }
        if !is_countable(name) {
            return Err(BadCountables::Name(excerpt(name)));
        }
        match self.0.insert(name.into(), amount) {
            None => Ok(()),
            Some(_) => Err(BadCountables::Twice(name.to_owned())),
        }
    }

    /// How much there is of one.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Whether there is nothing of anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each name and its amount, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    /// Whether this fits into `room`, in every name.
    pub fn fits(&self, room: &Countables) -> bool {
        self.iter().all(|(name, need)| need <= room.get(name))
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Countables) -> Countables {
        let mut sum = self.0.clone();
        for (name, amount) in &other.0 {
            let total = sum.entry(name.clone()).or_default();
            *total = total.saturating_add(*amount);
        }
        Self(sum)
    }

    /// The greater amount of each.
    #[must_use]
    pub fn most(&self, other: &Countables) -> Countables {
        let mut most = self.0.clone();
        for (name, amount) in &other.0 {
            let greater = most.entry(name.clone()).or_default();
            *greater = (*greater).max(*amount);
        }
        Self(most)
    }

    /// What is left when `other` is taken away; never below zero.
    #[must_use]
    pub fn minus(&self, other: &Countables) -> Countables {
        let left = self.0.iter().map(|(name, amount)| (name.clone(), amount.saturating_sub(other.get(name))));
        Self(left.filter(|(_, amount)| *amount > 0).collect())
    }
}

/// What an attempt used, as far as that was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// CPU time.
    pub cpu: Option<Duration>,
    /// The most bytes of memory at a time.
    pub memory_peak: Option<u64>,
    /// Bytes read from disks and written to them.
    pub io_bytes: Option<u64>,
}

fn is_countable(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    name.len() <= Countables::MAX_NAME_LEN
        && name.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
        && name.bytes().all(is_good)
}

/// As the header `Hive-Resources` has it: `gpus=2, licences=1`.
impl fmt::Display for Countables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, amount)) in self.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{name}={amount}")?;
        }
        Ok(())
    }
}

impl FromStr for Countables {
    type Err = BadCountables;

    fn from_str(text: &str) -> Result<Self, BadCountables> {
        if text.trim().is_empty() {
            return Ok(Self::ZERO);
        }
        let part = |part: &str| {
            let bad = || BadCountables::Part(excerpt(part.trim()));
            let (name, amount) = part.split_once('=').ok_or_else(bad)?;
            Ok((name.trim().to_owned(), whole_number(amount.trim()).ok_or_else(bad)?))
        };
        Self::new(text.split(',').map(part).collect::<Result<Vec<_>, BadCountables>>()?)
    }
}

/// Only digits: `u64` would also read `+1`.
fn whole_number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl TryFrom<BTreeMap<CompactString, u64>> for Countables {
    type Error = BadCountables;

    fn try_from(amounts: BTreeMap<CompactString, u64>) -> Result<Self, BadCountables> {
        Self::new(amounts)
    }
}

/// Why something is not amounts of countable resources.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCountables {
    /// A part is not a name and its amount.
    #[error("`{0}` is not an amount of a resource: write `gpus=2`, and commas between several")]
    Part(String),
    /// A name is none.
    #[error("`{0}` is not the name of a resource: use 1 to 64 of a-z 0-9 - _, a letter first")]
    Name(String),
    /// A name that means something else.
    #[error("`{0}` is not counted in pieces: it has a setting and a header of its own")]
    Taken(String),
    /// A name is there more than once.
    #[error("`{0}` is there twice: keep one of them")]
    Twice(String),
}

/// Why a text is not an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an amount of {what}: write {example}")]
pub struct BadQuantity {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// Reads CPU cores: `2`, `0.5`, `500m`. The result is in thousandths of a core.
pub fn parse_cpu(text: &str) -> Result<u64, BadQuantity> {
    let bad = || BadQuantity { text: excerpt(text), what: "CPU", example: "cores such as `2` or `500m`" };
    let text = text.trim();
    match text.strip_suffix('m') {
        Some(millis) => scaled(millis, 1.0).ok_or_else(bad),
        None => scaled(text, 1000.0).ok_or_else(bad),
    }
}

/// Reads bytes: `1048576`, `512Mi`, `1Gi`, `2G`, `512MiB`.
pub fn parse_bytes(text: &str) -> Result<u64, BadQuantity> {
    let bad = || BadQuantity { text: excerpt(text), what: "bytes", example: "`512Mi`, `1Gi` or a plain number" };
    let trimmed = text.trim();
    let trimmed = trimmed.strip_suffix('B').unwrap_or(trimmed);
    let (digits, unit) = split_unit(trimmed);
    let factor = match unit {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(bad()),
    };
    scaled(digits, factor).ok_or_else(bad)
}

/// Reads a bandwidth: `10Mbps`, `1Gbps`, `64kbps`, `9600bps`. The result is in bits per second.
pub fn parse_bandwidth(text: &str) -> Result<u64, BadQuantity> {
    let bad = || BadQuantity { text: excerpt(text), what: "bandwidth", example: "`10Mbps` or `1Gbps`" };
    let number = text.trim().strip_suffix("bps").ok_or_else(bad)?;
    let (digits, unit) = split_unit(number);
    let factor = match unit {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        _ => return Err(bad()),
    };
    scaled(digits, factor).ok_or_else(bad)
}

/// An amount as one would write it: `2 cores`, `500m cores`, `1.5 GiB`, `10 Mbps`. `resource` is one of
/// [`Resources::NAMES`].
pub fn show(resource: &str, amount: u64) -> String {
    let scale = |amount: f64, step: f64, units: &[&str]| {
        let (mut amount, mut unit) = (amount, 0);
        while amount >= step && unit + 1 < units.len() {
            (amount, unit) = (amount / step, unit + 1);
        }
        let digits = format!("{amount:.1}");
        format!("{} {}", digits.strip_suffix(".0").unwrap_or(&digits), units[unit])
    };
    match resource {
        "cpu" if !amount.is_multiple_of(1000) => format!("{amount}m cores"),
        "cpu" if amount == 1000 => "1 core".to_owned(),
        "cpu" => format!("{} cores", amount / 1000),
        "network" => scale(amount as f64, 1000.0, &["bps", "kbps", "Mbps", "Gbps"]),
        _ => scale(amount as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"]),
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    (text[..end].trim_end(), &text[end..])
}

fn scaled(digits: &str, factor: f64) -> Option<u64> {
    // Only plain decimals: `f64` would also read `inf`, `nan` and `1e9`.
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let amount = digits.parse::<f64>().ok()? * factor;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (amount < 1e18).then_some(amount.ceil() as u64)
}

/// Declares a (de)serialiser for a field that is written as a text, or as a plain number.
macro_rules! field {
    ($(#[$doc:meta])* $name:ident, $parse:path, $unit:literal) => {
        $(#[$doc])*
        pub mod $name {
            use super::*;

            /// Reads the field, where it is present.
            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Written {
                    Number(f64),
                    Text(String),
                }
                let text = match Option::<Written>::deserialize(deserializer)? {
                    None => return Ok(None),
                    Some(Written::Number(number)) => number.to_string(),
                    Some(Written::Text(text)) => text,
                };
                $parse(&text).map(Some).map_err(serde::de::Error::custom)
            }

            /// Writes the field as it is read.
            pub fn serialize<S: serde::Serializer>(amount: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
                amount.map(write).serialize(serializer)
            }

            /// An amount as it is read.
            pub fn write(amount: u64) -> String {
                format!(concat!("{}", $unit), amount)
            }
        }
    };
}

field!(
    /// For a field of CPU cores, kept in thousandths: `#[serde(default, with = "quantity::cpu")]`.
    cpu, parse_cpu, "m"
);
field!(
    /// For a field of bytes: `#[serde(default, with = "quantity::bytes")]`.
    bytes, parse_bytes, ""
);
field!(
    /// For a field of bandwidth, kept in bits per second: `#[serde(default, with = "quantity::bandwidth")]`.
    bandwidth, parse_bandwidth, "bps"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_in_the_usual_notations() {
        assert_eq!(parse_cpu("2"), Ok(2000));
        assert_eq!(parse_cpu("0.5"), Ok(500));
        assert_eq!(parse_cpu("500m"), Ok(500));
        assert_eq!(parse_bytes("512Mi"), Ok(512 << 20));
        assert_eq!(parse_bytes("1GiB"), Ok(1 << 30));
        assert_eq!(parse_bytes("2k"), Ok(2000));
        assert_eq!(parse_bytes("77"), Ok(77));
        assert_eq!(parse_bandwidth("10Mbps"), Ok(10_000_000));
    }

    #[test]
    fn amounts_are_shown_as_one_would_write_them() {
        assert_eq!(show("cpu", 1500), "1500m cores");
        assert_eq!(show("cpu", 8000), "8 cores");
        assert_eq!(show("memory", 512 << 20), "512 MiB");
        assert_eq!(show("disk", 1536 << 20), "1.5 GiB");
        assert_eq!(show("network", 10_000_000), "10 Mbps");
    }

    #[test]
    fn amounts_are_written_as_they_are_read() {
        assert_eq!(parse_cpu(&cpu::write(250)), Ok(250));
        assert_eq!(parse_bytes(&bytes::write(1 << 20)), Ok(1 << 20));
        assert_eq!(parse_bandwidth(&bandwidth::write(9600)), Ok(9600));
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for bad in ["", "-1", "inf", "1e9", "many", "5x", "m", "1.2.3", "99999999999999999999"] {
            assert!(parse_cpu(bad).is_err(), "{bad:?} was taken for CPU");
            assert!(parse_bytes(bad).is_err(), "{bad:?} was taken for bytes");
            assert!(parse_bandwidth(bad).is_err(), "{bad:?} was taken for bandwidth");
        }
    }

    #[test]
    fn countables_are_read_as_they_are_written() {
        let read: Countables = " licences=1,gpus = 2 , tapes=0".parse().unwrap();

        assert_eq!((read.get("gpus"), read.get("licences"), read.get("tapes")), (2, 1, 0));
        assert_eq!(read.to_string(), "gpus=2, licences=1");
        assert_eq!(read.to_string().parse(), Ok(read));
        assert_eq!("".parse(), Ok(Countables::ZERO));
    }

    #[test]
    fn what_is_no_countable_is_refused_and_told() {
        for bad in ["gpus", "gpus=", "gpus=-1", "gpus=+1", "gpus=1.5", "gpus=1,", "gpus=99999999999999999999"] {
            assert!(matches!(bad.parse::<Countables>(), Err(BadCountables::Part(_))), "{bad:?} was taken");
        }
        for bad in ["=1", "2gpus=1", "GPUs=1", "a b=1", &format!("{}=1", "g".repeat(65))] {
            assert!(matches!(bad.parse::<Countables>(), Err(BadCountables::Name(_))), "{bad:?} was taken");
        }
        assert_eq!("memory=1".parse::<Countables>(), Err(BadCountables::Taken("memory".to_owned())));
        assert_eq!("a=0, a=1".parse::<Countables>(), Err(BadCountables::Twice("a".to_owned())));
    }

    #[test]
    fn countables_fit_where_there_is_as_much_of_each() {
        let of = |text: &str| text.parse::<Countables>().unwrap();
        let room = of("gpus=2, licences=1");

        assert!(of("gpus=2").fits(&room) && Countables::ZERO.fits(&Countables::ZERO));
        assert!(!of("gpus=3").fits(&room) && !of("tapes=1").fits(&room));
        assert_eq!(room.minus(&of("gpus=1, licences=2, tapes=1")), of("gpus=1"));
        assert_eq!(of("gpus=1").plus(&of("gpus=1, licences=1")), room);
    }

    #[test]
    fn a_need_fits_only_if_every_dimension_does() {
        let room = Resources { cpu_millis: 1000, memory_bytes: 10, disk_bytes: 10, network_bps: 10 };

        assert!(Resources { cpu_millis: 1000, ..Resources::ZERO }.fits(&room));
        assert!(!Resources { cpu_millis: 1, disk_bytes: 11, ..Resources::ZERO }.fits(&room));
    }
}
