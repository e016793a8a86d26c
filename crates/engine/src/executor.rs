//! Executors: which users there are when, and when iterations start.
//!
//! The planning (users at an instant, instants of starts, shares of cores) is the pure code of
//! `hyperscale-plan`; this module holds tasks to it. All loads end the same way: nothing new
//! starts, running iterations get the workflow's `graceful_stop`, then they are cut.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyperscale_model::SplitMix;
use hyperscale_plan::{Amount, Arrivals, Distribution, Load, LoadKind, Slice, Workflow};
use tokio::task::JoinSet;

use crate::alarm::Alarm;
use crate::draws::NoRows;
use crate::run::Run;
use crate::user::{Control, Quota, Start, User};
use crate::{Stop, Work, clock};

/// How often users are counted anew along a ramp.
const RAMP_STEP: Duration = Duration::from_millis(20);

/// Starts are handed out at most this often: what falls due in between goes out together, so that
/// high rates cost few wake-ups and low ones are on time.
const START_STEP: Duration = Duration::from_micros(50);

/// A start that is later than this because its core was busy or frozen is dropped, and its lag
/// counted: the target never gets more than the plan says, not even to catch up.
const LATE_MAX: Duration = Duration::from_millis(25);

/// How many cores have users to run, of those that an attempt has.
pub(crate) fn useful_cores(slice: &Slice, load: &Load, cores: usize) -> usize {
    let units = match load.iterations() {
        Some(iterations) => iterations.min(u64::from(load.vus_max())),
        None => u64::from(load.vus_max()),
    };
    usize::try_from(slice.count(units)).unwrap_or(cores).clamp(1, cores.max(1))
}

/// A core's share of the iterations that earlier attempts have done, such that the cores' shares
/// sum to it and none has more than its load.
pub(crate) fn done_before(work: &Work, slice: &Slice, workflow: &Workflow) -> u64 {
    let Some(total) = workflow.load.iterations() else { return 0 };
    let cores = useful_cores(&work.slice, &workflow.load, work.cores.len());
    let all = work.slice.count(total);
    let mut before = 0;
    for share in work.slice.split_evenly(cores) {
        let mine = share.count(total);
        if share == *slice {
            let done = u128::from(work.iterations_done.min(all));
            let until = |units: u64| done * u128::from(units) / u128::from(all.max(1));
            return u64::try_from(until(before + mine) - until(before)).unwrap_or(mine);
        }
        before += mine;
    }
    0
}

/// Runs a load to its end, beginning where it stands at an instant, which is so much `late`.
///
/// # Errors
///
/// If a user's task panicked, or the system gives no timer.
pub(crate) async fn execute(run: &Rc<Run>, begin: Instant, late: Duration) -> Result<(), String> {
    let mut crew = Crew::new(Rc::clone(run));
    crew.follow_pauses();
    match run.workflow().load.kind() {
        LoadKind::Looping => crew.loop_users().await,
        LoadKind::Iterations => crew.iterate().await,
        LoadKind::Arrivals => crew.arrive(begin, late).await,
    }
    crew.settle().await;
    crew.failure.map_or(Ok(()), Err)
}

/// The users of a run.
struct Crew {
    run: Rc<Run>,
    load: Load,
    /// By their number within the slice. Those that have left stay, so that they are not hired
    /// again.
    users: BTreeMap<u64, Hired>,
    tasks: JoinSet<u64>,
    /// Why it cannot go on.
    failure: Option<String>,
}

struct Hired {
    control: Rc<Control>,
    has_left: bool,
    /// When a user that is too many is cut.
    cut_at: Option<Instant>,
}

impl Crew {
    fn new(run: Rc<Run>) -> Self {
        let load = run.workflow().load.clone();
        let tasks = JoinSet::new();
        Self { run, load, users: BTreeMap::new(), tasks, failure: None }
    }

    fn hire(&mut self, number: u64, quota: Quota) -> Rc<Control> {
        let control = Rc::new(Control::default());
        let user = User::new(Rc::clone(&self.run), Rc::clone(&control), number);
        self.tasks.spawn_local(user.work(quota));
        let hired = Hired { control: Rc::clone(&control), has_left: false, cut_at: None };
        self.users.insert(number, hired);
        control
    }

    fn on_left(&mut self, left: Result<u64, tokio::task::JoinError>) {
        match left {
            Ok(number) => {
                if let Some(user) = self.users.get_mut(&number) {
                    user.has_left = true;
                }
            }
            Err(error) if error.is_panic() => {
                self.failure.get_or_insert_with(|| "a user's task panicked".to_owned());
            }
            Err(_) => {} // Cut by us.
        }
    }

    /// Waits until an instant, or until something has changed, or the load stops or goes on. Without
    /// an instant something must change.
    async fn wait(&mut self, until: Option<Instant>) {
        let turn = self.run.next_turn(clock::now());
        let until = until.into_iter().chain(turn).min();
        let run = Rc::clone(&self.run);
        tokio::select! {
            () = sleep_until(until) => {}
            () = run.changed.notified() => {}
            Some(left) = self.tasks.join_next(), if !self.tasks.is_empty() => self.on_left(left),
        }
        self.follow_pauses();
        self.follow_rows();
    }

    /// Lets users that wait for unique rows go on once they are leased.
    fn follow_rows(&self) {
        self.run.tell_rows_wanted();
        if self.run.has_new_rows.take() {
            self.users.values().for_each(|user| user.control.wake());
        }
    }

    /// Lets users stop or go on where the load does.
    fn follow_pauses(&self) {
        let (run, was_paused) = (&self.run, self.run.is_paused.get());
        run.is_paused.set(run.stands_still(clock::now()));
        if was_paused && !run.is_paused.get() {
            self.users.values().for_each(|user| user.control.wake());
        }
    }

    fn is_stopped(&self) -> bool {
        self.run.stopping().is_some() || self.failure.is_some()
    }

    /// When the load is over; `None` while it stands still.
    fn end(&self) -> Option<Instant> {
        self.run.instant_of(self.load.duration())
    }

    fn is_over(&self) -> bool {
        self.end().is_some_and(|end| clock::now() >= end)
    }

    fn wanted_users(&self, now: Instant) -> u64 {
        let planned = self.load.scaled_vus_at(self.run.load_time(now), self.run.amount());
        self.run.slice.count(u64::from(planned.unwrap_or(0)))
    }

    async fn loop_users(&mut self) {
        let (is_ramp, grace) = match &self.load {
            Load::RampingVus { graceful_ramp_down, .. } => (true, *graceful_ramp_down),
            _ => (false, self.run.workflow().graceful_stop),
        };
        loop {
            if self.is_over() || self.is_stopped() {
                return;
            }
            let now = clock::now();
            // A load that stands still hires nobody: there would be a user's setup to run.
            let is_paused = self.run.is_paused.get();
            let wanted = self.wanted_users(now);
            for number in 0..if is_paused { 0 } else { wanted } {
                match self.users.get_mut(&number) {
                    None => drop(self.hire(number, Quota::Unlimited)),
                    Some(user) if user.cut_at.is_some() && !user.has_left => {
                        if user.control.keep() {
                            user.cut_at = None;
                        }
                    }
                    Some(user) if user.has_left && user.cut_at.is_some() => {
                        self.hire(number, Quota::Unlimited);
                    }
                    Some(_) => {}
                }
            }
            for (_, user) in self.users.range_mut(wanted..) {
                if user.has_left {
                    continue;
                }
                let cut_at = *user.cut_at.get_or_insert_with(|| {
                    user.control.leave();
                    now + grace
                });
                if now >= cut_at {
                    user.control.cut();
                }
            }
            let step = (is_ramp && !is_paused).then(|| now + RAMP_STEP);
            let next = [self.end(), self.next_cut(), step].into_iter().flatten().min();
            self.wait(next).await;
        }
    }

    fn next_cut(&self) -> Option<Instant> {
        let cuts = self.users.values().filter(|user| !user.has_left).filter_map(|user| user.cut_at);
        let now = clock::now();
        cuts.filter(|&at| at > now).min()
    }

    async fn iterate(&mut self) {
        while self.run.is_paused.get() && !self.is_stopped() {
            self.wait(None).await;
        }
        let run = Rc::clone(&self.run);
        let all = run.slice.count(self.load.iterations().unwrap_or(0));
        let left = all.saturating_sub(run.iterations_done);
        let users = run.slice.count(u64::from(self.load.vus_max())).min(left);
        // An attempt that goes on where another was lost no longer knows which user did what.
        let each = match self.load {
            Load::PerVuIterations { iterations, .. } if run.iterations_done == 0 => {
                Some(iterations)
            }
            _ => None,
        };
        run.iterations_left.set(left);
        for number in 0..users {
            self.hire(number, each.map_or(Quota::Shared, Quota::Each));
        }
        while !self.tasks.is_empty() && !self.is_stopped() && !self.is_over() {
            self.wait(self.end()).await;
        }
    }

    async fn arrive(&mut self, begin: Instant, late: Duration) {
        let Some(arrivals) = self.load.arrivals() else { return };
        let run = Rc::clone(&self.run);
        let users_max = run.slice.count(u64::from(self.load.vus_max())).max(1);
        let due_since = begin.checked_sub(late).unwrap_or(begin);
        let mut schedule = Schedule::new(&run, arrivals, run.load_time(due_since));
        let mut alarm = match Alarm::new() {
            Ok(alarm) => alarm,
            Err(error) => {
                self.failure = Some(format!("there is no timer: {error}"));
                return;
            }
        };
        let mut handed_out = begin;
        let mut next = schedule.next();
        while let Some(due) = next {
            let now = clock::now();
            if self.is_stopped() {
                return;
            }
            let Some(intended) = run.instant_of(due.after) else {
                self.wait(None).await; // The load stands still.
                continue;
            };
            if intended > now {
                let at = intended.max(handed_out + START_STEP);
                tokio::select! {
                    () = alarm.at(at) => {}
                    () = run.changed.notified() => {}
                    Some(left) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                        self.on_left(left);
                    }
                }
                handed_out = clock::now();
                continue;
            }
            let lag = now - intended;
            if !schedule.is_sent(&due, run.amount()) {
                // Scaled down: this one is left out.
            } else if !run.lease.holds(now) {
                run.recorder.borrow_mut().drop_starts(1);
            } else if lag > LATE_MAX && intended < begin {
                // Nobody had told this core to begin.
                run.recorder.borrow_mut().drop_starts(1);
            } else if lag > LATE_MAX {
                // The core was away. Sent now, these starts would be a burst that nobody planned.
                run.recorder.borrow_mut().drop_late_start(lag);
            } else if run.idle.borrow().is_empty() && self.users.len() as u64 >= users_max {
                run.recorder.borrow_mut().drop_starts(1);
            } else {
                match run.draw() {
                    Ok(draw) => self.give(Start { intended, number: due.number, draw }),
                    // A start that finds no row is never made later.
                    Err(NoRows::Yet | NoRows::Left) => run.recorder.borrow_mut().drop_starts(1),
                }
                run.tell_rows_wanted();
            }
            next = schedule.next();
            // Starts that are due together are handed out together, but answers are not kept
            // waiting for a long row of them.
            if schedule.handed_out.is_multiple_of(64) {
                tokio::task::yield_now().await;
            }
        }
        while !self.is_over() && !self.is_stopped() {
            self.wait(self.end()).await;
        }
    }

    /// Gives a start to a user that is idle, or to a new one.
    fn give(&mut self, start: Start) {
        let idle = self.run.idle.borrow_mut().pop();
        match idle {
            Some(idle) => idle.assign(start),
            None => self.hire(self.users.len() as u64, Quota::Assigned).assign(start),
        }
    }

    /// Lets running iterations finish within the workflow's grace, then cuts them.
    async fn settle(&mut self) {
        for user in self.users.values().filter(|user| !user.has_left) {
            user.control.leave();
        }
        let grace = self.run.workflow().graceful_stop;
        let limit = clock::now() + grace;
        while !self.tasks.is_empty() && clock::now() < limit {
            if self.run.stopping().is_some_and(|stop| stop >= Stop::Now) {
                break;
            }
            self.wait(Some(limit)).await;
        }
        for user in self.users.values().filter(|user| !user.has_left) {
            user.control.cut();
        }
        // A cut user still has its `finally` steps, which have the same grace.
        let limit = clock::now() + grace;
        while !self.tasks.is_empty() && clock::now() < limit {
            if self.run.stopping() == Some(Stop::Silent) || self.run.program.finally.is_empty() {
                break;
            }
            self.wait(Some(limit)).await;
        }
        // What was cut ends at its next step of the scheduler; what hangs in `finally` is dropped.
        if !self.run.program.finally.is_empty() {
            self.tasks.abort_all();
        }
        while let Some(left) = self.tasks.join_next().await {
            self.on_left(left);
        }
    }
}

/// Sleeps until an instant, or for ever.
async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => clock::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// The starts of an arrival rate on one core, in their order.
struct Schedule {
    arrivals: Arrivals,
    slice: Slice,
    /// The number of the next start within the slice.
    local: u64,
    handed_out: u64,
    poisson: Option<Poisson>,
}

struct Poisson {
    random: SplitMix,
    /// Decides which starts are left out of a load that is scaled down.
    left_out: SplitMix,
    share: f64,
    area: f64,
}

/// A start that is due when the load's time is `after`.
#[derive(Debug, Clone, Copy)]
struct Due {
    after: Duration,
    number: u64,
    /// Its number within the slice.
    local: u64,
}

impl Schedule {
    fn new(run: &Run, arrivals: Arrivals, begin: Duration) -> Self {
        // What an earlier attempt may have sent already is left out.
        let begin = begin.max(run.work.load_sent);
        let slice = run.slice.clone();
        let local = slice.count(arrivals.due_before(begin));
        let is_poisson = matches!(
            run.workflow().load,
            Load::ConstantArrivalRate { distribution: Distribution::Poisson, .. }
                | Load::RampingArrivalRate { distribution: Distribution::Poisson, .. }
        );
        let seed = |kind| SplitMix::new(run.seed_of(slice.global(0).unwrap_or(0), kind));
        let poisson = is_poisson.then(|| Poisson {
            random: seed(1),
            left_out: seed(2),
            share: slice.share(),
            area: arrivals.area_at(begin),
        });
        Self { arrivals, slice, local, handed_out: 0, poisson }
    }

    fn next(&mut self) -> Option<Due> {
        let number = self.slice.global(self.local)?;
        let after = match &mut self.poisson {
            None => self.arrivals.time_of(number)?,
            Some(poisson) => {
                // Gaps of the area are exponential, whatever the rate is.
                poisson.area += -(1.0 - poisson.random.unit()).ln() / poisson.share;
                self.arrivals.time_of_area(poisson.area)?
            }
        };
        let local = self.local;
        self.local += 1;
        self.handed_out += 1;
        Some(Due { after, number, local })
    }

    /// Whether a start is among those that a scaled load sends: evenly, or at random where starts
    /// come at random, which leaves them independent.
    fn is_sent(&mut self, due: &Due, amount: Option<Amount>) -> bool {
        let Some(amount) = amount else { return true };
        match &mut self.poisson {
            Some(poisson) => poisson.left_out.chance(amount.share()),
            None => {
                let sent = |local| amount.of_starts(&self.slice, local);
                sent(due.local + 1) > sent(due.local)
            }
        }
    }
}
