//! Everything that nodes say to each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_model::{
    AttemptId, BlobHash, Class, DatacenterId, DeltaSeq, EndStatus, FailureCause, Fence, JobId,
    NodeId, OverloadState, PartId, Pressure, ProgressSeq, ProposalId, Role, ShardId, Time, Version,
    WallTime, WorkflowIndex,
};
use hyperscale_plan::expr::Value;
use hyperscale_plan::{
    CONTEXT_BYTES_MAX, Context, DataIndex, LoadSteering, Pauses, RowLease, Secrets, Slice, Steering,
};
use hyperscale_stats::Delta;
use serde::{Deserialize, Serialize};

/// Most bytes of a blob in one message.
pub const BLOB_CHUNK_BYTES: usize = 256 << 10;

/// A message between two nodes. Who sent it comes with the link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Message {
    // Gate to manager.
    /// Run this part of a job. Repeating it changes nothing.
    OfferPart(Box<PartOffer>),
    /// All parts were accepted: the job's time starts so long from now.
    StartPart {
        /// The part.
        part: PartId,
        /// The owner's fence.
        fence: Fence,
        /// How long from now.
        start_in: Duration,
    },
    /// Stop the part.
    StopPart {
        /// The part.
        part: PartId,
        /// The owner's fence.
        fence: Fence,
        /// Why.
        reason: StopReason,
        /// How.
        mode: StopMode,
    },
    /// Stop one workflow of the part; those that need it are skipped.
    StopWorkflow {
        /// The part.
        part: PartId,
        /// The owner's fence.
        fence: Fence,
        /// The workflow.
        workflow: WorkflowIndex,
        /// Who asked.
        by: String,
    },
    /// A workflow that others wait for has ended in all datacenters of the job.
    SettleWorkflow {
        /// The part.
        part: PartId,
        /// The owner's fence.
        fence: Fence,
        /// The workflow.
        workflow: WorkflowIndex,
        /// How it ended, all datacenters together.
        status: EndStatus,
        /// What it publishes, all datacenters together.
        published: BTreeMap<String, Value>,
    },
    /// Steer the part's loads so, unless something newer is known.
    SteerPart {
        /// The part.
        part: PartId,
        /// The owner's fence.
        fence: Fence,
        /// All that is decided of the job's steering.
        steering: Steering,
    },
    /// Answer at once: only that proves that the datacenter is reached.
    Probe {
        /// The gate's number for it, which comes back.
        number: u64,
        /// Nodes that were removed from the datacenter.
        #[serde(default)]
        removed: Vec<NodeId>,
    },
    /// The gates know nothing of this part's job any more: it stops, whatever it does.
    OrphanPart {
        /// The part.
        part: PartId,
    },
    /// The part's end is recorded: the manager may forget it.
    PartEndedAck {
        /// The part.
        part: PartId,
    },

    // Manager to gate.
    /// Whether this manager leads its datacenter, and how that datacenter is.
    DatacenterStatus(DatacenterStatus),
    /// The answer to a probe.
    ProbeAck {
        /// The gate's number for it.
        number: u64,
        /// As in a status.
        status: DatacenterStatus,
    },
    /// The part will run.
    PartAccepted {
        /// The part.
        part: PartId,
        /// The fence of the offer.
        fence: Fence,
    },
    /// The part will not run here.
    PartRefused {
        /// The part.
        part: PartId,
        /// The fence of the offer.
        fence: Fence,
        /// Why.
        why: RefusePart,
    },
    /// How the part is doing.
    PartReport(Box<PartReport>),
    /// The part is over; repeated until acknowledged.
    PartEnded(Box<PartResult>),

    // Manager and worker.
    /// A worker offers its cores and asks for more time to send load: on each new link, and again
    /// and again.
    RenewLease {
        /// The worker's clock when it asked; it comes back unread.
        sent_at: Time,
        /// The worker now.
        report: WorkerReport,
    },
    /// The worker may send load until `sent_at` plus the execution lease, by its own clock.
    LeaseGranted {
        /// As in the question.
        sent_at: Time,
        /// The leader's fence.
        fence: Fence,
        /// How long the lease is.
        lease: Duration,
        /// Attempts that must stop, each with how.
        stop: Vec<(AttemptId, StopMode)>,
        /// Attempts that the leader knows nothing of any more: end and forget them.
        forget: Vec<AttemptId>,
        /// Attempts that have not heard how they are steered.
        #[serde(default)]
        steer: Vec<(AttemptId, LoadSteering)>,
    },
    /// This manager leads: report yourself to it.
    Lead {
        /// Its fence.
        fence: Fence,
    },
    /// This manager does not lead; ask that one. Also said without having been asked, so that the
    /// link is heard of.
    NotLeader {
        /// The leader, if it is known.
        leader: Option<NodeId>,
    },
    /// Prepare to run an attempt.
    OfferAttempt(Box<Assignment>),
    /// The worker is ready to start the attempt.
    AttemptAccepted {
        /// The attempt.
        attempt: AttemptId,
        /// The fence of the offer.
        fence: Fence,
    },
    /// The worker will not run the attempt.
    AttemptRefused {
        /// The attempt.
        attempt: AttemptId,
        /// The fence of the offer.
        fence: Fence,
        /// Why.
        why: RefuseAttempt,
    },
    /// Start a prepared attempt.
    StartAttempt {
        /// The attempt.
        attempt: AttemptId,
        /// The leader's fence.
        fence: Fence,
        /// How long from now.
        start_in: Duration,
        /// The job's time at the start.
        job_elapsed: Duration,
        /// Where in the workflow's load it starts, pauses included.
        load_elapsed: Duration,
        /// How much later that is than was decided: starts that were due meanwhile count as dropped.
        #[serde(default)]
        late: Duration,
    },
    /// Stop an attempt.
    StopAttempt {
        /// The attempt.
        attempt: AttemptId,
        /// The leader's fence.
        fence: Fence,
        /// How.
        mode: StopMode,
    },
    /// Steer an attempt's load so, unless something newer is known. The answers to renewals repeat
    /// it.
    SteerAttempt {
        /// The attempt.
        attempt: AttemptId,
        /// The leader's fence.
        fence: Fence,
        /// All that is decided of it.
        steering: LoadSteering,
    },
    /// The attempt may make these draws of unique rows as well. Said again as long as its worker's
    /// reports show that it has not heard of them.
    LeaseRows {
        /// The attempt.
        attempt: AttemptId,
        /// The leader's fence.
        fence: Fence,
        /// The first draw that it may not make yet, by its number within the shard's share.
        until: u64,
    },
    /// The attempt is over; repeated until acknowledged.
    AttemptEnded {
        /// The attempt.
        attempt: AttemptId,
        /// How it ended.
        end: AttemptSummary,
    },
    /// The attempt's end is decided: the worker may forget it.
    AttemptEndedAck {
        /// The attempt.
        attempt: AttemptId,
    },

    // Between gates, and between managers of one datacenter.
    /// A piece of what one ledger says to the other; see [`crate::Assembly`].
    Ledger {
        /// Which of the sender's words this is a piece of.
        number: u64,
        /// From which byte.
        offset: u64,
        /// How long the whole is.
        total: u64,
        /// The bytes.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// How the sender stands; said again and again, so that the link is heard of.
    PeerStatus {
        /// Whether its ledger has been started: then nobody may start another.
        is_founded: bool,
        /// Datacenters that a gate does not reach.
        #[serde(default)]
        lost: Vec<DatacenterId>,
        /// The version of its software.
        software: String,
        /// Whether the receiver was removed from the cluster: then it is to stop.
        #[serde(default)]
        is_removed: bool,
        /// How overloaded it is.
        #[serde(default)]
        overload: OverloadState,
    },
    /// A node is to leave, once it has handed over what it does. From gates to each other and to
    /// managers, and from those to their workers: whoever is not meant passes it on.
    Drain {
        /// Which.
        node: NodeId,
    },
    /// Keep this blob: an entry that names it is about to be proposed.
    KeepBlob {
        /// Which.
        hash: BlobHash,
    },
    /// The blob is stored.
    BlobKept {
        /// Which.
        hash: BlobHash,
    },

    // Between gates.
    /// Have an entry decided that is the sender's: it knows it again once it is.
    Propose {
        /// The proposal, as the sender numbers it.
        proposal: ProposalId,
        /// The entry.
        #[serde(with = "serde_bytes")]
        entry: Vec<u8>,
    },
    /// The receiver's proposal will not be decided, as far as the sender can know.
    ProposalRefused {
        /// Which.
        proposal: ProposalId,
    },
    /// What the owner of a job has added to its statistics: add it to your copy.
    Copy {
        /// The job.
        job: JobId,
        /// How far the copy is then.
        mark: CopyMark,
        /// What was added, as gates write it.
        #[serde(with = "serde_bytes")]
        changes: Vec<u8>,
    },
    /// All of a job's statistics, as a blob that the sender holds: take it as your copy.
    WholeCopy {
        /// The job.
        job: JobId,
        /// How far it is.
        mark: CopyMark,
        /// The blob.
        hash: BlobHash,
    },
    /// The sender owns a job now: obey no owner before it, and say how far your copy is.
    CopyAsked {
        /// The job.
        job: JobId,
        /// Its fence.
        fence: Fence,
    },
    /// How far the sender's copy of a job's statistics is.
    CopyHeld {
        /// The job.
        job: JobId,
        /// The fence of the owner that is answered.
        fence: Fence,
        /// How far it is.
        mark: CopyMark,
    },
    /// Send all of a job's statistics.
    CopyWanted {
        /// The job.
        job: JobId,
    },
    /// What a client asks of a job that the receiver owns, as gates write it.
    Ask {
        /// The sender's number for it.
        number: u64,
        /// The question.
        #[serde(with = "serde_bytes")]
        question: Vec<u8>,
    },
    /// Nobody waits for the answer any more.
    AskDropped {
        /// The sender's number for it.
        number: u64,
    },
    /// The answer to a question.
    Answer {
        /// The asker's number for it.
        number: u64,
        /// The answer, as gates write it.
        #[serde(with = "serde_bytes")]
        answer: Vec<u8>,
    },

    // Both ways up.
    /// What an attempt did in a window; repeated until acknowledged.
    Delta(Box<Delta>),
    /// All deltas of the attempt up to this one are counted for good.
    DeltaAck {
        /// The attempt.
        attempt: AttemptId,
        /// The last of them.
        through: DeltaSeq,
        /// Iterations that they hold.
        iterations: u64,
        /// The job's time up to which they reach.
        until: Duration,
        /// How much the receiver can take.
        pressure: Pressure,
    },

    // Anyone who holds a blob, and anyone who needs it.
    /// Send a piece of a blob.
    BlobRequest {
        /// Which.
        hash: BlobHash,
        /// From which byte.
        offset: u64,
    },
    /// A piece of a blob.
    BlobChunk {
        /// Of which.
        hash: BlobHash,
        /// From which byte.
        offset: u64,
        /// How long the whole blob is.
        total: u64,
        /// The bytes.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// The node does not hold the blob.
    BlobMissing {
        /// Which.
        hash: BlobHash,
    },
    /// A message was refused because the receiver knows a higher fence.
    StaleFence {
        /// What the fence guards.
        subject: Subject,
        /// The fence that the receiver holds.
        held: Fence,
    },
}

impl Message {
    /// The message's class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::StopPart { .. }
            | Self::StopWorkflow { .. }
            | Self::SettleWorkflow { .. }
            | Self::SteerPart { .. }
            | Self::SteerAttempt { .. }
            | Self::LeaseRows { .. }
            | Self::PartEndedAck { .. }
            | Self::OrphanPart { .. }
            | Self::PartEnded(_)
            | Self::RenewLease { .. }
            | Self::LeaseGranted { .. }
            | Self::Lead { .. }
            | Self::NotLeader { .. }
            | Self::StopAttempt { .. }
            | Self::AttemptEnded { .. }
            | Self::AttemptEndedAck { .. }
            | Self::Ledger { .. }
            | Self::PeerStatus { .. }
            | Self::Drain { .. }
            | Self::DeltaAck { .. }
            | Self::Probe { .. }
            | Self::ProbeAck { .. }
            | Self::Propose { .. }
            | Self::ProposalRefused { .. }
            | Self::CopyAsked { .. }
            | Self::CopyHeld { .. }
            | Self::StaleFence { .. } => Class::Control,
            Self::OfferPart(_)
            | Self::StartPart { .. }
            | Self::PartAccepted { .. }
            | Self::PartRefused { .. }
            | Self::OfferAttempt(_)
            | Self::AttemptAccepted { .. }
            | Self::AttemptRefused { .. }
            | Self::StartAttempt { .. }
            | Self::KeepBlob { .. }
            | Self::BlobKept { .. } => Class::Dispatch,
            Self::DatacenterStatus(_)
            | Self::PartReport(_)
            | Self::Ask { .. }
            | Self::AskDropped { .. }
            | Self::Answer { .. } => Class::Progress,
            Self::Delta(_)
            | Self::Copy { .. }
            | Self::WholeCopy { .. }
            | Self::CopyWanted { .. }
            | Self::BlobRequest { .. }
            | Self::BlobChunk { .. }
            | Self::BlobMissing { .. } => Class::Bulk,
        }
    }

    /// Whether a node of role `from` may say this to one of role `to`. Checked on every message,
    /// beside the check of the link.
    #[must_use]
    pub const fn may_pass(&self, from: Role, to: Role) -> bool {
        match self {
            Self::OfferPart(_)
            | Self::StartPart { .. }
            | Self::StopPart { .. }
            | Self::StopWorkflow { .. }
            | Self::SettleWorkflow { .. }
            | Self::SteerPart { .. }
            | Self::PartEndedAck { .. }
            | Self::OrphanPart { .. }
            | Self::Probe { .. } => matches!((from, to), (Role::Gate, Role::Manager)),
            Self::DatacenterStatus(_)
            | Self::ProbeAck { .. }
            | Self::PartAccepted { .. }
            | Self::PartRefused { .. }
            | Self::PartReport(_)
            | Self::PartEnded(_) => matches!((from, to), (Role::Manager, Role::Gate)),
            Self::RenewLease { .. }
            | Self::AttemptAccepted { .. }
            | Self::AttemptRefused { .. }
            | Self::AttemptEnded { .. } => matches!((from, to), (Role::Worker, Role::Manager)),
            Self::LeaseGranted { .. }
            | Self::Lead { .. }
            | Self::NotLeader { .. }
            | Self::OfferAttempt(_)
            | Self::StartAttempt { .. }
            | Self::StopAttempt { .. }
            | Self::SteerAttempt { .. }
            | Self::LeaseRows { .. }
            | Self::AttemptEndedAck { .. } => matches!((from, to), (Role::Manager, Role::Worker)),
            Self::Drain { .. } => matches!(
                (from, to),
                (Role::Gate, Role::Gate | Role::Manager)
                    | (Role::Manager, Role::Manager | Role::Worker)
            ),
            Self::Ledger { .. }
            | Self::PeerStatus { .. }
            | Self::KeepBlob { .. }
            | Self::BlobKept { .. } => {
                matches!((from, to), (Role::Manager, Role::Manager) | (Role::Gate, Role::Gate))
            }
            Self::Propose { .. }
            | Self::ProposalRefused { .. }
            | Self::Copy { .. }
            | Self::WholeCopy { .. }
            | Self::CopyAsked { .. }
            | Self::CopyHeld { .. }
            | Self::CopyWanted { .. }
            | Self::Ask { .. }
            | Self::AskDropped { .. }
            | Self::Answer { .. } => matches!((from, to), (Role::Gate, Role::Gate)),
            Self::Delta(_) => {
                matches!((from, to), (Role::Worker, Role::Manager) | (Role::Manager, Role::Gate))
            }
            Self::DeltaAck { .. } => {
                matches!((from, to), (Role::Gate, Role::Manager) | (Role::Manager, Role::Worker))
            }
            Self::BlobRequest { .. }
            | Self::BlobChunk { .. }
            | Self::BlobMissing { .. }
            | Self::StaleFence { .. } => matches!(
                (from, to),
                (Role::Gate, Role::Manager | Role::Gate)
                    | (Role::Manager, Role::Gate | Role::Worker | Role::Manager)
                    | (Role::Worker, Role::Manager)
            ),
        }
    }

    /// The message's name in logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::OfferPart(_) => "offer_part",
            Self::StartPart { .. } => "start_part",
            Self::StopPart { .. } => "stop_part",
            Self::StopWorkflow { .. } => "stop_workflow",
            Self::SettleWorkflow { .. } => "settle_workflow",
            Self::SteerPart { .. } => "steer_part",
            Self::SteerAttempt { .. } => "steer_attempt",
            Self::LeaseRows { .. } => "lease_rows",
            Self::PartEndedAck { .. } => "part_ended_ack",
            Self::OrphanPart { .. } => "orphan_part",
            Self::Probe { .. } => "probe",
            Self::ProbeAck { .. } => "probe_ack",
            Self::DatacenterStatus(_) => "datacenter_status",
            Self::PartAccepted { .. } => "part_accepted",
            Self::PartRefused { .. } => "part_refused",
            Self::PartReport(_) => "part_report",
            Self::PartEnded(_) => "part_ended",
            Self::RenewLease { .. } => "renew_lease",
            Self::LeaseGranted { .. } => "lease_granted",
            Self::Lead { .. } => "lead",
            Self::NotLeader { .. } => "not_leader",
            Self::Ledger { .. } => "ledger",
            Self::PeerStatus { .. } => "peer_status",
            Self::Drain { .. } => "drain",
            Self::KeepBlob { .. } => "keep_blob",
            Self::BlobKept { .. } => "blob_kept",
            Self::Propose { .. } => "propose",
            Self::ProposalRefused { .. } => "proposal_refused",
            Self::Copy { .. } => "copy",
            Self::WholeCopy { .. } => "whole_copy",
            Self::CopyAsked { .. } => "copy_asked",
            Self::CopyHeld { .. } => "copy_held",
            Self::CopyWanted { .. } => "copy_wanted",
            Self::Ask { .. } => "ask",
            Self::AskDropped { .. } => "ask_dropped",
            Self::Answer { .. } => "answer",
            Self::OfferAttempt(_) => "offer_attempt",
            Self::AttemptAccepted { .. } => "attempt_accepted",
            Self::AttemptRefused { .. } => "attempt_refused",
            Self::StartAttempt { .. } => "start_attempt",
            Self::StopAttempt { .. } => "stop_attempt",
            Self::AttemptEnded { .. } => "attempt_ended",
            Self::AttemptEndedAck { .. } => "attempt_ended_ack",
            Self::Delta(_) => "delta",
            Self::DeltaAck { .. } => "delta_ack",
            Self::BlobRequest { .. } => "blob_request",
            Self::BlobChunk { .. } => "blob_chunk",
            Self::BlobMissing { .. } => "blob_missing",
            Self::StaleFence { .. } => "stale_fence",
        }
    }
}

/// A part of a job, offered to a datacenter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartOffer {
    /// The part.
    pub part: PartId,
    /// The fence by which the gate owns the job.
    pub fence: Fence,
    /// The plan's blob.
    pub plan: BlobHash,
    /// The share of each workflow's load that runs here.
    pub slice: Slice,
    /// What of all unique rows that share draws from: everything, unless each datacenter runs the
    /// whole load.
    pub rows: Slice,
    /// Whether other datacenters have the rest of each load: then what waits for a workflow waits
    /// until that has ended in all of them.
    pub is_shared: bool,
    /// The length of a window of statistics.
    pub window: Duration,
    /// The values of the plan's secrets.
    pub secrets: Secrets,
}

/// Why a part is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopReason {
    /// Someone asked.
    Cancelled {
        /// Who.
        by: String,
    },
    /// A threshold that aborts was broken.
    Threshold {
        /// Which.
        expression: String,
    },
    /// The job's time is over.
    TimedOut,
    /// The test asked to stop.
    Test {
        /// What happened.
        message: String,
    },
    /// Another datacenter can run it sooner. It counts only for a part of which nothing has had
    /// cores yet, and ends that part as skipped, at once.
    Returned,
}

impl StopReason {
    /// The status of whatever this stops.
    #[must_use]
    pub fn end_status(&self) -> EndStatus {
        use hyperscale_model::FailureCause;
        match self {
            Self::Cancelled { by } => EndStatus::Cancelled { by: by.clone() },
            Self::Threshold { expression } => EndStatus::Failed {
                cause: FailureCause::Threshold { expression: expression.clone() },
            },
            Self::TimedOut => EndStatus::TimedOut,
            Self::Test { message } => {
                EndStatus::Failed { cause: FailureCause::Test { message: message.clone() } }
            }
            Self::Returned => {
                EndStatus::Skipped { because: "it can run sooner elsewhere".to_owned() }
            }
        }
    }
}

/// How something stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StopMode {
    /// Nothing new starts; running iterations may finish within the workflow's `graceful_stop`.
    Graceful,
    /// Running requests are cut.
    Now,
}

/// Why a datacenter does not take a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusePart {
    /// Another manager leads.
    NotLeader {
        /// Which, if it is known.
        leader: Option<NodeId>,
    },
    /// Try again later.
    NotReady {
        /// How much later.
        retry_after: Duration,
    },
    /// The plan cannot be read here.
    BadPlan {
        /// What is wrong with it.
        message: String,
    },
}

/// How a datacenter is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatacenterStatus {
    /// Which.
    pub datacenter: DatacenterId,
    /// The leader's fence, if the sender leads.
    pub leading: Option<Fence>,
    /// Orders what the sender says.
    pub version: Version,
    /// Managers that belong to it, alive or not; 0 if the sender is too old to say.
    #[serde(default)]
    pub managers: u32,
    /// Those of them that are there and not overloaded.
    #[serde(default)]
    pub managers_healthy: u32,
    /// Those that vote in its ledger, as far as the sender knows.
    #[serde(default)]
    pub voters: BTreeSet<NodeId>,
    /// Parts that wait for cores.
    #[serde(default)]
    pub queue: u32,
    /// Workers that are there.
    pub workers: u32,
    /// Their cores.
    pub cores: u32,
    /// Those of them that are free.
    pub free_cores: u32,
    /// Its nodes: the sender first, then workers, at most [`NODES_TOLD_MAX`].
    #[serde(default)]
    pub nodes: Vec<NodeStatus>,
}

/// How many nodes of a datacenter are told one by one: their rows fit in a frame.
pub const NODES_TOLD_MAX: usize = 1_000;

/// The version of the software that this node runs.
pub const SOFTWARE: &str = env!("CARGO_PKG_VERSION");

/// A node of a datacenter, as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Which.
    pub node: NodeId,
    /// What it is.
    pub role: Role,
    /// How it is.
    pub state: NodeState,
    /// Its cores; 0 if it is no worker.
    pub cores: u32,
    /// Those of them that may be given away.
    pub free_cores: u32,
    /// The version of its software; empty if it is too old to say.
    pub software: String,
}

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// A gate or manager that decides.
    Leading,
    /// A gate or manager that would take over.
    Following,
    /// A worker that takes work.
    Ready,
    /// A worker that finishes what runs, and takes nothing new.
    Draining,
    /// A worker that is linked and has said nothing lately.
    Silent,
}

/// Whether what is to be published fits, beside what was before; says what to do if not.
///
/// # Errors
///
/// With a message for whoever wrote the test.
pub fn check_published(
    before: &Context,
    published: &BTreeMap<String, Value>,
) -> Result<(), String> {
    let bytes = |of: Result<Vec<u8>, crate::EncodeError>| of.map_or(usize::MAX, |of| of.len());
    let all =
        bytes(crate::encode_value(before)).saturating_add(bytes(crate::encode_value(published)));
    if published.is_empty() || all <= CONTEXT_BYTES_MAX {
        return Ok(());
    }
    let names: Vec<&str> = published.keys().map(String::as_str).collect();
    Err(format!(
        "it publishes too much ({}): all published values of a job may take {} KiB together; \
         capture less, or give `publish` a smaller `limit`",
        names.join(", "),
        CONTEXT_BYTES_MAX >> 10
    ))
}

/// How a workflow ends and what it publishes, where that has to fit beside what was published before.
#[must_use]
pub fn end_publishing(
    status: EndStatus,
    before: &Context,
    published: BTreeMap<String, Value>,
) -> (EndStatus, BTreeMap<String, Value>) {
    match check_published(before, &published) {
        Ok(()) => (status, published),
        Err(message) => {
            let cause = FailureCause::Test { message };
            (EndStatus::Failed { cause }, BTreeMap::new())
        }
    }
}

/// How a part is doing, in full each time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartReport {
    /// The part.
    pub part: PartId,
    /// The leader's fence.
    pub fence: Fence,
    /// Orders the reports under that fence.
    pub seq: ProgressSeq,
    /// The workflows, in the plan's order.
    pub workflows: Vec<WorkflowReport>,
    /// Load that was not sent, as far as that is known.
    pub gaps: Vec<Gap>,
    /// What became of unique rows.
    pub rows: Vec<RowsUsed>,
    /// Workers of the datacenter that take part.
    pub workers: u32,
    /// Cores that the part holds.
    pub cores: u32,
    /// Requests in deltas that came after their attempt had been closed, and were not counted.
    pub late_requests: u64,
    /// When the part's time started, if it has.
    pub started: Option<WallTime>,
    /// Attempts of which the leader must hear what was counted, since it leads only now.
    pub inquire: Vec<AttemptId>,
    /// What its workflows have published, if other datacenters wait for it.
    pub published: Context,
    /// Workflows of which it is known here that they have ended in all datacenters.
    pub settled: BTreeSet<WorkflowIndex>,
    /// The version of the job's steering that is decided here.
    #[serde(default)]
    pub steered: u64,
    /// When its loads stood still.
    #[serde(default)]
    pub pauses: Pauses,
    /// The job's time when this was said, if the leader knows it for certain.
    #[serde(default)]
    pub job_time: Option<Duration>,
    /// How long it will wait for its first cores, by the plans of what runs and waits there, if it
    /// waits for any and somebody can know.
    #[serde(default)]
    pub wait: Option<Duration>,
}

/// How a workflow is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkflowReport {
    /// Where it stands.
    pub state: WorkflowState,
    /// The job's time at which it started, if it has.
    pub started: Option<Duration>,
    /// The job's time at which it ended, if it has.
    pub ended: Option<Duration>,
}

/// Where a workflow stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkflowState {
    /// It waits for other workflows.
    Waiting,
    /// It waits for cores.
    Ready,
    /// Its shards have workers and are being prepared.
    Placed,
    /// It sends load.
    Running,
    /// It is over.
    Ended(EndStatus),
}

/// Load that was planned and not sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// Whose.
    pub shard: ShardId,
    /// From this time of the job.
    pub from: Duration,
    /// To this time of the job.
    pub to: Duration,
    /// Iterations that would have started, under an arrival rate.
    pub starts: u64,
    /// Users times seconds that would have been active, otherwise.
    pub vu_seconds: f64,
    /// Why.
    pub cause: GapCause,
    /// The worker that was lost.
    pub worker: NodeId,
}

/// What became of the rows of a unique source that ends. The rest of them is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsUsed {
    /// The source.
    pub source: DataIndex,
    /// Rows that iterations have drawn.
    pub sent: u64,
    /// Rows that attempts were leased of which nobody knows whether they drew them. They are not
    /// used again.
    pub possibly_sent: u64,
}

/// Why load was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The worker was not heard of for longer than its lease.
    WorkerLost,
    /// The worker had started anew.
    WorkerRestarted,
    /// A core of the worker panicked or hung.
    CoreLost,
    /// The worker left.
    WorkerDrained,
}

/// A part that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartResult {
    /// The last report.
    pub report: PartReport,
    /// How it ended.
    pub status: EndStatus,
    /// Each attempt with the last delta that counts.
    pub attempts: Vec<(AttemptId, DeltaSeq)>,
}

/// A worker as it describes itself, in full each time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// Orders reports of one incarnation.
    pub version: Version,
    /// Its cores.
    pub cores: u32,
    /// Whether it takes new attempts.
    pub is_draining: bool,
    /// The version of its software.
    #[serde(default)]
    pub software: String,
    /// The attempts that it knows of.
    pub attempts: Vec<AttemptReport>,
}

/// An attempt as its worker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptReport {
    /// Which.
    pub attempt: AttemptId,
    /// What it does.
    pub phase: AttemptPhase,
    /// The cores that it holds.
    pub cores: u32,
    /// The version of its steering that it has heard of.
    #[serde(default)]
    pub steered: u64,
    /// The job's time as it is there, once it runs: a new leader knows it from this, whatever its
    /// wall clock shows.
    #[serde(default)]
    pub job_time: Option<Duration>,
    /// The first draw of unique rows that it may not make, as far as it has heard.
    pub rows_until: u64,
    /// Up to which draw it would like to be leased rows; never less than it was.
    pub rows_wanted: u64,
}

/// What an attempt does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptPhase {
    /// It fetches its plan and data.
    Preparing,
    /// It waits for its start.
    Prepared,
    /// It sends load.
    Running,
    /// Its lease has ended: it sends no load until it is renewed.
    Paused,
    /// It is over; its end may still have to be told.
    Ended,
}

/// What a worker needs to run an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The attempt.
    pub attempt: AttemptId,
    /// The leader's fence.
    pub fence: Fence,
    /// The plan's blob.
    pub plan: BlobHash,
    /// Its share of the workflow's load.
    pub slice: Slice,
    /// How many cores it takes.
    pub cores: u32,
    /// The attempt that these cores were given to first: this one, or one of the same workflow
    /// beside which it runs.
    pub seat: AttemptId,
    /// Iterations of the slice that earlier attempts have done.
    pub iterations_done: u64,
    /// The load's time up to which earlier attempts may have sent its starts, if they may be ahead
    /// of it: they heard of a pause late, or never.
    #[serde(default)]
    pub load_sent: Duration,
    /// Which draws of unique rows it may make.
    pub rows: RowLease,
    /// How its load is steered.
    #[serde(default)]
    pub steering: LoadSteering,
    /// Values published by other workflows.
    pub context: Context,
    /// The values of the plan's secrets.
    pub secrets: Secrets,
    /// The length of a window of statistics.
    pub window: Duration,
    /// The datacenter's name, for the test.
    pub datacenter: DatacenterId,
    /// When the job started, for showing.
    pub job_started: WallTime,
}

/// Why a worker does not run an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefuseAttempt {
    /// It has fewer free cores.
    NoCores {
        /// How many are free.
        free: u32,
    },
    /// It is about to leave.
    Draining,
    /// The plan or its data cannot be read or be had.
    BadPlan {
        /// What is wrong.
        message: String,
    },
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptSummary {
    /// Why.
    pub end: AttemptEnd,
    /// Its last delta; all from 1 up to it exist.
    pub last_delta: DeltaSeq,
    /// What its iterations published, by name.
    pub published: BTreeMap<String, Value>,
    /// How many draws of unique rows it has made, if that is known: it makes no other.
    pub draws_made: Option<u64>,
}

/// Why an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptEnd {
    /// Its load is done.
    Finished,
    /// It was told to stop.
    Stopped,
    /// The test asked the whole job to stop.
    Aborted {
        /// What happened.
        message: String,
    },
    /// Its cores could not go on.
    CoreLost {
        /// What happened.
        message: String,
    },
    /// The worker leaves before the load is done.
    Drained,
}

/// How far a gate's copy of a job's statistics is. Compared as (fence, position).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct CopyMark {
    /// The fence of the owner that it comes from.
    pub fence: Fence,
    /// How often that owner has added something.
    pub position: u64,
}

/// What a fence guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// A gate's ownership of a job.
    Job(JobId),
    /// A manager's leadership of its datacenter.
    Leadership,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_02_only_nodes_of_one_cluster_talk_of_its_ledger() {
        let hash = BlobHash([0; 32]);
        let messages = [
            Message::Ledger { number: 1, offset: 0, total: 0, bytes: Vec::new() },
            Message::PeerStatus {
                is_founded: true,
                lost: Vec::new(),
                software: SOFTWARE.to_owned(),
                is_removed: false,
                overload: OverloadState::Healthy,
            },
            Message::KeepBlob { hash },
            Message::BlobKept { hash },
        ];
        let roles = [Role::Client, Role::Gate, Role::Manager, Role::Worker];
        for message in messages {
            for (from, to) in roles.into_iter().flat_map(|from| roles.map(|to| (from, to))) {
                let may_pass =
                    matches!((from, to), (Role::Manager, Role::Manager) | (Role::Gate, Role::Gate));
                let name = message.name();
                assert_eq!(message.may_pass(from, to), may_pass, "{name} from {from} to {to}");
            }
        }
    }

    #[test]
    fn sec_02_only_gates_talk_of_jobs_among_themselves() {
        let job = JobId::from_parts(0, 0);
        let (fence, mark) = (Fence(1), CopyMark::default());
        let messages = [
            Message::Propose { proposal: ProposalId(1), entry: Vec::new() },
            Message::ProposalRefused { proposal: ProposalId(1) },
            Message::Copy { job, mark, changes: Vec::new() },
            Message::WholeCopy { job, mark, hash: BlobHash([0; 32]) },
            Message::CopyAsked { job, fence },
            Message::CopyHeld { job, fence, mark },
            Message::CopyWanted { job },
            Message::Ask { number: 1, question: Vec::new() },
            Message::AskDropped { number: 1 },
            Message::Answer { number: 1, answer: Vec::new() },
        ];
        let roles = [Role::Client, Role::Gate, Role::Manager, Role::Worker];
        for message in messages {
            for (from, to) in roles.into_iter().flat_map(|from| roles.map(|to| (from, to))) {
                let may_pass = (from, to) == (Role::Gate, Role::Gate);
                let name = message.name();
                assert_eq!(message.may_pass(from, to), may_pass, "{name} from {from} to {to}");
            }
        }
    }

    #[test]
    fn what_is_published_fits_beside_what_was_before_or_says_what_to_do() {
        let layer =
            |kib: usize| BTreeMap::from([("ids".to_owned(), Value::text(&"x".repeat(kib << 10)))]);
        let before = Context { layers: [(WorkflowIndex(0), layer(300))].into() };

        assert_eq!(check_published(&before, &layer(200)), Ok(()));
        assert_eq!(check_published(&before, &BTreeMap::new()), Ok(()));
        let refused = check_published(&before, &layer(300)).unwrap_err();
        assert!(refused.contains("ids") && refused.contains("512 KiB"), "{refused}");
    }

    #[test]
    fn sec_02_no_message_passes_between_worker_and_gate() {
        let hash = BlobHash([0; 32]);
        let part =
            PartId { job: hyperscale_model::JobId::from_parts(0, 0), part: Default::default() };
        let messages = [
            Message::BlobMissing { hash },
            Message::PartEndedAck { part },
            Message::NotLeader { leader: None },
            Message::StaleFence { subject: Subject::Leadership, held: Fence(1) },
        ];
        for message in messages {
            assert!(!message.may_pass(Role::Worker, Role::Gate), "{}", message.name());
            assert!(!message.may_pass(Role::Gate, Role::Worker), "{}", message.name());
            assert!(!message.may_pass(Role::Client, Role::Manager), "{}", message.name());
        }
    }
}
