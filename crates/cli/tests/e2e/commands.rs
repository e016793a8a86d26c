//! Every command that the help lists, called as people call it.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use rustix::process::Signal;
use serde_json::Value;

use crate::system::{WITHIN, World, http, until};

/// The commands whose happy path some test of this binary takes: the ones below, and those of the
/// other modules.
const CALLED: [&str; 24] = [
    "run",
    "demo",
    "target",
    "serve",
    "gate",
    "manager",
    "worker",
    "cert",
    "submit",
    "jobs",
    "status",
    "watch",
    "cancel",
    "results",
    "validate",
    "schema",
    "help",
    "nodes",
    "new",
    "completions",
    "plan",
    "ping",
    "playground",
    "cluster",
];

#[test]
fn every_command_of_the_help_is_called_by_a_test() {
    let world = World::new();

    let help = world.run(["--help"]);

    help.expect(0);
    let listed = (help.stdout.lines())
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect::<BTreeSet<_>>();
    let called = CALLED.map(str::to_owned).into_iter().collect();
    assert_eq!(listed, called, "a command came or went: test it, and say so here");
    for name in &listed {
        let help = world.run(["help", name]);
        help.expect(0);
        assert!(help.stdout.contains("Usage:"), "{help}");
    }
}

#[test]
fn a_demo_needs_nothing_and_leaves_a_report() {
    let world = World::new();

    let demo = world.run(["demo", "--duration", "2s"]);

    demo.expect(0);
    assert!(demo.stdout.contains("hyperscale-demo.html"), "{demo}");
    assert!(world.path("hyperscale-demo.html").exists());
}

#[test]
fn a_run_against_a_url_needs_no_file() {
    let world = World::new();
    let target = world.target();
    let url = target.url("/echo");

    let run = world.run([
        "run", &url, "-n", "50", "-c", "5", "-m", "post", "-b", "hello", "-H", "x-a: b", "--quiet",
    ]);

    run.expect(0);
    assert_eq!(target.counted().requests, 50);
    assert_eq!(run.stderr, "", "quiet is quiet");
}

#[test]
fn a_target_with_tls_is_trusted_by_its_certificate() {
    let world = World::new();
    let target = world.start(["target", "--tls", "--tls-ca", "ca.pem", "--listen", "127.0.0.1:0"]);
    let address = target.announced("listening on https://");
    let test = format!(
        "target: https://{address}\ndefaults: {{ tls: {{ ca: ca.pem }} }}\nworkflows: {{ main: \
         {{ load: {{ vus: 2, iterations: 10 }}, steps: [ {{ get: / }} ] }} }}\n"
    );

    let (trusted, summary) = world.run_test(&world.write("test.yaml", test), &[]);
    let url = format!("https://{address}/");
    let refused = world.run(["run", &url, "-n", "3", "--out", "json=refused.json"]);
    let blind = world.run(["run", &url, "-n", "3", "--insecure"]);

    trusted.expect(0);
    assert_eq!(summary["totals"]["outcomes"]["ok"], 20);
    blind.expect(0);
    assert!(refused.stdout.contains("tls"), "{refused}");
    target.signal(Signal::TERM);
    target.end(WITHIN).expect(0);
}

#[test]
fn validate_and_schema_check_files() {
    let world = World::new();
    let file = world.write(
        "test.yaml",
        "target: http://127.0.0.1:1\nworkflows: { a: { load: { vus: 1, duration: 1s }, \
         steps: [ { get: / } ] } }\n",
    );

    let valid = world.run([OsStr::new("validate"), file.as_os_str()]);
    let schema = world.run(["schema"]);

    valid.expect(0);
    let counts = "1 workflow, 1 step, 0 thresholds; nothing is wrong";
    assert!(valid.stdout.contains(counts), "{valid}");
    schema.expect(0);
    let schema: Value = serde_json::from_str(&schema.stdout).unwrap();
    assert!(schema["$schema"].is_string(), "{schema}");
    assert!(schema.to_string().contains("\"workflows\""), "{schema}");
}

/// A gate, a manager and a worker in processes of their own, with certificates that were made for
/// them, and a token.
#[test]
fn roles_in_processes_of_their_own_work_together_with_certificates_and_tokens() {
    let world = World::new();
    let target = world.target();
    world.run(["cert", "init", "--out", "ca"]).expect(0);
    for role in ["gate", "manager", "worker"] {
        world.run(["cert", "node", "--ca", "ca", "--out", role, "--roles", role]).expect(0);
    }
    let manager = world.start([
        "manager",
        "--listen",
        "127.0.0.1:0",
        "--certs",
        "manager",
        "--data-dir",
        "manager-data",
    ]);
    let nodes = manager.announced("listening for nodes on ");
    let gate = world.start([
        "gate",
        "--join",
        &nodes,
        "--certs",
        "gate",
        "--api",
        "127.0.0.1:0",
        "--data-dir",
        "gate-data",
        "--token",
        "viewer:view:secret-view",
        "--token",
        "ci:run:secret-run",
    ]);
    let api = gate.announced("API on http://").trim_end_matches("/api/v1").to_owned();
    let _worker = world.start(["worker", "--join", &nodes, "--certs", "worker", "--cores", "1"]);
    until("a free core", WITHIN, || {
        let token = [("authorization", "Bearer secret-view")];
        let (status, body) = http(&api, "GET", "/api/v1/datacenters", &token, "");
        let views: Value = serde_json::from_str(&body).ok().filter(|_| status == 200)?;
        (views[0]["free_cores"] == 1).then_some(())
    });
    let url = target.url("/");
    let submit = |more: &[&str]| {
        let flags = ["submit", &url, "-n", "20", "-c", "2", "--watch", "--gate", &api];
        world.run(flags.iter().chain(more))
    };

    let nobody = submit(&[]);
    let wrong = submit(&["--api-token", "secret-wrong"]);
    let viewer = submit(&["--api-token", "secret-view"]);
    let run = submit(&["--api-token", "secret-run"]);

    run.expect(0);
    assert_eq!(target.counted().requests, 20);
    nobody.refuses(112, &["token"]);
    wrong.refuses(112, &["token"]);
    viewer.refuses(112, &["view"]);
    for refused in [nobody, wrong, viewer] {
        assert!(!refused.stderr.contains("secret-"), "secrets are not shown: {refused}");
    }
}

#[test]
fn a_new_test_is_valid_planned_and_never_overwritten() {
    let world = World::new();

    let made = world.run(["new", "smallest", "--out", "first.yaml"]);
    let again = world.run(["new", "smallest", "--out", "first.yaml"]);
    let valid = world.run(["validate", "first.yaml"]);
    let plan = world.run(["plan", "first.yaml", "--output", "json"]);
    let completions = world.run(["completions", "bash"]);

    made.expect(0);
    again.refuses(113, &["first.yaml"]);
    valid.expect(0);
    plan.expect(0);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert!(plan["workflows"][0]["name"].is_string(), "{plan}");
    completions.expect(0);
    assert!(completions.stdout.contains("hyperscale"), "{completions}");
}

#[test]
fn a_ping_shows_one_request_in_every_detail() {
    let world = World::new();
    let target = world.target();

    let answered = world.run(["ping", &target.url("/json")]);
    let refused = world.run(["ping", "http://127.0.0.1:9/"]);

    answered.expect(0);
    for shown in ["127.0.0.1", "200", "content-type"] {
        assert!(answered.stdout.contains(shown), "{shown}: {answered}");
    }
    assert_eq!(target.counted().requests, 1);
    refused.refuses(114, &["127.0.0.1:9"]);
}

#[test]
fn nodes_are_listed_with_what_they_are() {
    let world = World::new();
    let control = world.control();
    let _worker = world.worker(&control);
    control.until_free(1);

    let nodes = world.run(["nodes", "--gate", &control.api, "--output", "json"]);

    nodes.expect(0);
    let nodes: Value = serde_json::from_str(&nodes.stdout).unwrap();
    let roles: BTreeSet<&str> =
        nodes.as_array().unwrap().iter().map(|node| node["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["gate", "manager", "worker"].into());
}

#[test]
fn a_test_names_its_outputs_and_the_command_line_overrides_them() {
    let world = World::new();
    let target = world.target();
    let text = format!(
        "target: {}\noutputs: [ {{ json: own.json }}, {{ csv: own.csv }} ]\n\
         workflows: {{ main: {{ load: once, steps: [ {{ get: / }} ] }} }}\n",
        target.url("")
    );
    let file = world.write("outputs.yaml", text);

    let run = world.run([
        OsStr::new("run"),
        file.as_os_str(),
        OsStr::new("--out"),
        OsStr::new("json=given.json"),
    ]);

    run.expect(0);
    let written = ["given.json", "own.csv", "own.json"].map(|name| world.path(name).exists());
    assert_eq!(written, [true, true, false]);
}
