//! The shapes of what the API takes and gives, as JSON Schemas. A test holds them against what the
//! types really write.

use serde_json::{Map, Value, json};

use crate::problem::KINDS;

/// All named schemas.
pub(crate) fn schemas() -> Map<String, Value> {
    [
        problem(),
        submission(),
        named("Accepted", "A test that runs.", [("job", job_id())]),
        cancellation(),
        steering(),
        strict(named("NodeRef", "A node, by its id.", [("node", node_id("Which"))])),
        job_view(),
        job_state(),
        end_status(),
        failure_cause(),
        datacenter_view(),
        node_view(),
        cluster_view(),
        gate_view(),
        quorum_view(),
        led_datacenter_view(),
        owner_view(),
        job_result(),
        summary(),
        totals(),
        latency(),
        step_summary(),
        check_summary(),
        threshold_view(),
        gap_view(),
        rows_view(),
        generator_view(),
        series_point(),
        exchange(),
        event_record(),
        live_view(),
        live_step(),
        scale_view(),
        example_view(),
    ]
    .into_iter()
    .collect()
}

type Named = (String, Value);

/// An object of which all properties are there.
fn named<const N: usize>(name: &str, doc: &str, properties: [(&str, Value); N]) -> Named {
    let required: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
    let properties: Map<String, Value> =
        properties.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    let schema = json!({
        "type": "object",
        "description": doc,
        "properties": properties,
        "required": required,
    });
    (name.to_owned(), schema)
}

/// The same with properties that may be missing.
fn optional((name, mut schema): Named, may_be_missing: &[&str]) -> Named {
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !may_be_missing.iter().any(|missing| name == missing));
    }
    (name, schema)
}

/// The same, with properties that are not described refused.
fn strict((name, mut schema): Named) -> Named {
    schema["additionalProperties"] = json!(false);
    (name, schema)
}

fn text(doc: &str) -> Value {
    json!({ "type": "string", "description": doc })
}

fn one_of(doc: &str, words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words, "description": doc })
}

fn count(doc: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": doc })
}

fn number(doc: &str) -> Value {
    json!({ "type": "number", "description": doc })
}

fn flag(doc: &str) -> Value {
    json!({ "type": "boolean", "description": doc })
}

fn or_null(mut schema: Value) -> Value {
    schema["type"] = json!([schema["type"], "null"]);
    if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        words.push(Value::Null);
    }
    schema
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn list(items: Value, doc: &str) -> Value {
    json!({ "type": "array", "items": items, "description": doc })
}

fn counts_by_name(doc: &str) -> Value {
    json!({
        "type": "object",
        "additionalProperties": { "type": "integer", "minimum": 0 },
        "description": doc,
    })
}

fn any_object(doc: &str) -> Value {
    json!({ "type": "object", "description": doc })
}

fn job_id() -> Value {
    json!({
        "type": "string",
        "pattern": "^job_[0-9a-hjkmnp-tv-z]{26}$",
        "description": "A job; ids sort by time.",
    })
}

fn wall_time(doc: &str) -> Value {
    count(&format!("{doc}, in milliseconds since 1970."))
}

fn verdict() -> Value {
    one_of("What the thresholds say.", &["passed", "broken", "not_judged"])
}

fn problem() -> Named {
    let kinds: Vec<&str> = KINDS.iter().map(|(kind, _, _)| *kind).collect();
    let all = [
        ("type", one_of("What went wrong, for programs: stable.", &kinds)),
        ("status", count("The HTTP status.")),
        ("detail", text("What went wrong, for people.")),
        ("retry_after_seconds", count("In how long the same request may succeed.")),
    ];
    optional(named("Problem", "An error (RFC 9457).", all), &["retry_after_seconds"])
}

fn submission() -> Named {
    let base64 = json!({ "type": "string", "contentEncoding": "base64" });
    let secrets = json!({
        "type": "object",
        "additionalProperties": { "type": "string" },
        "description": "The values of the plan's secrets.",
    });
    let all = [
        ("key", text("Repeating a submission with its key changes nothing.")),
        ("plan", any_object("A test as `hyperscale` compiles it from a test file.")),
        ("blobs", list(base64, "The files that the plan names by hash.")),
        ("secrets", secrets),
    ];
    strict(optional(named("Submission", "A test to run.", all), &["blobs", "secrets"]))
}

fn cancellation() -> Named {
    let all = [
        ("workflow", or_null(text("One workflow instead of the whole job."))),
        ("now", flag("Whether running requests are cut instead of finished.")),
    ];
    strict(optional(named("Cancellation", "What shall stop, and how.", all), &["workflow", "now"]))
}

fn steering() -> Named {
    let amount = text("Users such as `50`, a rate such as `200/s`, or a share such as `40%`.");
    let scale = json!({
        "type": "object",
        "additionalProperties": amount,
        "description": "Workflows, each with how much of its load is sent. Never more than planned.",
    });
    let pause = or_null(flag("Whether the load stands still; as before if absent."));
    let all = [("pause", pause), ("scale", scale)];
    let doc = "How a job is steered from now on.";
    strict(optional(named("Steering", doc, all), &["pause", "scale"]))
}

fn job_view() -> Named {
    named(
        "JobView",
        "A job.",
        [
            ("job", job_id()),
            ("name", text("The test's name.")),
            ("client", text("Who submitted it.")),
            ("state", reference("JobState")),
            ("accepted", wall_time("When it was accepted")),
            ("started", or_null(wall_time("When load began"))),
            ("ended", or_null(wall_time("When it ended"))),
            ("verdict", or_null(verdict())),
            ("partial", flag("Whether load or statistics are missing.")),
            ("datacenters", list(text("A name."), "Where it runs.")),
            ("paused", flag("Whether its load was paused by command.")),
        ],
    )
}

fn job_state() -> Named {
    let states = ["accepted", "queued", "running", "stopping", "ended"];
    let all = [
        ("state", one_of("Where it stands.", &states)),
        ("why", text("Why it stops, while it is `stopping`.")),
        ("status", one_of("How it ended.", &STATUSES)),
        ("cause", reference("FailureCause")),
        ("by", text("Who stopped it, if it was `cancelled`.")),
    ];
    let missing = ["why", "status", "cause", "by"];
    optional(named("JobState", "Where a job stands; `ended` with an EndStatus.", all), &missing)
}

const STATUSES: [&str; 5] = ["completed", "failed", "cancelled", "timed_out", "skipped"];

fn end_status() -> Named {
    let all = [
        ("status", one_of("How it ended.", &STATUSES)),
        ("cause", reference("FailureCause")),
        ("by", text("Who stopped it, if it was `cancelled`.")),
        ("because", text("The workflow that it waited for, if it was `skipped`.")),
    ];
    let missing = ["cause", "by", "because"];
    optional(named("EndStatus", "How something ended. Final.", all), &missing)
}

fn failure_cause() -> Named {
    let kinds = ["threshold", "placement", "poison", "test", "context", "lost"];
    let all = [
        ("kind", one_of("Why, for programs.", &kinds)),
        ("expression", text("The threshold, if one was broken.")),
        ("reasons", list(text("A reason."), "What each try to place it ended with.")),
        ("workers", count("How many workers it took down.")),
        ("message", text("What happened.")),
        ("name", text("The value that was never published.")),
    ];
    let missing = ["expression", "reasons", "workers", "message", "name"];
    optional(named("FailureCause", "Why something failed.", all), &missing)
}

fn datacenter_view() -> Named {
    named(
        "DatacenterView",
        "A datacenter as the gate sees it.",
        [
            ("datacenter", text("Its name.")),
            ("is_fresh", flag("Whether it was heard of lately.")),
            ("workers", count("Its workers.")),
            ("cores", count("Their cores.")),
            ("free_cores", count("Those of them that are free.")),
        ],
    )
}

fn node_id(doc: &str) -> Value {
    text(&format!("{doc}: `node_` and 16 hex digits."))
}

fn cluster_view() -> Named {
    let gates = list(reference("GateView"), "The gates that it knows of, itself first.");
    let datacenters = list(reference("LedDatacenterView"), "The datacenters it has heard of.");
    let owners = list(reference("OwnerView"), "Who owns the jobs that run or ended lately.");
    named(
        "ClusterView",
        "The cluster as a gate sees it.",
        [
            ("gate", node_id("The gate that says this")),
            ("gates", gates),
            ("quorum", reference("QuorumView")),
            ("datacenters", datacenters),
            ("owners", owners),
            ("removed", list(node_id("A node"), "Nodes that were removed, the last at the end.")),
        ],
    )
}

fn gate_view() -> Named {
    named(
        "GateView",
        "A gate as another knows of it.",
        [
            ("node", node_id("Which")),
            ("has_session", flag("Whether it takes part: it may own jobs.")),
            ("votes", flag("Whether it votes in the gates' ledger; else it follows, as a spare.")),
            ("leads", flag("Whether it leads the gates' ledger, as far as is known.")),
            ("is_reached", flag("Whether there is a link to it.")),
            ("software", text("The version of its software; empty if it does not say.")),
        ],
    )
}

fn quorum_view() -> Named {
    named(
        "QuorumView",
        "Whether the gates' ledger can decide.",
        [
            ("voters", count("Gates that vote.")),
            ("needed", count("How many of them it takes to decide.")),
            ("reached", count("How many this gate reaches, itself included.")),
            ("can_decide", flag("Whether this gate can have something decided now.")),
            ("why", or_null(text("If not: why, and what to do."))),
        ],
    )
}

fn led_datacenter_view() -> Named {
    named(
        "LedDatacenterView",
        "A datacenter as the gate sees it, and who leads it.",
        [
            ("datacenter", text("Its name.")),
            ("is_fresh", flag("Whether it was heard of lately.")),
            ("workers", count("Its workers.")),
            ("cores", count("Their cores.")),
            ("free_cores", count("Those of them that are free.")),
            ("leader", or_null(node_id("The manager that leads it"))),
            ("fence", or_null(count("That leader's fence: a higher one is newer."))),
            (
                "standing",
                one_of(
                    "How it is reached.",
                    &["unknown", "reachable", "recovering", "flapping", "suspected", "unreachable"],
                ),
            ),
            ("heard_ms_ago", count("How long ago its leader was heard of.")),
            ("voters", list(node_id("A manager"), "The managers that vote in its ledger.")),
        ],
    )
}

fn owner_view() -> Named {
    named(
        "OwnerView",
        "A gate with its jobs.",
        [
            ("gate", node_id("Which")),
            ("live", list(job_id(), "Those that have not ended, the oldest first.")),
            ("ended", count("How many of its jobs ended lately.")),
        ],
    )
}

fn node_view() -> Named {
    let roles = ["client", "gate", "manager", "worker"];
    let states = ["leading", "following", "ready", "draining", "silent"];
    named(
        "NodeView",
        "A node as the gate knows of it.",
        [
            ("node", text("Which: `node_` and 16 hex digits.")),
            ("role", one_of("What it is.", &roles)),
            ("datacenter", or_null(text("Where it stands, if in a datacenter."))),
            ("state", one_of("How it is.", &states)),
            ("is_fresh", flag("Whether its datacenter was heard of lately.")),
            ("cores", count("Its cores; 0 if it is no worker.")),
            ("free_cores", count("Those of them that are free.")),
            ("software", text("The version of its software; empty if it does not say.")),
        ],
    )
}

fn job_result() -> Named {
    named(
        "JobResult",
        "A finished job.",
        [
            ("summary", reference("Summary")),
            ("plan", any_object("The plan as it ran.")),
            ("started", or_null(wall_time("When it started"))),
            (
                "workflow_starts_ms",
                list(or_null(count("The job's time.")), "When each workflow started."),
            ),
            ("series", list(reference("SeriesPoint"), "The figures over time.")),
            ("exchanges", list(reference("Exchange"), "Some of the exchanges that failed.")),
            ("events", list(reference("EventRecord"), "What happened, in order.")),
        ],
    )
}

fn summary() -> Named {
    let labels = json!({
        "type": "object",
        "additionalProperties": { "type": "string" },
        "description": "The job's labels.",
    });
    named(
        "Summary",
        "A job's figures.",
        [
            ("schema", count("The version of this shape.")),
            ("job", job_id()),
            ("name", text("The test's name.")),
            ("labels", labels),
            ("status", one_of("How it ended.", &STATUSES[..4])),
            ("cause", or_null(text("Why, if it did not complete."))),
            (
                "cause_kind",
                or_null(text(
                    "The same for programs, if it failed: `threshold`, `placement`, `poison`, `test`, `context` or `lost`.",
                )),
            ),
            ("verdict", verdict()),
            ("partial", flag("Whether load or statistics are missing.")),
            ("gaps", list(reference("GapView"), "Load that was planned and not sent.")),
            ("rows", list(reference("RowsView"), "What became of unique rows, by source.")),
            ("late_requests", count("Requests that reached the gate too late to count.")),
            ("duration_ms", count("From the job's start to its end.")),
            ("totals", reference("Totals")),
            ("latency_us", reference("Latency")),
            ("service_time_us", reference("Latency")),
            ("lag_us", reference("Latency")),
            ("steps", list(reference("StepSummary"), "Each step.")),
            ("checks", list(reference("CheckSummary"), "Each check.")),
            ("thresholds", list(reference("ThresholdView"), "Each threshold.")),
            ("generator", reference("GeneratorView")),
        ],
    )
}

fn totals() -> Named {
    named(
        "Totals",
        "Counts.",
        [
            ("requests", count("Requests, however they ended.")),
            ("iterations", count("Iterations that ended by themselves.")),
            ("iterations_cut", count("Iterations that a stop cut.")),
            (
                "dropped",
                count("Starts that were dropped: no user was free, or the generator was late."),
            ),
            ("dropped_late", count("Those of them to which the generator came too late.")),
            ("retries", count("Further tries of requests.")),
            ("bytes_in", count("Bytes received.")),
            ("bytes_out", count("Bytes sent.")),
            ("outcomes", counts_by_name("Requests by how they ended.")),
            ("statuses", counts_by_name("Answers by status.")),
        ],
    )
}

fn latency() -> Named {
    named(
        "Latency",
        "A distribution of times in microseconds.",
        [
            ("count", count("How many.")),
            ("min", number("The smallest.")),
            ("mean", number("The mean.")),
            ("p50", number("The median.")),
            ("p90", number("The 90th percentile.")),
            ("p95", number("The 95th percentile.")),
            ("p99", number("The 99th percentile.")),
            ("p99_9", number("The 99.9th percentile.")),
            ("max", number("The largest.")),
        ],
    )
}

fn step_summary() -> Named {
    named(
        "StepSummary",
        "One step.",
        [
            ("name", text("`workflow/step`.")),
            ("totals", reference("Totals")),
            ("latency_us", reference("Latency")),
            ("service_time_us", reference("Latency")),
            ("first_byte_us", reference("Latency")),
            ("connect_us", reference("Latency")),
            ("tls_us", reference("Latency")),
        ],
    )
}

fn check_summary() -> Named {
    named(
        "CheckSummary",
        "How often a check held.",
        [
            ("step", text("The step.")),
            ("name", text("The check.")),
            ("passed", count("Held.")),
            ("failed", count("Did not.")),
        ],
    )
}

fn threshold_view() -> Named {
    named(
        "ThresholdView",
        "A threshold as it stands.",
        [
            ("expression", text("As written.")),
            ("passed", flag("Whether it holds.")),
            ("value", or_null(number("The figure, in the unit that it was written in."))),
            ("broken_since_ms", or_null(count("Since which time of the job it is broken."))),
        ],
    )
}

fn rows_view() -> Named {
    named(
        "RowsView",
        "What became of the rows of a unique source that ends.",
        [
            ("source", text("Its name.")),
            ("rows", count("All of them: the sum of what follows.")),
            ("sent", count("Those that iterations have drawn.")),
            ("left", count("Those that nobody has drawn.")),
            (
                "possibly_sent",
                count("Those of which that is not known, since their worker was lost."),
            ),
        ],
    )
}

fn gap_view() -> Named {
    named(
        "GapView",
        "Load that was planned and not sent.",
        [
            ("workflow", text("The workflow.")),
            ("shard", count("Which shard of it.")),
            ("from_ms", count("From this time of the job.")),
            ("to_ms", count("To this time of the job.")),
            ("starts", count("Iterations that would have started, under an arrival rate.")),
            ("vu_seconds", number("Users times seconds that would have been active, otherwise.")),
            ("cause", json!({ "description": "Why." })),
            ("worker", text("The worker that was lost.")),
        ],
    )
}

fn generator_view() -> Named {
    named(
        "GeneratorView",
        "The load generator.",
        [
            ("limited", flag("Whether it, and not the target, was the bottleneck.")),
            ("reason", or_null(text("Why, in words."))),
            ("busy_share", number("The busiest core of all, from 0 to 1.")),
        ],
    )
}

fn series_point() -> Named {
    named(
        "SeriesPoint",
        "Figures of one stretch of time.",
        [
            ("at_ms", count("From this time of the job.")),
            ("length_ms", count("For so long.")),
            ("vus", count("Active users.")),
            ("busiest_core", count("The busiest core, in thousandths.")),
            ("figures", any_object("Counts and sparse histograms, by step.")),
        ],
    )
}

fn exchange() -> Named {
    named(
        "Exchange",
        "A request that failed, and its answer. Secrets are masked.",
        [
            ("step", count("Which step of the plan.")),
            ("outcome", text("How it ended.")),
            ("at", any_object("When it started, in `secs` and `nanos` of the job's time.")),
            ("latency", any_object("How long it took, in `secs` and `nanos`.")),
            ("request", text("What was sent.")),
            ("answer", text("What came back, as far as it did.")),
            ("error", text("The failure in words.")),
        ],
    )
}

fn event_record() -> Named {
    named(
        "EventRecord",
        "Something that happened to a job.",
        [
            ("id", count("Its number within the job, from 1.")),
            ("at_ms", count("The job's time.")),
            ("kind", text("What, as one word.")),
            ("text", text("What, for people.")),
        ],
    )
}

fn live_view() -> Named {
    let mixed = |doc: &str| list(json!({ "type": "array" }), doc);
    named(
        "LiveView",
        "A job at one moment.",
        [
            ("job", job_id()),
            ("name", text("The test's name.")),
            ("state", reference("JobState")),
            ("elapsed_ms", count("Since its start.")),
            ("planned_ms", or_null(count("How long it is planned to take, if that is known."))),
            (
                "planned_iterations",
                or_null(count("Iterations that it is planned to do, if fixed.")),
            ),
            ("workflows", mixed("Each workflow with where it stands.")),
            ("vus", count("Active users.")),
            ("vus_max", count("Users at most.")),
            ("planned_rate", number("Iterations that should start per second now.")),
            ("request_rate", number("Requests per second over the last second.")),
            ("iteration_rate", number("Iterations per second over the last second.")),
            ("requests", count("Requests in all.")),
            ("failed", count("Failed requests in all.")),
            ("iterations", count("Iterations in all.")),
            (
                "dropped",
                count("Starts that were dropped: no user was free, or the generator was late."),
            ),
            ("latency_us", reference("Latency")),
            ("recent", mixed("The last windows: requests, failures, p95 of latency in µs.")),
            ("steps", list(reference("LiveStep"), "Each step.")),
            ("thresholds", list(reference("ThresholdView"), "Each threshold.")),
            ("gaps", list(reference("GapView"), "Load that was not sent.")),
            ("rows", list(reference("RowsView"), "What became of unique rows, by source.")),
            ("datacenters", mixed("Each datacenter: name, workers, cores.")),
            ("lag_p99_us", number("Lag of starts at the 99th percentile.")),
            ("busy_share", number("The busiest core of the last second, from 0 to 1.")),
            ("examples", list(reference("ExampleView"), "Some exchanges that failed.")),
            ("paused", flag("Whether its load was paused by command.")),
            ("scales", list(reference("ScaleView"), "How much of each workflow's load is sent.")),
        ],
    )
}

fn scale_view() -> Named {
    let amount = count("Users, or per cent of the plan's starts; null if it cannot be scaled.");
    named(
        "ScaleView",
        "How much of a workflow's load is sent.",
        [
            ("workflow", text("The workflow.")),
            ("amount", or_null(amount)),
            ("most", count("The most that it takes.")),
            ("is_users", flag("Whether both are users.")),
        ],
    )
}

fn live_step() -> Named {
    named(
        "LiveStep",
        "A step as it runs.",
        [
            ("name", text("`workflow/step`.")),
            ("requests", count("Requests in all.")),
            ("failed", count("Failed requests in all.")),
            ("rate", number("Requests per second over the last second.")),
            ("latency_us", reference("Latency")),
            ("failures", list(json!({ "type": "array" }), "Outcomes that are not ok.")),
        ],
    )
}

fn example_view() -> Named {
    named(
        "ExampleView",
        "An exchange that failed, in a line.",
        [
            ("step", text("`workflow/step`.")),
            ("outcome", text("How it ended.")),
            ("at_ms", count("When it started, in the job's time.")),
            ("error", text("The failure in words.")),
        ],
    )
}
