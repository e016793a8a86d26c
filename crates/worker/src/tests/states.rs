//! Every state of an attempt against everything that may happen to it.

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Never heard of, or refused.
    Unknown,
    Fetching,
    Preparing,
    Prepared,
    Running,
    Stopping,
    StoppingNow,
    Ended,
    /// Over, and nothing of it is left.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happens {
    Offered,
    PlanArrives,
    EnginePrepared,
    EngineUnprepared,
    Started,
    Stopped,
    StoppedNow,
    Window,
    EngineEnded,
    EndAcknowledged,
    DeltasAcknowledged,
    Forgotten,
}

const STATES: [State; 9] = [
    State::Unknown,
    State::Fetching,
    State::Preparing,
    State::Prepared,
    State::Running,
    State::Stopping,
    State::StoppingNow,
    State::Ended,
    State::Done,
];

const EVENTS: [Happens; 12] = [
    Happens::Offered,
    Happens::PlanArrives,
    Happens::EnginePrepared,
    Happens::EngineUnprepared,
    Happens::Started,
    Happens::Stopped,
    Happens::StoppedNow,
    Happens::Window,
    Happens::EngineEnded,
    Happens::EndAcknowledged,
    Happens::DeltasAcknowledged,
    Happens::Forgotten,
];

/// The whole table: whatever is not here changes nothing.
fn next(state: State, happens: Happens) -> State {
    use Happens as H;
    use State as S;
    match (state, happens) {
        (S::Unknown, H::Offered) => S::Fetching,
        (S::Fetching, H::PlanArrives) => S::Preparing,
        (S::Preparing, H::EnginePrepared) => S::Prepared,
        (S::Preparing, H::EngineUnprepared) => S::Unknown,
        (S::Prepared, H::Started) => S::Running,
        (S::Running, H::Stopped) => S::Stopping,
        (S::Running | S::Stopping, H::StoppedNow) => S::StoppingNow,
        (S::Fetching | S::Preparing | S::Prepared, H::Stopped | H::StoppedNow) => S::Ended,
        (S::Preparing | S::Prepared | S::Running, H::EngineEnded)
        | (S::Stopping | S::StoppingNow, H::EngineEnded) => S::Ended,
        (S::Ended, H::EndAcknowledged) => S::Done,
        (S::Unknown | S::Done, H::Forgotten) => state,
        (_, H::Forgotten) => S::Done,
        _ => state,
    }
}

impl Bench {
    fn state(&self) -> State {
        let id = attempt(1);
        let Some(known) = self.worker.attempts.get(&id) else {
            let is_over = self.worker.finished.contains(&id);
            return if is_over { State::Done } else { State::Unknown };
        };
        match &known.phase {
            Phase::Fetching => State::Fetching,
            Phase::Preparing => State::Preparing,
            Phase::Prepared => State::Prepared,
            Phase::Running { stopping: None } => State::Running,
            Phase::Running { stopping: Some(StopMode::Graceful) } => State::Stopping,
            Phase::Running { stopping: Some(StopMode::Now) } => State::StoppingNow,
            Phase::Ended { .. } => State::Ended,
        }
    }

    fn happen(&mut self, happens: Happens) -> Vec<Output> {
        let attempt = attempt(1);
        let stop = |mode| Message::StopAttempt { attempt, fence: FENCE, mode };
        match happens {
            Happens::Offered => self.hear(Message::OfferAttempt(Box::new(assignment(1, 2)))),
            Happens::PlanArrives => {
                let hash = assignment(1, 2).plan;
                let bytes = plan().to_bytes();
                self.hear(Message::BlobChunk { hash, offset: 0, total: bytes.len() as u64, bytes })
            }
            Happens::EnginePrepared => self.engine(EngineEvent::Prepared { attempt }),
            Happens::EngineUnprepared => {
                self.engine(EngineEvent::Unprepared { attempt, message: "no".to_owned() })
            }
            Happens::Started => self.hear(Message::StartAttempt {
                attempt,
                fence: FENCE,
                start_in: Duration::ZERO,
                job_elapsed: Duration::ZERO,
                load_elapsed: Duration::ZERO,
                late: Duration::ZERO,
            }),
            Happens::Stopped => self.hear(stop(StopMode::Graceful)),
            Happens::StoppedNow => self.hear(stop(StopMode::Now)),
            Happens::Window => self.window(attempt, 0),
            Happens::EngineEnded => {
                let (end, published) = (AttemptEnd::Finished, BTreeMap::new());
                self.engine(EngineEvent::Ended { attempt, end, published, draws_made: Some(0) })
            }
            Happens::EndAcknowledged => self.hear(Message::AttemptEndedAck { attempt }),
            Happens::DeltasAcknowledged => {
                self.acknowledge(attempt, 0, Pressure::None);
                Vec::new()
            }
            Happens::Forgotten => self.hear(Message::LeaseGranted {
                sent_at: self.now,
                fence: FENCE,
                lease: LEASE,
                stop: Vec::new(),
                forget: vec![attempt],
                steer: Vec::new(),
            }),
        }
    }

    fn engine(&mut self, event: EngineEvent) -> Vec<Output> {
        self.input(Input::Engine(event))
    }

    /// A worker whose attempt is in a state, by the shortest way there.
    fn in_state(state: State) -> Self {
        use Happens as H;
        let ways: &[Happens] = match state {
            State::Unknown => &[],
            State::Fetching => &[H::Offered],
            State::Preparing => &[H::Offered, H::PlanArrives],
            State::Prepared => &[H::Offered, H::PlanArrives, H::EnginePrepared],
            State::Running => &[H::Offered, H::PlanArrives, H::EnginePrepared, H::Started],
            State::Stopping => {
                &[H::Offered, H::PlanArrives, H::EnginePrepared, H::Started, H::Stopped]
            }
            State::StoppingNow => {
                &[H::Offered, H::PlanArrives, H::EnginePrepared, H::Started, H::StoppedNow]
            }
            State::Ended => {
                &[H::Offered, H::PlanArrives, H::EnginePrepared, H::Started, H::EngineEnded]
            }
            State::Done => &[H::Offered, H::Stopped, H::EndAcknowledged],
        };
        let mut bench = Self::new();
        for &happens in ways {
            bench.happen(happens);
        }
        assert_eq!(bench.state(), state);
        bench
    }
}

const fn holds_cores(state: State) -> bool {
    match state {
        State::Unknown | State::Ended | State::Done => false,
        State::Fetching
        | State::Preparing
        | State::Prepared
        | State::Running
        | State::Stopping
        | State::StoppingNow => true,
    }
}

#[test]
fn wrk_04_wrk_02_every_state_and_event_lead_where_the_table_says_and_cores_follow() {
    for state in STATES {
        for happens in EVENTS {
            let mut bench = Bench::in_state(state);

            bench.happen(happens);

            let expected = next(state, happens);
            assert_eq!(bench.state(), expected, "{state:?}, {happens:?}");
            let free = if holds_cores(expected) { 0 } else { 2 };
            assert_eq!(bench.worker.free_cores(), free, "{state:?}, {happens:?}: cores");
        }
    }
}

#[test]
fn wrk_04_what_has_ended_stays_as_it_ended() {
    for happens in EVENTS {
        let mut bench = Bench::in_state(State::Ended);
        let end_of = |outputs: &[Output]| {
            outputs.iter().find_map(|output| match output {
                Output::Send { message: Message::AttemptEnded { end, .. }, .. } => {
                    Some(end.clone())
                }
                _ => None,
            })
        };
        let told = end_of(&bench.at(2_000)).unwrap();

        bench.happen(happens);
        let (end, published) = (AttemptEnd::Stopped, BTreeMap::new());
        bench.engine(EngineEvent::Ended {
            attempt: attempt(1),
            end,
            published,
            draws_made: Some(0),
        });
        let again = end_of(&bench.at(4_000));

        let is_done = matches!(happens, Happens::EndAcknowledged | Happens::Forgotten);
        assert_eq!(again, (!is_done).then_some(told), "{happens:?}");
    }
}

#[test]
fn wrk_04_what_the_engine_says_out_of_turn_is_told() {
    use Happens as H;
    let out_of_turn = [
        (State::Fetching, H::EnginePrepared),
        (State::Running, H::EngineUnprepared),
        (State::Prepared, H::Window),
        (State::Ended, H::Window),
        (State::Ended, H::EngineEnded),
        (State::Done, H::EngineEnded),
    ];
    for (state, happens) in out_of_turn {
        let outputs = Bench::in_state(state).happen(happens);

        let is_told = |output: &&Output| matches!(output, Output::Event(Event::OutOfTurn { .. }));
        assert_eq!(outputs.iter().filter(is_told).count(), 1, "{state:?}, {happens:?}");
    }
}

#[test]
fn obs_01_an_attempt_is_received_started_ended_and_settled_once_whatever_is_repeated() {
    use Happens as H;
    let runs = [H::Offered, H::PlanArrives, H::EnginePrepared, H::Started, H::EngineEnded];
    let never_starts = [H::Offered, H::PlanArrives, H::Stopped];
    for (way, starts) in [(&runs[..], 1), (&never_starts[..], 0)] {
        let mut bench = Bench::new();
        let mut told = Vec::new();

        for &happens in way.iter().chain(&[H::EndAcknowledged, H::Offered]) {
            for _ in 0..2 {
                told.extend(bench.happen(happens));
            }
        }

        let count = |is: fn(&Event) -> bool| {
            told.iter().filter(|o| matches!(o, Output::Event(event) if is(event))).count()
        };
        assert_eq!(count(|event| matches!(event, Event::AttemptReceived { .. })), 1, "{way:?}");
        assert_eq!(count(|event| matches!(event, Event::AttemptStarted { .. })), starts);
        assert_eq!(count(|event| matches!(event, Event::AttemptEnded { .. })), 1, "{way:?}");
        assert_eq!(count(|event| matches!(event, Event::AttemptEndAcknowledged { .. })), 1);
    }
}
