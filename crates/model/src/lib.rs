//! The words of Hyperscale as types: ids, fences, sequence numbers, time, statuses.
//!
//! Everything here is plain data without rules of a role: each type makes one confusion
//! impossible (a fence is no sequence, a node is no job, a local time is no wall clock). The
//! glossary in `docs/architecture.md` lists the words.
//!
//! ```
//! use hyperscale_model::{JobId, Time};
//! use std::time::Duration;
//!
//! let job = JobId::from_parts(1_700_000_000_000, 42);
//! assert_eq!(job.to_string().parse(), Ok(job));
//! assert!(Time::ZERO + Duration::from_secs(1) > Time::ZERO);
//! ```

mod blob;
mod decision;
mod electorate;
mod health;
mod id;
mod load;
mod order;
mod random;
mod status;
mod time;

pub use blob::{BlobHash, ParseBlobHashError};
pub use decision::Decision;
pub use electorate::{Electorate, ElectorateChange};
pub use health::{
    DatacenterCounts, DatacenterHealth, NodeDecision, NodeHealth, NodeSignals, Progress,
};
pub use id::{
    AttemptId, AttemptNumber, ClientId, DatacenterId, JobId, NodeId, ParseIdError, PartId,
    PartIndex, Role, ShardId, ShardIndex, WorkflowIndex,
};
pub use load::{Class, OverloadState, Pressure};
pub use order::{DeltaSeq, Fence, Incarnation, ProgressSeq, ProposalId, Version};
pub use random::SplitMix;
pub use status::{EndStatus, FailureCause, JobState, Outcome, OutcomeCounts, Verdict};
pub use time::{Time, WallTime};
