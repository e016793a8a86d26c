//! What the API can do, in one table: routes, who may use them, limits, metrics and the OpenAPI
//! document all come from it.

use axum::routing::{MethodRouter, get, post};
use hyperscale_model::Class;

use crate::tokens::Access;
use crate::{Api, events, handlers};

/// Something that the API can do.
pub(crate) struct Operation {
    /// Its name, in metrics and in the OpenAPI document.
    pub(crate) id: &'static str,
    pub(crate) method: &'static str,
    /// The whole path, with `{job}` for a job's id.
    pub(crate) path: &'static str,
    /// Whom it serves: everybody if absent.
    pub(crate) needs: Option<Access>,
    /// Whether clients may ask for it only so fast. What stops load and what watches whether the
    /// gate lives is always let through.
    pub(crate) is_limited: bool,
    /// What is refused first when the gate has too much to do.
    pub(crate) class: Class,
    pub(crate) summary: &'static str,
    /// The schema of the request's body.
    pub(crate) body: Option<&'static str>,
    pub(crate) answer: Answer,
    pub(crate) handler: fn() -> MethodRouter<Api>,
}

/// What comes back if all is well.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content: Content,
    pub(crate) text: &'static str,
}

/// What an answer holds.
pub(crate) enum Content {
    Nothing,
    /// JSON of a schema.
    Json(&'static str),
    /// A JSON list of a schema.
    List(&'static str),
    /// Something else, by its content type.
    Other(&'static str),
}

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        id: "submit_job",
        method: "post",
        path: "/api/v1/jobs",
        needs: Some(Access::Run),
        is_limited: true,
        class: Class::Dispatch,
        summary: "Submit a compiled test. Repeating it with the same key changes nothing.",
        body: Some("Submission"),
        answer: Answer {
            status: 201,
            content: Content::Json("Accepted"),
            text: "The job; the same for a repeated key.",
        },
        handler: || post(handlers::submit),
    },
    Operation {
        id: "list_jobs",
        method: "get",
        path: "/api/v1/jobs",
        needs: Some(Access::View),
        is_limited: true,
        class: Class::Progress,
        summary: "List the jobs that live or ended lately.",
        body: None,
        answer: Answer {
            status: 200,
            content: Content::List("JobView"),
            text: "Jobs, the newest first.",
        },
        handler: || get(handlers::list),
    },
    Operation {
        id: "get_job",
        method: "get",
        path: "/api/v1/jobs/{job}",
        needs: Some(Access::View),
        is_limited: true,
        class: Class::Progress,
        summary: "Show where a job stands.",
        body: None,
        answer: Answer { status: 200, content: Content::Json("JobView"), text: "The job." },
        handler: || get(handlers::job),
    },
    Operation {
        id: "cancel_job",
        method: "post",
        path: "/api/v1/jobs/{job}/cancel",
        needs: Some(Access::Run),
        is_limited: false,
        class: Class::Control,
        summary: "Stop a job, or one workflow of it. An ended job answers with its final status.",
        body: Some("Cancellation"),
        answer: Answer {
            status: 200,
            content: Content::Json("JobView"),
            text: "The job, once the stop is decided.",
        },
        handler: || post(handlers::cancel),
    },
    Operation {
        id: "steer_job",
        method: "post",
        path: "/api/v1/jobs/{job}/steer",
        needs: Some(Access::Run),
        is_limited: false,
        class: Class::Control,
        summary: "Pause a job's load, let it go on, or scale workflows, while it runs. A load that is \
                  paused starts no iteration, and its time stands still; the job's deadline does not.",
        body: Some("Steering"),
        answer: Answer {
            status: 200,
            content: Content::Json("JobView"),
            text: "The job, once the change is decided. Workers follow within two seconds.",
        },
        handler: || post(handlers::steer),
    },
    Operation {
        id: "get_results",
        method: "get",
        path: "/api/v1/jobs/{job}/results",
        needs: Some(Access::View),
        is_limited: true,
        class: Class::Progress,
        summary: "Show what came of an ended job; 409 while it runs.",
        body: None,
        answer: Answer {
            status: 200,
            content: Content::Json("JobResult"),
            text: "Everything that a report shows.",
        },
        handler: || get(handlers::results),
    },
    Operation {
        id: "follow_events",
        method: "get",
        path: "/api/v1/jobs/{job}/events",
        needs: Some(Access::View),
        is_limited: true,
        class: Class::Progress,
        summary: "Follow a job by server-sent events: `event` (EventRecord), `view` (LiveView), \
                  `end` (the job's id), `problem` (Problem). A stream goes on after the header \
                  Last-Event-ID.",
        body: None,
        answer: Answer {
            status: 200,
            content: Content::Other("text/event-stream"),
            text: "Events until the job ends.",
        },
        handler: || get(events::follow),
    },
    Operation {
        id: "list_datacenters",
        method: "get",
        path: "/api/v1/datacenters",
        needs: Some(Access::View),
        is_limited: true,
        class: Class::Progress,
        summary: "List the datacenters that the gate has heard of.",
        body: None,
        answer: Answer {
            status: 200,
            content: Content::List("DatacenterView"),
            text: "Datacenters, by name.",
        },
        handler: || get(handlers::datacenters),
    },
    Operation {
        id: "list_nodes",
        method: "get",
        path: "/api/v1/nodes",
        needs: Some(Access::View),
        is_limited: true,
        class: Class::Progress,
        summary: "List the nodes that the gate knows of: itself, then each datacenter's leader and \
                  its workers, at most 1,000 of a datacenter.",
        body: None,
        answer: Answer { status: 200, content: Content::List("NodeView"), text: "Nodes." },
        handler: || get(handlers::nodes),
    },
    Operation {
        id: "get_cluster",
        method: "get",
        path: "/api/v1/cluster",
        needs: Some(Access::View),
        is_limited: true,
        class: Class::Control,
        summary: "Show how the cluster is, as this gate sees it: gates, whether they can decide \
                  anything and if not why, datacenters with their leaders, jobs by owner. It asks \
                  nobody, so it also answers without a quorum.",
        body: None,
        answer: Answer { status: 200, content: Content::Json("ClusterView"), text: "The cluster." },
        handler: || get(handlers::cluster),
    },
    Operation {
        id: "remove_node",
        method: "post",
        path: "/api/v1/cluster/remove",
        needs: Some(Access::Admin),
        is_limited: true,
        class: Class::Control,
        summary: "Have a gate or a manager take no part any more: one that is lost for good, so \
                  that a spare votes in its place. It is not welcome back; started with an empty \
                  data directory it is a new node.",
        body: Some("NodeRef"),
        answer: Answer {
            status: 200,
            content: Content::Json("NodeRef"),
            text: "The node, once its removal is decided.",
        },
        handler: || post(handlers::remove_node),
    },
    Operation {
        id: "drain_node",
        method: "post",
        path: "/api/v1/cluster/drain",
        needs: Some(Access::Admin),
        is_limited: true,
        class: Class::Control,
        summary: "Have a node leave as if it were told to on its machine: a worker finishes what \
                  runs or hands it back, a manager or gate hands over what it leads and owns. Ask \
                  again if it stays: nothing remembers it.",
        body: Some("NodeRef"),
        answer: Answer {
            status: 202,
            content: Content::Json("NodeRef"),
            text: "The node, once it was asked.",
        },
        handler: || post(handlers::drain_node),
    },
    Operation {
        id: "health",
        method: "get",
        path: "/api/v1/health",
        needs: None,
        is_limited: false,
        class: Class::Control,
        summary: "Say whether the gate answers.",
        body: None,
        answer: Answer { status: 200, content: Content::Nothing, text: "It does." },
        handler: || get(handlers::health),
    },
    Operation {
        id: "openapi",
        method: "get",
        path: "/api/v1/openapi.json",
        needs: None,
        is_limited: true,
        class: Class::Progress,
        summary: "Show this document.",
        body: None,
        answer: Answer {
            status: 200,
            content: Content::Other("application/json"),
            text: "OpenAPI 3.1.",
        },
        handler: || get(handlers::openapi),
    },
    Operation {
        id: "metrics",
        method: "get",
        path: "/metrics",
        needs: Some(Access::View),
        is_limited: true,
        class: Class::Control,
        summary: "Show what this process counts, in Prometheus' text format.",
        body: None,
        answer: Answer {
            status: 200,
            content: Content::Other("text/plain; version=0.0.4"),
            text: "Metrics.",
        },
        handler: || get(handlers::metrics),
    },
];

/// The methods that a path takes, for an answer to one that it does not.
pub(crate) fn methods_of(path: &str) -> Vec<String> {
    let fits = |known: &str| {
        let (mut ours, mut theirs) = (known.split('/'), path.split('/'));
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some(ours), Some(theirs)) if ours == theirs || ours.starts_with('{') => {}
                _ => return false,
            }
        }
    };
    let fitting = OPERATIONS.iter().filter(|operation| fits(operation.path));
    fitting.map(|operation| operation.method.to_ascii_uppercase()).collect()
}
