//! Leaders that come and go, and what they have still to tell.

use super::*;

fn is_of_a_leader(message: &Message) -> bool {
    matches!(
        message,
        Message::OfferAttempt(_)
            | Message::StartAttempt { .. }
            | Message::StopAttempt { .. }
            | Message::SteerAttempt { .. }
            | Message::LeaseGranted { .. }
            | Message::Lead { .. }
            | Message::PartReport(_)
            | Message::PartEnded(_)
            | Message::PartAccepted { .. }
            | Message::Delta(_)
            | Message::DeltaAck { .. }
            | Message::DatacenterStatus(_)
    )
}

#[test]
fn ldr_09_whoever_leads_no_more_says_and_decides_nothing_of_a_leader() {
    let mut desk = Desk::new();
    let attempt = desk.run();
    desk.delta(attempt, 1);
    desk.input(Input::Leadership { leads: false, leader: Some(NodeId(3)) });
    desk.take();
    let decided = desk.log.len();

    for _ in 0..30 {
        desk.wait(Duration::from_secs(1));
        desk.renew(WORKER, vec![running(attempt)]);
        desk.delta(attempt, 2);
        desk.stop(StopMode::Graceful);
        desk.offer(&plan(vec![workflow("a", After::default())]));
        desk.attempt_ended(WORKER, attempt, AttemptEnd::Finished);
    }

    let sent = desk.take();
    let of_a_leader: Vec<_> = sent.iter().filter(|(_, message)| is_of_a_leader(message)).collect();
    assert!(of_a_leader.is_empty(), "{of_a_leader:?}");
    assert_eq!(desk.log.len(), decided, "nothing was proposed");
    let is_refusal = |(_, message): &&(NodeId, Message)| {
        matches!(message, Message::NotLeader { leader: Some(NodeId(3)) })
    };
    assert_eq!(sent.iter().filter(is_refusal).count(), 30, "workers are told who leads");
}

#[test]
fn ldr_09_fifty_gains_and_losses_leave_no_more_work_than_the_first() {
    let mut desk = Desk::new();
    let attempt = desk.run();
    let stretch = |desk: &mut Desk| {
        desk.take();
        let decided = desk.log.len();
        let mut ticks = 0;
        for _ in 0..8 {
            ticks += desk.wait(Duration::from_secs(1));
            desk.renew(WORKER, vec![running(attempt)]);
        }
        (ticks, desk.take().len(), desk.log.len() - decided)
    };
    desk.lead_anew();
    desk.renew(WORKER, vec![running(attempt)]);
    desk.wait(Duration::from_secs(1));
    let once = stretch(&mut desk);
    desk.events.clear();

    for _ in 0..50 {
        desk.lead_anew();
        desk.renew(WORKER, vec![running(attempt)]);
    }

    let is_gain = |event: &&Event| matches!(event, Event::LeadershipGained { .. });
    let is_loss = |event: &&Event| matches!(event, Event::LeadershipLost);
    let told =
        (desk.events.iter().filter(is_gain).count(), desk.events.iter().filter(is_loss).count());
    assert_eq!(told, (50, 50), "each change is told once");
    assert_eq!(desk.open(), [(attempt, WORKER)], "what runs was left alone");
    desk.wait(Duration::from_secs(1));
    let again = stretch(&mut desk);
    assert!(again.0 <= once.0 && again.1 <= once.1 && again.2 <= once.2, "{again:?}, {once:?}");
}

#[test]
fn ldr_10_a_manager_that_does_not_lead_names_who_does() {
    let mut desk = Desk::new();
    let refusals = |desk: &mut Desk| {
        let sent = desk.take().into_iter().filter_map(|(to, message)| match message {
            Message::PartRefused { why, .. } => Some((to, why)),
            _ => None,
        });
        sent.collect::<Vec<_>>()
    };
    let plan = plan(vec![workflow("a", After::default())]);
    desk.input(Input::Leadership { leads: false, leader: Some(NodeId(3)) });

    desk.offer(&plan);
    assert_eq!(refusals(&mut desk), [(GATE, RefusePart::NotLeader { leader: Some(NodeId(3)) })]);
    desk.input(Input::Leadership { leads: false, leader: None });
    desk.offer(&plan);
    let refused = refusals(&mut desk);
    assert!(matches!(refused[..], [(GATE, RefusePart::NotReady { .. })]), "{refused:?}");

    assert!(desk.manager.state().parts.is_empty(), "it took nothing");
}

#[test]
fn ldr_10_three_gates_that_offer_one_part_make_one_of_it() {
    let mut desk = Desk::new();
    let plan = plan(vec![workflow("a", After::default())]);
    let bytes: Arc<[u8]> = plan.to_bytes().into();
    let hash = hyperscale_blobs::hash_of(&bytes);
    desk.input(Input::Blob { bytes });
    desk.connect_worker(WORKER);
    // Owners one after another: their offers cross, and are repeated.
    for (gate, fence) in [(1, 3), (5, 5), (4, 4), (1, 3), (5, 5)] {
        let offer = PartOffer {
            part: part(),
            fence: Fence(fence),
            plan: hash,
            slice: Slice::whole(),
            rows: Slice::whole(),
            is_shared: false,
            window: Duration::from_secs(1),
            secrets: Secrets::default(),
        };
        desk.input(Input::GateConnected { gate: NodeId(gate) });
        desk.message(NodeId(gate), Message::OfferPart(Box::new(offer)));
    }
    let answers: Vec<(u64, &str)> = (desk.take().into_iter())
        .filter_map(|(to, message)| match message {
            Message::PartAccepted { .. } => Some((to.0, "accepted")),
            Message::StaleFence { .. } => Some((to.0, "stale")),
            _ => None,
        })
        .collect();

    assert_eq!(
        answers,
        [(1, "accepted"), (5, "accepted"), (4, "stale"), (1, "stale"), (5, "accepted")]
    );
    assert_eq!(desk.manager.state().parts.len(), 1);
    assert_eq!((desk.part().gate, desk.part().fence), (NodeId(5), Fence(5)));
}

/// When the end of the part was told, in milliseconds after its first time.
fn tellings(desk: &mut Desk, time: Duration) -> Vec<u64> {
    let mut told = Vec::new();
    let end = desk.now + time;
    while desk.now < end {
        desk.wait(Duration::from_millis(100));
        let ends = desk.take().into_iter().filter(|(_, m)| matches!(m, Message::PartEnded(_)));
        told.extend(ends.map(|_| desk.now.as_nanos() / 1_000_000));
    }
    told
}

#[test]
fn res_06_an_end_is_told_at_growing_distances_until_it_is_heard() {
    let mut desk = Desk::new();
    let attempt = desk.run();
    desk.attempt_ended(WORKER, attempt, AttemptEnd::Finished);
    let first: usize =
        desk.take().iter().filter(|(_, m)| matches!(m, Message::PartEnded(_))).count();
    assert_eq!(first, 1);

    let told = tellings(&mut desk, Duration::from_secs(300));
    let gaps: Vec<u64> = told.windows(2).map(|pair| (pair[1] - pair[0]).div_ceil(1_000)).collect();
    assert!(gaps.windows(2).all(|pair| pair[1] >= pair[0]), "they grow: {gaps:?}");
    assert!(gaps.iter().all(|&gap| gap <= 31), "up to 30 s: {gaps:?}");
    assert_eq!(gaps.last(), Some(&30), "{gaps:?}");
    let is_alarm = |event: &&Event| matches!(event, Event::EndUnheard { .. });
    assert_eq!(desk.events.iter().filter(is_alarm).count(), 1, "after ten times someone is told");

    // The gate has no link for a while: nothing is lost, and it hears of it at once.
    desk.input(Input::Disconnected { node: GATE });
    assert_eq!(tellings(&mut desk, Duration::from_secs(60)), [0; 0]);
    desk.connect_gate();
    assert_eq!(tellings(&mut desk, Duration::from_millis(900)).len(), 1);
    // Nor does the end of the leader lose it.
    desk.hand_over(NodeId(3));
    let told = tellings(&mut desk, Duration::from_secs(60));
    assert!((3..=7).contains(&told.len()), "{told:?}");
    desk.message(GATE, Message::PartEndedAck { part: part() });
    assert_eq!(tellings(&mut desk, Duration::from_secs(60)), [0; 0], "it was heard");
    assert!(desk.manager.state().parts.is_empty());
}
