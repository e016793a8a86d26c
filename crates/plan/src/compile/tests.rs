use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::expr::{Expr, Var};
use crate::ir::*;
use crate::load::{Load, Stage};

fn with_sets(text: &[u8], sets: &[(&str, &str)]) -> Result<Compiled, Diagnostics> {
    let sets: Vec<(String, String)> =
        sets.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect();
    compile(
        text,
        &CompileOptions {
            name: "dir/shop.yaml",
            sets: &sets,
            environment: &|name| match name {
                "API_TOKEN" => Some("s3cret-token".to_owned()),
                _ => None,
            },
            read_file: &|path, _| match path {
                "users.csv" => Ok(b"name,age\nAnn,30\n\"Bo, b\",41\n".to_vec()),
                "products.json" => Ok(br#"{ "items": [ { "id": 1 }, { "id": 2 } ] }"#.to_vec()),
                "rows.jsonl" => Ok(b"1\n\n[2]\n".to_vec()),
                "ca.pem" => Ok(b"-----BEGIN CERTIFICATE-----\n".to_vec()),
                "body.bin" => Ok(vec![0, 159, 146, 150]),
                _ => Err("there is no such file".to_owned()),
            },
        },
    )
}

#[track_caller]
fn good(text: &str) -> Compiled {
    with_sets(text.as_bytes(), &[]).unwrap_or_else(|errors| panic!("{errors}"))
}

#[track_caller]
fn plan(text: &str) -> Plan {
    good(text).plan
}

#[track_caller]
fn bad(text: &str) -> String {
    with_sets(text.as_bytes(), &[]).expect_err("the file was taken").to_string()
}

/// A test with one workflow of these steps.
fn steps(steps: &str) -> String {
    format!(
        "target: http://h\nworkflows:\n  w:\n    load: {{ vus: 1, duration: 1s }}\n    steps:\n{}",
        steps.lines().map(|line| format!("      {line}\n")).collect::<String>()
    )
}

fn load(load: &str) -> String {
    format!("workflows:\n  w:\n    load: {load}\n    steps: [ {{ get: \"http://h/\" }} ]\n")
}

const EVERYTHING: &str = r#"
name: webshop
target: ${env.TARGET}                     # base for relative URLs
env: { TARGET: { default: "http://127.0.0.1:8080" } }   # only declared variables can be read
secrets: { API_TOKEN: { env: API_TOKEN } }              # masked in every output
defaults:
  timeout: 10s
  headers: { accept: application/json }
  http: { version: auto, connections: per-vu, redirects: 5, cookies: true }
  tls:  { ca: ca.pem, insecure: false }
data:
  users:    { csv: users.csv, pick: unique }
  products: { json: products.json, at: "$.items", pick: random }
workflows:
  login:
    load: once
    steps:
      - name: token
        post: /login
        json: { user: admin, key: "${secrets.API_TOKEN}" }
        check: [ status == 200, latency < 2s ]
        capture: { token: { json: "$.token" } }
    publish: [ token ]
  browse:
    after: [ login ]
    load:
      executor: ramping-arrival-rate
      start_rate: 10/s
      stages: [ { to: 1000/s, over: 2m }, { hold: 5m }, { to: 0/s, over: 30s } ]
      max_vus: 800
    steps:
      - { name: list, get: /products, headers: { authorization: "Bearer ${login.token}" } }
      - pause: 1s..3s
      - choose:
          - { weight: 80, steps: [ { name: view, get: "/products/${products.id}" } ] }
          - { weight: 20, steps: [ { use: buy } ] }
  cleanup:
    after: { any: [ browse ] }
    load: once
    steps: [ { post: /reset } ]
blocks:
  buy:
    - { name: cart, post: /cart, json: { id: "${products.id}", quantity: "${random_int(1, 3)}" } }
    - { name: pay, post: /pay, json: { user: "${users.name}" }, timeout: 30s }
thresholds:
  - latency.p95 < 300ms
  - failed < 1%
  - { expect: latency.p99 < 800ms, step: browse/pay, abort: true, after: 30s }
  - { expect: requests.rate > 900/s, datacenter: each, during: 3m..7m }
run: { datacenters: [ eu, us ], split: weighted, deadline: 20m, priority: normal, seed: 42 }
"#;

#[test]
fn the_whole_language_compiles() {
    let compiled = good(EVERYTHING);
    let plan = &compiled.plan;

    let steps: Vec<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(
        steps,
        [
            "login/token",
            "browse/list",
            "browse/view",
            "browse/cart",
            "browse/pay",
            "cleanup/POST /reset"
        ]
    );
    assert_eq!(plan.run.seed, 42);
    assert_eq!(plan.run.deadline, Duration::from_secs(1_200));
    assert_eq!(plan.data[0].columns.as_deref(), Some(&["name".to_owned(), "age".to_owned()][..]));
    assert_eq!(plan.data[1].rows, 2);
    assert_eq!(compiled.blobs.len(), 2);
    assert_eq!(compiled.secrets.0["API_TOKEN"], "s3cret-token");
    assert!(!String::from_utf8(plan.to_bytes()).unwrap().contains("s3cret"));
    assert_eq!(plan.thresholds.len(), 4);
    let Load::RampingArrivalRate { stages, max_vus: 800, .. } = &plan.workflows[1].load else {
        panic!("{:?}", plan.workflows[1].load)
    };
    assert_eq!(stages[1], Stage { to: 1_000.0, over: Duration::from_secs(300) });
    assert!(plan.workflows[2].after.any_end);
    // Two rows are few; 1000/s for 30 s of timeout are more than 800 users.
    let warnings: String = compiled.warnings.iter().map(ToString::to_string).collect();
    assert!(compiled.warnings.len() == 2 && warnings.contains("30000 users"), "{warnings}");
}

#[test]
fn the_smallest_file_has_honest_defaults() {
    let plan = plan(
        "target: http://127.0.0.1:8080\nworkflows:\n  front:\n    load: { vus: 50, duration: 30s }\n    steps: [ { get: / } ]\n",
    );

    assert_eq!(plan.name, "shop");
    assert_eq!(plan.steps[0].name, "front/GET /");
    let Action::Request(request) = &plan.workflows[0].steps[0].action else { panic!("no request") };
    assert_eq!(request.url, crate::expr::Template::literal("http://127.0.0.1:8080/"));
    assert_eq!(request.timeout, Duration::from_secs(10));
    assert_eq!(request.redirects, 5);
    assert_eq!(plan.workflows[0].graceful_stop, Duration::from_secs(30));
    assert_eq!(plan.run.deadline, DEADLINE_DEFAULT);
}

#[test]
fn keys_decide_the_executor() {
    let rows = [
        ("{ vus: 2, duration: 5s }", "ConstantVus"),
        ("{ stages: [ { to: 5, over: 1s } ] }", "RampingVus"),
        ("{ start_vus: 3, stages: [ { to: 5, over: 1s }, { hold: 2s } ] }", "RampingVus"),
        ("{ vus: 2, iterations: 5 }", "PerVuIterations"),
        ("{ vus: 2, total: 5, max_duration: 1m }", "SharedIterations"),
        ("{ rate: 5/s, duration: 1m }", "ConstantArrivalRate"),
        ("{ rate: 5/s, duration: 1m, distribution: poisson }", "ConstantArrivalRate"),
        ("{ stages: [ { to: 5/s, over: 1s } ] }", "RampingArrivalRate"),
        ("{ start_rate: 5/m, stages: [ { hold: 1s } ] }", "RampingArrivalRate"),
        ("{ vus: 1, max_vus: 9, duration: 1m }", "ExternallyControlled"),
        ("{ max_vus: 9, duration: 1m }", "ExternallyControlled"),
        ("once", "Once"),
        ("{ executor: once, max_duration: 3s }", "Once"),
        ("{ executor: ramping-vus, stages: [ { to: 5, over: 1s } ] }", "RampingVus"),
    ];
    for (text, wanted) in rows {
        let found = format!("{:?}", plan(&load(text)).workflows[0].load);
        assert!(found.starts_with(wanted), "{text} became {found}");
    }
}

#[test]
fn a_rate_gets_users_for_its_timeout() {
    let max_vus = |text: &str| plan(&load(text)).workflows[0].load.vus_max();

    assert_eq!(max_vus("{ rate: 50/s, duration: 1m }"), 500);
    assert_eq!(max_vus("{ rate: 1/m, duration: 1m }"), 10);
    assert_eq!(max_vus("{ rate: 100000/s, duration: 1m }"), 10_000);
}

#[test]
fn default_names_show_holes_as_braces() {
    let text = steps(
        "- get: \"/a/${vu.id}/b?x=${vu.id}\"\n- delete: http://other:81\n- http: { method: PURGE, url: /c }\n- get: \"${run.id}\"\n- get: \"/a/${vu.iteration}/b\"",
    );
    let plan = plan(&text);

    let names: Vec<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["w/GET /a/{}/b", "w/DELETE other:81/", "w/PURGE /c", "w/GET {}"]);
    assert_eq!(plan.workflows[0].steps.len(), 5);
}

#[test]
fn overrides_take_the_place_of_what_the_file_says() {
    let text = steps("- { name: a, get: / }\n- get: /b");
    let compiled = with_sets(
        text.as_bytes(),
        &[
            ("workflows.w.load.vus", "7"),
            ("workflows.w.steps.1.timeout", "3s"),
            ("run.seed", "9"),
            ("workflows.w.load", "{ vus: 8, duration: 2s }"),
            ("description", "a: b is text"),
        ],
    );
    let Err(errors) = &compiled else { panic!("`a: b is text` is a mapping") };
    assert!(errors.to_string().contains("--set:1:13"), "{errors}");

    let plan = with_sets(text.as_bytes(), &[("workflows.w.load.vus", "7"), ("run.seed", "9")])
        .unwrap()
        .plan;
    assert_eq!((plan.workflows[0].load.vus_max(), plan.run.seed), (7, 9));
    for (path, value, wanted) in [
        ("workflows.w.laod.vus", "7", "did you mean `load`"),
        ("workflows.w.steps.5.get", "/", "no place in a list of 2"),
        ("workflows..w", "1", "a name is missing"),
        ("target.x", "1", "which has no parts"),
        ("run.seed", "[", "not valid YAML"),
        ("run.seed", "", "found empty text"),
    ] {
        let errors = with_sets(text.as_bytes(), &[(path, value)]).err().unwrap().to_string();
        assert!(errors.contains(wanted), "{path}={value}: {errors}");
    }
    let deep = vec!["a"; 10_000].join(".");
    assert!(with_sets(text.as_bytes(), &[(&deep, "1")]).is_err());
}

#[test]
fn a_condition_before_several_sets_is_looked_at_once() {
    let plan = plan(&steps("- { set: { a: 1, b: '\"x\"' }, when: vu.id == 1 }"));

    let step = &plan.workflows[0].steps[0];
    assert!(step.when.is_some());
    assert!(matches!(&step.action, Action::Group(sets) if sets.len() == 2));
    assert_eq!(plan.workflows[0].locals, ["a", "b"]);
}

#[test]
fn bodies_and_captures_compile() {
    let plan = plan(&steps(
        r#"- post: /a
  json: { fixed: [1, { a: null }], id: "${vu.id}", text: "n ${vu.id}", n: 1.5 }
  capture:
    one: { regex: "id=(\\d+)", index: random, default: 5 }
    two: { header: location }
    three: { cookie: sid }
    four: { body: true }
- { post: /b, form: { a: "${one}" }, query: { q: "x y" } }
- { post: /c, base64: "AAEC" }
- { post: /d, file: body.bin }
- { post: /e, text: "${two}", auth: { basic: { user: u, password: "${three}" } } }
- { get: /f, retry: { times: 2, on: [ timeout, 503 ] } }"#,
    ));

    let request = |at: usize| match &plan.workflows[0].steps[at].action {
        Action::Request(request) => request,
        other => panic!("{other:?}"),
    };
    let Body::Json(JsonTemplate::Object(entries)) = &request(0).body else { panic!("no object") };
    assert_eq!(entries[0].1, JsonTemplate::Constant("[1,{\"a\":null}]".to_owned()));
    assert!(matches!(entries[1].1, JsonTemplate::Hole(_)));
    assert!(matches!(entries[2].1, JsonTemplate::Text(_)));
    let kind_of = |at: usize| {
        let kind = request(at).headers.iter().find(|(name, _)| name == "content-type");
        kind.and_then(|(_, value)| value.as_literal())
    };
    assert_eq!(kind_of(0), Some("application/json"));
    assert_eq!(kind_of(2), None);
    assert_eq!(request(0).captures.len(), 4);
    assert_eq!(request(2).body, Body::Bytes(vec![0, 1, 2]));
    assert_eq!(plan.blobs().len(), 1);
    assert_eq!(request(5).retry.as_ref().unwrap().on, ["timeout", "503"]);
}

#[test]
fn the_tables_defaults_are_the_compilers() {
    let text = "
target: http://h
defaults: { http: { connections: pool } }
workflows:
  w:
    load: once
    steps:
      - { get: /, capture: { id: { json: $.id } }, retry: { times: 1 } }
      - while: { condition: id == 1, steps: [ { use: b } ] }
      - choose: [ { steps: [ { get: / } ] } ]
    publish: { ids: { collect: id } }
  ramp:
    load: { stages: [ { to: 1, over: 1s } ] }
    steps: [ { get: / } ]
blocks: { b: [ { get: / } ] }
";
    let plan = plan(text);
    let [once, ramp] = plan.workflows.as_slice() else { panic!("two workflows") };
    let Action::Request(request) = &once.steps[0].action else { panic!("no request") };
    let Action::While { max, .. } = &once.steps[1].action else { panic!("no while") };
    let Action::Choose(choices) = &once.steps[2].action else { panic!("no choice") };
    let Load::RampingVus { start_vus, graceful_ramp_down, .. } = &ramp.load else {
        panic!("no ramp")
    };
    let Connections::Pool { size } = plan.http.connections else { panic!("no pool") };
    let time = crate::units::show_duration;

    let rows: &[(&str, &str, String)] = &[
        ("defaults", "timeout", time(request.timeout)),
        ("defaults", "samples", plan.http.samples.to_string()),
        ("http", "redirects", request.redirects.to_string()),
        ("http", "cookies", plan.http.cookies.to_string()),
        ("http", "compression", plan.http.compression.to_string()),
        ("http", "connect_timeout", time(plan.http.connect_timeout)),
        ("http", "pool_size", size.to_string()),
        ("tls", "handshake_timeout", time(plan.http.tls_timeout)),
        ("tls", "insecure", plan.http.tls.insecure.to_string()),
        ("workflow", "start_after", time(once.start_after)),
        ("workflow", "graceful_stop", time(once.graceful_stop)),
        ("load", "max_duration", time(once.load.duration())),
        ("load", "start_vus", start_vus.to_string()),
        ("load", "graceful_ramp_down", time(*graceful_ramp_down)),
        ("while", "max", max.to_string()),
        ("choice", "weight", choices[0].weight.to_string()),
        ("retry", "backoff", time(request.retry.as_ref().unwrap().backoff)),
        ("publish", "limit", once.publish[0].collect.unwrap().to_string()),
        ("run", "seed", plan.run.seed.to_string()),
    ];
    for (section, key, wanted) in rows {
        let keys = crate::shape::section(section).keys;
        let known = keys.iter().find(|known| known.name == *key).map(|known| known.default);
        assert_eq!(known, Some(wanted.as_str()), "{section}.{key}");
    }
}

#[test]
fn settings_of_the_job_compile() {
    let text = "
secrets: { KEY: { env: API_TOKEN } }
defaults:
  samples: 0
  http: { connections: pool, pool_size: 7, max_requests: 100, max_age: 1m, idle: 5s, cookies: false }
  net:
    source_ips: [ 10.0.0.1, \"::1\" ]
    resolve: { shop.test: 127.0.0.1 }
    dns: { family: v4, ttl: 30s, select: first }
  tls: { ca: ca.pem, cert: ca.pem, key: \"${secrets.KEY}\", min: 1.2, max: \"1.3\" }
workflows: { w: { load: once, cores: 2, steps: [ { get: https://shop.test/ } ] } }
run:
  datacenters: [ us, eu ]
  split: { eu: 33.3%, us: 66.7% }
  best_effort: { min_datacenters: 1, deadline: 10s }
  max_latency: 50ms
  start_at: 2026-05-01T12:00:00+02:00
";
    let Plan { http, run, workflows, .. } = plan(text);

    assert_eq!(http.connections, Connections::Pool { size: 7 });
    assert_eq!((http.max_requests, http.samples, http.cookies), (Some(100), 0, false));
    assert_eq!(http.source_ips.len(), 2);
    assert_eq!(http.resolve["shop.test"][0].to_string(), "127.0.0.1");
    assert_eq!(http.dns.ttl, Some(Duration::from_secs(30)));
    assert_eq!(http.tls.key_secret.as_deref(), Some("KEY"));
    assert_eq!((http.tls.min, http.tls.max), (Some(TlsVersion::V1_2), Some(TlsVersion::V1_3)));
    assert_eq!(run.datacenters, Datacenters::Named(vec!["us".to_owned(), "eu".to_owned()]));
    let shares = [("eu".to_owned(), 3_330), ("us".to_owned(), 6_670)];
    assert_eq!(run.split, Split::Shares(shares.into()));
    assert_eq!(run.start_at, Some(1_777_629_600_000));
    assert_eq!(workflows[0].cores, Some(2));
}

#[test]
fn words_and_figures_can_come_from_the_environment() {
    let text = "
env:
  P: { default: high }
  E: { default: once }
  D: { default: all }
  S: { default: even }
  N: { default: \"3\" }
  T: { default: 90s }
  R: { default: 5/s }
  K: { default: random }
  I: { default: vu }
  V: { default: auto }
  F: { default: v6 }
  X: { default: each }
  C: { default: counter }
  O: { default: abort }
vars: { limit: 250ms }
defaults: { net: { dns: { family: \"${env.F}\" } }, http: { connections: \"${env.N == '3' ? 'pool' : 'per-vu'}\" } }
metrics: { m: { kind: \"${env.C}\" } }
data: { d: { values: [ 1 ], pick: \"${env.K}\" } }
workflows:
  a:
    load: \"${env.E}\"
    cores: \"${env.V}\"
    on_error: \"${env.O}\"
    steps: [ { get: http://h/ }, { stop: \"${env.I}\" }, { log: \"${d}\" } ]
  b:
    load: { vus: \"${env.N}\", duration: \"${env.T}\" }
    steps: [ { get: http://h/ } ]
  c:
    load: { stages: [ { to: \"${env.R}\", over: 1s } ] }
    steps: [ { get: http://h/ } ]
thresholds: [ { expect: \"latency.p95 < ${vars.limit}\", datacenter: \"${env.X}\" } ]
run: { priority: \"${env.P}\", datacenters: \"${env.D}\", split: \"${env.S}\" }
";
    let plan = plan(text);

    assert_eq!(plan.run.priority, Priority::High);
    assert_eq!((&plan.run.datacenters, &plan.run.split), (&Datacenters::All, &Split::Even));
    assert_eq!(plan.http.dns.family, DnsFamily::V6);
    assert!(matches!(plan.http.connections, Connections::Pool { .. }));
    assert_eq!((plan.metrics[0].kind, plan.data[0].pick), (MetricKind::Counter, Pick::Random));
    assert!(matches!(plan.workflows[0].load, Load::Once { .. }));
    assert_eq!(plan.workflows[0].on_error, OnError::Abort);
    assert_eq!(plan.workflows[0].steps[1].action, Action::Stop(StopScope::Vu));
    let duration = Duration::from_secs(90);
    assert_eq!(plan.workflows[1].load, Load::ConstantVus { vus: 3, duration });
    assert!(matches!(plan.workflows[2].load, Load::RampingArrivalRate { .. }));
    assert_eq!(plan.thresholds[0].value.to_string(), "250000000");
    assert_eq!(plan.thresholds[0].filter.datacenter, crate::threshold::DatacenterFilter::Each);
}

#[test]
fn a_plan_that_refers_to_nothing_is_refused() {
    let good = plan(&steps(
        "- { post: /, text: \"${vu.id}\", check: [ status == 200 ], capture: { id: { json: $.id } } }\n- set: { n: id }",
    ));
    let broken = |damage: fn(&mut RequestStep)| {
        let mut plan = good.clone();
        if let Action::Request(request) = &mut plan.workflows[0].steps[0].action {
            damage(request);
        }
        Plan::from_bytes(&plan.to_bytes())
    };
    let body = |expr: Expr| Body::Text(crate::expr::Template(vec![crate::expr::Piece::Hole(expr)]));
    let deep = (0..40).fold(Expr::Literal(1.into()), |inner, _| {
        Expr::Unary(crate::expr::UnaryOp::Negate, Box::new(inner))
    });

    assert!(broken(|_| {}).is_ok());
    assert!(broken(|request| request.step = StepIndex(1)).is_err());
    assert!(broken(|request| request.checks[0].check = CheckIndex(1)).is_err());
    assert!(broken(|request| request.captures[0].local = LocalIndex(2)).is_err());
    for expr in [
        Expr::Var(Var::Local(LocalIndex(2))),
        Expr::Var(Var::Row(DataIndex(0))),
        Expr::Var(Var::Secret(0)),
        Expr::Call(crate::expr::Function::Pick, Vec::new()),
        deep,
    ] {
        let mut plan = good.clone();
        if let Action::Request(request) = &mut plan.workflows[0].steps[0].action {
            request.body = body(expr.clone());
        }
        assert!(plan.validate().is_err(), "{expr:?} was taken");
    }
}

#[test]
fn a_tls_key_from_a_file_becomes_a_secret() {
    let text = "
defaults: { tls: { cert: ca.pem, key: ca.pem } }
workflows: { w: { load: once, steps: [ { get: https://h/ } ] } }
";
    let Compiled { plan, secrets, .. } = good(text);

    let name = plan.http.tls.key_secret.as_deref().unwrap();
    assert!(secrets.0[name].starts_with("-----BEGIN"));
    assert_eq!(plan.secrets, [name]);
}

#[test]
fn rows_become_lines_of_json() {
    let text = "
data:
  a: { csv: users.csv }
  b: { csv: users.csv, columns: [ x, y ] }
  c: { jsonl: rows.jsonl }
  d: { values: [ { n: 1 }, { n: 2 } ] }
workflows: { w: { load: once, steps: [ { log: \"${a.age} ${b.x} ${c} ${d.n}\" } ] } }
";
    let Compiled { plan, blobs, .. } = good(text);

    let lines = |at: usize| {
        let blob = blobs.iter().find(|(hash, _)| *hash == plan.data[at].blob).unwrap();
        String::from_utf8(blob.1.clone()).unwrap()
    };
    assert_eq!(lines(0), "[\"Ann\",\"30\"]\n[\"Bo, b\",\"41\"]\n");
    assert_eq!(lines(1), "[\"name\",\"age\"]\n[\"Ann\",\"30\"]\n[\"Bo, b\",\"41\"]\n");
    assert_eq!(lines(2), "1\n[2]\n");
    assert_eq!(lines(3), "{\"n\":1}\n{\"n\":2}\n");
    assert!(bad(&text.replace("${d.n}", "${d.m}")).contains("`d` has no field `m`"));
    assert!(bad(&text.replace("\"${a.age}", "\"${a.age + 1}")).contains("cannot be added"));
}

#[test]
fn a_workflow_reads_what_all_before_it_published() {
    let text = "
workflows:
  first: { load: once, steps: [ { set: { a: vu.id } } ], publish: { x: a } }
  second: { after: [ first ], load: once, steps: [ { log: \"${first.x}\" } ] }
  third: { after: { any: [ second ] }, load: once, steps: [ { log: \"${first.x}\" } ] }
";
    assert_eq!(plan(text).workflows.len(), 3);
    assert!(bad(&text.replace("after: [ first ], ", "")).contains("add `after: [ first ]`"));
}

#[test]
fn a_header_says_what_a_body_is() {
    let plan = plan(&steps(
        "- { post: /, json: 18446744073709551615, headers: { Content-Type: application/x } }",
    ));

    let Action::Request(request) = &plan.workflows[0].steps[0].action else { panic!("no request") };
    assert_eq!(request.headers.len(), 1);
    assert_eq!(request.body, Body::Json(JsonTemplate::Constant("18446744073709551615".to_owned())));
}

#[test]
fn a_missing_variable_is_one_error() {
    let text = "env: { HOST: {} }\ntarget: ${env.HOST}\nworkflows: { w: { load: once, steps: [ { get: / } ] } }\n";

    let errors = bad(text);

    assert!(errors.contains("`HOST` is not set"), "{errors}");
    assert_eq!(errors.matches("error:").count(), 1, "{errors}");
}

#[test]
fn all_errors_come_together_and_sorted() {
    let text = steps(
        "- get: /a\n  tiemout: 5s\n- { get: /b, check: [ staus == 200 ] }\n- { use: nothing }",
    );

    let errors = bad(&text);

    let places: Vec<_> = ["tiemout", "staus", "nothing"].map(|word| errors.find(word)).to_vec();
    assert!(places.is_sorted() && places[0].is_some(), "{errors}");
    assert_eq!(errors.matches("error:").count(), 3, "{errors}");
}

#[test]
fn at_most_twenty_errors_are_shown() {
    let many: String = (0..50).map(|n| format!("key{n}: 1\n")).collect();

    let errors = bad(&many);

    assert_eq!(errors.matches("error:").count(), 20);
    assert!(errors.ends_with("… and 30 more\n"), "{errors}");
}

/// Hostile files by name, each with what the message must say.
fn hostile() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let refs = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
    }
    let anchors: String = (0..60).map(|n| format!("&a{n} [")).collect();
    let anchors = format!("a: {anchors}{}{}", "x,".repeat(90_000), "]".repeat(60));
    let mut fan = String::from(
        "target: http://h\nworkflows: { w: { load: once, steps: [ { use: b0 } ] } }\nblocks:\n",
    );
    for level in 0..7 {
        let uses = vec![format!("{{ use: b{} }}", level + 1); 30].join(", ");
        fan.push_str(&format!("  b{level}: [ {uses} ]\n"));
    }
    fan.push_str("  b7: [ { get: / } ]\n");
    let chain: String =
        (0..16_000).map(|n| format!("  b{n}: [ {{ use: b{} }} ]\n", n + 1)).collect();
    let chain =
        format!("workflows: {{ w: {{ load: once, steps: [ {{ use: b0 }} ] }} }}\nblocks:\n{chain}");
    let big_var = format!(
        "vars: {{ big: \"{}\" }}\n{}",
        "x".repeat(500_000),
        steps(&"- { log: \"${vars.big}${vars.big}${vars.big}\" }\n".repeat(2_000))
    );
    let regexes = steps(&format!(
        "- get: /\n  check:\n{}",
        (0..3_000).map(|n| format!("  - body.matches(\"x{n}\\\\w{{7}}\")\n")).collect::<String>()
    ));
    vec![
        ("deep flow", "[".repeat(1 << 20).into_bytes(), "nested"),
        ("deep maps", "{a: ".repeat(200_000).into_bytes(), "nested"),
        ("deep blocks", "- ".repeat(500_000).into_bytes(), "nested"),
        ("alias bomb", bomb.into_bytes(), "holds more than"),
        ("anchors", anchors.into_bytes(), "anchors hold"),
        ("nul", b"name: a\0b".to_vec(), "NUL"),
        ("not utf-8", b"name: \xff\xfe".to_vec(), "not UTF-8"),
        ("100 MiB", vec![b'x'; 100 << 20], "are allowed"),
        ("long string", vec![b'x'; 1 << 20], "expected a mapping"),
        ("fan of blocks", fan.into_bytes(), "at most 10000 steps"),
        ("chain of blocks", chain.into_bytes(), "8 levels deep"),
        ("circle", b"workflows: { w: { load: once, steps: [ { use: a } ] } }\nblocks: { a: [ { use: b } ], b: [ { use: a } ] }".to_vec(), "uses itself"),
        ("big constants", big_var.into_bytes(), "8 MiB"),
        ("many patterns", regexes.into_bytes(), "256 regular expressions"),
        ("many keys", (0..40_000).map(|n| format!("k{n}: 1\n")).collect::<String>().into_bytes(), "unknown key"),
        ("many dashes", b"-\n".repeat(500_000), "values"),
        ("question marks", b"? ".repeat(500_000), "nested"),
        ("quotes", b"\"".repeat(1 << 20), ""),
        ("colons", b": ".repeat(500_000), ""),
        ("ampersands", b"&a ".repeat(300_000), ""),
        ("open brace", format!("a: {{{}", "b, ".repeat(300_000)).into_bytes(), ""),
        ("blank lines", b"\n".repeat(1 << 20), ""),
        ("comment", b"#".repeat(1 << 20), ""),
    ]
}

#[test]
fn hostile_files_end_in_an_error_soon() {
    #[expect(clippy::disallowed_methods, reason = "the promise is one about time")]
    let now = Instant::now;
    for (name, text, wanted) in hostile() {
        let start = now();

        let errors =
            with_sets(&text, &[]).err().unwrap_or_else(|| panic!("{name} was taken")).to_string();

        // The promise is 1 s for an optimized program.
        let took = now() - start;
        assert!(
            took < Duration::from_secs(if cfg!(debug_assertions) { 8 } else { 1 }),
            "{name} took {took:?}"
        );
        assert!(errors.contains(wanted), "{name}: {errors}");
        assert!(errors.len() < 20_000, "{name} made {} bytes of message", errors.len());
    }
}

/// Every scalar of a JSON value, in order.
fn scalars<'v>(value: &'v mut serde_json::Value, found: &mut Vec<&'v mut serde_json::Value>) {
    match value {
        serde_json::Value::Array(values) => values.iter_mut().for_each(|v| scalars(v, found)),
        serde_json::Value::Object(values) => values.values_mut().for_each(|v| scalars(v, found)),
        _ => found.push(value),
    }
}

/// What gates, managers and workers compute of a plan that somebody sent.
fn computed(plan: &Plan) {
    let later = [0, 1, 59, 86_400, 40_000_000].map(Duration::from_secs);
    assert!(plan.planned_duration() <= plan.run.deadline);
    assert!(plan.start_order().is_some());
    let _blobs = plan.blobs();
    for workflow in &plan.workflows {
        let load = &workflow.load;
        let end = load.duration() + workflow.start_after + workflow.graceful_stop;
        assert!(end < Duration::from_secs(1 << 40), "{end:?}");
        for slice in crate::Slice::whole().split_evenly(7) {
            for at in later {
                let users = u64::from(load.vus_at(at).unwrap_or(0));
                assert!(slice.count(users) <= users);
                if let Some(arrivals) = load.arrivals() {
                    let due = slice.count(arrivals.due_before(at));
                    assert!(due <= arrivals.total());
                    let number = slice.global(due).unwrap_or(0);
                    assert!(arrivals.time_of(number).is_none_or(|time| time <= load.duration()));
                    assert!(arrivals.rate_at(at).is_finite());
                }
            }
            assert!(slice.count(load.iterations().unwrap_or(0)) <= u64::MAX / 2);
        }
    }
}

proptest! {
    #[test]
    fn pro_03_plans_that_somebody_made_up_are_refused_or_harmless(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..14), 1..4),
    ) {
        let mut plan = serde_json::to_value(good(EVERYTHING).plan).unwrap();
        let extremes = serde_json::json!([
            0, 1, -1, 255, 65_535, 65_536, 4_294_967_295u64, 10_000_000, i64::MIN, u64::MAX, 1e300,
            -0.5, "", null
        ]);
        let mut places = Vec::new();
        scalars(&mut plan, &mut places);
        for (index, extreme) in changes {
            **index.get_mut(&mut places) = extremes[extreme].clone();
        }
        drop(places);

        if let Ok(plan) = Plan::from_bytes(plan.to_string().as_bytes()) {
            computed(&plan);
        }
    }

    #[test]
    fn pro_03_damaged_plans_never_panic(at in any::<prop::sample::Index>(), flip in 1u8..=255) {
        let mut bytes = good(EVERYTHING).plan.to_bytes();
        *at.get_mut(&mut bytes) ^= flip;

        if let Ok(plan) = Plan::from_bytes(&bytes) {
            computed(&plan);
        }
        bytes.truncate(at.index(bytes.len()));
        prop_assert!(Plan::from_bytes(&bytes).is_err());
    }

    #[test]
    fn no_bytes_make_the_compiler_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _result = with_sets(&bytes, &[]);
    }

    #[test]
    fn no_damage_to_a_good_file_makes_the_compiler_panic(
        at in 0..EVERYTHING.len(), length in 0usize..40, with in "[ -~\n]{0,6}",
    ) {
        let mut text = EVERYTHING.as_bytes().to_vec();
        let end = (at + length).min(text.len());
        text.splice(at..end, with.into_bytes());

        match with_sets(&text, &[]) {
            Ok(compiled) => {
                prop_assert_eq!(&Plan::from_bytes(&compiled.plan.to_bytes()).unwrap(), &compiled.plan);
            }
            Err(errors) => prop_assert!(!errors.items.is_empty()),
        }
    }
}

#[test]
fn outputs_and_a_proxy_are_read() {
    let compiled = good(
        "target: http://127.0.0.1\n\
         defaults: { net: { proxy: \"http://[::1]:3128/\" } }\n\
         outputs: [ { json: out/a.json }, { html: b.html } ]\n\
         workflows: { w: { load: once, steps: [ { get: / } ] } }\n",
    );

    let outputs = [("json", "out/a.json"), ("html", "b.html")];
    assert_eq!(compiled.outputs, outputs.map(|(kind, path)| (kind.to_owned(), path.to_owned())));
    let proxy = crate::ir::Proxy { host: "::1".to_owned(), port: 3128 };
    assert_eq!(compiled.plan.http.proxy, Some(proxy));
}

#[test]
fn dat_01_a_setup_cannot_read_rows_that_come_once() {
    let file = |pick: &str| {
        format!(
            "target: http://h\ndata: {{ users: {{ values: [ 1, 2 ], pick: {pick} }} }}\n\
             workflows:\n  a:\n    load: {{ vus: 1, iterations: 1 }}\n    \
             each_vu: {{ setup: [ {{ log: \"${{users}}\" }} ] }}\n    steps: [ {{ get: / }} ]\n"
        )
    };

    let errors = bad(&file("unique"));

    assert!(errors.contains("the users' setup in `a` has no row of `users`"), "{errors}");
    assert!(with_sets(file("sequential").as_bytes(), &[]).is_ok());
}

#[test]
fn dat_01_workflows_that_share_rows_are_warned_of_their_part() {
    let file = |iterations: u32| {
        format!(
            "target: http://h\ndata: {{ users: {{ values: [ 1, 2, 3, 4 ], pick: unique }} }}\n\
             workflows:\n  a:\n    load: {{ vus: 1, iterations: 1 }}\n    \
             steps: [ {{ get: \"/${{users}}\" }} ]\n  b:\n    \
             load: {{ vus: 1, iterations: {iterations} }}\n    \
             steps: [ {{ get: \"/${{users}}\" }} ]\n"
        )
    };
    let warned = |iterations| {
        let compiled = with_sets(file(iterations).as_bytes(), &[]).unwrap();
        format!("{:?}", compiled.warnings).contains("runs out")
    };

    assert!(!warned(2), "each workflow has two of the four rows");
    assert!(warned(3), "all together four iterations, and `b` has no row for its third");
}
