//! Workers that answer late, twice or never, die, and come back.

use super::*;

#[test]
fn dsp_13_an_acceptance_that_the_result_has_overtaken_changes_nothing() {
    let mut desk = Desk::new();
    desk.connect_gate();
    desk.connect_worker(WORKER);
    desk.offer(&plan(vec![workflow("a", After::default())]));
    desk.start();
    let (attempt, _) = desk.open()[0];
    assert_eq!(desk.free_cores(), 0);

    desk.attempt_ended(WORKER, attempt, AttemptEnd::Finished);
    let ended = desk.part().clone();
    assert_eq!(desk.free_cores(), 2, "its cores are free with the decision");
    desk.take();
    desk.accept(WORKER, attempt);
    desk.attempt_ended(WORKER, attempt, AttemptEnd::Stopped);
    desk.wait(Duration::from_secs(2));

    assert_eq!(*desk.part(), ended, "one terminal result");
    assert_eq!(ended.ended, Some(EndStatus::Completed));
    let is_command = |(_, message): &(NodeId, Message)| {
        matches!(message, Message::StartAttempt { .. } | Message::OfferAttempt(_))
    };
    assert!(!desk.take().iter().any(is_command));
}

#[test]
fn dsp_13_a_worker_that_dies_after_it_accepted_is_replaced_once() {
    let mut desk = Desk::new();
    desk.connect_gate();
    desk.connect_worker(WORKER);
    desk.offer(&plan(vec![workflow("a", After::default())]));
    desk.start();
    let (first, _) = desk.open()[0];
    desk.accept(WORKER, first);
    let started = |desk: &mut Desk| {
        let starts = desk.take().into_iter().filter_map(|(_, message)| match message {
            Message::StartAttempt { attempt, .. } => Some(attempt),
            _ => None,
        });
        starts.collect::<Vec<_>>()
    };
    desk.wait(Duration::from_millis(100));
    assert_eq!(started(&mut desk), [first]);

    desk.input(Input::Disconnected { node: WORKER });
    let incarnation = Incarnation(2);
    desk.input(Input::WorkerConnected { worker: WORKER, incarnation });
    desk.renew(WORKER, Vec::new());
    desk.wait(Duration::from_millis(100));
    let second = desk.open();
    assert_eq!(second.len(), 1);
    let second = second[0].0;
    assert_eq!(second.number.0, 2, "run again once");
    // The first one's answers come late, and twice.
    for _ in 0..2 {
        desk.accept(WORKER, first);
        desk.attempt_ended(WORKER, first, AttemptEnd::Finished);
    }
    desk.take();
    desk.wait(Duration::from_millis(500));

    assert_eq!(started(&mut desk), [], "the answers to the first start nothing");
    assert_eq!(desk.open(), [(second, WORKER)]);
    desk.accept(WORKER, second);
    desk.accept(WORKER, second);
    desk.wait(Duration::from_millis(500));
    assert_eq!(started(&mut desk), [second], "accepted twice, started once");
    desk.attempt_ended(WORKER, second, AttemptEnd::Finished);
    assert_eq!((desk.open(), desk.free_cores()), (vec![], 2), "each core comes back once");
}

#[test]
fn dsp_13_ten_thousand_acceptances_lead_to_nothing_more() {
    let mut desk = Desk::new();
    let attempt = desk.run();
    let entries = desk.log.len();

    for _ in 0..10_000 {
        desk.accept(WORKER, attempt);
    }

    assert_eq!(desk.log.len(), entries, "nothing is decided again");
    assert!(desk.take().is_empty(), "nothing is said again");
}

#[test]
fn reg_02_a_worker_that_comes_back_is_a_new_one_in_every_way() {
    let mut desk = Desk::new();
    let attempt = desk.run();
    assert_eq!(desk.open(), [(attempt, WORKER)]);
    desk.input(Input::Disconnected { node: WORKER });
    desk.wait(Duration::from_secs(3));
    desk.input(Input::MemberGone { node: WORKER });

    let incarnation = Incarnation(2);
    desk.input(Input::WorkerConnected { worker: WORKER, incarnation });

    let view = &desk.manager.workers[&WORKER];
    assert_eq!(view.incarnation, incarnation);
    assert!(view.report.is_none() && view.last_granted.is_none(), "{view:?}");
    assert!(view.is_connected && !view.is_gone, "{view:?}");
    assert_eq!(desk.free_cores(), 0, "its cores are not known before it says them");
    // A link of its first life was overtaken by this one.
    let first = Incarnation(1);
    desk.input(Input::WorkerConnected { worker: WORKER, incarnation: first });
    assert_eq!(desk.manager.workers[&WORKER].incarnation, incarnation);
    // Its numbers start again, and its cores are others.
    let report = WorkerReport {
        version: Version(1),
        cores: 1,
        is_draining: false,
        software: String::new(),
        attempts: Vec::new(),
    };
    desk.message(WORKER, Message::RenewLease { sent_at: Time::ZERO, report });
    let cores: u32 = desk.open().iter().map(|_| 1).sum();
    assert_eq!(cores, 1, "what its first life ran goes on, on the core that it has now");
    assert!(desk.open().iter().all(|(known, _)| *known != attempt));
    assert_eq!(desk.manager.state().cores_used(WORKER), 1);
}

#[test]
fn wrk_02_cores_are_free_again_whichever_way_an_attempt_ends() {
    let message = || "no".to_owned();
    let ways = [
        ("finished", Some(AttemptEnd::Finished)),
        ("stopped", Some(AttemptEnd::Stopped)),
        ("aborted", Some(AttemptEnd::Aborted { message: message() })),
        ("refused", None),
    ];
    for (way, end) in ways {
        let mut desk = Desk::new();
        let attempt = match end {
            Some(_) => desk.run(),
            None => {
                desk.connect_gate();
                desk.connect_worker(WORKER);
                desk.offer(&plan(vec![workflow("a", After::default())]));
                desk.start();
                desk.open()[0].0
            }
        };
        assert_eq!(desk.free_cores(), 0, "{way}");

        match end {
            Some(end) => {
                if end == AttemptEnd::Stopped {
                    desk.stop(StopMode::Graceful);
                }
                desk.attempt_ended(WORKER, attempt, end);
            }
            None => {
                // As often as it is tried.
                while let Some((attempt, _)) = desk.open().first().copied() {
                    let why = RefuseAttempt::BadPlan { message: message() };
                    let refused = Message::AttemptRefused { attempt, fence: Fence(1), why };
                    desk.message(WORKER, refused);
                }
            }
        }

        assert_eq!(desk.free_cores(), 2, "{way}: its cores are free with the decision");
        assert!(desk.part().ended.is_some(), "{way}");
    }
}

#[test]
fn wrk_02_a_lost_core_and_a_lost_worker_give_back_what_they_held() {
    let mut desk = Desk::new();
    let attempt = desk.run();
    desk.attempt_ended(WORKER, attempt, AttemptEnd::CoreLost { message: "panicked".to_owned() });

    let again = desk.open();
    assert_eq!(again.len(), 1, "the rest of its load goes on");
    assert_eq!(desk.manager.state().cores_used(WORKER), 2, "on the same cores, counted once");
    desk.input(Input::Disconnected { node: WORKER });
    desk.wait(Duration::from_secs(15));
    assert_eq!(desk.manager.state().cores_used(WORKER), 0);
}

#[test]
fn orp_03_orp_05_a_claim_at_the_instant_of_expiry_keeps_or_closes_and_never_both() {
    for claims_first in [true, false] {
        let mut desk = Desk::new();
        let attempt = desk.run();
        desk.wait(Duration::from_secs(3));
        desk.renew(WORKER, vec![running(attempt)]);
        let granted = desk.now;
        let config = ManagerConfig::new(MANAGER, DatacenterId::from("eu"), WallTime(1_000));
        let expiry = granted + config.execution_lease + config.lease_margin;
        desk.input(Input::Disconnected { node: WORKER });
        desk.wait(expiry - desk.now - Duration::from_nanos(1));
        assert_eq!(desk.open(), [(attempt, WORKER)], "not before its lease has ended for certain");
        desk.now = expiry;
        let incarnation = Incarnation(1);
        if !claims_first {
            desk.input(Input::Tick);
        }
        desk.take();

        desk.input(Input::WorkerConnected { worker: WORKER, incarnation });
        desk.renew(WORKER, vec![AttemptReport { phase: AttemptPhase::Paused, ..running(attempt) }]);
        desk.renew(WORKER, vec![AttemptReport { phase: AttemptPhase::Paused, ..running(attempt) }]);

        let (stop, forget) = desk.granted();
        let is_open = desk.open().iter().any(|(open, _)| *open == attempt);
        let is_ended = stop.iter().any(|(of, _)| *of == attempt) || forget.contains(&attempt);
        assert_ne!(
            is_open, is_ended,
            "kept and stopped, or neither; claimed first: {claims_first}"
        );
        if !claims_first {
            assert!(!is_open, "it was closed before the claim");
            let closed = desk.manager.state().attempt(attempt).unwrap().closed.clone().unwrap();
            // What it has still to tell counts no more.
            desk.delta(attempt, closed.last_delta.0 + 1);
            let after = desk.manager.state().attempt(attempt).unwrap().closed.clone().unwrap();
            assert_eq!(after, closed);
            let late = desk.events.iter().filter(|e| matches!(e, Event::LateDelta { .. }));
            assert_eq!(late.count(), 1, "it is counted as late");
        }
    }
}

#[test]
fn obs_03_what_cannot_be_read_is_told_and_the_next_thing_is_done() {
    let mut desk = Desk::new();
    desk.connect_gate();
    desk.connect_worker(WORKER);
    let told = |desk: &Desk| {
        let malformed = desk.events.iter().filter_map(|event| match event {
            Event::Malformed { what, error } if !error.is_empty() => Some(*what),
            _ => None,
        });
        malformed.collect::<Vec<_>>()
    };

    desk.index += 1;
    let (index, entry) = (desk.index, b"no entry".to_vec());
    desk.input(Input::Committed { index, entry, proposal: None });
    desk.input(Input::Restored { snapshot: b"no snapshot".to_vec() });

    assert_eq!(told(&desk), ["ledger entry", "snapshot"]);
    desk.offer(&plan(vec![workflow("a", After::default())]));
    desk.start();
    assert_eq!(desk.open().len(), 1, "what can be read is done");
}

#[test]
fn orp_06_what_a_worker_runs_and_nobody_knows_of_is_forgotten_there_at_its_next_word() {
    let mut desk = Desk::new();
    let attempt = desk.run();
    let strange = AttemptId { number: hyperscale_model::AttemptNumber(7), ..attempt };

    desk.renew(WORKER, vec![running(attempt), running(strange)]);

    let orders: Vec<_> = (desk.take().into_iter())
        .filter_map(|(to, message)| match message {
            Message::LeaseGranted { stop, forget, .. } => Some((to, stop, forget)),
            _ => None,
        })
        .collect();
    assert_eq!(orders, [(WORKER, Vec::new(), vec![strange])]);
    assert_eq!(desk.open(), [(attempt, WORKER)]);
}

#[test]
fn orp_06_what_no_worker_runs_goes_on_once_it_has_certainly_stopped() {
    let mut desk = Desk::new();
    let attempt = desk.run();
    let second = Duration::from_secs(1);
    // Its worker lives and says nothing of it: a report may have crossed the start.
    for _ in 0..4 {
        desk.renew(WORKER, Vec::new());
        desk.wait(second);
    }
    assert_eq!(desk.open(), [(attempt, WORKER)], "it may only be late");
    desk.renew(WORKER, vec![running(attempt)]);
    for _ in 0..4 {
        desk.renew(WORKER, Vec::new());
        desk.wait(second);
    }
    assert_eq!(desk.open(), [(attempt, WORKER)], "its silence is counted anew");

    for _ in 0..3 {
        desk.renew(WORKER, Vec::new());
        desk.wait(second);
    }
    let open = desk.open();
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!(open[0].0.number.0, 2, "it goes on");
    let lost = desk.manager.state().attempt(attempt).unwrap().closed.as_ref().unwrap();
    assert!(matches!(lost.why, state::CloseReason::Lost(_)), "{lost:?}");
}

/// Has two jobs run, each on one core of the same worker; gives the attempt of each.
fn two_jobs(desk: &mut Desk) -> [AttemptId; 2] {
    let mut narrow = plan(vec![workflow("a", After::default())]);
    narrow.workflows[0].cores = Some(1);
    narrow.workflows[0].load = Load::ConstantVus { vus: 4, duration: Duration::from_secs(200) };
    let first = desk.run_plan(&narrow);
    let other = PartId { job: JobId::from_parts(2, 2), part: PartIndex(0) };
    desk.offer_part(other, &narrow);
    let start = Message::StartPart { part: other, fence: FENCE, start_in: Duration::ZERO };
    desk.message(GATE, start);
    desk.wait(Duration::from_millis(10));
    let (second, _) = desk.open().into_iter().find(|(id, _)| id.shard.part_id() == other).unwrap();
    desk.accept(WORKER, second);
    desk.wait(Duration::from_millis(300));
    desk.renew(WORKER, vec![running(first), running(second)]);
    assert_eq!(desk.open().len(), 2);
    [first, second]
}

#[test]
fn mem_07_a_worker_that_says_nothing_of_one_job_loses_only_that_one() {
    let mut desk = Desk::new();
    let [kept, silent] = two_jobs(&mut desk);

    for _ in 0..8 {
        desk.wait(Duration::from_secs(1));
        desk.renew(WORKER, vec![running(kept)]);
    }

    let of = |desk: &Desk, of: AttemptId| -> Vec<AttemptId> {
        let open = desk.open().into_iter().map(|(open, _)| open);
        open.filter(|open| open.shard == of.shard).collect()
    };
    assert_eq!(of(&desk, kept), [kept], "the other one goes on as it was");
    let again = of(&desk, silent);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].number.0, 2, "its load goes on");
    // Once it is told of again there is nothing left of the suspicion.
    let again = again[0];
    desk.accept(WORKER, again);
    for _ in 0..8 {
        desk.renew(WORKER, vec![running(kept), running(again)]);
        desk.wait(Duration::from_secs(1));
    }
    assert_eq!((of(&desk, kept), of(&desk, silent)), (vec![kept], vec![again]));
}

#[test]
fn chs_05_a_shard_that_takes_three_workers_down_is_given_to_no_fourth() {
    let mut desk = Desk::new();
    let mut lethal = plan(vec![workflow("a", After::default())]);
    lethal.workflows[0].load = Load::ConstantVus { vus: 4, duration: Duration::from_secs(200) };
    let mut attempt = desk.run_plan(&lethal);
    for (victim, next) in [(WORKER, NodeId(11)), (NodeId(11), NodeId(12)), (NodeId(12), NodeId(13))]
    {
        desk.connect_worker(next);
        desk.input(Input::Disconnected { node: victim });
        for _ in 0..13 {
            desk.wait(Duration::from_secs(1));
            let runs = desk.open().into_iter().filter(|(_, worker)| *worker == next);
            let reports = runs.map(|(open, _)| running(open)).collect();
            desk.renew(next, reports);
        }
        if let Some((open, worker)) = desk.open().first().copied() {
            assert_eq!((open.number.0, worker), (attempt.number.0 + 1, next));
            desk.accept(next, open);
            attempt = open;
        }
    }

    assert_eq!(attempt.number.0, 3);
    assert_eq!(desk.open(), [], "the fourth worker never hears of it");
    let cause = hyperscale_model::FailureCause::Poison { workers: 3 };
    assert_eq!(desk.part().ended, Some(EndStatus::Failed { cause }));
    assert_eq!(desk.free_cores(), 2, "and is free for others");
}

#[test]
fn dsp_11_the_next_attempt_is_what_the_first_was_but_for_who_runs_it_and_what_is_done() {
    let mut desk = Desk::new();
    let mut long = plan(vec![workflow("a", After::default())]);
    long.workflows[0].load = Load::ConstantVus { vus: 4, duration: Duration::from_secs(200) };
    desk.connect_gate();
    desk.connect_worker(WORKER);
    desk.offer(&long);
    desk.start();
    let offered = |desk: &mut Desk| {
        desk.wait(Duration::from_millis(10));
        let offers = desk.take().into_iter().filter_map(|(_, message)| match message {
            Message::OfferAttempt(offer) => Some(*offer),
            _ => None,
        });
        offers.collect::<Vec<_>>().pop().unwrap()
    };
    let first = offered(&mut desk);
    desk.accept(WORKER, first.attempt);
    desk.wait(Duration::from_millis(300));
    desk.renew(WORKER, vec![running(first.attempt)]);

    let incarnation = Incarnation(2);
    desk.input(Input::Disconnected { node: WORKER });
    desk.input(Input::WorkerConnected { worker: WORKER, incarnation });
    desk.renew(WORKER, Vec::new());
    let second = offered(&mut desk);

    assert_eq!(second.attempt.number.0, 2);
    let (attempt, seat) = (second.attempt, second.seat);
    assert_eq!(second, hyperscale_wire::Assignment { attempt, seat, ..first });
}

#[test]
fn dsp_13_a_start_that_is_said_again_says_how_late_it_is() {
    let mut desk = Desk::new();
    desk.connect_gate();
    desk.connect_worker(WORKER);
    desk.offer(&plan(vec![workflow("a", After::default())]));
    desk.start();
    let (attempt, _) = desk.open()[0];
    desk.take();
    desk.accept(WORKER, attempt);
    let mut starts = Vec::new();
    for _ in 0..30 {
        desk.wait(Duration::from_millis(100));
        starts.extend(desk.take().into_iter().filter_map(|(_, message)| match message {
            Message::StartAttempt { start_in, load_elapsed, late, .. } => {
                Some((start_in, load_elapsed, late))
            }
            _ => None,
        }));
    }

    let margin = ManagerConfig::new(MANAGER, DatacenterId::from("eu"), WallTime(0)).start_margin;
    assert_eq!(starts[0], (margin, Duration::ZERO, Duration::ZERO), "in time");
    let (start_in, load_elapsed, late) = starts[1];
    assert_eq!((start_in, load_elapsed), (Duration::ZERO, late), "all of it is still to be sent");
    assert!(late > Duration::from_millis(500), "{late:?}");
}
