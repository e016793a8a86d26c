//! The datacenters as this gate sees them: who leads them, how they are, and which take a part.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyperscale_model::{
    DatacenterCounts, DatacenterHealth, DatacenterId, Fence, Incarnation, JobId, NodeId, PartId,
    PartIndex, Role, Time,
};
use hyperscale_plan::{Datacenters, Plan, RunSettings, Slice, Split};
use hyperscale_wire::{DatacenterStatus, Message, NodeState};

use crate::federation::{Acked, Change, Leader, ProbeSeq, Reachability, Standing};
use crate::request::{DatacenterView, RequestError, RequestErrorKind};
use crate::router::{
    Candidate, Distance, Observed, Ranked, Waiting, Wish, is_too_long, rank, spill,
};
use crate::state::{Entry, Target};
use crate::{About, Event, Gate, Step};

/// After a datacenter was meant to take a part that waits elsewhere, its word on its cores needs a
/// while to show that.
const SPILL_PAUSE: Duration = Duration::from_secs(10);
/// A datacenter that answers later than this is slow rather than far.
const WAY_MAX: Duration = Duration::from_millis(500);
/// How much the newest dispatch counts against those before.
const SMOOTHING: u32 = 4;

/// What this gate knows of a datacenter beyond how it is reached.
#[derive(Debug, Default)]
pub(crate) struct Place {
    status: Option<DatacenterStatus>,
    last_heard: Time,
    /// Managers that have said that they belong to it.
    managers: BTreeSet<NodeId>,
    /// Whether it was found silent since it answered last.
    is_silent: bool,
    /// When it last failed to accept a part in time.
    failed_at: Option<Time>,
    /// When this gate last meant it to take a part that waits elsewhere.
    spilled_at: Option<Time>,
    /// How long it takes from an offer to its acceptance, smoothed; how often that was seen, and
    /// when last.
    observed: Option<(Duration, u32, Time)>,
}

impl Gate {
    /// A manager says of its own accord how its datacenter is.
    pub(crate) fn on_status(&mut self, now: Time, from: NodeId, status: DatacenterStatus) {
        let datacenter = status.datacenter.clone();
        let is_new = self.meet(from, &datacenter);
        let Some(leader) = leader_by(from, &status) else { return };
        let before = self.leader_known(&datacenter);
        if !self.federation.on_leader(&datacenter, leader) {
            return self.refuse_leader(from, &datacenter, leader);
        }
        self.take_status(now, before, status);
        if is_new || before.is_none() {
            self.next_probe = now; // Only an answer makes it one that gets work.
        }
    }

    pub(crate) fn on_probe_ack(
        &mut self,
        now: Time,
        from: NodeId,
        number: u64,
        status: DatacenterStatus,
    ) {
        let datacenter = status.datacenter.clone();
        self.meet(from, &datacenter);
        let Some(leader) = leader_by(from, &status) else { return };
        let before = self.leader_known(&datacenter);
        let (acked, change) = self.federation.on_ack(now, &datacenter, ProbeSeq(number), leader);
        if let Some(change) = change {
            self.tell_change(now, &datacenter, change);
        }
        match acked {
            Acked::Fresh => self.take_status(now, before, status),
            Acked::Stale if self.leader_known(&datacenter) == Some(leader) => {}
            Acked::Stale => self.refuse_leader(from, &datacenter, leader),
        }
    }

    /// Notes that a manager belongs to a datacenter. True if the datacenter is new.
    fn meet(&mut self, manager: NodeId, datacenter: &DatacenterId) -> bool {
        let is_new = !self.datacenters.contains_key(datacenter);
        self.datacenters.entry(datacenter.clone()).or_default().managers.insert(manager);
        is_new
    }

    fn leader_known(&self, datacenter: &DatacenterId) -> Option<Leader> {
        self.federation.get(datacenter)?.leader()
    }

    fn refuse_leader(&mut self, from: NodeId, datacenter: &DatacenterId, leader: Leader) {
        if let Some(held) = self.leader_known(datacenter) {
            self.event(Event::StaleFence { from, fence: leader.fence, held: held.fence });
        }
    }

    fn take_status(&mut self, now: Time, before: Option<Leader>, status: DatacenterStatus) {
        let datacenter = status.datacenter.clone();
        let leader = self.leader_known(&datacenter);
        let is_same = before == leader;
        let Some(place) = self.datacenters.get_mut(&datacenter) else { return };
        place.last_heard = now;
        let is_older = place.status.as_ref().is_some_and(|last| last.version >= status.version);
        if is_same && is_older {
            return;
        }
        place.status = Some(status);
        if !is_same {
            self.offer_anew(&datacenter);
        }
    }

    /// A new leader has no secrets of its parts, which no ledger holds: an offer brings them. And it
    /// may not know of all that was counted.
    fn offer_anew(&mut self, datacenter: &DatacenterId) {
        for (job, live) in &mut self.live {
            if let Some(state) = self.state.jobs.get(job) {
                let parts = state.parts.iter().map(|(target, _)| target.datacenter == *datacenter);
                live.offer_anew(parts);
            }
        }
    }

    /// The leader of a datacenter, if there is a link to it.
    pub(crate) fn leader_of(&self, datacenter: &DatacenterId) -> Option<NodeId> {
        let leader = self.leader_known(datacenter)?.node;
        self.managers.contains(&leader).then_some(leader)
    }

    /// How long a word to a datacenter takes, as far as is known, and never said to be very long.
    pub(crate) fn way_to(&self, datacenter: &DatacenterId) -> Duration {
        let rtt = self.federation.get(datacenter).and_then(|watch| watch.rtt());
        rtt.map_or(Duration::ZERO, |rtt| rtt.mean() / 2).min(WAY_MAX)
    }

    /// Probes the datacenters, and notices those that are silent.
    pub(crate) fn review_places(&mut self, now: Time) {
        if now >= self.next_probe && !self.datacenters.is_empty() {
            self.next_probe = now + self.config.federation.probe_period;
            let names: Vec<DatacenterId> = self.datacenters.keys().cloned().collect();
            names.iter().for_each(|datacenter| self.probe(now, datacenter));
        }
        for (datacenter, change) in self.federation.tick(now) {
            self.tell_change(now, &datacenter, change);
        }
        let lost = self.federation.iter().filter(|(datacenter, watch)| {
            watch.reachability() == Reachability::Unreachable
                && self.federation.may_evict(now, datacenter)
        });
        let lost = lost.map(|(datacenter, _)| datacenter.clone()).collect();
        self.peers.set_lost(lost);
    }

    /// Asks the leader; while that is silent, every manager, since another may lead by now.
    fn probe(&mut self, now: Time, datacenter: &DatacenterId) {
        let Some(place) = self.datacenters.get(datacenter) else { return };
        let linked = place.managers.iter().filter(|manager| self.managers.contains(manager));
        let leader = self.leader_of(datacenter);
        let asked: Vec<NodeId> = match leader {
            Some(leader) if !self.federation.is_leader_silent(now, datacenter) => vec![leader],
            Some(_) | None => linked.copied().collect(),
        };
        if asked.is_empty() {
            self.federation.probe(now, datacenter); // The clock runs without a link too.
        }
        for manager in asked {
            let ProbeSeq(number) = self.federation.probe(now, datacenter);
            let removed = self.removed_of(datacenter);
            self.send(manager, Message::Probe { number, removed });
        }
    }

    fn tell_change(&mut self, now: Time, datacenter: &DatacenterId, change: Change) {
        self.event(Event::Datacenter { datacenter: datacenter.clone(), change });
        let Some(place) = self.datacenters.get_mut(datacenter) else { return };
        let was_silent = std::mem::replace(
            &mut place.is_silent,
            matches!(change, Change::Suspected | Change::Lost),
        );
        let text = match change {
            Change::Reached if was_silent => format!("{datacenter} answers again"),
            Change::Reached => return,
            Change::Suspected => format!("{datacenter} does not answer"),
            Change::Lost => format!("{datacenter} is out of reach"),
            Change::Healed => return,
        };
        let concerned: Vec<JobId> = (self.live.keys().copied())
            .filter(|job| {
                let parts = self.state.jobs.get(job).map(|job| job.parts.as_slice());
                let mut parts = parts.unwrap_or_default().iter();
                parts.any(|(target, end)| target.datacenter == *datacenter && end.is_none())
            })
            .collect();
        for job in concerned {
            self.note(now, job, "datacenter", text.clone());
        }
    }

    /// Whether most gates have lost a datacenter, this one among them.
    pub(crate) fn is_lost(&self, now: Time, datacenter: &DatacenterId) -> bool {
        let is_lost_here = self.federation.may_evict(now, datacenter);
        is_lost_here && 1 + self.peers.lost_by(datacenter) >= self.peers.majority()
    }

    /// A part was accepted so long after its offer.
    pub(crate) fn on_dispatched(&mut self, now: Time, datacenter: &DatacenterId, took: Duration) {
        if let Some(leader) = self.leader_of(datacenter) {
            self.breakers.observe(now, &leader, true);
        }
        if let Some(place) = self.datacenters.get_mut(datacenter) {
            place.observed = Some(match place.observed {
                None => (took, 1, now),
                Some((known, samples, _)) => {
                    let smoothed = (known * (SMOOTHING - 1) + took) / SMOOTHING;
                    (smoothed, samples.saturating_add(1), now)
                }
            });
        }
    }

    fn candidates(&self, now: Time) -> Vec<Candidate> {
        (self.datacenters.iter())
            .filter_map(|(datacenter, place)| {
                let status = place.status.as_ref()?;
                let watch = self.federation.get(datacenter)?;
                let linked = place.managers.iter().filter(|m| self.managers.contains(m));
                let resting = linked.clone().filter(|m| self.breakers.rests(now, m)).count();
                let linked = linked.count();
                let distance = watch.rtt().map(|rtt| Distance {
                    upper_bound: rtt.upper_bound(),
                    quality: rtt.quality(now),
                });
                let given = status.cores.saturating_sub(status.free_cores);
                Some(Candidate {
                    datacenter: datacenter.clone(),
                    standing: watch.standing(now),
                    health: health_of(status),
                    is_stale: now >= place.last_heard + self.config.stale_after,
                    managers: u32::try_from(linked).unwrap_or(u32::MAX),
                    breakers_open: u32::try_from(resting).unwrap_or(u32::MAX),
                    distance,
                    observed: place.observed.map(|(latency, samples, at)| Observed {
                        latency,
                        samples,
                        age: now.since(at),
                    }),
                    cores: status.cores,
                    free_cores: status.free_cores,
                    queue: status.queue,
                    resources: f64::from(given) / f64::from(status.cores.max(1)),
                    service: None,
                    failed_at: place.failed_at,
                })
            })
            .collect()
    }

    /// The datacenters of a job, with the share of each.
    pub(crate) fn choose(&mut self, now: Time, plan: &Plan) -> Result<Vec<Target>, RequestError> {
        let wish = wish_of(&plan.run);
        let mut candidates = self.candidates(now);
        await_workers(&mut candidates, &wish);
        let ranking = self.router.route(now, &candidates, &wish);
        let refuse =
            |message: String| Err(RequestError { kind: RequestErrorKind::NoDatacenter, message });
        // A named datacenter is a promise: none takes its place silently.
        if let Some((name, why)) = ranking.missing(&wish).next() {
            return refuse(match why {
                Some(why) => format!("the datacenter `{name}` cannot take the job: {why}"),
                None => {
                    let known: Vec<&str> =
                        candidates.iter().map(|c| c.datacenter.as_str()).collect();
                    format!(
                        "no datacenter `{name}` is known here; there are: {}",
                        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                    )
                }
            });
        }
        let order = ranking.order.iter().map(|ranked| &ranked.datacenter);
        let chosen: Vec<&DatacenterId> = match &plan.run.datacenters {
            Datacenters::All | Datacenters::Named(_) => order.collect(),
            Datacenters::Choose(count) => order.take(usize::from(*count)).collect(),
        };
        if chosen.is_empty() {
            return refuse(match ranking.reasons() {
                reasons if reasons.is_empty() => "no datacenter is reachable".to_owned(),
                reasons => format!("no datacenter can take the job: {reasons}"),
            });
        }
        let cores: BTreeMap<&DatacenterId, u32> =
            candidates.iter().map(|c| (&c.datacenter, c.cores)).collect();
        let weights: Vec<u32> = (chosen.iter())
            .map(|name| match &plan.run.split {
                Split::Weighted => cores.get(name).copied().unwrap_or(0).max(1),
                Split::Even | Split::Each => 1,
                Split::Shares(shares) => shares.get(name.as_str()).copied().unwrap_or(0),
            })
            .collect();
        let (all, parts) = (vec![Slice::whole(); chosen.len()], Slice::whole().split(&weights));
        // Unique rows are divided also where the load is not.
        let (slices, rows) = match plan.run.split {
            Split::Each => (all, parts),
            Split::Weighted | Split::Even | Split::Shares(_) => (parts, all),
        };
        let targets = chosen.into_iter().zip(slices).zip(rows);
        let target = |((name, slice), rows): ((&DatacenterId, _), _)| Target {
            datacenter: name.clone(),
            slice,
            rows,
        };
        Ok(targets.map(target).collect())
    }

    /// Has another datacenter take a part that was not accepted in time, if there is one.
    pub(crate) fn move_part(&mut self, now: Time, job: JobId, part: PartIndex, run: &RunSettings) {
        let Some(state) = self.state.jobs.get(&job) else { return };
        let Some((target, _)) = state.parts.get(usize::from(part.0)) else { return };
        let failed = target.datacenter.clone();
        let fence = state.fence;
        let tried: BTreeSet<DatacenterId> =
            self.datacenters.keys().filter(|name| state.has_tried(name)).cloned().collect();
        if let Some(place) = self.datacenters.get_mut(&failed) {
            place.failed_at = Some(now);
        }
        if let Some(leader) = self.leader_of(&failed) {
            self.breakers.observe(now, &leader, false);
        }
        let ranking = rank(now, &self.candidates(now), &wish_of(run));
        let next = ranking.order.iter().find(|ranked| !tried.contains(&ranked.datacenter));
        let Some(to) = next.map(|ranked| ranked.datacenter.clone()) else { return };
        let entry = Entry::PartMoved { job, fence, part, to, returned: None };
        self.propose(now, About::Job(Step::Move, job, u64::from(part.0)), &entry);
    }

    /// The datacenter that can run a part sooner than the one where it waits for cores, if that is
    /// worth the move. Of several parts of a job, what has begun elsewhere would be ahead of it; and a
    /// named datacenter is a promise.
    pub(crate) fn sooner_elsewhere(&self, now: Time, part: PartId) -> Option<DatacenterId> {
        let state = self.state.jobs.get(&part.job)?;
        let live = self.live.get(&part.job)?;
        let wait = live.report(usize::from(part.part.0))?.wait?;
        let run = &live.plan().run;
        let is_free = matches!(run.datacenters, Datacenters::Choose(_));
        if !is_free || state.parts_kept().count() > 1 || !is_too_long(wait) {
            return None;
        }
        let candidates: Vec<Candidate> = (self.candidates(now).into_iter())
            .filter(|candidate| {
                let place = self.datacenters.get(&candidate.datacenter);
                let spilled_at = place.and_then(|place| place.spilled_at);
                spilled_at.is_none_or(|at| now >= at + SPILL_PAUSE)
            })
            .collect();
        let (from, _) = state.parts.get(usize::from(part.part.0))?;
        let waiting =
            Waiting { datacenter: &from.datacenter, wait, cores: cores_at_start(live.plan()) };
        let been_at = |name: &DatacenterId| state.parts.iter().any(|(t, _)| t.datacenter == *name);
        let ranking = rank(now, &candidates, &wish_of(run));
        spill(&waiting, &candidates, &ranking).find(|name| !been_at(name)).cloned()
    }

    /// A part is asked back so that this datacenter can take it.
    pub(crate) fn on_spill(&mut self, now: Time, to: &DatacenterId) {
        if let Some(place) = self.datacenters.get_mut(to) {
            place.spilled_at = Some(now);
        }
    }

    /// Has the best datacenter take a part that was given back: another than before, if there is one.
    pub(crate) fn place_returned(&mut self, now: Time, job: JobId, part: PartIndex) {
        let Some(state) = self.state.jobs.get(&job) else { return };
        let Some((from, _)) = state.parts.get(usize::from(part.0)) else { return };
        let Some(live) = self.live.get(&job) else { return };
        let ranking = rank(now, &self.candidates(now), &wish_of(&live.plan().run));
        let is_other = |ranked: &&Ranked| ranked.datacenter != from.datacenter;
        let best = ranking.order.iter().find(is_other).or(ranking.order.first());
        let Some(to) = best.map(|ranked| ranked.datacenter.clone()) else { return };
        let fence = state.fence;
        let returned = Some(self.wall(now));
        let entry = Entry::PartMoved { job, fence, part, to, returned };
        self.propose(now, About::Job(Step::Move, job, u64::from(part.0)), &entry);
    }

    /// Whether a datacenter was heard of lately and can be reached.
    fn is_fresh(&self, now: Time, datacenter: &DatacenterId, place: &Place) -> bool {
        let standing = self.federation.get(datacenter).map(|watch| watch.standing(now));
        let is_reached = matches!(
            standing,
            Some(Standing::Reachable | Standing::Recovering | Standing::Flapping)
        );
        let is_recent = now < place.last_heard + self.config.stale_after;
        is_reached && is_recent && self.leader_of(datacenter).is_some()
    }

    /// The datacenters that this gate takes for reached.
    pub fn reached(&self, now: Time) -> impl Iterator<Item = &DatacenterId> {
        let watched = self.federation.iter();
        let reached = watched.filter(move |(_, watch)| {
            let standing = watch.standing(now);
            matches!(standing, Standing::Reachable | Standing::Recovering | Standing::Flapping)
        });
        reached.map(|(datacenter, _)| datacenter)
    }

    pub(crate) fn datacenter_views(&self, now: Time) -> Vec<DatacenterView> {
        (self.datacenters.iter())
            .filter_map(|(datacenter, place)| {
                let status = place.status.as_ref()?;
                Some(DatacenterView {
                    datacenter: datacenter.clone(),
                    is_fresh: self.is_fresh(now, datacenter, place),
                    workers: status.workers,
                    cores: status.cores,
                    free_cores: status.free_cores,
                })
            })
            .collect()
    }

    /// Who leads a datacenter, and when it was heard of last.
    pub(crate) fn last_word(&self, datacenter: &DatacenterId) -> (Option<(NodeId, Fence)>, Time) {
        let leader = self.leader_known(datacenter).map(|leader| (leader.node, leader.fence));
        let place = self.datacenters.get(datacenter);
        (leader, place.map_or(Time::ZERO, |place| place.last_heard))
    }

    /// The last word of a datacenter's leader, however long ago.
    pub(crate) fn status_of(&self, datacenter: &DatacenterId) -> Option<&DatacenterStatus> {
        self.datacenters.get(datacenter)?.status.as_ref()
    }

    /// What the leader of each datacenter says of its nodes.
    pub(crate) fn statuses(
        &self,
        now: Time,
    ) -> impl Iterator<Item = (&DatacenterId, bool, &DatacenterStatus)> {
        self.datacenters.iter().filter_map(move |(datacenter, place)| {
            let is_fresh = self.is_fresh(now, datacenter, place);
            Some((datacenter, is_fresh, place.status.as_ref()?))
        })
    }
}

fn leader_by(from: NodeId, status: &DatacenterStatus) -> Option<Leader> {
    // The next life of a manager leads under another fence, which says as much as its incarnation.
    Some(Leader { node: from, fence: status.leading?, incarnation: Incarnation::NONE })
}

/// Where nobody has workers yet, or where the job is to run by name, it waits for them: a test may be
/// submitted before its workers are started.
fn await_workers(candidates: &mut [Candidate], wish: &Wish) {
    let are_none = candidates.iter().all(|candidate| candidate.cores == 0);
    for candidate in candidates.iter_mut().filter(|candidate| candidate.cores == 0) {
        let is_named = wish.named.as_ref().is_some_and(|n| n.contains(&candidate.datacenter));
        if (are_none || is_named) && candidate.health == DatacenterHealth::Unhealthy {
            candidate.health = DatacenterHealth::Busy;
        }
    }
}

/// The cores that a plan asks for at its start; one for each workflow that does not say.
fn cores_at_start(plan: &Plan) -> u32 {
    let first = plan.workflows.iter().filter(|workflow| workflow.after.is_nothing());
    first.map(|workflow| workflow.cores.unwrap_or(1)).sum()
}

fn wish_of(run: &RunSettings) -> Wish {
    let named = match &run.datacenters {
        Datacenters::Named(names) => {
            Some(names.iter().map(|name| DatacenterId::from(name.as_str())).collect())
        }
        Datacenters::All | Datacenters::Choose(_) => None,
    };
    Wish { named, preferred: BTreeSet::new(), distance_max: run.max_latency }
}

/// The health of a datacenter by its leader's word, which has a majority behind it.
fn health_of(status: &DatacenterStatus) -> DatacenterHealth {
    let count = |role: Role, is_well: fn(NodeState) -> bool| {
        let nodes = status.nodes.iter().filter(|node| node.role == role && is_well(node.state));
        u32::try_from(nodes.count()).unwrap_or(u32::MAX)
    };
    let managers_alive = count(Role::Manager, |_| true);
    let silent = count(Role::Worker, |state| state == NodeState::Silent);
    DatacenterHealth::of(&DatacenterCounts {
        managers: status.managers.max(managers_alive),
        managers_alive: managers_alive.max(1),
        managers_healthy: status.managers_healthy.min(managers_alive.max(1)),
        workers: status.workers,
        workers_healthy: status.workers.saturating_sub(silent),
        free_cores: status.free_cores,
        has_quorum: status.leading.is_some(),
    })
}
