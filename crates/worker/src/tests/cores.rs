//! Cores that come back, whichever way an attempt ends.

use super::*;

fn on_core(shard: u16) -> Assignment {
    let mut assignment = assignment(1, 1);
    assignment.attempt.shard.shard = hyperscale_model::ShardIndex(shard);
    assignment.seat = assignment.attempt;
    assignment
}

#[test]
fn wrk_02_each_end_gives_back_its_own_cores_and_no_others() {
    let ends = [
        AttemptEnd::Finished,
        AttemptEnd::Stopped,
        AttemptEnd::Aborted { message: "enough".to_owned() },
        AttemptEnd::CoreLost { message: "a thread panicked".to_owned() },
    ];
    for end in ends {
        let mut bench = Bench::new();
        let attempts = [on_core(0), on_core(1)].map(|assignment| {
            let attempt = assignment.attempt;
            bench.hear(Message::OfferAttempt(Box::new(assignment)));
            attempt
        });
        assert_eq!(bench.worker.free_cores(), 0);
        let bytes = plan().to_bytes();
        let (hash, total) = (on_core(0).plan, bytes.len() as u64);
        let prepared = bench.hear(Message::BlobChunk { hash, offset: 0, total, bytes });
        let mut cores: Vec<u32> = (prepared.iter())
            .filter_map(|output| match output {
                Output::Engine(EngineCommand::Prepare(preparation)) => Some(&preparation.cores),
                _ => None,
            })
            .flatten()
            .copied()
            .collect();
        cores.sort_unstable();
        assert_eq!(cores, [0, 1], "each its own");

        for (attempt, free) in attempts.into_iter().zip(1..) {
            bench.input(Input::Engine(EngineEvent::Prepared { attempt }));
            let (end, published) = (end.clone(), BTreeMap::new());
            bench.input(Input::Engine(EngineEvent::Ended {
                attempt,
                end,
                published,
                draws_made: Some(0),
            }));
            assert_eq!(bench.worker.free_cores(), free, "stepwise");
        }
        // What the leader hears of it next.
        let renewal = bench.at(1_000);
        let reported = renewal.iter().find_map(|output| match output {
            Output::Send { message: Message::RenewLease { report, .. }, .. } => {
                Some(report.attempts.iter().map(|attempt| attempt.cores).sum::<u32>())
            }
            _ => None,
        });
        assert_eq!(reported, Some(0), "the leader's view within one renewal");
    }
}

#[test]
fn bpr_02_at_reject_and_with_a_full_outbox_all_that_matters_still_passes() {
    let mut config = WorkerConfig::new(2);
    config.outbox_bytes = 1;
    let mut bench = Bench { worker: Worker::new(config), now: Time::ZERO, draws_made: 0 };
    bench.input(Input::Connected { manager: LEADER });
    bench.grant();
    let attempt = bench.run(2);
    bench.acknowledge(attempt, 0, Pressure::Reject);

    // Nothing is acknowledged for a long time.
    let mut sent: BTreeMap<u64, u64> = BTreeMap::new();
    let note = |sent: &mut BTreeMap<u64, u64>, outputs: &[Output]| {
        sent.extend(deltas(outputs).into_iter().map(|(seq, _, requests)| (seq, requests)));
    };
    let mut renewals = 0;
    for window in 0..3_600 {
        bench.now = Time::from_secs(window + 1);
        let outputs = bench.window(attempt, window);
        note(&mut sent, &outputs);
        let is_renewal = |output: &&Output| {
            matches!(output, Output::Send { message: Message::RenewLease { .. }, .. })
        };
        renewals += outputs.iter().filter(is_renewal).count();
        bench.grant();
    }
    assert!(renewals >= 3_599, "leases are renewed: {renewals}");
    assert!(bench.worker.outbox_bytes() < 10_000, "bounded: {}", bench.worker.outbox_bytes());
    let (fence, mode) = (FENCE, StopMode::Graceful);
    let stopped = bench.hear(Message::StopAttempt { attempt, fence, mode });
    assert!(stopped.contains(&Output::Engine(EngineCommand::Stop { attempt, mode })));
    let leads = bench.hear(Message::Lead { fence: Fence(8) });
    let is_known = |output: &Output| matches!(output, Output::Event(Event::LeaderChanged { .. }));
    assert!(leads.iter().any(is_known), "a new leader is followed");

    let (end, published) = (AttemptEnd::Stopped, BTreeMap::new());
    let ended = bench.input(Input::Engine(EngineEvent::Ended {
        attempt,
        end,
        published,
        draws_made: Some(0),
    }));
    note(&mut sent, &ended);

    let last = ended.iter().find_map(|output| match output {
        Output::Send { message: Message::AttemptEnded { end, .. }, .. } => Some(end.last_delta.0),
        _ => None,
    });
    assert_eq!(last, sent.keys().next_back().copied(), "its end is told, with its last figures");
    assert_eq!(sent.values().sum::<u64>(), 3_600, "and no request of it is missing");
}
