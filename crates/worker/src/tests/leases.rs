//! A worker whose leader is gone, and who claims it then.

use super::*;

const NEXT: NodeId = NodeId(2);

impl Bench {
    fn granted_by(&mut self, from: NodeId, fence: Fence, forget: Vec<AttemptId>) -> Vec<Output> {
        let (sent_at, lease) = (self.now, LEASE);
        let (stop, steer) = (Vec::new(), Vec::new());
        let message = Message::LeaseGranted { sent_at, fence, lease, stop, forget, steer };
        self.input(Input::Message { from, message })
    }

    /// The leader is gone; another manager is linked.
    fn lose_leader(&mut self) {
        self.input(Input::Disconnected { manager: LEADER });
        self.input(Input::Connected { manager: NEXT });
    }
}

#[test]
fn orp_03_work_goes_on_if_the_next_leader_claims_it_in_time() {
    let mut bench = Bench::new();
    let attempt = bench.run(2);
    bench.lose_leader();

    bench.at(9_000);
    let claimed = bench.granted_by(NEXT, Fence(8), Vec::new());
    let later = bench.at(18_000);

    let until = Time::from_secs(19);
    assert!(claimed.contains(&Output::Engine(EngineCommand::Lease { until })));
    assert!(!later.contains(&Output::Event(Event::LeaseLost)));
    assert_eq!(bench.worker.running().collect::<Vec<_>>(), [attempt]);
}

#[test]
fn orp_03_unclaimed_work_stops_when_its_lease_ends_and_is_gone_once_a_leader_says_so() {
    let mut bench = Bench::new();
    let attempt = bench.run(2);
    bench.window(attempt, 0);
    bench.lose_leader();

    assert!(bench.at(10_000).contains(&Output::Event(Event::LeaseLost)));
    assert_eq!(bench.worker.running().count(), 0);
    let renewal = bench.at(11_000);
    let phase = renewal.iter().find_map(|output| match output {
        Output::Send { to: NEXT, message: Message::RenewLease { report, .. } } => {
            report.attempts.first().map(|attempt| attempt.phase)
        }
        _ => None,
    });
    assert_eq!(phase, Some(AttemptPhase::Paused), "it goes on asking, and says how it is");
    // The next leader has given its work to another.
    let told = bench.granted_by(NEXT, Fence(8), vec![attempt]);

    assert!(told.contains(&Output::Engine(EngineCommand::Discard { attempt })));
    let forgotten = Event::AttemptForgotten { attempt, uncounted_requests: 1 };
    assert!(told.contains(&Output::Event(forgotten)), "what it had not told is counted");
    assert_eq!(bench.worker.free_cores(), 2);
    let back = bench.granted_by(NEXT, Fence(8), Vec::new());
    assert!(
        !back.iter().any(|output| matches!(output, Output::Engine(EngineCommand::Start { .. })))
    );
    assert_eq!(bench.worker.running().count(), 0, "it never comes back");
}

#[test]
fn orp_03_a_claim_at_the_instant_of_expiry_lets_it_run_or_not_and_says_which() {
    for claims_first in [true, false] {
        let mut bench = Bench::new();
        bench.run(2);
        bench.lose_leader();
        bench.now = Time::from_secs(10);

        let mut outputs = Vec::new();
        if !claims_first {
            outputs.extend(bench.input(Input::Tick));
        }
        outputs.extend(bench.granted_by(NEXT, Fence(8), Vec::new()));
        outputs.extend(bench.input(Input::Tick));

        let count = |event: &Event| {
            outputs.iter().filter(|o| matches!(o, Output::Event(e) if e == event)).count()
        };
        let (lost, regained) = (count(&Event::LeaseLost), count(&Event::LeaseRegained));
        assert_eq!((lost, regained), if claims_first { (0, 0) } else { (1, 1) });
        assert_eq!(bench.worker.running().count(), 1);
        // The deposed one may not take it back.
        bench.input(Input::Connected { manager: LEADER });
        bench.granted_by(LEADER, FENCE, vec![attempt(1)]);
        assert_eq!(bench.worker.running().count(), 1);
    }
}
