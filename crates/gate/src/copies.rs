//! Copies of a job's statistics on the other gates.
//!
//! Its owner adds what was counted to its own statistics, stores them, and has every other gate add
//! the same to a copy. Only what a majority of gates holds is acknowledged to managers. So the next
//! owner, which asks a majority and goes on from the copy that is furthest, has all of it.
//!
//! A mark says how far a copy is: the fence of the owner that it comes from, and how often that
//! owner has added something. A copy obeys the owner with the highest fence that it has heard of. A
//! new owner sends each gate its statistics whole, once; what others have added beyond them was never
//! acknowledged, and comes again.
//!
//! A gate that votes in the place of one that is lost holds nothing at first, although its
//! predecessor may have been one of the majority. Until it has been sent the whole of a job that is
//! older than itself, its word counts for nothing when the next owner asks.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hyperscale_blobs::hash_of;
use hyperscale_model::{AttemptId, BlobHash, DeltaSeq, Fence, JobId, NodeId, Pressure, Time};
use hyperscale_report::EventRecord;
use hyperscale_resilience::{PressureConfig, PressureGauge};
use hyperscale_stats::Delta;
use hyperscale_wire::{
    CopyMark, EncodeError, Message, PartReport, Subject, decode_value, encode_value,
};
use serde::{Deserialize, Serialize};

use crate::owner::EVENTS_MAX;
use crate::statistics::Statistics;
use crate::{Event, Gate, Kept, Output};

/// Most bytes of changes in one message.
const CHANGES_BYTES: usize = 512 << 10;
/// Messages of changes that are kept for gates that are behind; who is further behind gets all.
const KEPT: usize = 64;

/// What must outlive this life of the gate: a job's statistics, its events, and the reports that
/// they came from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Checkpoint<'a> {
    pub(crate) mark: CopyMark,
    pub(crate) statistics: Cow<'a, Statistics>,
    pub(crate) events: Cow<'a, VecDeque<EventRecord>>,
    pub(crate) last_event: u64,
    /// Changes of the job's steering that the events tell of.
    pub(crate) steers: usize,
    pub(crate) reports: Vec<Option<PartReport>>,
}

impl Checkpoint<'static> {
    pub(crate) fn empty(window: Duration) -> Self {
        Self {
            mark: CopyMark::default(),
            statistics: Cow::Owned(Statistics::new(window)),
            events: Cow::Owned(VecDeque::new()),
            last_event: 0,
            steers: 0,
            reports: Vec::new(),
        }
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Delta(delta) => {
                self.statistics.to_mut().add(&delta);
            }
            Change::Event(event) => {
                if event.id > self.last_event {
                    self.last_event = event.id;
                    keep_event(self.events.to_mut(), event);
                }
            }
            Change::Steers(steers) => self.steers = steers,
            Change::Report(report) => {
                let index = usize::from(report.part.part.0);
                if self.reports.len() <= index {
                    self.reports.resize(index + 1, None);
                }
                self.reports[index] = Some(*report);
            }
        }
    }
}

pub(crate) fn keep_event(events: &mut VecDeque<EventRecord>, event: EventRecord) {
    if events.len() >= EVENTS_MAX {
        events.pop_front();
    }
    events.push_back(event);
}

/// Bytes of changes on the disk that are never worth writing all of a job's statistics anew.
const CHANGES_SMALL: usize = 256 << 10;

/// What lies on the disk of a job's statistics, in bytes.
#[derive(Debug)]
pub(crate) struct Written {
    whole: usize,
    changes: usize,
}

impl Written {
    /// Whether more changes go beside what lies there. If not, all of it is written anew: so what
    /// is written in all is at most twice what was added.
    fn takes(&self, bytes: usize) -> bool {
        self.changes + bytes <= self.whole.max(CHANGES_SMALL)
    }
}

/// What an owner adds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Change {
    Delta(Box<Delta>),
    Event(EventRecord),
    /// The events tell of so many changes of the job's steering.
    Steers(usize),
    Report(Box<PartReport>),
}

/// What a manager is told is counted for good: attempt, last delta, iterations, time reached.
pub(crate) type Acknowledgement = (AttemptId, DeltaSeq, u64, Duration);

/// The copies of one job, as its owner sees them.
#[derive(Debug)]
pub(crate) struct Copies {
    position: u64,
    /// The newest changes, with the position that each leads to.
    kept: VecDeque<(u64, Vec<u8>)>,
    gates: BTreeMap<NodeId, Copy>,
    /// What is acknowledged once a majority is there.
    acknowledgements: VecDeque<(u64, Vec<Acknowledgement>)>,
    /// How full that queue is: workers send less often while other gates are slow.
    gauge: PressureGauge,
}

/// What a gate lacks.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    /// The changes, each with the position that it leads to.
    Changes(Vec<(u64, Vec<u8>)>),
    /// More than is kept.
    All,
}

/// One gate's copy.
#[derive(Debug, Default)]
struct Copy {
    /// How far it is under this owner.
    held: u64,
    /// How far it is once everything that was sent has come, and when that was sent.
    sent: Option<(u64, Time)>,
    /// Whether it comes from another owner, so that nothing can be added to it.
    is_foreign: bool,
}

impl Copies {
    /// Of an owner that begins with nothing, or with statistics that no other gate has in this form.
    pub(crate) fn new(is_empty: bool) -> Self {
        Self {
            position: u64::from(!is_empty),
            kept: VecDeque::new(),
            gates: BTreeMap::new(),
            acknowledgements: VecDeque::new(),
            gauge: PressureGauge::new(PressureConfig::DEFAULT),
        }
    }

    /// How much more can be taken, by how much waits for a majority.
    fn pressure(&mut self, now: Time) -> Pressure {
        self.gauge.read(now, self.acknowledgements.len() as u64, KEPT as u64)
    }

    pub(crate) fn connect(&mut self, gate: NodeId) {
        self.gates.entry(gate).or_default().sent = None;
    }

    /// Forgets the copies of gates that vote no more: they are no majority of anything.
    fn forget_others(&mut self, votes: impl Fn(NodeId) -> bool) {
        self.gates.retain(|gate, _| votes(*gate));
    }

    pub(crate) const fn position(&self) -> u64 {
        self.position
    }

    /// Adds changes; what they hold is acknowledged once a majority has them.
    pub(crate) fn add(&mut self, changes: Vec<Vec<u8>>, acknowledgements: Vec<Acknowledgement>) {
        for changes in changes {
            self.position += 1;
            self.kept.push_back((self.position, changes));
        }
        while self.kept.len() > KEPT {
            self.kept.pop_front();
        }
        self.acknowledgements.push_back((self.position, acknowledgements));
    }

    fn on_held(&mut self, gate: NodeId, fence: Fence, mark: CopyMark) {
        let copy = self.gates.entry(gate).or_default();
        copy.is_foreign = mark.fence != fence && mark != CopyMark::default();
        if mark.fence == fence {
            copy.held = copy.held.max(mark.position);
        }
        if copy.sent.is_some_and(|(sent, _)| sent <= copy.held) {
            copy.sent = None;
        }
    }

    /// What a majority of gates, this one and `others` more, has by now.
    pub(crate) fn take_acknowledgements(&mut self, others: usize) -> Vec<Acknowledgement> {
        let mut held: Vec<u64> = self.gates.values().map(|copy| copy.held).collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        let safe = match others {
            0 => self.position,
            others => held.get(others - 1).copied().unwrap_or(0),
        };
        let mut taken = Vec::new();
        while self.acknowledgements.front().is_some_and(|(position, _)| *position <= safe) {
            taken.extend(self.acknowledgements.pop_front().map(|(_, a)| a).unwrap_or_default());
        }
        taken
    }

    /// What a gate is to be sent now. One that `is_younger` than the job gets all of it first: with
    /// a part of it, it would pass for one that has whatever was acknowledged.
    fn due(&mut self, now: Time, gate: NodeId, is_younger: bool, resend: Duration) -> Due {
        let (position, kept) = (self.position, &self.kept);
        let copy = self.gates.entry(gate).or_default();
        if copy.held >= position {
            return Due::Nothing;
        }
        let from = match copy.sent {
            Some((sent, at)) if now < at + resend => sent,
            Some(_) | None => copy.held,
        };
        if from >= position {
            return Due::Nothing;
        }
        copy.sent = Some((position, now));
        let is_kept = kept.front().is_some_and(|(first, _)| *first <= from + 1);
        let is_first = is_younger && copy.held == 0;
        if !is_kept || copy.is_foreign || is_first {
            return Due::All;
        }
        Due::Changes(kept.iter().filter(|(at, _)| *at > from).cloned().collect())
    }
}

/// If it takes longer than this until other gates have told what they hold of a job, it is said.
const RECOVERY_LONG: Duration = Duration::from_secs(10);

/// What a gate that is about to own a job has learned of its copies.
#[derive(Debug)]
pub(crate) struct Recovery {
    fence: Fence,
    since: Time,
    /// Whether it was told that this takes long.
    is_told: bool,
    asked_at: Option<Time>,
    held: BTreeMap<NodeId, CopyMark>,
}

impl Gate {
    /// Takes up the jobs that this gate owns, and leaves those that it owns no more.
    pub(crate) fn take_up_jobs(&mut self, now: Time) {
        let takes_part = self.takes_part();
        let fence_of = |job: &JobId| {
            let state = self.state.jobs.get(job).filter(|_| takes_part);
            state.filter(|state| state.gate == self.config.node).map(|state| state.fence)
        };
        let lost: Vec<JobId> = (self.live.iter())
            .filter(|(job, live)| fence_of(job) != Some(live.fence()))
            .map(|(&job, _)| job)
            .collect();
        for job in lost {
            self.leave_job(job);
        }
        let owned: BTreeMap<JobId, Fence> = (self.state.jobs.iter())
            .filter(|(_, state)| state.ended.is_none() && state.gate == self.config.node)
            .filter(|(job, _)| takes_part && !self.live.contains_key(*job))
            .map(|(&job, state)| (job, state.fence))
            .collect();
        self.recovering.retain(|job, known| owned.get(job) == Some(&known.fence));
        for (job, fence) in owned {
            self.recovering.entry(job).or_insert(Recovery {
                fence,
                since: now,
                is_told: false,
                asked_at: None,
                held: BTreeMap::new(),
            });
        }
        self.recover(now);
    }

    /// Goes on towards owning what this gate is about to own.
    pub(crate) fn recover(&mut self, now: Time) {
        let peers: BTreeSet<NodeId> = self.peers.linked_voters().collect();
        let (resend, others) = (self.config.resend, self.peers.majority() - 1);
        let node = self.config.node;
        let mut ready = Vec::new();
        let mut messages = Vec::new();
        let mut stuck = Vec::new();
        for (&job, recovery) in &mut self.recovering {
            let own = self.copies.get(&job).map(|copy| copy.mark).unwrap_or_default();
            recovery.held.retain(|gate, _| peers.contains(gate));
            let best = recovery.held.iter().max_by_key(|(_, mark)| **mark);
            let is_due = recovery.asked_at.is_none_or(|asked| now >= asked + resend);
            let counts = |gate: NodeId| {
                let held = if gate == node { Some(&own) } else { recovery.held.get(&gate) };
                let is_empty = held.is_none_or(|mark| *mark == CopyMark::default());
                !is_empty || self.state.is_older(gate, job)
            };
            let voters = &self.peers.electorate().voters;
            let younger = voters.iter().filter(|gate| !counts(**gate)).count();
            let needed = self.peers.majority().min(self.peers.voters() - younger);
            let told = std::iter::once(&node).chain(recovery.held.keys());
            if recovery.held.len() < others || told.filter(|gate| counts(**gate)).count() < needed {
                if is_due {
                    recovery.asked_at = Some(now);
                    let fence = recovery.fence;
                    let silent = peers
                        .iter()
                        .filter(|gate| !counts(**gate) || !recovery.held.contains_key(gate));
                    messages.extend(silent.map(|&gate| (gate, Message::CopyAsked { job, fence })));
                }
                if !recovery.is_told && now >= recovery.since + RECOVERY_LONG {
                    recovery.is_told = true;
                    let told = |gate: &NodeId| *gate == node || recovery.held.contains_key(gate);
                    let gates = voters.iter().copied().filter(|gate| !told(gate)).collect();
                    stuck.push(Event::JobUnrecovered { job, gates });
                }
                continue;
            }
            match best {
                Some((&gate, mark)) if *mark > own && others > 0 => {
                    if is_due {
                        recovery.asked_at = Some(now);
                        messages.push((gate, Message::CopyWanted { job }));
                    }
                }
                Some(_) | None => ready.push((job, recovery.fence)),
            }
        }
        stuck.into_iter().for_each(|event| self.event(event));
        messages.into_iter().for_each(|(gate, message)| self.send(gate, message));
        for (job, fence) in ready {
            if self.own(now, job, fence) {
                self.recovering.remove(&job);
            }
        }
    }

    /// Another gate owns the job now: what this one has counted is a copy from here on.
    fn leave_job(&mut self, job: JobId) {
        let Some(live) = self.live.remove(&job) else { return };
        let is_over = self.state.jobs.get(&job).is_none_or(|job| job.ended.is_some());
        let (checkpoint, watchers) = live.into_copy();
        if !is_over {
            self.obeyed.insert(job, checkpoint.mark.fence);
            self.copies.insert(job, checkpoint);
        }
        for watcher in watchers {
            self.answer_not_owned(watcher);
        }
    }

    /// Somebody holds a higher fence than this gate has for a job: another owns it, and whoever
    /// watches here goes there, even if the other gates cannot be heard.
    pub(crate) fn on_deposed(&mut self, subject: Subject, held: Fence) {
        if let Subject::Job(job) = subject
            && self.live.get(&job).is_some_and(|live| live.fence() < held)
        {
            self.leave_job(job);
        }
    }

    /// Tells managers what a majority holds, and other gates what they have not got yet.
    pub(crate) fn review_copies(&mut self, now: Time, job: JobId) {
        let others = self.peers.majority() - 1;
        let (resend, linked): (_, Vec<NodeId>) =
            (self.config.resend, self.peers.linked_voters().collect());
        let Some(live) = self.live.get_mut(&job) else { return };
        live.copies.forget_others(|gate| self.peers.votes(gate));
        let pressure = live.copies.pressure(now);
        let acknowledgements = live.copies.take_acknowledgements(others);
        let fence = live.fence();
        let mut messages = Vec::new();
        let mut behind = Vec::new();
        for gate in linked {
            let is_younger = !self.state.is_older(gate, job);
            match live.copies.due(now, gate, is_younger, resend) {
                Due::Nothing => {}
                Due::All => behind.push(gate),
                Due::Changes(changes) => {
                    messages.extend(changes.into_iter().map(|(position, changes)| {
                        let mark = CopyMark { fence, position };
                        (gate, Message::Copy { job, mark, changes })
                    }));
                }
            }
        }
        if !behind.is_empty() {
            match self.whole_copy(now, job) {
                Some(whole) => behind.into_iter().for_each(|gate| self.send(gate, whole.clone())),
                None => return,
            }
        }
        messages.into_iter().for_each(|(gate, message)| self.send(gate, message));
        for (attempt, through, iterations, until) in acknowledgements {
            let datacenter = (self.state.jobs.get(&job))
                .and_then(|job| job.parts.get(usize::from(attempt.shard.part.0)))
                .map(|(target, _)| target.datacenter.clone());
            if let Some(leader) = datacenter.and_then(|datacenter| self.leader_of(&datacenter)) {
                let ack = Message::DeltaAck { attempt, through, iterations, until, pressure };
                self.send(leader, ack);
            }
        }
    }

    /// All of a job's statistics as they travel and are stored.
    fn encoded(&self, job: JobId) -> Option<(CopyMark, Result<Vec<u8>, EncodeError>)> {
        if let Some(live) = self.live.get(&job) {
            let checkpoint = live.checkpoint();
            return Some((checkpoint.mark, encode_value(&checkpoint)));
        }
        self.copies.get(&job).map(|copy| (copy.mark, encode_value(copy)))
    }

    /// Holds all of a job's statistics as a blob for a while, and says so.
    fn whole_copy(&mut self, now: Time, job: JobId) -> Option<Message> {
        let (mark, bytes) = self.encoded(job)?;
        match bytes {
            Ok(bytes) => {
                let hash = self.blobs.insert(Arc::from(bytes));
                self.peers.keep(now, hash);
                Some(Message::WholeCopy { job, mark, hash })
            }
            Err(error) => {
                self.malformed("checkpoint", &error);
                None
            }
        }
    }

    /// The fence of the owner that this gate's copy of a job obeys, if the job is open.
    fn obeys(&self, job: JobId) -> Option<Fence> {
        let state = self.state.jobs.get(&job).filter(|job| job.ended.is_none())?;
        let told = self.obeyed.get(&job).copied().unwrap_or_default();
        Some(state.fence.max(told))
    }

    /// Whether an owner's word about a copy counts here; answers it if not.
    fn obeys_owner(&mut self, from: NodeId, job: JobId, fence: Fence) -> bool {
        let Some(held) = self.obeys(job) else { return false };
        if fence < held {
            self.refuse_stale(from, job, fence, held);
            return false;
        }
        self.obeyed.insert(job, fence);
        // The owner knows of a later decision than this gate: it owns nothing of this job any more.
        if self.live.get(&job).is_some_and(|live| live.fence() < fence) {
            self.leave_job(job);
            self.obeyed.insert(job, fence);
        }
        true
    }

    pub(crate) fn on_copy(&mut self, from: NodeId, job: JobId, mark: CopyMark, packed: &[u8]) {
        if !self.obeys_owner(from, job, mark.fence) {
            return;
        }
        let window = self.config.window;
        let held = self.copies.get(&job).map(|copy| copy.mark).unwrap_or_default();
        let is_next = held.fence == mark.fence && mark.position == held.position + 1;
        let is_first = held == CopyMark::default() && mark.position == 1;
        if is_next || is_first {
            let changes: Vec<Change> = match decode_value(packed) {
                Ok(changes) => changes,
                Err(error) => return self.malformed("copy", &error),
            };
            let copy = self.copies.entry(job).or_insert_with(|| Checkpoint::empty(window));
            changes.into_iter().for_each(|change| copy.take(change));
            copy.mark = mark;
            self.store_changes(job, vec![(mark, packed.to_vec())]);
        }
        self.tell_held(from, job, mark.fence);
    }

    /// Stores what was added to a job's statistics.
    fn store_changes(&mut self, job: JobId, changes: Vec<(CopyMark, Vec<u8>)>) {
        let bytes = changes.iter().map(|(_, change)| change.len()).sum();
        match self.written.get_mut(&job).filter(|written| written.takes(bytes)) {
            Some(written) => {
                written.changes += bytes;
                let stored = changes.into_iter();
                self.outputs.extend(stored.map(|(mark, change)| Output::StoreChange {
                    job,
                    mark,
                    change,
                }));
            }
            None => self.store_whole(job),
        }
    }

    /// Stores all of a job's statistics.
    fn store_whole(&mut self, job: JobId) {
        match self.encoded(job) {
            None => {}
            Some((_, Ok(checkpoint))) => {
                self.written.insert(job, Written { whole: checkpoint.len(), changes: 0 });
                self.outputs.push(Output::StoreCheckpoint { job, checkpoint });
            }
            Some((_, Err(error))) => self.malformed("checkpoint", &error),
        }
    }

    /// Takes up what an earlier life has stored of a job.
    pub(crate) fn read_checkpoint(&mut self, job: JobId, (whole, changes): &Kept) {
        let mut copy: Checkpoint<'static> = match decode_value(whole) {
            Ok(copy) => copy,
            Err(error) => return self.malformed("checkpoint", &error),
        };
        for (mark, packed) in changes {
            let next = CopyMark { position: copy.mark.position + 1, ..copy.mark };
            if *mark != next {
                break; // Whatever follows adds to something that is not there.
            }
            let changes: Vec<Change> = match decode_value(packed) {
                Ok(changes) => changes,
                Err(error) => {
                    self.malformed("checkpoint", &error);
                    break;
                }
            };
            changes.into_iter().for_each(|change| copy.take(change));
            copy.mark = *mark;
        }
        self.copies.insert(job, copy);
    }

    fn tell_held(&mut self, to: NodeId, job: JobId, fence: Fence) {
        let mark = self.copies.get(&job).map(|copy| copy.mark).unwrap_or_default();
        self.send(to, Message::CopyHeld { job, fence, mark });
    }

    pub(crate) fn on_copy_asked(&mut self, from: NodeId, job: JobId, fence: Fence) {
        if self.obeys_owner(from, job, fence) {
            self.tell_held(from, job, fence);
        }
    }

    pub(crate) fn on_copy_held(
        &mut self,
        now: Time,
        from: NodeId,
        job: JobId,
        fence: Fence,
        mark: CopyMark,
    ) {
        if let Some(recovery) = self.recovering.get_mut(&job).filter(|known| known.fence == fence) {
            if recovery.held.insert(from, mark).is_none() {
                recovery.asked_at = None;
            }
            self.recover(now);
        }
        if let Some(live) = self.live.get_mut(&job).filter(|live| live.fence() == fence) {
            live.copies.on_held(from, fence, mark);
        }
    }

    pub(crate) fn on_copy_wanted(&mut self, now: Time, from: NodeId, job: JobId) {
        if let Some(whole) = self.whole_copy(now, job) {
            self.send(from, whole);
        }
    }

    pub(crate) fn on_whole_copy(
        &mut self,
        now: Time,
        from: NodeId,
        job: JobId,
        mark: CopyMark,
        hash: BlobHash,
    ) {
        let held = self.copies.get(&job).map(|copy| copy.mark).unwrap_or_default();
        // A gate that is about to own a job takes what others hold; any other obeys the owner.
        if !self.recovering.contains_key(&job) && !self.obeys_owner(from, job, mark.fence) {
            return;
        }
        if mark <= held {
            return self.tell_held(from, job, mark.fence);
        }
        self.whole.insert(job, (from, mark, hash));
        match self.blobs.get(hash).cloned() {
            Some(bytes) => {
                self.take_whole_copy(hash, &bytes);
            }
            None => self.blobs.fetch(now, hash, from),
        }
    }

    /// Takes a blob as the copies that it was said to be. False if it is none.
    pub(crate) fn take_whole_copy(&mut self, hash: BlobHash, bytes: &[u8]) -> bool {
        let jobs: Vec<(JobId, NodeId, CopyMark)> = (self.whole.iter())
            .filter(|(_, (.., known))| *known == hash)
            .map(|(&job, &(from, mark, _))| (job, from, mark))
            .collect();
        for &(job, from, mark) in &jobs {
            self.whole.remove(&job);
            let is_recovering = self.recovering.contains_key(&job);
            let is_obeyed = self.obeys(job).is_some_and(|held| mark.fence >= held);
            let held = self.copies.get(&job).map(|copy| copy.mark).unwrap_or_default();
            if mark <= held || !(is_recovering || is_obeyed) {
                continue;
            }
            match decode_value::<Checkpoint<'static>>(bytes) {
                Ok(copy) if copy.mark == mark => {
                    self.copies.insert(job, copy);
                    self.store_whole(job);
                    self.tell_held(from, job, mark.fence);
                }
                Ok(_) => {}
                Err(error) => self.malformed("copy", &error),
            }
        }
        !jobs.is_empty()
    }

    /// Stores what was counted, and sends it to the other gates.
    pub(crate) fn checkpoint(&mut self, now: Time, job: JobId) {
        if self.state.jobs.get(&job).is_none_or(|job| job.ended.is_some()) {
            return; // Its result holds everything.
        }
        let every = self.config.checkpoint;
        let Some(live) = self.live.get_mut(&job) else { return };
        let Some(changes) = live.take_changes(now, every) else { return };
        let changes = match pack(changes) {
            Ok(changes) => changes,
            Err(error) => return self.malformed("copy", &error),
        };
        let acknowledgements = live.take_counted();
        let (fence, before) = (live.fence(), live.copies.position());
        let marks = (before + 1..).map(|position| CopyMark { fence, position });
        let stored = marks.zip(changes.iter().cloned()).collect();
        live.copies.add(changes, acknowledgements);
        self.store_changes(job, stored);
    }

    pub(crate) fn forget_copies(&mut self, job: JobId) {
        self.copies.remove(&job);
        self.written.remove(&job);
        self.whole.remove(&job);
        self.recovering.remove(&job);
        self.outputs.push(Output::DropCheckpoint { job });
    }

    /// Copies of jobs whose end this gate has missed are needed no more.
    pub(crate) fn drop_copies(&mut self) {
        if !self.takes_part() {
            return; // The job may be accepted later in the log.
        }
        let is_over = |job: &JobId| self.state.jobs.get(job).is_none_or(|job| job.ended.is_some());
        let over: Vec<JobId> = self.copies.keys().copied().filter(is_over).collect();
        over.into_iter().for_each(|job| self.forget_copies(job));
    }

    pub(crate) fn taken_over(&mut self, job: JobId, fence: Fence) {
        self.event(Event::JobTakenOver { job, fence });
    }
}

/// Changes as they travel: in order, in messages that fit. At least one, even if there is nothing.
fn pack(changes: Vec<Change>) -> Result<Vec<Vec<u8>>, EncodeError> {
    let mut packed = Vec::new();
    let mut together: Vec<Change> = Vec::new();
    let mut bytes = 0;
    for change in changes {
        let size = encode_value(&change)?.len();
        if bytes + size > CHANGES_BYTES && !together.is_empty() {
            packed.push(encode_value(&std::mem::take(&mut together))?);
            bytes = 0;
        }
        bytes += size;
        together.push(change);
    }
    packed.push(encode_value(&together)?);
    Ok(packed)
}

/// The hash under which a job's result is kept, and its bytes.
pub(crate) fn as_blob<T: Serialize>(value: &T) -> Result<(BlobHash, Arc<[u8]>), EncodeError> {
    let bytes: Arc<[u8]> = Arc::from(encode_value(value)?);
    Ok((hash_of(&bytes), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEERS: [NodeId; 2] = [NodeId(2), NodeId(3)];

    fn acknowledged(copies: &mut Copies, others: usize) -> usize {
        copies.take_acknowledgements(others).len()
    }

    fn held(copies: &mut Copies, gate: NodeId, position: u64) {
        let fence = Fence(7);
        copies.on_held(gate, fence, CopyMark { fence, position });
    }

    fn counted(seq: u64) -> Acknowledgement {
        let shard = hyperscale_model::ShardId {
            job: JobId::from_parts(1, 1),
            part: Default::default(),
            workflow: Default::default(),
            shard: Default::default(),
        };
        let attempt = AttemptId { shard, number: hyperscale_model::AttemptNumber(1) };
        (attempt, DeltaSeq(seq), seq, Duration::ZERO)
    }

    #[test]
    fn sta_05_nothing_is_acknowledged_before_a_majority_has_it() {
        let mut copies = Copies::new(true);
        copies.add(vec![vec![1]], vec![counted(1)]);
        copies.add(vec![vec![2]], vec![counted(2)]);
        assert_eq!(acknowledged(&mut copies, 1), 0);

        held(&mut copies, PEERS[0], 1);
        assert_eq!(acknowledged(&mut copies, 2), 0, "of five gates three are a majority");
        assert_eq!(acknowledged(&mut copies, 1), 1);
        held(&mut copies, PEERS[1], 2);
        assert_eq!(acknowledged(&mut copies, 1), 1);
        assert_eq!(acknowledged(&mut copies, 1), 0, "once");
    }

    #[test]
    fn a_gate_gets_what_it_has_not_and_all_if_that_is_gone() {
        let (now, resend) = (Time::from_secs(1), Duration::from_secs(1));
        let mut copies = Copies::new(true);
        copies.add(vec![vec![1], vec![2]], Vec::new());
        let positions = |due: Due| match due {
            Due::Changes(changes) => changes.iter().map(|(at, _)| *at).collect::<Vec<u64>>(),
            Due::Nothing | Due::All => Vec::new(),
        };

        let first = positions(copies.due(now, PEERS[0], false, resend));
        assert_eq!(first, [1, 2]);
        assert_eq!(copies.due(now, PEERS[0], false, resend), Due::Nothing, "it is on its way");
        let again = positions(copies.due(now + resend, PEERS[0], false, resend));
        assert_eq!(again, [1, 2], "it may be lost");
        held(&mut copies, PEERS[0], 1);
        let rest = positions(copies.due(now + resend * 3, PEERS[0], false, resend));
        assert_eq!(rest, [2]);

        for _ in 0..KEPT {
            copies.add(vec![vec![3]], Vec::new());
        }
        assert_eq!(copies.due(now, PEERS[1], false, resend), Due::All, "what it lacks is not kept");
        let foreign = CopyMark { fence: Fence(3), position: 9 };
        copies.on_held(PEERS[0], Fence(7), foreign);
        let due = copies.due(now + resend * 9, PEERS[0], false, resend);
        assert_eq!(due, Due::All, "nothing can be added to another owner's copy");
    }

    #[test]
    fn what_waits_for_a_majority_slows_its_senders() {
        let mut copies = Copies::new(true);
        assert_eq!(copies.pressure(Time::ZERO), Pressure::None);
        for _ in 0..KEPT {
            copies.add(vec![Vec::new()], vec![counted(1)]);
        }
        assert_eq!(copies.pressure(Time::ZERO), Pressure::Reject);
    }

    #[test]
    fn changes_travel_in_messages_that_fit() {
        let event = |id| {
            let text = "x".repeat(100_000);
            Change::Event(EventRecord { id, at_ms: 0, kind: String::new(), text })
        };
        let packed = pack((1..=20).map(event).collect()).unwrap();

        assert!(packed.iter().all(|bytes| bytes.len() < 900_000), "a frame takes a MiB");
        let mut copy = Checkpoint::empty(Duration::from_secs(1));
        for bytes in &packed {
            let changes: Vec<Change> = decode_value(bytes).unwrap();
            changes.into_iter().for_each(|change| copy.take(change));
        }
        assert_eq!(copy.events.len(), 20);
        assert_eq!(pack(Vec::new()).unwrap().len(), 1, "an empty one still confirms");
    }
}
