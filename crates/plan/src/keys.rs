//! The one table of keys. What is checked, the JSON Schema and the reference all come from here,
//! so that they cannot disagree.

/// What a key's value looks like.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Text, known before the test runs.
    Text,
    /// Text with `${…}` holes that are filled while the test runs.
    Template,
    /// An expression.
    Expr,
    Bool,
    /// A whole number.
    Count,
    Duration,
    Rate,
    Share,
    /// An RFC 3339 instant.
    Instant,
    /// A file, relative to the test file.
    File,
    /// Any YAML value, with holes.
    Json,
    Choice(&'static [&'static str]),
    Section(&'static str),
    List(&'static Kind),
    Map(&'static Kind),
    OneOf(&'static [Kind]),
    /// Part of the language, but refused until it works.
    Unsupported,
}

/// A key.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Empty if there is none.
    pub(crate) default: &'static str,
    pub(crate) doc: &'static str,
}

/// A mapping with known keys.
#[derive(Debug)]
pub(crate) struct Section {
    /// Its name in the schema.
    pub(crate) name: &'static str,
    /// Its heading in the reference; its anchor follows from it.
    pub(crate) heading: &'static str,
    /// Where its heading leads to.
    pub(crate) anchor: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) required: &'static [&'static str],
    pub(crate) keys: &'static [Key],
}

impl Section {
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }
}

const fn key(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, default, doc }
}

use Kind::{
    Bool, Choice, Count, Duration, Expr, File, Instant, Json, List, Map, OneOf, Rate, Share,
    Template, Text, Unsupported,
};

const fn sub(name: &'static str) -> Kind {
    Kind::Section(name)
}

const TEXTS: Kind = List(&Text);
const TEXT_OR_TEXTS: Kind = OneOf(&[Text, TEXTS]);
const STEPS: Kind = List(&sub("step"));
const HEADERS: Kind = Map(&Template);
const PAUSE: Kind = OneOf(&[Text, sub("pause")]);

/// Executors with the keys that go with them and those that must be there.
#[derive(Debug)]
pub(crate) struct Executor {
    pub(crate) name: &'static str,
    pub(crate) keys: &'static [&'static str],
    pub(crate) required: &'static [&'static str],
    pub(crate) doc: &'static str,
}

pub(crate) static EXECUTORS: [Executor; 8] = [
    Executor {
        name: "constant-vus",
        keys: &["vus", "duration"],
        required: &["vus", "duration"],
        doc: "so many users, as fast as they go",
    },
    Executor {
        name: "ramping-vus",
        keys: &["start_vus", "stages", "graceful_ramp_down"],
        required: &["stages"],
        doc: "users follow a line",
    },
    Executor {
        name: "per-vu-iterations",
        keys: &["vus", "iterations", "max_duration"],
        required: &["vus", "iterations"],
        doc: "each user so often",
    },
    Executor {
        name: "shared-iterations",
        keys: &["vus", "total", "max_duration"],
        required: &["vus", "total"],
        doc: "so often in all; exactly, also over machines",
    },
    Executor {
        name: "constant-arrival-rate",
        keys: &["rate", "duration", "max_vus", "distribution"],
        required: &["rate", "duration"],
        doc: "starts by the clock, whatever the target does",
    },
    Executor {
        name: "ramping-arrival-rate",
        keys: &["start_rate", "stages", "max_vus", "distribution"],
        required: &["stages"],
        doc: "the same along a line",
    },
    Executor {
        name: "externally-controlled",
        keys: &["vus", "max_vus", "duration"],
        required: &["max_vus", "duration"],
        doc: "users are changed while it runs, by command or API",
    },
    Executor {
        name: "once",
        keys: &["max_duration"],
        required: &[],
        doc: "one iteration in the whole job, in one of its datacenters",
    },
];

const EXECUTOR_NAMES: &[&str] = &[
    "constant-vus",
    "ramping-vus",
    "per-vu-iterations",
    "shared-iterations",
    "constant-arrival-rate",
    "ramping-arrival-rate",
    "externally-controlled",
    "once",
];

pub(crate) const METHODS: [&str; 7] = ["get", "post", "put", "patch", "delete", "head", "options"];

/// Keys of a step that say what it does.
pub(crate) const ACTIONS: [&str; 20] = [
    "get", "post", "put", "patch", "delete", "head", "options", "http", "pause", "log", "set",
    "use", "group", "repeat", "while", "if", "choose", "parallel", "stop", "record",
];

/// Keys of a step that give a request's body.
pub(crate) const BODIES: [&str; 6] = ["json", "form", "multipart", "text", "file", "base64"];

const URL: &str = "a URL, absolute or, beginning with `/`, relative to `target`";

pub(crate) static TEST: Section = Section {
    name: "test",
    heading: "The file",
    anchor: "the-file",
    doc: "What stands at the top level.",
    required: &["workflows"],
    keys: &[
        key("name", Text, "the file's stem", "the test's name"),
        key("description", Text, "", "what the test is about"),
        key("labels", Map(&Text), "", "labels that go into every output"),
        key("target", Text, "", "what stands before relative URLs; its path, if any, is kept"),
        key("env", Map(&sub("env")), "", "environment variables that the test may read"),
        key("secrets", Map(&sub("secret")), "", "values that are masked in every output"),
        key("vars", Map(&Json), "", "constants, read as `${vars.name}`; they may use `env`"),
        key("defaults", sub("defaults"), "", "what holds for all requests"),
        key("data", Map(&sub("data")), "", "sources of rows"),
        key("metrics", Map(&sub("metric")), "", "the test's own metrics"),
        key(
            "workflows",
            Map(&sub("workflow")),
            "",
            "loads with their steps, by name; at least one",
        ),
        key("blocks", Map(&STEPS), "", "named steps that workflows `use`"),
        key("thresholds", List(&OneOf(&[Text, sub("threshold")])), "", "what must hold"),
        key("run", sub("run"), "", "how the job as a whole runs"),
        key(
            "outputs",
            List(&sub("output")),
            "",
            "files of results, as `--out` writes them; one of the same kind on the command line takes its place",
        ),
    ],
};

pub(crate) static ENV: Section = Section {
    name: "env",
    heading: "Environment",
    anchor: "environment",
    doc: "Only declared variables can be read, as `${env.NAME}`. One that is not set and has no default is an error.",
    required: &[],
    keys: &[key("default", Text, "", "its value where it is not set")],
};

pub(crate) static SECRET: Section = Section {
    name: "secret",
    heading: "Secrets",
    anchor: "secrets",
    doc: "Read as `${secrets.NAME}`. The value travels apart from the test and is masked in every output.",
    required: &[],
    keys: &[
        key("env", Text, "", "the environment variable that holds it"),
        key("file", File, "", "the file that holds it; a line break at its end is dropped"),
    ],
};

pub(crate) static DEFAULTS: Section = Section {
    name: "defaults",
    heading: "Defaults",
    anchor: "defaults",
    doc: "What holds for all requests; a step's own settings win.",
    required: &[],
    keys: &[
        key("timeout", Duration, "10s", "how long an exchange may take, redirects included"),
        key("headers", HEADERS, "", "headers of all requests"),
        key("auth", sub("auth"), "", "credentials of all requests"),
        key("http", sub("http"), "", "how HTTP is spoken"),
        key("net", sub("net"), "", "addresses and names"),
        key("tls", sub("tls"), "", "certificates and versions"),
        key(
            "samples",
            Count,
            "5",
            "exchanges kept per step and outcome that is not ok; 0 turns it off",
        ),
    ],
};

pub(crate) static HTTP: Section = Section {
    name: "http",
    heading: "HTTP",
    anchor: "http",
    doc: "Under `defaults.http`.",
    required: &[],
    keys: &[
        key(
            "version",
            Choice(&["auto", "1.1", "2", "3"]),
            "auto",
            "the version of HTTP; `2` and `3` are not supported yet",
        ),
        key(
            "connections",
            Choice(&["per-vu", "pool"]),
            "per-vu",
            "each user has its own, as a browser does, or each core has a pool, as a service does",
        ),
        key("pool_size", Count, "100", "connections of a pool per core and host at most"),
        key("max_requests", Count, "", "how many requests a connection may carry"),
        key("max_age", Duration, "", "how old a connection may become"),
        key("idle", Duration, "", "how long a connection may idle"),
        key("redirects", Count, "5", "how many redirects are followed"),
        key("cookies", Bool, "true", "whether users keep cookies"),
        key("compression", Bool, "true", "whether compressed answers are asked for and undone"),
        key("connect_timeout", Duration, "10s", "how long a connection may take to open"),
        key("first_byte_timeout", Duration, "", "how long the first byte of an answer may take"),
    ],
};

pub(crate) static NET: Section = Section {
    name: "net",
    heading: "Network",
    anchor: "network",
    doc: "Under `defaults.net`.",
    required: &[],
    keys: &[
        key("source_ips", TEXTS, "", "local addresses to send from, in turn"),
        key("resolve", Map(&TEXT_OR_TEXTS), "", "addresses of names, before any lookup"),
        key("dns", sub("dns"), "", "how names are looked up"),
        key(
            "proxy",
            Text,
            "",
            "an HTTP proxy to send through, such as `http://10.0.0.7:3128`; HTTPS goes through a tunnel",
        ),
    ],
};

pub(crate) static DNS: Section = Section {
    name: "dns",
    heading: "DNS",
    anchor: "dns",
    doc: "Under `defaults.net.dns`.",
    required: &[],
    keys: &[
        key("family", Choice(&["auto", "v4", "v6"]), "auto", "which addresses count"),
        key("ttl", Duration, "the whole run", "how long an answer is used"),
        key(
            "select",
            Choice(&["first", "round-robin", "random"]),
            "round-robin",
            "which of several addresses a connection takes",
        ),
    ],
};

pub(crate) static TLS: Section = Section {
    name: "tls",
    heading: "TLS",
    anchor: "tls",
    doc: "Under `defaults.tls`.",
    required: &[],
    keys: &[
        key("ca", File, "the system's", "trusted certificates (PEM)"),
        key("cert", File, "", "the client's certificate chain (PEM)"),
        key(
            "key",
            Template,
            "",
            "the client's key (PEM): a file, or a secret as `${secrets.NAME}`",
        ),
        key("server_name", Text, "the URL's host", "the name to ask for and to check"),
        key("min", Choice(&["1.2", "1.3"]), "1.2", "the lowest version"),
        key("max", Choice(&["1.2", "1.3"]), "1.3", "the highest version"),
        key("handshake_timeout", Duration, "10s", "how long a handshake may take"),
        key("insecure", Bool, "false", "whether any certificate will do"),
    ],
};

pub(crate) static DATA: Section = Section {
    name: "data",
    heading: "Data",
    anchor: "data",
    doc: "An iteration draws one row of each source that it uses; `${users.name}` is a field of the row. Exactly one of `csv`, `json`, `jsonl` and `values` says where rows come from. A file has at most 64 MiB. `unique` gives no row twice in the whole run, on all workers and in all datacenters together, also when nodes die: rows that a lost worker may have sent are not used again, and the report counts them as possibly sent. Datacenters, workers and the workflows that use a source have a part of its rows each; what is left of one part is not used by another, and the report says how much. A user's setup has no such row. With `on_end: recycle` rows come again, in rounds.",
    required: &[],
    keys: &[
        key("csv", File, "", "a CSV file; fields are text"),
        key(
            "columns",
            TEXTS,
            "the header row",
            "names of the columns of a CSV file without header row",
        ),
        key("delimiter", Text, ",", "what separates the columns of a CSV file"),
        key("json", File, "", "a JSON file"),
        key("at", Text, "$", "the JSONPath of the rows in a JSON file"),
        key("jsonl", File, "", "a file with one JSON value a line"),
        key("values", List(&Json), "", "the rows themselves"),
        key(
            "pick",
            Choice(&["sequential", "random", "shuffle", "unique"]),
            "sequential",
            "which row an iteration takes",
        ),
        key(
            "on_end",
            Choice(&["stop", "recycle"]),
            "stop",
            "what happens when `unique` rows are used up: the user stops, or rows come again",
        ),
    ],
};

pub(crate) static METRIC: Section = Section {
    name: "metric",
    heading: "Metrics",
    anchor: "metrics",
    doc: "Own metrics are recorded by the step `record` and merged like ours.",
    required: &["kind"],
    keys: &[
        key(
            "kind",
            Choice(&["counter", "gauge", "rate", "distribution"]),
            "",
            "a sum; the last value; a share of true values; percentiles",
        ),
        key("unit", Text, "", "the unit of its values"),
    ],
};

pub(crate) static WORKFLOW: Section = Section {
    name: "workflow",
    heading: "Workflows",
    anchor: "workflows",
    doc: "A workflow is a load with its steps. Workflows run at the same time unless one waits for another.",
    required: &["load", "steps"],
    keys: &[
        key("load", OneOf(&[sub("load"), Choice(&["once"])]), "", "how much, when"),
        key("steps", STEPS, "", "what a user does in one iteration"),
        key(
            "after",
            OneOf(&[TEXTS, sub("after")]),
            "",
            "workflows that must have succeeded before it starts, in all datacenters",
        ),
        key(
            "publish",
            OneOf(&[TEXTS, Map(&OneOf(&[Text, sub("publish")]))]),
            "",
            "captures that dependents read as `${workflow.name}`: from the iteration that ended last, or a list of them",
        ),
        key("start_after", Duration, "0s", "how long it waits once it could start"),
        key(
            "graceful_stop",
            Duration,
            "30s",
            "how long running iterations may finish; then they are cut and counted",
        ),
        key(
            "cores",
            OneOf(&[Choice(&["auto"]), Count]),
            "auto",
            "how many cores it may use in all",
        ),
        key(
            "on_error",
            Choice(&["continue", "end-iteration", "end-vu", "abort"]),
            "continue",
            "what a failed step means for its user",
        ),
        key("each_vu", sub("each_vu"), "", "steps around a user's iterations"),
        key(
            "finally",
            STEPS,
            "",
            "steps for an iteration that was cut or failed, within `graceful_stop`",
        ),
    ],
};

pub(crate) static AFTER: Section = Section {
    name: "after",
    heading: "After",
    anchor: "after",
    doc: "`after: [ a, b ]` waits for success. The long form waits for an end, however it came: also failure or cancellation. A job in several datacenters waits until the workflow has ended in all of them, and all get what it published in any; with `run: { each: true }` each datacenter waits for itself.",
    required: &["any"],
    keys: &[key("any", TEXTS, "", "workflows that must have ended")],
};

pub(crate) static PUBLISH: Section = Section {
    name: "publish",
    heading: "Publish",
    anchor: "publish",
    doc: "`publish: { ids: { collect: id, limit: 1000 } }` gives a list.",
    required: &["collect"],
    keys: &[
        key("collect", Text, "", "the capture whose values are collected"),
        key("limit", Count, "1000", "how many at most"),
    ],
};

pub(crate) static EACH_VU: Section = Section {
    name: "each_vu",
    heading: "Each user",
    anchor: "each-user",
    doc: "Steps that each user runs once.",
    required: &[],
    keys: &[
        key("setup", STEPS, "", "before its first iteration"),
        key("teardown", STEPS, "", "after its last iteration"),
    ],
};

pub(crate) static LOAD: Section = Section {
    name: "load",
    heading: "Load",
    anchor: "load",
    doc: "The executor may be left out where the keys decide it. A start that finds no free user is *dropped*, counted and shown: never silently delayed.",
    required: &[],
    keys: &[
        key("executor", Choice(EXECUTOR_NAMES), "by the keys", "how load is made"),
        key("vus", Count, "", "users"),
        key("duration", Duration, "", "for how long"),
        key("start_vus", Count, "0", "users at the start"),
        key("stages", List(&sub("stage")), "", "the line that users or the rate follow"),
        key(
            "graceful_ramp_down",
            Duration,
            "30s",
            "how long a user that is too many may finish its iteration",
        ),
        key("iterations", Count, "", "iterations of each user"),
        key("total", Count, "", "iterations of all users together"),
        key("max_duration", Duration, "10m", "for how long at most"),
        key("rate", Rate, "", "starts of iterations"),
        key("start_rate", Rate, "0/s", "starts of iterations at the start"),
        key(
            "max_vus",
            Count,
            "peak rate × longest timeout, 10 to 10000",
            "users that may be busy at once",
        ),
        key(
            "distribution",
            Choice(&["even", "poisson"]),
            "even",
            "starts at equal distances, or as independent visitors come",
        ),
    ],
};

pub(crate) static STAGE: Section = Section {
    name: "stage",
    heading: "Stages",
    anchor: "stages",
    doc: "`{ to: 100, over: 1m }` goes to a value, `{ hold: 5m }` stays. With `over: 0s` it jumps.",
    required: &[],
    keys: &[
        key("to", OneOf(&[Count, Rate]), "", "the value at its end: users, or a rate"),
        key("over", Duration, "", "how long it takes"),
        key("hold", Duration, "", "how long the value stays as it is"),
    ],
};

pub(crate) static STEP: Section = Section {
    name: "step",
    heading: "Steps",
    anchor: "steps",
    doc: "A step has exactly one action; what else it may have beside `when` belongs to requests. A hole in a URL or header is filled as it is; `url_encode` makes any text fit. A URL that begins with a hole must become an absolute one. Steps of one name in one workflow share their figures.",
    required: &[],
    keys: &[
        key("name", Text, "`GET /path`", "its name in the figures; holes of the path show as `{}`"),
        key("when", Expr, "", "the step runs only if this holds"),
        key("get", Template, "", URL),
        key("post", Template, "", URL),
        key("put", Template, "", URL),
        key("patch", Template, "", URL),
        key("delete", Template, "", URL),
        key("head", Template, "", URL),
        key("options", Template, "", URL),
        key("http", sub("http_action"), "", "any other method"),
        key(
            "pause",
            PAUSE,
            "",
            "wait: `2s`, `1s..3s` (uniform), `{ normal: 2s, sd: 500ms }`, `{ exponential: 2s }`",
        ),
        key("log", Template, "", "write a line to the worker's log, at most a few per second"),
        key("set", Map(&Expr), "", "set variables"),
        key("use", Text, "", "the steps of a block"),
        key(
            "group",
            sub("group"),
            "",
            "steps that belong together; their names begin with the group's",
        ),
        key("repeat", sub("repeat"), "", "steps several times"),
        key("while", sub("while"), "", "steps as long as a condition holds"),
        key("if", sub("if"), "", "steps by a condition"),
        key("choose", List(&sub("choice")), "", "one of several, by weight"),
        key("parallel", STEPS, "", "all at once, as the resources of a page"),
        key("stop", Choice(&["iteration", "vu"]), "", "end the iteration or the user"),
        key("record", Map(&Expr), "", "record values of own metrics"),
        key("timeout", Duration, "`defaults.timeout`", "how long the exchange may take"),
        key("headers", HEADERS, "", "headers besides those of `defaults`"),
        key("query", Map(&Template), "", "parameters of the URL; encoded"),
        key(
            "json",
            Json,
            "",
            "a JSON body; a hole that is a whole value keeps its type; `content-type: application/json` unless a header says otherwise",
        ),
        key("form", Map(&Template), "", "a URL-encoded body, with its `content-type`"),
        key("multipart", Unsupported, "", "a body of several parts"),
        key(
            "text",
            Template,
            "",
            "a body of text; `content-type: text/plain; charset=utf-8` unless a header says otherwise",
        ),
        key("file", File, "", "a body from a file; give its `content-type` as a header"),
        key("base64", Text, "", "a body of bytes; give its `content-type` as a header"),
        key("auth", sub("auth"), "", "credentials"),
        key(
            "check",
            List(&OneOf(&[Expr, sub("check")])),
            "status below 400",
            "what must hold of the answer",
        ),
        key("capture", Map(&sub("capture")), "", "values for later steps"),
        key("redirects", Count, "`defaults.http.redirects`", "how many redirects are followed"),
        key("retry", sub("retry"), "", "when and how often it is tried again"),
    ],
};

pub(crate) static HTTP_ACTION: Section = Section {
    name: "http_action",
    heading: "Any method",
    anchor: "any-method",
    doc: "`http: { method: PURGE, url: /cache }`.",
    required: &["method", "url"],
    keys: &[key("method", Text, "", "the method"), key("url", Template, "", URL)],
};

pub(crate) static PAUSE_SECTION: Section = Section {
    name: "pause",
    heading: "Pauses",
    anchor: "pauses",
    doc: "The long form of `pause`.",
    required: &[],
    keys: &[
        key("normal", Duration, "", "the mean of a normal distribution, cut at zero"),
        key("sd", Duration, "", "its standard deviation"),
        key("exponential", Duration, "", "the mean of an exponential distribution"),
    ],
};

pub(crate) static GROUP: Section = Section {
    name: "group",
    heading: "Groups",
    anchor: "groups",
    doc: "",
    required: &["name", "steps"],
    keys: &[
        key("name", Text, "", "what the names of its steps begin with"),
        key("steps", STEPS, "", "the steps"),
    ],
};

pub(crate) static REPEAT: Section = Section {
    name: "repeat",
    heading: "Repeat",
    anchor: "repeat",
    doc: "",
    required: &["times", "steps"],
    keys: &[key("times", Expr, "", "how often"), key("steps", STEPS, "", "the steps")],
};

pub(crate) static WHILE: Section = Section {
    name: "while",
    heading: "While",
    anchor: "while",
    doc: "",
    required: &["condition", "steps"],
    keys: &[
        key("condition", Expr, "", "the condition"),
        key("max", Count, "1000", "how often at most"),
        key("steps", STEPS, "", "the steps"),
    ],
};

pub(crate) static IF: Section = Section {
    name: "if",
    heading: "If",
    anchor: "if",
    doc: "",
    required: &["condition", "then"],
    keys: &[
        key("condition", Expr, "", "the condition"),
        key("then", STEPS, "", "steps if it holds"),
        key("else", STEPS, "", "steps if it does not"),
    ],
};

pub(crate) static CHOICE: Section = Section {
    name: "choice",
    heading: "Choose",
    anchor: "choose",
    doc: "One way is taken at random; a weight of 3 is taken three times as often as one of 1.",
    required: &["steps"],
    keys: &[
        key("weight", Count, "1", "its weight among the others"),
        key("steps", STEPS, "", "the steps"),
    ],
};

pub(crate) static AUTH: Section = Section {
    name: "auth",
    heading: "Credentials",
    anchor: "credentials",
    doc: "One of both.",
    required: &[],
    keys: &[
        key("basic", sub("basic"), "", "user and password"),
        key("bearer", Template, "", "a token"),
    ],
};

pub(crate) static BASIC: Section = Section {
    name: "basic",
    heading: "Basic credentials",
    anchor: "basic-credentials",
    doc: "",
    required: &["user", "password"],
    keys: &[key("user", Template, "", "the user"), key("password", Template, "", "the password")],
};

pub(crate) static CHECK: Section = Section {
    name: "check",
    heading: "Checks",
    anchor: "checks",
    doc: "Conditions over the answer: `status == 200`, `status in 200..299`, `latency < 500ms`, `header(\"content-type\").startsWith(\"text/\")`, `json(\"$.items\").size() > 0`, `size > 1KiB`. Without any check a status of 400 or above fails.",
    required: &["expect"],
    keys: &[
        key("name", Text, "the condition", "its name in the figures"),
        key("expect", Expr, "", "the condition"),
        key("warn", Bool, "false", "whether it only counts, without failing the request"),
    ],
};

pub(crate) static CAPTURE: Section = Section {
    name: "capture",
    heading: "Captures",
    anchor: "captures",
    doc: "Exactly one of `json`, `regex`, `header`, `cookie` and `body` says where the value is. A missing value without default fails the step and ends the iteration.",
    required: &[],
    keys: &[
        key("json", Text, "", "a JSONPath (RFC 9535)"),
        key("regex", Text, "", "a regular expression: its first group, or its whole match"),
        key("header", Text, "", "a header"),
        key("cookie", Text, "", "a cookie"),
        key("body", Bool, "", "`true`: the whole body"),
        key("css", Unsupported, "", "a CSS selector"),
        key("xpath", Unsupported, "", "an XPath"),
        key("default", Json, "", "what it is if the answer has none"),
        key("index", Choice(&["first", "random", "all"]), "first", "which of several"),
    ],
};

pub(crate) static RETRY: Section = Section {
    name: "retry",
    heading: "Retries",
    anchor: "retries",
    doc: "Each try is counted, the step once.",
    required: &["times"],
    keys: &[
        key("times", Count, "", "how often, after the first try"),
        key(
            "on",
            List(&Text),
            "any",
            "after which outcomes: `any` failure, `check_failed`, `http_4xx`, `http_5xx`, `http_other`, `timeout`, `connect`, `dns`, `tls`, `reset`, `protocol`, or statuses such as `503`",
        ),
        key("backoff", Duration, "100ms", "the delay before the first retry; it doubles with each"),
    ],
};

pub(crate) static THRESHOLD: Section = Section {
    name: "threshold",
    heading: "Thresholds",
    anchor: "thresholds",
    doc: "`metric[.aggregate] op value`, as text or with the keys below. Names can be lists, hold `*`, and exclude with `!`. Metrics of time are `latency`, `service_time`, `connect`, `tls`, `first_byte` and `lag` with the aggregates `min`, `avg`, `med`, `max`, `sd` and percentiles from `p1` to `p99.999`; counts are `requests`, `iterations`, `bytes_in`, `bytes_out` and `dropped` with `count` (the default) and `rate`; shares are `failed` and `checks`, or their `count`; `vus` stands alone. Own metrics are named by their name. `status` narrows `requests`, `check` narrows `checks`, `workflow` and `step` what is measured by request. All are judged on merged figures while the test runs and once more at its end; fewer than 100 samples judge only at the end.",
    required: &["expect"],
    keys: &[
        key("expect", Text, "", "the condition"),
        key("workflow", TEXT_OR_TEXTS, "", "which workflows count"),
        key("step", TEXT_OR_TEXTS, "", "which steps count, as `workflow/step`"),
        key("check", TEXT_OR_TEXTS, "", "which checks count"),
        key("status", TEXT_OR_TEXTS, "", "which statuses count"),
        key("label", Unsupported, "", "labels of a job"),
        key(
            "datacenter",
            TEXT_OR_TEXTS,
            "all together",
            "which datacenters count; `each` judges each by itself",
        ),
        key("abort", Bool, "false", "whether breaking it stops the job in all datacenters"),
        key("after", Duration, "0s", "judged only from so long after the start"),
        key("during", Text, "", "judged only over this time of the job, as `3m..7m`"),
        key("for", Duration, "0s", "how long it must be broken before it stops the job"),
    ],
};

pub(crate) static RUN: Section = Section {
    name: "run",
    heading: "Run",
    anchor: "run",
    doc: "How the job as a whole runs.",
    required: &[],
    keys: &[
        key(
            "datacenters",
            OneOf(&[Choice(&["all"]), Count, TEXTS]),
            "1",
            "names, `all`, or how many are chosen",
        ),
        key(
            "split",
            OneOf(&[Choice(&["weighted", "even"]), Map(&Share)]),
            "weighted",
            "how load is divided over them: by free cores, in equal parts, or by shares that make 100%",
        ),
        key("each", Bool, "false", "whether each datacenter gets the whole load"),
        key(
            "deadline",
            Duration,
            "1h, longer if the loads are",
            "how long the job may take in all",
        ),
        key(
            "priority",
            Choice(&["critical", "high", "normal", "low"]),
            "normal",
            "its rank among jobs that wait",
        ),
        key("best_effort", sub("best_effort"), "", "end with the datacenters that have reported"),
        key("max_latency", Duration, "", "the slowest way to a datacenter that is acceptable"),
        key("seed", Count, "0", "what all random choices follow from"),
        key("start_at", Instant, "", "when it starts, as `2026-05-01T12:00:00Z`"),
    ],
};

pub(crate) static BEST_EFFORT: Section = Section {
    name: "best_effort",
    heading: "Best effort",
    anchor: "best-effort",
    doc: "",
    required: &["min_datacenters", "deadline"],
    keys: &[
        key("min_datacenters", Count, "", "how many must have reported"),
        key("deadline", Duration, "", "how long the others are waited for"),
    ],
};

pub(crate) static OUTPUT: Section = Section {
    name: "output",
    heading: "Outputs",
    anchor: "outputs",
    doc: "Files that are written when the job has ended, relative to where the command runs; each with exactly one of these keys.",
    required: &[],
    keys: &[
        key("json", Text, "", "the summary"),
        key("csv", Text, "", "the figures of each window"),
        key("html", Text, "", "the report"),
        key("junit", Text, "", "thresholds and checks as test cases"),
    ],
};

/// All sections, in the order of the reference.
pub(crate) static SECTIONS: [&Section; 34] = [
    &TEST,
    &ENV,
    &SECRET,
    &DEFAULTS,
    &HTTP,
    &NET,
    &DNS,
    &TLS,
    &AUTH,
    &BASIC,
    &DATA,
    &METRIC,
    &WORKFLOW,
    &AFTER,
    &PUBLISH,
    &EACH_VU,
    &LOAD,
    &STAGE,
    &STEP,
    &HTTP_ACTION,
    &PAUSE_SECTION,
    &GROUP,
    &REPEAT,
    &WHILE,
    &IF,
    &CHOICE,
    &CHECK,
    &CAPTURE,
    &RETRY,
    &THRESHOLD,
    &RUN,
    &BEST_EFFORT,
    &OUTPUT,
    &LIMITS,
];

/// Not keys, but a heading that messages lead to.
pub(crate) static LIMITS: Section = Section {
    name: "limits",
    heading: "Limits",
    anchor: "limits",
    doc: "A test file has at most 1 MiB, 64 levels and 100,000 values, aliases written out; a test at most 256 workflows, 2,048 named requests, 10,000 steps with blocks written out, 256 regular expressions, 1,024 JSONPaths, and as a compiled plan 1 MiB. Steps nest at most 8 levels, expressions 32.",
    required: &[],
    keys: &[],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent() {
        fn sections(kind: &Kind, found: &mut Vec<&'static str>) {
            match kind {
                Kind::Section(name) => found.push(name),
                List(inner) | Map(inner) => sections(inner, found),
                OneOf(kinds) => kinds.iter().for_each(|kind| sections(kind, found)),
                _ => {}
            }
        }
        for section in SECTIONS {
            for required in section.required {
                assert!(section.has(required), "{} requires an unknown {required}", section.name);
            }
            let mut found = Vec::new();
            section.keys.iter().for_each(|key| sections(&key.kind, &mut found));
            for name in found {
                assert!(SECTIONS.iter().any(|s| s.name == name), "{name} is no section");
            }
        }
        for executor in &EXECUTORS {
            assert!(EXECUTOR_NAMES.contains(&executor.name));
            assert!(executor.keys.iter().chain(executor.required).all(|key| LOAD.has(key)));
        }
        assert!(ACTIONS.iter().chain(&BODIES).all(|key| STEP.has(key)));
    }
}
