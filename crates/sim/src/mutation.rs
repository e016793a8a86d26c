//! Deliberate faults of the system itself, to show that the invariants see them.
//!
//! The roles know nothing of these: the world lies to them, or for them, at their edges, so that
//! they behave as if a rule were missing.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use hyperscale_model::{AttemptId, DeltaSeq, EndStatus, Fence, JobId, NodeId, ProgressSeq, Time};
use hyperscale_stats::WindowFigures;
use hyperscale_wire::{DatacenterStatus, Message, PartResult, StopReason};

use crate::Kind;
use crate::host::{Host, Node};

macro_rules! mutations {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A rule that the system is made to break.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutation {
            $($(#[$doc])* $name,)*
        }

        impl Mutation {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name on the command line.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

mutations! {
    /// Receivers take a command whose fence is below one that they know.
    AcceptLowerFence = "accept-lower-fence",
    /// The manager takes the execution lease for shorter than workers do.
    EarlyRedispatch = "early-redispatch",
    /// Workers count their lease from its arrival.
    StretchLease = "stretch-lease",
    /// Cores send load without a lease.
    IgnoreLease = "ignore-lease",
    /// A delta that comes twice is counted twice.
    CountDuplicates = "count-duplicates",
    /// The stop that a broken threshold asks for is never told.
    ForgetAbort = "forget-abort",
    /// Each core is free twice.
    ReleaseTwice = "release-twice",
    /// A ledger's last write is gone after a crash.
    LoseWrites = "lose-writes",
    /// Statistics are acknowledged without a checkpoint.
    LoseCheckpoints = "lose-checkpoints",
    /// Statistics are acknowledged, and what was added since the last checkpoint is not on the disk.
    LoseChanges = "lose-changes",
    /// A leader takes itself for confirmed for as long as it leads.
    ServeUnconfirmed = "serve-unconfirmed",
    /// What an attempt is told of pauses and scales while it runs is lost, by each way.
    ForgetSteering = "forget-steering",
    /// The attempts of a takeover begin as if the job had never been steered.
    OldSteering = "old-steering",
    /// The attempts of a takeover draw unique rows from the first one again.
    DrawAgain = "draw-again",
    /// Rows of attempts that were lost count as never sent.
    ForgetLostRows = "forget-lost-rows",
    /// A leader serves before its barrier is decided.
    SkipBarrier = "skip-barrier",
    /// A manager that leads no more goes on as if it did.
    IgnoreLeadershipLoss = "ignore-leadership-loss",
    /// A probe that could be sent counts as answered.
    SentProbeIsLife = "sent-probe-is-life",
    /// A job ends without what one of its datacenters has still to say.
    EarlyCompletion = "early-completion",
    /// Whatever a leader reports counts as its newest word.
    ProgressByFence = "progress-by-fence",
    /// A later attempt gets another context than the first.
    RecomputeContext = "recompute-context",
    /// A manager forgets the result of a part as soon as it has been sent.
    DropResult = "drop-result",
    /// A gate that has taken a job over does not know that it was cancelled.
    LoseCancel = "lose-cancel",
    /// A gate says that it holds a copy of statistics, and does not.
    ForgetCopies = "forget-copies",
    /// A gate says that it holds a blob, and does not.
    ForgetBlobs = "forget-blobs",
    /// A gate acknowledges the end of a part whose job it has not heard of.
    ForgetUnheard = "forget-unheard",
    /// What waits for a workflow waits for its own datacenter alone.
    WaitAlone = "wait-alone",
}

impl Mutation {
    /// The systems in which it shows.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::AcceptLowerFence
            | Self::EarlyRedispatch
            | Self::StretchLease
            | Self::IgnoreLease
            | Self::CountDuplicates
            | Self::ForgetAbort
            | Self::ReleaseTwice
            | Self::LoseWrites
            | Self::LoseCheckpoints
            | Self::LoseChanges
            | Self::ProgressByFence
            | Self::RecomputeContext
            | Self::DropResult
            | Self::SentProbeIsLife
            | Self::ForgetSteering
            | Self::OldSteering
            | Self::DrawAgain
            | Self::ForgetLostRows => Kind::Local,
            Self::ServeUnconfirmed
            | Self::SkipBarrier
            | Self::IgnoreLeadershipLoss
            | Self::EarlyCompletion
            | Self::LoseCancel
            | Self::ForgetCopies
            | Self::ForgetBlobs
            | Self::ForgetUnheard
            | Self::WaitAlone => Kind::Cluster,
        }
    }
}

impl Mutation {
    /// Whether it shows where leaders and owners die again and again.
    #[must_use]
    pub const fn needs_takeovers(self) -> bool {
        matches!(self, Self::LoseCancel | Self::ForgetCopies | Self::ForgetUnheard)
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Mutation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|known| known.as_str() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|known| known.as_str()).collect();
            format!("there is no mutation `{text}`; there are {}", names.join(", "))
        })
    }
}

/// What a mutation has to remember.
#[derive(Debug, Default)]
pub(crate) struct Tampering {
    pub(crate) mutation: Option<Mutation>,
    /// How many reports have been made newest.
    reports: u64,
    /// The first owner's fence of each job.
    first_fences: BTreeMap<JobId, Fence>,
    /// The last word of each datacenter's leader.
    statuses: BTreeMap<NodeId, DatacenterStatus>,
    /// The last delta of each attempt that reached the gate, and figures that come again.
    deltas: BTreeMap<AttemptId, (DeltaSeq, Option<WindowFigures>)>,
}

impl Tampering {
    pub(crate) fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Changes a message on its way in; `None` if it is swallowed. `held` is the highest fence that
    /// its receiver knows, `now` the receiver's clock.
    pub(crate) fn tamper(
        &mut self,
        mut message: Message,
        held: Option<Fence>,
        now: Time,
    ) -> Option<Message> {
        match (self.mutation?, &mut message) {
            (Mutation::AcceptLowerFence, message) => {
                if let (Some(fence), Some(held)) = (fence_of(message), held)
                    && *fence < held
                {
                    *fence = held;
                }
            }
            (Mutation::EarlyRedispatch, Message::LeaseGranted { lease, .. }) => {
                *lease = std::time::Duration::from_secs(10);
            }
            (Mutation::StretchLease, Message::LeaseGranted { sent_at, .. }) => *sent_at = now,
            (Mutation::ForgetAbort, Message::StopPart { reason, .. }) => {
                if matches!(reason, StopReason::Threshold { .. }) {
                    return None;
                }
            }
            (Mutation::OldSteering, Message::OfferAttempt(assignment)) => {
                // As new as it was, and so nothing puts it right.
                assignment.steering.pauses = Default::default();
                assignment.steering.amount = None;
            }
            (Mutation::DrawAgain, Message::OfferAttempt(assignment)) => assignment.rows.from = 0,
            (Mutation::ForgetLostRows, Message::PartReport(report)) => {
                report.rows.iter_mut().for_each(|rows| rows.possibly_sent = 0);
            }
            (Mutation::ForgetLostRows, Message::PartEnded(result)) => {
                result.report.rows.iter_mut().for_each(|rows| rows.possibly_sent = 0);
            }
            (Mutation::ReleaseTwice, Message::RenewLease { report, .. }) => report.cores *= 2,
            (Mutation::ProgressByFence, Message::PartReport(report)) => {
                self.reports += 1;
                report.seq = ProgressSeq(self.reports);
            }
            (Mutation::RecomputeContext, Message::OfferAttempt(assignment))
                if assignment.attempt.number.0 > 1 =>
            {
                assignment.context.layers.clear();
            }
            (Mutation::EarlyCompletion, Message::PartReport(report))
                if report.started.is_some() && report.part.part.0 == 0 =>
            {
                let (report, status) = ((**report).clone(), EndStatus::Completed);
                let result = PartResult { report, status, attempts: Vec::new() };
                return Some(Message::PartEnded(Box::new(result)));
            }
            (Mutation::WaitAlone, Message::OfferPart(offer)) => offer.is_shared = false,
            (Mutation::LoseCancel, Message::OfferPart(offer)) => {
                self.first_fences.entry(offer.part.job).or_insert(offer.fence);
            }
            (Mutation::LoseCancel, Message::StopPart { part, fence, .. })
                if self.first_fences.get(&part.job).is_some_and(|first| *first < *fence) =>
            {
                return None;
            }
            _ => {}
        }
        Some(message)
    }

    /// What the world answers in a node's place, and whether the message is swallowed.
    pub(crate) fn answer(
        &mut self,
        to: Option<&Host>,
        message: &Message,
    ) -> Option<(Message, bool)> {
        let to = to?;
        match (self.mutation?, message) {
            (Mutation::SentProbeIsLife, Message::Probe { number, .. }) => {
                let status = self.statuses.get(&to.id)?.clone();
                Some((Message::ProbeAck { number: *number, status }, false))
            }
            (Mutation::ForgetCopies, Message::Copy { job, mark, .. }) => {
                let (job, fence, mark) = (*job, mark.fence, *mark);
                Some((Message::CopyHeld { job, fence, mark }, true))
            }
            (Mutation::ForgetBlobs, Message::KeepBlob { hash }) => {
                Some((Message::BlobKept { hash: *hash }, true))
            }
            (Mutation::DropResult, Message::PartEnded(result)) => {
                Some((Message::PartEndedAck { part: result.report.part }, false))
            }
            (Mutation::ForgetUnheard, Message::PartEnded(result)) => {
                let Some(Node::Gate { gate, .. }) = &to.node else { return None };
                let part = result.report.part;
                let is_unheard = !gate.state().jobs.contains_key(&part.job);
                is_unheard.then_some((Message::PartEndedAck { part }, true))
            }
            _ => None,
        }
    }

    /// Notes what a datacenter's leader says of it.
    pub(crate) fn hear(&mut self, from: NodeId, message: &Message) {
        if let Message::DatacenterStatus(status) | Message::ProbeAck { status, .. } = message
            && status.leading.is_some()
        {
            self.statuses.insert(from, status.clone());
        }
    }

    /// Has the gate count again what it is told again.
    pub(crate) fn tamper_delta(&mut self, message: &mut Message) {
        let Message::Delta(delta) = message else { return };
        if !self.is(Mutation::CountDuplicates) {
            return;
        }
        let (last, again) = self.deltas.entry(delta.attempt).or_default();
        if delta.seq <= *last {
            *again = Some(delta.figures.clone());
        } else {
            *last = delta.seq;
            if let Some(figures) = again.take() {
                delta.figures.join(figures, true);
            }
        }
    }
}

/// The fence under which a message commands, if it does.
pub(crate) fn fence_of(message: &mut Message) -> Option<&mut Fence> {
    match message {
        Message::OfferPart(offer) => Some(&mut offer.fence),
        Message::OfferAttempt(assignment) => Some(&mut assignment.fence),
        Message::StartPart { fence, .. }
        | Message::StopPart { fence, .. }
        | Message::StopWorkflow { fence, .. }
        | Message::SteerPart { fence, .. }
        | Message::SettleWorkflow { fence, .. }
        | Message::SteerAttempt { fence, .. }
        | Message::LeaseRows { fence, .. }
        | Message::LeaseGranted { fence, .. }
        | Message::Lead { fence }
        | Message::StartAttempt { fence, .. }
        | Message::StopAttempt { fence, .. } => Some(fence),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_read_as_it_is_written() {
        for mutation in Mutation::ALL {
            assert_eq!(mutation.to_string().parse(), Ok(*mutation));
        }
    }
}
