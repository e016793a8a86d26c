//! What it costs a datacenter's leader to lead: the manager's own code, fed with what its workers and
//! its gate say each second, read from frames and answered in frames.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyperscale_manager::{Input, Manager, ManagerConfig, Output};
use hyperscale_model::{
    AttemptId, DatacenterId, DeltaSeq, Fence, Incarnation, JobId, NodeId, Outcome, PartId,
    PartIndex, Pressure, SplitMix, Time, Version, WallTime,
};
use hyperscale_plan::{CompileOptions, Secrets, Slice, StepIndex, compile};
use hyperscale_stats::{Delta, Figures, Histogram, Sample, StepFigures, WindowFigures};
use hyperscale_wire::{
    AttemptPhase, AttemptReport, Message, PartOffer, WorkerReport, decode_message, encode_frame,
};

use crate::{Effort, clock};

const GATE: NodeId = NodeId(1);
const MANAGER: NodeId = NodeId(2);
/// Requests in a delta, of which its histograms are made.
const REQUESTS: u64 = 1_000;
/// The head of a frame, before the message.
const HEAD: usize = 4;

pub(crate) fn leader(effort: Effort) -> anyhow::Result<()> {
    let (sizes, seconds): (&[u64], u64) = match effort {
        Effort::Quick => (&[10, 100], 10),
        Effort::Full => (&[10, 100, 300, 1_000], 30),
    };
    println!("{:>8} {:>16} {:>16}", "workers", "of one core", "for each worker");
    for &workers in sizes {
        let took = Leader::start(workers)?.lead(seconds)?;
        let share = took.as_secs_f64() / seconds as f64;
        let each = took / u32::try_from(workers * seconds).unwrap_or(u32::MAX);
        println!("{workers:>8} {:>14.1} % {each:>16?}", share * 100.0);
        println!("figure leader.{workers} {:.3} cores", share);
    }
    Ok(())
}

struct Leader {
    manager: Manager,
    now: Time,
    index: u64,
    workers: u64,
    version: u64,
    /// The attempt of each worker.
    attempts: BTreeMap<NodeId, AttemptId>,
    figures: WindowFigures,
    /// Time that the manager took, with reading and writing frames.
    took: Duration,
}

impl Leader {
    fn start(workers: u64) -> anyhow::Result<Self> {
        let config = ManagerConfig::new(MANAGER, DatacenterId::from("eu"), WallTime(1_000));
        let mut leader = Self {
            manager: Manager::new(config),
            now: Time::ZERO,
            index: 0,
            workers,
            version: 0,
            attempts: BTreeMap::new(),
            figures: figures(),
            took: Duration::ZERO,
        };
        leader.input(Input::Leadership { leads: true, leader: Some(MANAGER) })?;
        leader.input(Input::Confirmed { until: Time::from_nanos(u64::MAX) })?;
        leader.input(Input::GateConnected { gate: GATE })?;
        for worker in 0..workers {
            let (worker, incarnation) = (NodeId(100 + worker), Incarnation(1));
            leader.input(Input::WorkerConnected { worker, incarnation })?;
            leader.renew(worker)?;
        }
        leader.offer()?;
        for _ in 0..40 {
            leader.pass(Duration::from_millis(100))?;
        }
        let placed = leader.attempts.len() as u64;
        anyhow::ensure!(placed == workers, "{placed} of {workers} workers have an attempt");
        leader.took = Duration::ZERO;
        Ok(leader)
    }

    fn offer(&mut self) -> anyhow::Result<()> {
        let test = format!(
            "target: http://127.0.0.1:1\nworkflows:\n  main:\n    load: {{ vus: {}, duration: 1h }}\n    \
             cores: {}\n    steps: [ {{ get: / }} ]\n",
            self.workers * 10,
            self.workers,
        );
        let options = CompileOptions {
            name: "test.yaml",
            sets: &[],
            environment: &|_| None,
            read_file: &|_, _| Err("no files here".to_owned()),
        };
        let compiled = compile(test.as_bytes(), &options);
        let plan = compiled.map_err(|error| anyhow::anyhow!("{error:?}"))?.plan;
        let bytes: Arc<[u8]> = plan.to_bytes().into();
        let part = PartId { job: JobId::from_parts(1, 1), part: PartIndex(0) };
        let offer = PartOffer {
            part,
            fence: Fence(3),
            plan: hyperscale_blobs::hash_of(&bytes),
            slice: Slice::whole(),
            rows: Slice::whole(),
            is_shared: false,
            window: Duration::from_secs(1),
            secrets: Secrets::default(),
        };
        self.input(Input::Blob { bytes })?;
        self.hear(GATE, &Message::OfferPart(Box::new(offer)))?;
        let start = Message::StartPart { part, fence: Fence(3), start_in: Duration::ZERO };
        self.hear(GATE, &start)
    }

    /// So many seconds, in each of which every worker asks for its lease and tells its statistics,
    /// and the gate acknowledges them.
    fn lead(mut self, seconds: u64) -> anyhow::Result<Duration> {
        let attempts = self.attempts.clone();
        let step = Duration::from_secs(1) / u32::try_from(self.workers)?;
        for second in 1..=seconds {
            for (&worker, &attempt) in &attempts {
                self.pass(step)?;
                self.renew(worker)?;
                let (window, seq) = (second - 1, DeltaSeq(second));
                let figures = self.figures.clone();
                let delta = Delta { attempt, seq, window, span: 1, figures };
                self.hear(worker, &Message::Delta(Box::new(delta)))?;
                let acknowledged = Message::DeltaAck {
                    attempt,
                    through: seq,
                    iterations: 0,
                    until: Duration::from_secs(second),
                    pressure: Pressure::None,
                };
                self.hear(GATE, &acknowledged)?;
            }
        }
        Ok(self.took)
    }

    fn renew(&mut self, worker: NodeId) -> anyhow::Result<()> {
        self.version += 1;
        let attempts = self.attempts.get(&worker).map(|&attempt| {
            let phase = AttemptPhase::Running;
            AttemptReport {
                attempt,
                phase,
                cores: 1,
                steered: 0,
                rows_until: 0,
                rows_wanted: 0,
                job_time: None,
            }
        });
        let report = WorkerReport {
            version: Version(self.version),
            cores: 1,
            is_draining: false,
            software: String::new(),
            attempts: attempts.into_iter().collect(),
        };
        self.hear(worker, &Message::RenewLease { sent_at: self.now, report })
    }

    /// A message as it comes from a link.
    fn hear(&mut self, from: NodeId, message: &Message) -> anyhow::Result<()> {
        let frame = encode_frame(message).context("a frame")?;
        let begun = clock::now();
        let message = decode_message(&frame[HEAD..]).context("a message")?;
        self.took += begun.elapsed();
        self.input(Input::Message { from, message })
    }

    /// Time passes, with all ticks that are due.
    fn pass(&mut self, duration: Duration) -> anyhow::Result<()> {
        let end = self.now + duration;
        while let Some(next) = self.manager.next_deadline().filter(|&next| next <= end) {
            self.now = self.now.max(next);
            self.input(Input::Tick)?;
        }
        self.now = end;
        Ok(())
    }

    fn input(&mut self, input: Input) -> anyhow::Result<()> {
        let begun = clock::now();
        self.manager.handle(self.now, input);
        let mut accepted = Vec::new();
        loop {
            let outputs: Vec<Output> = self.manager.drain().collect();
            if outputs.is_empty() {
                break;
            }
            for output in outputs {
                match output {
                    Output::Propose { proposal, entry } => {
                        self.index += 1;
                        let (index, proposal) = (self.index, Some(proposal));
                        self.manager.handle(self.now, Input::Committed { index, entry, proposal });
                    }
                    Output::Send { to, message } => {
                        encode_frame(&message).context("a frame")?;
                        if let Message::OfferAttempt(offer) = message {
                            accepted.push((to, offer.attempt, offer.fence));
                        }
                    }
                    Output::Found { .. }
                    | Output::ChangeElectorate(_)
                    | Output::Removed
                    | Output::Leave
                    | Output::StoreBlob { .. }
                    | Output::DropBlobs { .. }
                    | Output::Snapshot { .. }
                    | Output::Decided(_)
                    | Output::Event(_) => {}
                }
            }
        }
        self.took += begun.elapsed();
        for (worker, attempt, fence) in accepted {
            self.attempts.insert(worker, attempt);
            self.hear(worker, &Message::AttemptAccepted { attempt, fence })?;
        }
        Ok(())
    }
}

/// What a worker tells of a busy second.
fn figures() -> WindowFigures {
    let mut random = SplitMix::new(7);
    let mut step = StepFigures::<Histogram>::default();
    for _ in 0..REQUESTS {
        let latency = Duration::from_micros(500 + random.below(20_000));
        step.record(&Sample {
            outcome: Outcome::Ok,
            status: Some(200),
            latency,
            service_time: latency,
            first_byte: Some(latency),
            connect: None,
            tls: None,
            bytes_in: 1_000,
            bytes_out: 100,
        });
    }
    let figures = Figures {
        steps: vec![(StepIndex(0), step.take_sparse())],
        iterations: REQUESTS,
        ..Figures::default()
    };
    WindowFigures { figures, vus: 10, busiest_core: 300, exchanges: Vec::new() }
}
