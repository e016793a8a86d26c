#![expect(clippy::wildcard_enum_match_arm, reason = "tests look at a few messages of many")]

use std::time::Duration;

use hyperscale_model::{PartId, PartIndex};
use hyperscale_plan::{
    After, HttpSettings, Load, PLAN_FORMAT, RunSettings, Secrets, StepName, Workflow,
};

use super::*;

const GATE: NodeId = NodeId(1);
const MANAGER: NodeId = NodeId(2);

fn workflow(name: &str) -> Workflow {
    Workflow {
        name: name.to_owned(),
        after: After::default(),
        load: Load::ConstantVus { vus: 4, duration: Duration::from_secs(20) },
        steps: Vec::new(),
        locals: Vec::new(),
        publish: Vec::new(),
        start_after: Duration::ZERO,
        graceful_stop: Duration::from_secs(5),
        cores: None,
        on_error: Default::default(),
        vu_setup: Vec::new(),
        vu_teardown: Vec::new(),
        finally: Vec::new(),
    }
}

fn plan(workflows: Vec<Workflow>) -> Plan {
    Plan {
        format: PLAN_FORMAT,
        name: "test".to_owned(),
        description: None,
        labels: BTreeMap::new(),
        vars: BTreeMap::new(),
        env: BTreeMap::new(),
        secrets: Vec::new(),
        http: HttpSettings::default(),
        data: Vec::new(),
        workflows,
        steps: vec![StepName { workflow: Default::default(), name: "a/get".to_owned() }],
        checks: Vec::new(),
        metrics: Vec::new(),
        thresholds: Vec::new(),
        run: RunSettings::default(),
        source: None,
    }
}

/// A gate whose proposals are decided at once, and what must outlive it.
struct Desk {
    now: Time,
    index: u64,
    gate: Gate,
    log: Vec<Vec<u8>>,
    blobs: Vec<Arc<[u8]>>,
    checkpoints: BTreeMap<JobId, Vec<u8>>,
    sent: Vec<Message>,
    replies: Vec<Reply>,
    version: u64,
    requests: u64,
}

impl Desk {
    fn new() -> Self {
        let config = GateConfig::new(GATE, WallTime(1_000), [7; 32]);
        let mut desk = Self {
            now: Time::ZERO,
            index: 0,
            gate: Gate::new(config, 1),
            log: Vec::new(),
            blobs: Vec::new(),
            checkpoints: BTreeMap::new(),
            sent: Vec::new(),
            replies: Vec::new(),
            version: 0,
            requests: 0,
        };
        desk.input(Input::Leadership { leads: true });
        desk.connect(1);
        desk
    }

    /// The gate dies, and the next one reads what it left behind.
    fn restart(&mut self) {
        let config = GateConfig::new(GATE, WallTime(1_000), [7; 32]);
        self.gate = Gate::new(config, 2);
        for bytes in self.blobs.clone() {
            self.input(Input::Blob { bytes });
        }
        for (job, checkpoint) in self.checkpoints.clone() {
            self.input(Input::Checkpoint { job, checkpoint });
        }
        for (entry, index) in self.log.clone().into_iter().zip(1..) {
            self.input(Input::Committed { index, entry, proposal: None });
        }
    }

    fn input(&mut self, input: Input) {
        self.gate.handle(self.now, input);
        loop {
            let outputs: Vec<Output> = self.gate.drain().collect();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    Output::Send { message, .. } => self.sent.push(message),
                    Output::Reply { reply, .. } => self.replies.push(reply),
                    Output::StoreBlob { bytes, .. } => self.blobs.push(bytes),
                    Output::StoreCheckpoint { job, checkpoint } => {
                        self.checkpoints.insert(job, checkpoint);
                    }
                    Output::Propose { proposal, entry } => {
                        self.log.push(entry.clone());
                        self.index += 1;
                        let (index, proposal) = (self.index, Some(proposal));
                        self.gate.handle(self.now, Input::Committed { index, entry, proposal });
                    }
                    _ => {}
                }
            }
        }
    }

    fn connect(&mut self, leader_fence: u64) {
        self.input(Input::ManagerConnected { manager: MANAGER });
        self.version += 1;
        let status = DatacenterStatus {
            datacenter: DatacenterId::from("eu"),
            leading: Some(Fence(leader_fence)),
            version: hyperscale_model::Version(self.version),
            workers: 1,
            cores: 2,
            free_cores: 2,
        };
        self.message(Message::DatacenterStatus(status));
    }

    fn message(&mut self, message: Message) {
        self.input(Input::Message { from: MANAGER, message });
    }

    fn ask(&mut self, request: Request) -> Option<Reply> {
        self.requests += 1;
        let (id, client) = (RequestId(self.requests), ClientId::from("test"));
        self.input(Input::Request { id, client, request });
        self.replies.pop()
    }

    fn submit(&mut self, plan: &Plan) -> PartId {
        let secrets = Secrets([("token".to_owned(), "s3cret".to_owned())].into());
        let (key, plan, blobs) = ("once".to_owned(), plan.to_bytes(), Vec::new());
        let reply = self.ask(Request::Submit { key, plan, blobs, secrets });
        let Some(Reply::Accepted { job }) = reply else { panic!("not accepted: {reply:?}") };
        PartId { job, part: PartIndex(0) }
    }

    fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.gate.next_deadline().filter(|&next| next <= end) {
            self.now = self.now.max(next);
            self.input(Input::Tick);
        }
        self.now = end;
    }
}

#[test]
fn a_job_that_nobody_has_taken_up_yet_is_not_said_to_be_over() {
    let mut desk = Desk::new();
    let job = desk.submit(&plan(vec![workflow("a")])).job;

    desk.restart();
    let before = desk.ask(Request::Watch { job, after: 0 });
    desk.input(Input::Leadership { leads: true });
    let news = desk.ask(Request::Watch { job, after: 0 });

    let is_not_ready =
        |reply: &Reply| matches!(reply, Reply::Error(e) if e.kind == RequestErrorKind::NotReady);
    assert!(before.as_ref().is_some_and(is_not_ready), "{before:?}");
    assert!(matches!(news, Some(Reply::News { is_over: false, .. })), "{news:?}");
}
