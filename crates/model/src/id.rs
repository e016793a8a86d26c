//! Names of things: one type per kind, so that none is taken for another.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::WallTime;

/// Text that does not name what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseIdError {
    text: String,
    expected: &'static str,
}

/// One accepted run of a test. Sortable by time (the layout of `UUIDv7`), never reused; prints as
/// `job_` and 26 characters of Crockford's base 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u128);

/// Crockford's base 32, lower case.
const BASE_32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl JobId {
    /// The id of a job accepted `unix_millis` after the epoch; `random` keeps jobs of one
    /// millisecond apart.
    #[must_use]
    pub const fn from_parts(unix_millis: u64, random: u128) -> Self {
        let time = (unix_millis as u128 & 0xffff_ffff_ffff) << 80;
        let version = 0x7 << 76;
        let variant = 0b10 << 62;
        let random_a = (random >> 62 & 0xfff) << 64;
        let random_b = random & 0x3fff_ffff_ffff_ffff;
        Self(time | version | random_a | variant | random_b)
    }

    /// When the job was accepted, by the clock of the gate that did.
    #[must_use]
    pub const fn created(self) -> WallTime {
        WallTime((self.0 >> 80) as u64)
    }

    /// The 128 bits.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// The id with these bits, as they came from [`JobId::as_u128`].
    #[must_use]
    pub const fn from_u128(bits: u128) -> Self {
        Self(bits)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("job_")?;
        (0..26).rev().try_for_each(|place| {
            let digit = (self.0 >> (place * 5)) & 31;
            write!(f, "{}", char::from(BASE_32[digit as usize]))
        })
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for JobId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused =
            || ParseIdError { text: text.to_owned(), expected: "a job id such as `job_01j…`" };
        let digits = text.strip_prefix("job_").filter(|d| d.len() == 26).ok_or_else(refused)?;
        let mut bits: u128 = 0;
        for (place, c) in digits.bytes().enumerate() {
            let digit = BASE_32.iter().position(|&known| known == c).ok_or_else(refused)?;
            if place == 0 && digit > 7 {
                return Err(refused()); // 26 digits hold 130 bits.
            }
            bits = bits << 5 | digit as u128;
        }
        Ok(Self(bits))
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One process with a data directory: random, kept there. Prints as `node_` and 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node_{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("node_")
            .filter(|digits| digits.len() == 16)
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| ParseIdError { text: text.to_owned(), expected: "a node id" })
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

named! {
    /// One datacenter, by its configured name.
    DatacenterId
}
named! {
    /// Whoever submits jobs, by the name of its token.
    ClientId
}

macro_rules! index {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

index! {
    /// A datacenter's place in a job's list of targets.
    PartIndex, u16
}
index! {
    /// A workflow's place in its plan.
    WorkflowIndex, u16
}
index! {
    /// A shard's place in its workflow, within one part.
    ShardIndex, u16
}
index! {
    /// The number of a try to run a shard, from 1.
    AttemptNumber, u32
}

impl AttemptNumber {
    /// Before the first attempt.
    pub const NONE: Self = Self(0);

    /// The number of the next try.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What of a job runs in one datacenter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartId {
    /// The job.
    pub job: JobId,
    /// Which of its datacenters.
    pub part: PartIndex,
}

/// What of a workflow runs on one worker: a fixed slice of its load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId {
    /// The job.
    pub job: JobId,
    /// Which of its datacenters.
    pub part: PartIndex,
    /// Which of its workflows.
    pub workflow: WorkflowIndex,
    /// Which shard of that workflow in that datacenter.
    pub shard: ShardIndex,
}

impl ShardId {
    /// The part that the shard belongs to.
    #[must_use]
    pub const fn part_id(self) -> PartId {
        PartId { job: self.job, part: self.part }
    }
}

/// One try to run a shard on one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// The shard.
    pub shard: ShardId,
    /// The number of the try.
    pub number: AttemptNumber,
}

impl fmt::Display for PartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.job, self.part)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.job, self.part, self.workflow, self.shard)
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.shard, self.number)
    }
}

/// What a node does in the cluster; its certificate says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Submits, follows and cancels jobs.
    Client,
    /// Owns jobs and merges what datacenters report.
    Gate,
    /// Runs a job's part in one datacenter.
    Manager,
    /// Generates load.
    Worker,
}

impl Role {
    /// The role's name in certificates, messages and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Gate => "gate",
            Self::Manager => "manager",
            Self::Worker => "worker",
        }
    }

    /// Whether a node of this role may have a link to one of `other`; within one datacenter where
    /// managers and workers are concerned. Nothing else is allowed, in either direction.
    #[must_use]
    pub const fn may_link(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Gate, Self::Gate | Self::Manager | Self::Client)
                | (Self::Client, Self::Gate)
                | (Self::Manager, Self::Gate | Self::Manager | Self::Worker)
                | (Self::Worker, Self::Manager)
        )
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "client" => Ok(Self::Client),
            "gate" => Ok(Self::Gate),
            "manager" => Ok(Self::Manager),
            "worker" => Ok(Self::Worker),
            other => Err(ParseIdError { text: other.to_owned(), expected: "a role" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn job_ids_parse_what_they_print(millis in any::<u64>(), random in any::<u128>()) {
            let job = JobId::from_parts(millis, random);

            prop_assert_eq!(job.to_string().parse(), Ok(job));
        }

        #[test]
        fn node_ids_parse_what_they_print(bits in any::<u64>()) {
            prop_assert_eq!(NodeId(bits).to_string().parse(), Ok(NodeId(bits)));
        }

        #[test]
        fn job_ids_sort_by_time(earlier in 0u64..1 << 47, later in 0u64..1 << 47, r in any::<u128>()) {
            prop_assume!(earlier < later);

            let (first, second) = (JobId::from_parts(earlier, r), JobId::from_parts(later, !r));

            prop_assert!(first < second);
            prop_assert!(first.to_string() < second.to_string());
            prop_assert_eq!(second.created(), WallTime(later));
        }
    }

    #[test]
    fn foreign_text_is_no_id() {
        for text in ["", "job_", "job_zzzzzzzzzzzzzzzzzzzzzzzzzz", "node_1", "job_é"] {
            assert!(text.parse::<JobId>().is_err(), "{text} was taken for a job");
        }
    }

    #[test]
    fn sec_02_links_are_symmetric_and_workers_reach_managers_only() {
        const ROLES: [Role; 4] = [Role::Client, Role::Gate, Role::Manager, Role::Worker];
        for a in ROLES {
            for b in ROLES {
                assert_eq!(a.may_link(b), b.may_link(a), "{a} and {b} disagree");
            }
            assert_eq!(Role::Worker.may_link(a), a == Role::Manager, "worker to {a}");
        }
    }
}
