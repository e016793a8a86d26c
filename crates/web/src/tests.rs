use std::collections::BTreeSet;
use std::net::SocketAddr;

use hyperscale_gate::{DatacenterView, JobView, NodeView};
use hyperscale_model::{
    DatacenterId, EndStatus, FailureCause, JobState, NodeId, OverloadState, Role, Verdict, WallTime,
};
use hyperscale_node::{Node, NodeConfig};
use hyperscale_plan::{CompileOptions, compile};
use hyperscale_wire::NodeState;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// A gate with its API, and what talks to it as any client would.
struct Served {
    address: SocketAddr,
    api: Api,
    _node: Node,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Got {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    #[track_caller]
    fn kind(&self) -> String {
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let problem = self.json();
        assert_fits("Problem", &problem);
        let kind = problem["type"].as_str().unwrap().to_owned();
        let known = problem::KINDS.iter().find(|(known, _, _)| *known == kind).unwrap();
        assert_eq!(known.1, self.status, "{kind} has another status in the reference");
        kind
    }
}

impl Served {
    async fn with(tokens: Tokens, limits: Limits) -> Self {
        let node = Node::start(NodeConfig::local(1)).unwrap();
        let api = Api::new(node.gate().unwrap(), tokens, limits);
        Self::serving(node, api).await
    }

    /// With an API that only the test tells how overloaded its node is.
    async fn as_overloaded_as_told() -> (Self, Arc<Observer>) {
        let node = Node::start(NodeConfig::local(1)).unwrap();
        let limits = Limits { rate: None, ..Limits::DEFAULT };
        let mut api = Api::new(node.gate().unwrap(), Tokens::default(), limits);
        let observer = Observer::start();
        api.front = Front::new(limits, Arc::clone(&observer));
        (Self::serving(node, api).await, observer)
    }

    async fn serving(node: Node, api: Api) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(server::serve(listener, router(&api), Arc::clone(&api.front)));
        Self { address, api, _node: node, task }
    }

    async fn start() -> Self {
        Self::with(Tokens::default(), Limits { rate: None, ..Limits::DEFAULT }).await
    }

    async fn raw(&self, bytes: &[u8]) -> Got {
        raw(self.address, bytes).await
    }

    async fn send(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> Got {
        send(self.address, method, path, token, body).await
    }

    async fn get(&self, path: &str) -> Got {
        self.send("GET", path, None, "").await
    }
}

/// Sends bytes, and reads until the server closes.
async fn raw(address: SocketAddr, bytes: &[u8]) -> Got {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut all = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut all));
    read.await.expect("the server closes, sooner or later").unwrap();
    let text = String::from_utf8(all).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    Got { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> Got {
    let token = token.map_or(String::new(), |token| format!("authorization: Bearer {token}\r\n"));
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n{token}\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    raw(address, request.as_bytes()).await
}

impl Served {
    /// A gate has heard of its manager soon; each answer waits for the one before.
    async fn until_free(&self) {
        let is_ready = |view: &Value| view["free_cores"].as_u64() > Some(0);
        while !self.get("/api/v1/datacenters").await.json().as_array().unwrap().iter().any(is_ready)
        {
        }
    }
}

fn submission(key: &str) -> String {
    // Nothing listens there: requests fail at once, which is all that is needed here.
    let test = "target: http://127.0.0.1:1\nworkflows:\n  a:\n    load: { vus: 1, total: 3 }\n    \
                steps: [ { get: / } ]\n";
    let options = CompileOptions {
        name: "test.yaml",
        sets: &[],
        environment: &|_| None,
        read_file: &|_, _| Err("no files here".to_owned()),
    };
    let plan = compile(test.as_bytes(), &options).unwrap().plan;
    json!({ "key": key, "plan": plan }).to_string()
}

/// What is wrong with a value by a schema of the document, as far as our schemas go.
fn complaints(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let target = document.pointer(name.trim_start_matches('#')).unwrap();
        return complaints(document, target, value, at, found);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = |wanted: &str| wanted == kind || (wanted == "number" && kind == "integer");
    let is_of_kind = match &schema["type"] {
        Value::String(wanted) => fits(wanted),
        Value::Array(all) => all.iter().filter_map(Value::as_str).any(fits),
        _ => true,
    };
    if !is_of_kind {
        found.push(format!("{at} is {kind}, and not {}", schema["type"]));
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array)
        && !words.contains(value)
    {
        found.push(format!("{at} is {value}, none of {words:?}"));
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for (index, value) in values.iter().enumerate() {
            complaints(document, items, value, &format!("{at}[{index}]"), found);
        }
    }
    let (Some(properties), Some(object)) =
        (schema.get("properties").and_then(Value::as_object), value.as_object())
    else {
        return;
    };
    for required in schema["required"].as_array().unwrap() {
        if !object.contains_key(required.as_str().unwrap()) {
            found.push(format!("{at} lacks {required}"));
        }
    }
    for (name, value) in object {
        match properties.get(name) {
            Some(schema) => complaints(document, schema, value, &format!("{at}.{name}"), found),
            None => found.push(format!("{at}.{name} is not described")),
        }
    }
}

#[track_caller]
fn assert_fits(name: &str, value: &Value) {
    let document = openapi();
    let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
    let mut found = Vec::new();
    complaints(&document, &schema, value, name, &mut found);
    assert_eq!(found, Vec::<String>::new(), "{name} is not what the OpenAPI document says");
}

fn job_view(state: JobState) -> JobView {
    JobView {
        job: JobId::from_parts(1, 2),
        name: "shop".to_owned(),
        client: ClientId::from("ann"),
        state,
        accepted: WallTime(1),
        started: Some(WallTime(2)),
        ended: None,
        verdict: Some(Verdict::Passed),
        partial: false,
        datacenters: vec![DatacenterId::from("eu")],
        paused: false,
    }
}

#[test]
fn api_03_schemas_describe_what_the_types_write() {
    let causes = [
        FailureCause::Threshold { expression: "failed < 1%".to_owned() },
        FailureCause::Placement { reasons: vec!["no cores".to_owned()] },
        FailureCause::Poison { workers: 3 },
        FailureCause::Test { message: "stop".to_owned() },
        FailureCause::Context { name: "token".to_owned() },
        FailureCause::Lost { message: "gone".to_owned() },
    ];
    let ends = causes.into_iter().map(|cause| EndStatus::Failed { cause }).chain([
        EndStatus::Completed,
        EndStatus::Cancelled { by: "ann".to_owned() },
        EndStatus::TimedOut,
    ]);
    let states = ends.map(JobState::Ended).chain([
        JobState::Accepted,
        JobState::Queued,
        JobState::Running,
        JobState::Stopping { why: "asked".to_owned() },
    ]);
    for state in states {
        if let JobState::Ended(end) = &state {
            assert_fits("EndStatus", &json!(end));
        }
        assert_fits("JobView", &json!(job_view(state)));
    }
    let because = "login".to_owned();
    assert_fits("EndStatus", &json!(EndStatus::Skipped { because }));
    let status = StatusCode::TOO_MANY_REQUESTS;
    assert_fits("Problem", &json!(Problem::new(status, "too-fast", "").retry_after(1)));
    assert_fits("Accepted", &json!(Accepted { job: JobId::from_parts(1, 2) }));
    assert_fits("Cancellation", &json!(Cancellation::default()));
    let view = DatacenterView {
        datacenter: DatacenterId::from("eu"),
        is_fresh: true,
        workers: 1,
        cores: 2,
        free_cores: 2,
    };
    assert_fits("DatacenterView", &json!(view));
    for (role, state) in [(Role::Gate, NodeState::Leading), (Role::Worker, NodeState::Draining)] {
        let view = NodeView {
            node: NodeId(1),
            role,
            datacenter: None,
            state,
            is_fresh: true,
            cores: 2,
            free_cores: 2,
            software: "0.1.0".to_owned(),
        };
        assert_fits("NodeView", &json!(view));
    }
    let written: Value = serde_json::from_str(&submission("once")).unwrap();
    assert_fits("Submission", &written);
}

#[test]
fn api_03_every_reference_of_the_document_leads_somewhere() {
    let document = openapi();
    let known: BTreeSet<&String> =
        document["components"]["schemas"].as_object().unwrap().keys().collect();
    let text = document.to_string();

    let used: BTreeSet<&str> = text
        .split("#/components/schemas/")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();

    for name in &used {
        assert!(known.iter().any(|known| known == name), "{name} is referred to and not there");
    }
    let of_streams = ["EventRecord", "LiveView", "EndStatus"];
    for name in known {
        let is_used = used.contains(name.as_str()) || of_streams.contains(&name.as_str());
        assert!(is_used, "{name} is there and never referred to");
    }
}

#[test]
fn api_03_the_committed_document_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let current = serde_json::to_string_pretty(&openapi()).unwrap() + "\n";
    if std::env::var_os("HYPERSCALE_WRITE_DOCS").is_some() {
        std::fs::write(path, &current).unwrap();
    }

    let committed = std::fs::read_to_string(path).unwrap_or_default();

    assert!(
        committed == current,
        "docs/openapi.json is stale: HYPERSCALE_WRITE_DOCS=1 cargo test -p hyperscale-web api_03"
    );
}

#[test]
fn met_02_the_page_of_metrics_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let mut current = "# Metrics\n\nGenerated from the tables that count. `GET /metrics` on the \
        address of a gate's API shows what the\nprocess of the gate counts, in Prometheus' text \
        format; `--metrics ADDRESS`\ndoes so for a process without a gate. Where \
        there are tokens, it wants one with the role `view`.\nLabels come from closed sets.\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n"
        .to_owned();
    let text =
        hyperscale_node::Observer::start().text() + &counts::Counts::default().text(Some(&[]));
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' '))
        else {
            continue;
        };
        let kind = lines.next().unwrap().rsplit(' ').next().unwrap();
        let mut labels: std::collections::BTreeMap<&str, BTreeSet<&str>> = Default::default();
        while let Some(sample) = lines.next_if(|line| !line.starts_with('#')) {
            let within = sample.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
            for label in within.map_or("", |(within, _)| within).split(',') {
                if let Some((name, value)) = label.split_once('=') {
                    labels.entry(name).or_default().insert(value.trim_matches('"'));
                }
            }
        }
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, values)| {
                let values: Vec<&str> = values.iter().copied().collect();
                format!("`{name}`: {}", values.join(", "))
            })
            .collect();
        current += &format!("| `{name}` | {kind} | {} | {help} |\n", labels.join("; "));
    }
    if std::env::var_os("HYPERSCALE_WRITE_DOCS").is_some() {
        std::fs::write(path, &current).unwrap();
    }

    let committed = std::fs::read_to_string(path).unwrap_or_default();

    assert!(
        committed == current,
        "docs/metrics.md is stale: HYPERSCALE_WRITE_DOCS=1 cargo test -p hyperscale-web met_02"
    );
}

#[test]
fn api_06_the_page_of_the_api_is_current_and_knows_every_problem() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.md");
    let mut current = include_str!("page.md").to_owned();
    for (kind, status, meaning) in problem::KINDS {
        current += &format!("| `{kind}` | {status} | {meaning} |\n");
    }
    if std::env::var_os("HYPERSCALE_WRITE_DOCS").is_some() {
        std::fs::write(path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == current,
        "docs/api.md is stale: HYPERSCALE_WRITE_DOCS=1 cargo test -p hyperscale-web api_06"
    );
    let sources = [
        include_str!("lib.rs"),
        include_str!("body.rs"),
        include_str!("handlers.rs"),
        include_str!("tokens.rs"),
    ];
    for made in sources.iter().flat_map(|source| source.split("Problem::new(").skip(1)) {
        let kind = made.split('"').nth(1).unwrap();
        let is_known = problem::KINDS.iter().any(|(known, _, _)| *known == kind);
        assert!(is_known, "`{kind}` is not in the reference of problems");
    }
}

#[tokio::test]
async fn api_02_every_operation_of_the_table_is_served_and_described() {
    let served = Served::start().await;
    let document = served.get("/api/v1/openapi.json").await.json();
    let mut described = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            described += 1;
            let path = path.replace("{job}", &JobId::from_parts(1, 2).to_string());

            let got = served.send(&method.to_ascii_uppercase(), &path, None, "").await;

            let is_ours = ![404, 405].contains(&got.status) || got.kind() == "not-found";
            assert!(is_ours, "{method} {path} is described and not served: {got:?}");
        }
    }
    assert_eq!(described, OPERATIONS.len());
}

#[tokio::test]
async fn api_04_a_job_goes_through_every_route_with_answers_as_described() {
    let served = Served::start().await;
    served.until_free().await;
    let nodes = served.get("/api/v1/nodes").await.json();
    for node in nodes.as_array().unwrap() {
        assert_fits("NodeView", node);
    }
    let cluster = served.get("/api/v1/cluster").await.json();
    assert_fits("ClusterView", &cluster);
    for (schema, views) in [
        ("GateView", &cluster["gates"]),
        ("LedDatacenterView", &cluster["datacenters"]),
        ("OwnerView", &cluster["owners"]),
    ] {
        views.as_array().unwrap().iter().for_each(|view| assert_fits(schema, view));
    }
    assert_fits("QuorumView", &cluster["quorum"]);
    assert_eq!(cluster["quorum"]["can_decide"], true, "{cluster}");
    assert_eq!(nodes.as_array().unwrap().len(), 3, "a gate, a manager and a worker: {nodes}");

    let accepted = served.send("POST", "/api/v1/jobs", None, &submission("once")).await;
    assert_eq!(accepted.status, 201, "{accepted:?}");
    let again = served.send("POST", "/api/v1/jobs", None, &submission("once")).await;
    assert_eq!(again.json(), accepted.json());
    let job = accepted.json()["job"].as_str().unwrap().to_owned();
    let events = served.get(&format!("/api/v1/jobs/{job}/events")).await;
    assert!(events.body.contains("event: end"), "{}", events.body);
    for block in events.body.split("\n\n") {
        let data = block.lines().find_map(|line| line.strip_prefix("data: "));
        match (block.starts_with("event: event"), block.starts_with("event: view"), data) {
            (true, _, Some(data)) => {
                assert_fits("EventRecord", &serde_json::from_str(data).unwrap());
            }
            (_, true, Some(data)) => assert_fits("LiveView", &serde_json::from_str(data).unwrap()),
            _ => {}
        }
    }
    let results = served.get(&format!("/api/v1/jobs/{job}/results")).await.json();
    assert_fits("JobResult", &results);
    assert_eq!(results["summary"]["totals"]["requests"], 3);
    assert_fits("JobView", &served.get(&format!("/api/v1/jobs/{job}")).await.json());
    let cancel = format!("/api/v1/jobs/{job}/cancel");
    let ended = served.send("POST", &cancel, None, "").await.json();
    assert_eq!(ended["state"]["state"], "ended", "{ended}");

    let metrics = served.get("/metrics").await.body;
    for line in [
        "hyperscale_gate_known_jobs{status=\"completed\"} 1",
        "hyperscale_gate_live_jobs 0",
        "hyperscale_gate_jobs_accepted_total 1",
        "hyperscale_gate_jobs_ended_total{status=\"completed\"} 1",
        "hyperscale_manager_parts_total{outcome=\"accepted\"} 1",
        "hyperscale_worker_attempts_total{outcome=\"ended\"} 1",
        "hyperscale_link_peers_linked{role=\"manager\"} 2",
        "hyperscale_web_requests_total{operation=\"submit_job\",status=\"2xx\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
}

#[tokio::test]
async fn bpr_02_a_gate_that_is_overloaded_still_stops_load_and_says_when_to_come_again() {
    let (served, observer) = Served::as_overloaded_as_told().await;
    served.until_free().await;
    observer.set_overload(OverloadState::Stressed);

    let listed = served.get("/api/v1/jobs").await;

    assert_eq!((listed.status, listed.kind()), (503, "overloaded".to_owned()));
    assert!(listed.head.contains("retry-after: 2"), "{}", listed.head);
    let submission = submission("three");
    let accepted = served.send("POST", "/api/v1/jobs", None, &submission).await;
    assert_eq!(accepted.status, 201, "{}", accepted.body);
    let job = accepted.json()["job"].as_str().unwrap().to_owned();
    observer.set_overload(OverloadState::Overloaded);
    let refused = served.send("POST", "/api/v1/jobs", None, &submission).await;
    assert_eq!((refused.status, refused.kind()), (503, "overloaded".to_owned()));
    for path in ["/api/v1/health", "/api/v1/cluster", "/metrics"] {
        assert_eq!(served.get(path).await.status, 200, "{path}");
    }
    let cancelled = served.send("POST", &format!("/api/v1/jobs/{job}/cancel"), None, "").await;
    assert_eq!(cancelled.status, 200, "{}", cancelled.body);
    let metrics = served.get("/metrics").await.body;
    assert!(metrics.contains("hyperscale_web_shed_total 2"), "{metrics}");
    assert!(metrics.contains("hyperscale_node_overload 3"), "{metrics}");
}

#[tokio::test]
async fn sec_02_each_operation_wants_the_role_of_its_row() {
    let token = |name: &str, access| Token {
        client: ClientId::from(name),
        access,
        secret: format!("{name}-secret"),
    };
    let tokens = Tokens(vec![
        token("viewer", Access::View),
        token("runner", Access::Run),
        token("chief", Access::Admin),
    ]);
    let served = Served::with(tokens, Limits { rate: None, ..Limits::DEFAULT }).await;
    // Who is let through, for each operation: nobody known, view, run, admin.
    let rows = [
        ("submit_job", [false, false, true, true]),
        ("list_jobs", [false, true, true, true]),
        ("get_job", [false, true, true, true]),
        ("cancel_job", [false, false, true, true]),
        ("steer_job", [false, false, true, true]),
        ("get_results", [false, true, true, true]),
        ("follow_events", [false, true, true, true]),
        ("list_datacenters", [false, true, true, true]),
        ("list_nodes", [false, true, true, true]),
        ("get_cluster", [false, true, true, true]),
        ("remove_node", [false, false, false, true]),
        ("drain_node", [false, false, false, true]),
        ("health", [true, true, true, true]),
        ("openapi", [true, true, true, true]),
        ("metrics", [false, true, true, true]),
    ];
    assert_eq!(rows.len(), OPERATIONS.len(), "each operation has a row");
    let secrets = [None, Some("viewer-secret"), Some("runner-secret"), Some("chief-secret")];
    for (id, allowed) in rows {
        let operation = OPERATIONS.iter().find(|operation| operation.id == id).unwrap();
        let path = operation.path.replace("{job}", &JobId::from_parts(1, 2).to_string());
        let method = operation.method.to_ascii_uppercase();
        for (secret, is_allowed) in secrets.iter().zip(allowed) {
            let got = served.send(&method, &path, *secret, "").await;

            let is_let_through = ![401, 403].contains(&got.status);
            assert_eq!(is_let_through, is_allowed, "{id} with {secret:?}: {}", got.status);
            if !is_allowed {
                let kind = if secret.is_none() { "no-token" } else { "forbidden" };
                assert_eq!(got.kind(), kind);
            }
        }
        let stranger = served.send(&method, &path, Some("no-such-secret"), "").await;
        assert_eq!(stranger.status == 401, !allowed[0], "{id} with an unknown token");
    }
}

#[tokio::test]
async fn dat_02_a_change_that_says_nothing_or_something_unknown_is_refused() {
    let served = Served::with(Tokens(Vec::new()), Limits { rate: None, ..Limits::DEFAULT }).await;
    let path = format!("/api/v1/jobs/{}/steer", JobId::from_parts(1, 2));

    for (body, status, kind) in [
        ("{}", 422, "bad-body"),
        (r#"{"pause": "yes"}"#, 422, "bad-body"),
        (r#"{"speed": 2}"#, 422, "bad-body"),
        (r#"{"pause": true, "scale": {"a": "5"}}"#, 404, "not-found"),
    ] {
        let got = served.send("POST", &path, None, body).await;
        assert_eq!((got.status, got.kind().as_ref()), (status, kind), "{body}");
    }
}

#[tokio::test]
async fn lim_02_too_many_requests_hear_when_to_come_again_and_a_stop_always_passes() {
    let rate = Some(Rate { burst: 3, per_second: 1 });
    let served = Served::with(Tokens::default(), Limits { rate, ..Limits::DEFAULT }).await;
    let job = JobId::from_parts(1, 2);

    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(served.get("/api/v1/jobs").await.status);
    }
    let last = served.get("/api/v1/jobs").await;

    assert_eq!(statuses[..3], [200, 200, 200]);
    assert!(statuses[3..].contains(&429), "{statuses:?}");
    if last.status == 429 {
        assert_eq!(last.kind(), "too-fast");
        assert!(last.head.contains("retry-after: 1"), "{}", last.head);
    }
    for _ in 0..6 {
        assert_eq!(served.get("/api/v1/health").await.status, 200);
        let path = format!("/api/v1/jobs/{job}/cancel");
        assert_eq!(served.send("POST", &path, None, "").await.kind(), "not-found");
    }
    assert_eq!(served.get("/api/v1/datacenters").await.status, 200, "operations do not share");
}

#[tokio::test]
async fn sec_03_guessing_tokens_is_slow() {
    let secret = "right-secret".to_owned();
    let tokens =
        Tokens(vec![Token { client: ClientId::from("ann"), access: Access::View, secret }]);
    let rate = Some(Rate { burst: 2, per_second: 1 });
    let served = Served::with(tokens, Limits { rate, ..Limits::DEFAULT }).await;

    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(served.send("GET", "/api/v1/jobs", Some("wrong-secret"), "").await.status);
    }

    assert_eq!(statuses[..2], [401, 401]);
    assert!(statuses[2..].contains(&429), "{statuses:?}");
    let right = served.send("GET", "/api/v1/jobs", Some("right-secret"), "").await;
    assert_eq!(right.status, 200, "whoever has a token is not held up by who has none");
}

#[tokio::test]
async fn api_05_what_is_wrong_with_a_request_is_said() {
    let limits = Limits { rate: None, body_bytes: 1_000, ..Limits::DEFAULT };
    let served = Served::with(Tokens::default(), limits).await;

    let got = served.get("/nowhere").await;
    assert_eq!((got.status, got.kind().as_str()), (404, "no-such-path"));
    let got = served.get("/api/v1/jobs/abc").await;
    assert_eq!((got.status, got.kind().as_str()), (400, "bad-job-id"));
    let got = served.send("DELETE", "/api/v1/jobs", None, "").await;
    assert_eq!((got.status, got.kind().as_str()), (405, "wrong-method"));
    assert!(got.head.contains("allow: post, get"), "{}", got.head);
    let got = served.send("POST", "/api/v1/jobs", None, "{\n  \"key\": }").await;
    assert_eq!((got.status, got.kind().as_str()), (400, "bad-json"));
    assert!(got.body.contains("line 2 column 10"), "{}", got.body);
    let got = served.send("POST", "/api/v1/jobs", None, "{ \"kay\": 1 }").await;
    assert_eq!((got.status, got.kind().as_str()), (422, "bad-body"));
    assert!(got.body.contains("kay") && got.body.contains("line 1 column"), "{}", got.body);
    let got = served.send("POST", "/api/v1/jobs", None, "").await;
    assert_eq!((got.status, got.kind().as_str()), (422, "bad-body"));
    let plain = "POST /api/v1/jobs HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
                 content-type: text/plain\r\ncontent-length: 2\r\n\r\n{}";
    let got = served.raw(plain.as_bytes()).await;
    assert_eq!((got.status, got.kind().as_str()), (415, "bad-content-type"));
    let got = served.send("POST", "/api/v1/jobs", None, &"x".repeat(1_001)).await;
    assert_eq!((got.status, got.kind().as_str()), (413, "too-large"));
    let chunk = format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(0x3e9));
    let chunked = format!(
        "POST /api/v1/jobs HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n{chunk}"
    );
    let got = served.raw(chunked.as_bytes()).await;
    assert_eq!((got.status, got.kind().as_str()), (413, "too-large"), "nothing was announced");
}

#[tokio::test]
async fn lim_03_a_slow_client_is_cut_and_events_are_not() {
    let limits = Limits {
        rate: None,
        head_time: Duration::from_millis(150),
        body_time: Duration::from_millis(150),
        answer_time: Duration::from_millis(150),
        ..Limits::DEFAULT
    };
    let served = Served::with(Tokens::default(), limits).await;

    // Each of these ends since the server closes; nothing else would end them.
    let nothing = served.raw(b"").await;
    let half_head = served.raw(b"GET /api/v1/health HTTP/1.1\r\nhost: a\r\n").await;
    let kept = served.raw(b"GET /api/v1/health HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let half_body = "POST /api/v1/jobs HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
                     content-length: 20\r\n\r\n{";
    let half_body = served.raw(half_body.as_bytes()).await;

    assert_ne!(nothing.status, 200);
    assert_ne!(half_head.status, 200);
    assert_eq!(kept.status, 200, "it is answered, and then its connection idles");
    assert_eq!((half_body.status, half_body.kind().as_str()), (408, "too-slow"));

    // Longer than all of the limits.
    let slow = submission("slow").replace("\"total\":3", "\"total\":1000000");
    let slow = slow.replace("\"name\":\"test\"", "\"name\":\"slow\"");
    let accepted = loop {
        let got = served.send("POST", "/api/v1/jobs", None, &slow).await;
        if got.status == 201 {
            break got.json();
        }
        assert_eq!(got.status, 503, "{got:?}");
    };
    let job = accepted["job"].as_str().unwrap();
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let request = format!("GET /api/v1/jobs/{job}/events HTTP/1.1\r\nhost: a\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let started = served.api.gate.observer().clock();
    let begin = started.now();
    let mut bytes = [0; 4_096];
    let mut views = 0;
    while started.now().since(begin) < Duration::from_millis(600) {
        let read = stream.read(&mut bytes).await.unwrap();
        assert!(read > 0, "the stream was cut after {:?}", started.now().since(begin));
        views += String::from_utf8_lossy(&bytes[..read]).matches("event: view").count();
    }
    assert!(views > 0, "nothing was told");
    let cancel = format!("/api/v1/jobs/{job}/cancel");
    let stopped = served.send("POST", &cancel, None, "{\"now\":true}").await;
    assert_eq!(stopped.status, 200, "{stopped:?}");
}

#[tokio::test]
async fn met_03_a_process_without_a_gate_shows_its_metrics_to_those_who_may() {
    let secret = "view-secret".to_owned();
    let tokens =
        Tokens(vec![Token { client: ClientId::from("eve"), access: Access::View, secret }]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let observer = Observer::start();
    observer.count(hyperscale_node::Count::WorkerJoined);
    let serving = serve_metrics(listener, observer, tokens, Limits::DEFAULT);
    let serving = tokio::spawn(serving);

    let shown = send(address, "GET", "/metrics", Some("view-secret"), "").await;
    let refused = send(address, "GET", "/metrics", None, "").await;
    let elsewhere = send(address, "GET", "/api/v1/jobs", Some("view-secret"), "").await;

    assert!(shown.body.contains("hyperscale_manager_workers_joined_total 1"), "{shown:?}");
    assert_eq!((refused.status, refused.kind().as_str()), (401, "no-token"));
    assert!(refused.head.contains("www-authenticate: bearer"), "{}", refused.head);
    assert_eq!(elsewhere.status, 404);
    serving.abort();
}

#[tokio::test]
async fn lim_03_a_client_that_takes_nothing_is_cut() {
    let stall_time = Duration::from_millis(150);
    let limits = Limits { rate: None, stall_time, ..Limits::DEFAULT };
    let served = Served::with(Tokens::default(), limits).await;
    let mut greedy = TcpStream::connect(served.address).await.unwrap();
    let ask = b"GET /api/v1/openapi.json HTTP/1.1\r\nhost: a\r\n\r\n".repeat(400);
    greedy.write_all(&ask).await.unwrap();

    // Twenty megabytes fit in no buffer: as long as nobody reads, the server cannot be done.
    loop {
        let metrics = served.get("/metrics").await.body;
        if metrics.contains("hyperscale_web_open_connections 1\n") {
            break;
        }
    }

    let mut all = Vec::new();
    let ended = greedy.read_to_end(&mut all).await;
    assert!(ended.is_err() || all.len() < 10 << 20, "all was sent: {} bytes", all.len());
}

#[tokio::test]
async fn lim_04_one_connection_too_many_hears_so() {
    let limits = Limits { rate: None, connections: 2, ..Limits::DEFAULT };
    let served = Served::with(Tokens::default(), limits).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(b"GET /api/v1/health HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).await.unwrap();
        held.push(stream);
    }

    let mut third = TcpStream::connect(served.address).await.unwrap();
    let mut heard = Vec::new();
    third.read_to_end(&mut heard).await.unwrap();

    let heard = String::from_utf8(heard).unwrap();
    assert!(heard.starts_with("HTTP/1.1 503 ") && heard.contains("retry-after: 1"), "{heard}");
    assert_eq!(served.api.front.counts.connections_refused.load(Ordering::Relaxed), 1);
    drop(held);
    loop {
        // Room is made as soon as the server has seen that the others are gone.
        let mut next = TcpStream::connect(served.address).await.unwrap();
        let request = b"GET /api/v1/health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let mut heard = Vec::new();
        if next.write_all(request).await.is_ok()
            && next.read_to_end(&mut heard).await.is_ok()
            && heard.starts_with(b"HTTP/1.1 200 ")
        {
            return;
        }
    }
}
