//! Stops that cross everything else, and limits of time.

use super::*;

/// What has happened before the cancel is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// No worker is there: the workflow waits for cores.
    Queued,
    /// It was offered, and the worker has not answered.
    Offered,
    /// The worker has refused, and the next try is on its way.
    Refused,
    /// The worker has accepted, and has not said that it runs.
    Accepted,
    Running,
    /// Its worker is gone: it waits for another.
    Lost,
}

fn desk_after(before: Before) -> Desk {
    let mut desk = Desk::new();
    desk.connect_gate();
    if before != Before::Queued {
        desk.connect_worker(WORKER);
    }
    desk.offer(&plan(vec![workflow("a", After::default())]));
    desk.start();
    desk.wait(Duration::from_millis(10));
    let Some((attempt, _)) = desk.open().first().copied() else { return desk };
    match before {
        Before::Queued | Before::Offered => {}
        Before::Refused => {
            let (why, fence) = (RefuseAttempt::NoCores { free: 0 }, Fence(1));
            desk.message(WORKER, Message::AttemptRefused { attempt, fence, why });
        }
        Before::Accepted | Before::Running | Before::Lost => desk.accept(WORKER, attempt),
    }
    if matches!(before, Before::Running | Before::Lost) {
        desk.wait(Duration::from_millis(300));
        desk.renew(WORKER, vec![running(attempt)]);
    }
    if before == Before::Lost {
        desk.input(Input::Disconnected { node: WORKER });
        desk.wait(Duration::from_secs(13));
        assert_eq!(desk.open(), [], "it was closed as lost");
    }
    desk
}

#[test]
fn can_04_a_cancel_that_crosses_anything_starts_nothing_and_ends_what_runs() {
    use Before::{Accepted, Lost, Offered, Queued, Refused, Running};
    for before in [Queued, Offered, Refused, Accepted, Running, Lost] {
        for mode in [StopMode::Graceful, StopMode::Now] {
            let mut desk = desk_after(before);
            let crossing: Vec<(AttemptId, NodeId)> = desk.open();
            desk.take();

            desk.stop(mode);
            let cancelled_at = desk.now;
            // The worker's answer was on its way; another worker joins; the gate starts it again.
            for &(attempt, worker) in &crossing {
                desk.accept(worker, attempt);
            }
            desk.connect_worker(NodeId(11));
            desk.start();
            let mut told = Vec::new();
            let mut ended = BTreeSet::new();
            for _ in 0..5 {
                desk.wait(Duration::from_secs(1));
                let alive = crossing.iter().filter(|(attempt, _)| !ended.contains(attempt));
                let alive: Vec<(AttemptId, NodeId)> = alive.copied().collect();
                for (attempt, worker) in alive {
                    desk.renew(worker, vec![running(attempt)]);
                }
                for (to, message) in desk.take() {
                    if let Message::StopAttempt { attempt, .. } = &message
                        && ended.insert(*attempt)
                    {
                        desk.attempt_ended(to, *attempt, AttemptEnd::Stopped);
                    }
                    told.push(message);
                }
            }

            let starts = |message: &&Message| {
                matches!(message, Message::OfferAttempt(_) | Message::StartAttempt { .. })
            };
            let story = format!("{before:?}, {mode:?}");
            assert_eq!(told.iter().filter(starts).count(), 0, "{story}: something was started");
            assert_eq!(desk.open(), [], "{story}: something runs 5 s after {cancelled_at}");
            let by = "someone".to_owned();
            assert_eq!(desk.part().ended, Some(EndStatus::Cancelled { by }), "{story}");
        }
    }
}

#[test]
fn can_04_a_cancelled_part_cannot_be_offered_again() {
    let mut desk = desk_after(Before::Queued);
    desk.stop(StopMode::Graceful);
    let cancelled = desk.part().ended.clone();
    desk.take();

    desk.connect_worker(WORKER);
    desk.offer(&plan(vec![workflow("a", After::default())]));
    desk.start();
    desk.wait(Duration::from_secs(2));
    assert_eq!(desk.part().ended, cancelled, "its end is not recorded, and it stays ended");
    desk.message(GATE, Message::PartEndedAck { part: part() });
    desk.offer(&plan(vec![workflow("a", After::default())]));
    desk.start();
    desk.wait(Duration::from_secs(2));

    assert!(desk.manager.state().parts.is_empty(), "a late copy of the offer brought it back");
    let offers = desk.take().into_iter().filter(|(_, m)| matches!(m, Message::OfferAttempt(_)));
    assert_eq!(offers.count(), 0);
}

/// A part of two workflows with a limit of 10 s: the first has completed, the second runs.
fn desk_before_its_limit() -> (Desk, AttemptId) {
    let mut desk = Desk::new();
    desk.connect_gate();
    desk.connect_worker(WORKER);
    let mut plan = plan(vec![workflow("a", After::default()), workflow("b", After::default())]);
    plan.run.deadline = Duration::from_secs(10);
    plan.workflows.iter_mut().for_each(|workflow| workflow.cores = Some(1));
    desk.offer(&plan);
    desk.start();
    desk.wait(Duration::from_millis(10));
    let attempts: Vec<AttemptId> = desk.open().into_iter().map(|(attempt, _)| attempt).collect();
    attempts.iter().for_each(|&attempt| desk.accept(WORKER, attempt));
    desk.wait(Duration::from_millis(300));
    desk.renew(WORKER, attempts.iter().map(|&attempt| running(attempt)).collect());
    desk.attempt_ended(WORKER, attempts[0], AttemptEnd::Finished);
    (desk, attempts[1])
}

/// Lets the second workflow run until its manager stops it; gives when that was.
fn stopped_at(desk: &mut Desk, attempt: AttemptId) -> Time {
    for _ in 0..400 {
        desk.wait(Duration::from_millis(100));
        if desk.now.as_nanos().is_multiple_of(1_000_000_000) {
            desk.renew(WORKER, vec![running(attempt)]);
        }
        let is_stop = |(to, message): &(NodeId, Message)| {
            *to == WORKER
                && matches!(message, Message::StopAttempt { attempt: of, .. } if *of == attempt)
        };
        if desk.take().iter().any(is_stop) {
            return desk.now;
        }
    }
    panic!("{attempt} was never stopped");
}

#[test]
fn tmo_01_tmo_04_a_part_over_its_limit_is_stopped_by_its_leader_and_keeps_what_has_finished() {
    let (mut desk, attempt) = desk_before_its_limit();
    let started = desk.part().started.unwrap();
    let limit = Time::from_millis(started.0 - 1_000) + Duration::from_secs(10);
    // No gate is needed for it.
    desk.input(Input::Disconnected { node: GATE });

    let stopped = stopped_at(&mut desk, attempt);
    desk.attempt_ended(WORKER, attempt, AttemptEnd::Stopped);

    assert!(stopped >= limit && stopped < limit + Duration::from_secs(1), "{stopped}, {limit}");
    assert_eq!(desk.part().ended, Some(EndStatus::TimedOut));
    let ends: Vec<_> =
        desk.part().workflows.iter().map(|w| w.ended.clone().map(|(end, _)| end)).collect();
    assert_eq!(ends, [Some(EndStatus::Completed), Some(EndStatus::TimedOut)]);
    // It is told once one is reached again, however long that takes.
    desk.wait(Duration::from_secs(600));
    desk.take();
    desk.connect_gate();
    desk.wait(Duration::from_secs(30));
    let told = desk.take().into_iter().any(|(to, message)| {
        matches!(message, Message::PartEnded(end) if to == GATE && end.status == EndStatus::TimedOut)
    });
    assert!(told, "the gate hears of it");
    desk.message(GATE, Message::PartEndedAck { part: part() });
    desk.take();
    desk.wait(Duration::from_secs(60));
    assert_eq!(desk.manager.state().parts.len(), 0, "nothing watches over an ended part");
}

#[test]
fn tmo_03_a_new_leader_counts_from_the_original_start() {
    let (mut desk, attempt) = desk_before_its_limit();
    let started = desk.part().started.unwrap();
    let limit = Time::from_millis(started.0 - 1_000) + Duration::from_secs(10);
    for _ in 0..6 {
        desk.wait(Duration::from_secs(1));
        desk.renew(WORKER, vec![running(attempt)]);
    }

    desk.hand_over(NodeId(3));
    desk.connect_worker(WORKER);
    let stopped = stopped_at(&mut desk, attempt);

    // It is checked at least once a second.
    assert!(stopped >= limit && stopped <= limit + Duration::from_secs(1), "{stopped}, {limit}");
}

#[test]
fn tmo_03_a_decision_counts_once_and_one_of_a_deposed_gate_not_at_all() {
    let mut desk = Desk::new();
    desk.run();
    let newer = Fence(FENCE.0 + 1);
    let next_gate = NodeId(5);
    desk.input(Input::GateConnected { gate: next_gate });
    let hash = desk.part().plan;
    let offer = PartOffer {
        part: part(),
        fence: newer,
        plan: hash,
        slice: Slice::whole(),
        rows: Slice::whole(),
        is_shared: false,
        window: Duration::from_secs(1),
        secrets: Secrets::default(),
    };
    desk.message(next_gate, Message::OfferPart(Box::new(offer)));
    let decision =
        |fence, mode| Message::StopPart { part: part(), fence, reason: StopReason::TimedOut, mode };
    let before = desk.part().clone();
    desk.take();

    desk.message(GATE, decision(FENCE, StopMode::Now));

    assert_eq!(*desk.part(), before, "the decision of a deposed gate changed the part");
    let refusal = Message::StaleFence { subject: Subject::Job(part().job), held: newer };
    assert!(desk.take().contains(&(GATE, refusal)), "it is told which fence counts");
    let entries = desk.log.len();
    desk.message(next_gate, decision(newer, StopMode::Graceful));
    let once = desk.part().clone();
    desk.message(next_gate, decision(newer, StopMode::Graceful));
    assert_eq!(once.stop, Some((StopReason::TimedOut, StopMode::Graceful)));
    assert_eq!(*desk.part(), once, "a repeated decision changed the part");
    let stops = desk.log[entries..].iter().filter(|entry| {
        let entry: Entry = decode_value(entry).unwrap();
        matches!(entry, Entry::StopAsked { .. })
    });
    assert!(stops.count() <= 2, "one entry for each time that it was said");
}

#[test]
fn tmo_05_reply_timer_and_cancel_in_any_order_have_one_outcome() {
    #[derive(Debug, Clone, Copy)]
    enum Happens {
        Reply,
        Timer,
        Cancel,
        /// All timers of two seconds are late, and fire together.
        Pause,
    }
    use Happens::{Cancel, Pause, Reply, Timer};
    let all = [Reply, Timer, Cancel, Pause];
    let orders = all.into_iter().flat_map(|a| {
        all.into_iter().flat_map(move |b| {
            all.into_iter().flat_map(move |c| all.into_iter().map(move |d| [a, b, c, d]))
        })
    });
    for order in orders {
        let mut desk = desk_after(Before::Offered);
        let (attempt, _) = desk.open()[0];
        desk.take();
        let mut was_cancelled = false;
        for happens in order {
            match happens {
                Reply => desk.accept(WORKER, attempt),
                Timer => {
                    desk.now += Duration::from_secs(1);
                    desk.input(Input::Tick);
                }
                Cancel => {
                    desk.stop(StopMode::Graceful);
                    was_cancelled = true;
                }
                Pause => {
                    desk.now += Duration::from_secs(2);
                    desk.input(Input::Tick);
                }
            }
            let sent = desk.take();
            let count = |is: fn(&Message) -> bool| sent.iter().filter(|(_, m)| is(m)).count();
            let offers = count(|message| matches!(message, Message::OfferAttempt(_)));
            let starts = count(|message| matches!(message, Message::StartAttempt { .. }));
            let stops = count(|message| matches!(message, Message::StopAttempt { .. }));
            assert!(offers + starts + stops <= 1, "{order:?}: {sent:?}");
            assert!(!was_cancelled || offers + starts == 0, "{order:?}: started after its cancel");
        }
        assert_eq!(desk.open(), [(attempt, WORKER)], "{order:?}: one attempt, whatever was first");
        if was_cancelled {
            desk.attempt_ended(WORKER, attempt, AttemptEnd::Stopped);
            desk.attempt_ended(WORKER, attempt, AttemptEnd::Finished);
            let by = "someone".to_owned();
            assert_eq!(desk.part().ended, Some(EndStatus::Cancelled { by }), "{order:?}");
        }
    }
}

#[test]
fn dsp_07_only_a_part_of_which_nothing_has_begun_is_given_back() {
    for before in [Before::Queued, Before::Offered, Before::Running, Before::Lost] {
        let mut desk = desk_after(before);
        desk.take();

        let (reason, mode) = (StopReason::Returned, StopMode::Now);
        desk.message(GATE, Message::StopPart { part: part(), fence: FENCE, reason, mode });
        desk.connect_worker(NodeId(11));
        desk.wait(Duration::from_secs(2));

        let told_end = desk.take().into_iter().find_map(|(_, message)| match message {
            Message::PartEnded(result) => Some(result.status),
            _ => None,
        });
        let expected = (before == Before::Queued).then(|| StopReason::Returned.end_status());
        assert_eq!(told_end, expected, "{before:?}");
        let is_open = desk.part().stop.is_none();
        assert_eq!(is_open, before != Before::Queued, "{before:?}: it goes on as if not asked");
        assert_eq!(desk.open().is_empty(), before == Before::Queued, "{before:?}");
    }
}

#[test]
fn dsp_07_cores_that_were_about_to_be_given_to_it_stay_free() {
    let mut desk = desk_after(Before::Queued);
    let placed = Entry::WorkflowPlaced {
        part: part(),
        workflow: WorkflowIndex(0),
        shards: Vec::new(),
        context: Default::default(),
    };
    let (reason, mode) = (StopReason::Returned, StopMode::Now);
    let mut state = desk.manager.state().clone();

    assert_eq!(state.apply(&Entry::StopAsked { part: part(), reason, mode }), Applied::Changed);
    assert_eq!(state.apply(&placed), Applied::Ignored);

    desk.stop(StopMode::Graceful);
    let (reason, mode) = (StopReason::Returned, StopMode::Now);
    let mut stopped = desk.manager.state().clone();
    stopped.parts.get_mut(&part()).unwrap().ended = None;
    let asked = Entry::StopAsked { part: part(), reason, mode };
    assert_eq!(stopped.apply(&asked), Applied::Ignored, "a stop comes before it");
}

#[test]
fn dsp_07_a_part_that_waits_for_cores_says_for_how_long() {
    let mut desk = Desk::new();
    desk.connect_gate();
    desk.connect_worker(WORKER);
    let mut long = plan(vec![workflow("a", After::default())]);
    long.workflows[0].load = Load::ConstantVus { vus: 4, duration: Duration::from_secs(100) };
    desk.offer(&long);
    desk.start();
    desk.wait(Duration::from_millis(10));
    let (attempt, _) = desk.open()[0];
    desk.accept(WORKER, attempt);
    desk.wait(Duration::from_secs(10));
    desk.renew(WORKER, vec![running(attempt)]);

    let next = PartId { job: JobId::from_parts(2, 2), part: PartIndex(0) };
    desk.offer_part(next, &long);
    let start = Message::StartPart { part: next, fence: FENCE, start_in: Duration::ZERO };
    desk.message(GATE, start);
    desk.renew(WORKER, vec![running(attempt)]);
    desk.take();
    desk.wait(Duration::from_secs(1));

    let waits: BTreeMap<PartId, Option<Duration>> = (desk.take().into_iter())
        .filter_map(|(_, message)| match message {
            Message::PartReport(report) => Some((report.part, report.wait)),
            _ => None,
        })
        .collect();
    assert_eq!(waits[&part()], None, "it has cores");
    let wait = waits[&next].unwrap();
    assert!((85..=91).contains(&wait.as_secs()), "10 s of 100 are over: {wait:?}");
}
