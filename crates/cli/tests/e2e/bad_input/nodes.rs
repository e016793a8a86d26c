//! Peers and clients that are not what they should be, or say what they should not.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyperscale_model::{DatacenterId, Incarnation, NodeId, Role};
use hyperscale_wire::{
    FRAME_BYTES_MAX, Hello, HelloError, PROTOCOL_MAX, PROTOCOL_MIN, decode_value, encode_frame,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use crate::system::{Control, WITHIN, World, http, now, try_http, until};

type Link = StreamOwned<ClientConnection, TcpStream>;

/// A link to a manager with the certificates in a directory.
fn link(control: &Control, certificates: &Path) -> Link {
    let read = |name: &str| std::fs::read(certificates.join(name)).unwrap();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&read("ca.pem")) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&read("node.pem")).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(&read("node.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let name = ServerName::try_from("node.hyperscale").unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(session, connected(control))
}

fn connected(control: &Control) -> TcpStream {
    let stream = TcpStream::connect(&control.nodes).unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    stream
}

fn hello(cluster: &str, role: Role, datacenter: &str) -> Hello {
    Hello {
        cluster: cluster.to_owned(),
        environment: "default".to_owned(),
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        node: NodeId(7),
        role,
        to: Role::Manager,
        datacenter: DatacenterId::from(datacenter),
        incarnation: Incarnation(1),
        features: Vec::new(),
        address: None,
    }
}

fn frame(link: &mut Link) -> Vec<u8> {
    let mut length = [0; 4];
    link.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    link.read_exact(&mut body).unwrap();
    body
}

/// Says hello; what the manager says to that.
fn shake_hands(link: &mut Link, ours: &Hello) -> Result<(), HelloError> {
    link.write_all(&encode_frame(ours).unwrap()).unwrap();
    let _theirs: Hello = decode_value(&frame(link)).unwrap();
    link.write_all(&encode_frame(&Result::<(), HelloError>::Ok(())).unwrap()).unwrap();
    decode_value(&frame(link)).unwrap()
}

/// Waits until the other side has had enough.
#[track_caller]
fn until_closed(mut stream: impl Read, what: &str) {
    let start = crate::system::now();
    let mut bytes = [0; 4_096];
    while stream.read(&mut bytes).is_ok_and(|read| read > 0) {}
    assert!(start.elapsed() < Duration::from_secs(20), "{what}: {:?}", start.elapsed());
}

/// The system still does what it is for.
#[track_caller]
fn works(world: &World, control: &mut Control) {
    assert!(control.process.is_running(), "the node is gone: {}", control.process.stderr.text());
    let target = world.target();
    let worker = world.worker(control);
    control.until_free(1);
    let test = format!(
        "target: {}\nworkflows: {{ main: {{ load: {{ vus: 1, iterations: 5 }}, \
         steps: [ {{ get: / }} ] }} }}\n",
        target.url("")
    );
    let job = world.submit(control, &world.write("test.yaml", test));
    assert_eq!(world.summary(control, &job)["totals"]["requests"], 5);
    let said = control.process.stderr.text();
    assert!(!said.contains("panicked"), "{said}");
    drop(worker);
}

#[test]
fn pro_03_frames_that_are_none_end_their_link_and_nothing_else() {
    let world = World::new();
    let mut control = world.control();
    let certificates = world.path("data/development-certificates/worker");
    let before = control.process.memory_kib().unwrap();
    let too_large = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes();
    let noise: Vec<u8> =
        (0..50_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut honest = encode_frame(&hello("hyperscale", Role::Worker, "local")).unwrap();
    let truncated = honest.split_off(honest.len() / 2);
    drop(truncated);
    let nothing = 0u32.to_be_bytes().to_vec();
    let nested = [vec![0, 0, 0xff, 0xff], vec![0x91; 0xffff]].concat();
    let lies: [(&str, Vec<u8>); 6] = [
        ("a frame that is too large", too_large.to_vec()),
        ("the largest length of all", vec![0xff; 64]),
        ("noise", noise.clone()),
        ("an empty frame", nothing),
        ("a frame that nests", nested),
        ("half a frame, then nothing", honest),
    ];
    for (what, bytes) in &lies {
        // Before hands are shaken, and after.
        let mut early = link(&control, &certificates);
        early.write_all(bytes).unwrap();
        if what.starts_with("half") {
            early.conn.send_close_notify();
        }
        early.flush().unwrap();
        until_closed(early, what);
        let mut late = link(&control, &certificates);
        shake_hands(&mut late, &hello("hyperscale", Role::Worker, "local")).unwrap();
        late.write_all(bytes).unwrap();
        if what.starts_with("half") {
            late.conn.send_close_notify();
        }
        late.flush().unwrap();
        until_closed(late, what);
    }
    // Without TLS.
    for (what, bytes) in &lies {
        let mut plain = connected(&control);
        plain.write_all(bytes).unwrap();
        until_closed(plain, what);
    }
    let mut browser = connected(&control);
    browser.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    until_closed(browser, "a browser");

    works(&world, &mut control);
    let after = control.process.memory_kib().unwrap();
    assert!(after < before + 64 * 1024, "memory went from {before} to {after} KiB");
}

#[test]
fn pro_07_connections_that_say_nothing_are_closed_and_keep_nobody_out() {
    let world = World::new();
    let mut control = world.control();
    let silent: Vec<TcpStream> = (0..200).map(|_| connected(&control)).collect();

    works(&world, &mut control);

    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", control.process.id())).unwrap().count();
    for stream in silent {
        until_closed(stream, "a silent connection");
    }
    until("descriptors as before", WITHIN, || (descriptors() < 60).then_some(()));
}

#[test]
fn sec_01_nodes_that_are_not_what_they_say_are_refused_with_the_reason() {
    let world = World::new();
    let mut control = world.control();
    let authority = world.path("data/development-certificates/ca");
    let certificates = world.path("data/development-certificates/worker");
    let refused = |ours: &Hello| {
        let mut link = link(&control, &certificates);
        let verdict = shake_hands(&mut link, ours).unwrap_err();
        until_closed(link, "a refused node");
        verdict.to_string()
    };

    let as_gate = refused(&hello("hyperscale", Role::Gate, "local"));
    let elsewhere = refused(&hello("other", Role::Worker, "local"));
    let far = refused(&hello("hyperscale", Role::Worker, "mars"));
    let future = refused(&Hello {
        protocol_min: PROTOCOL_MAX + 1,
        protocol_max: PROTOCOL_MAX + 2,
        ..hello("hyperscale", Role::Worker, "local")
    });

    assert!(as_gate.contains("claims to be a gate") && as_gate.contains("worker"), "{as_gate}");
    assert!(elsewhere.contains("`other`"), "{elsewhere}");
    assert!(far.contains("mars"), "{far}");
    assert!(future.contains("protocol"), "{future}");

    // Another cluster's authority, and another role's certificate, as whole processes.
    world.run(["cert", "init", "--out", "foreign-ca"]).expect(0);
    let of = |ca: &str, out: &str, role: &str| {
        world.run(["cert", "node", "--ca", ca, "--out", out, "--roles", role]).expect(0);
    };
    of("foreign-ca", "foreign", "worker");
    of(&authority.display().to_string(), "manager-only", "manager");
    let ca = authority.display().to_string();
    let words = ["cert", "node", "--ca", &ca, "--out", "old", "--roles", "worker", "--days", "0"];
    world.run(words).expect(0);
    let made = now();
    of(&ca, "stolen", "worker");
    let start = |certificates: &str| {
        let words = ["worker", "--join", &control.nodes, "--certs", certificates, "--cores", "1"];
        world.start(words)
    };
    let workers = |count: u64| {
        until(&format!("{count} workers"), WITHIN, || {
            (control.get("/datacenters")[0]["workers"] == count).then_some(())
        });
    };
    let thief = start("stolen");
    workers(1);
    world.run(["cert", "revoke", "--ca", &ca, "stolen/node.pem"]).expect(0);
    // Certificates have whole seconds.
    until("the end of its last second", WITHIN, || {
        (made.elapsed() > Duration::from_secs(1)).then_some(())
    });
    // The running node looks at the list with each link, and while a link is up.
    let list = std::fs::read(authority.join("revoked")).unwrap();
    world.write("data/development-certificates/node/revoked", list);
    workers(0);
    drop(thief);
    for (certificates, words) in [
        ("foreign", "certificate"),
        ("manager-only", "claims to be"),
        ("old", "CertificateExpired"),
        ("stolen", "the connection broke"),
    ] {
        let worker = start(certificates);
        let line = worker.stderr.wait_for("no link", &worker.stdout);
        assert!(line.contains(words), "{certificates}: {line}");
    }
    assert_eq!(control.get("/datacenters")[0]["workers"], 0);
    works(&world, &mut control);
}

#[test]
fn data_of_another_node_is_refused_with_the_place_where_it_belongs() {
    let world = World::new();
    let certificates = world.certificates("eu");
    let start = |datacenter: &str| {
        let words = ["manager", "--listen", "127.0.0.1:0", "--data-dir", "data", "--datacenter"];
        let words = words.into_iter().chain([datacenter, "--certs"]).map(OsStr::new);
        words.chain([certificates.as_os_str()]).map(OsStr::to_owned).collect::<Vec<_>>()
    };
    let manager = world.start(start("eu"));
    manager.announced("listening for nodes on ");
    drop(manager);

    world.run(start("us")).refuses(
        104,
        &["the data of a manager of datacenter eu", "this is one of datacenter us", "of its own"],
    );
}

#[test]
fn certificates_that_cannot_be_read_are_named() {
    let world = World::new();
    world.run(["cert", "init", "--out", "ca"]).expect(0);
    let again = world.run(["cert", "init", "--out", "ca"]);
    let join = |certificates: &str| {
        world.run(["worker", "--join", "127.0.0.1:1", "--certs", certificates])
    };
    world.run(["cert", "node", "--ca", "ca", "--out", "node", "--roles", "worker"]).expect(0);
    world.write("node/node.pem", "no certificate");
    let nonsense = join("node");
    let nowhere = join("nowhere");

    again.refuses(104, &["ca", "already"]);
    nowhere.refuses(113, &["nowhere", "No such file"]);
    nonsense.refuses(104, &["node.pem"]);
    world
        .run(["cert", "node", "--ca", "none", "--out", "x", "--roles", "worker"])
        .refuses(113, &["none", "No such file"]);
    world
        .run([
            "cert",
            "node",
            "--ca",
            "ca",
            "--out",
            "x",
            "--roles",
            "worker",
            "--datacenter",
            "a/b",
        ])
        .refuses(104, &["a/b"]);
}

/// Plans that no compiler has made, sent past the command line: refused, or run without harm to any
/// node.
#[test]
fn pro_03_plans_that_somebody_made_up_take_no_node_down() {
    let world = World::new();
    let target = world.target();
    let mut control = world.control();
    let mut worker = world.worker(&control);
    control.until_free(1);
    let text = format!(
        "target: {}\nthresholds: [ \"failed < 50%\" ]\ndata: {{ rows: {{ values: [ {{ a: 1 }} ] }} }}\n\
         workflows:\n  a:\n    load: {{ executor: ramping-arrival-rate, start_rate: 5/s, stages: [ \
         {{ to: 20/s, over: 1s }} ], max_vus: 5 }}\n    steps:\n      - {{ get: \"/${{rows.a}}\", \
         retry: {{ times: 1 }}, capture: {{ all: {{ body: true }} }} }}\n      - choose: [ {{ weight: 1, \
         steps: [ {{ pause: 1ms..2ms }} ] }} ]\n      - repeat: {{ times: 2, steps: [ {{ get: / }} ] }}\n  \
         b:\n    after: [ a ]\n    load: {{ executor: ramping-vus, stages: [ {{ to: 3, over: 1s }} ] }}\n    \
         steps: [ {{ parallel: [ {{ get: / }}, {{ get: /x }} ] }} ]\n",
        target.url("")
    );
    let options = hyperscale_plan::CompileOptions {
        name: "test.yaml",
        sets: &[],
        environment: &|_| None,
        read_file: &|_, _| Err("no files here".to_owned()),
    };
    let compiled = hyperscale_plan::compile(text.as_bytes(), &options).unwrap();
    let plan = serde_json::to_value(&compiled.plan).unwrap();
    let blobs: Vec<String> = {
        use base64::Engine as _;
        let base64 = &base64::engine::general_purpose::STANDARD;
        compiled.blobs.iter().map(|(_, bytes)| base64.encode(bytes)).collect()
    };
    let extremes = serde_json::json!([0, -1, 300, u64::MAX, 1e300, 0.5, "", null]);
    let mut places = Vec::new();
    scalars(&plan, String::new(), &mut places);
    let (mut taken, mut refused) = (0, 0);
    // Each place once, with one extreme after the other.
    for (number, place) in places.iter().enumerate() {
        let mut plan = plan.clone();
        *plan.pointer_mut(place).unwrap() = extremes[number % 8].clone();
        let key = format!("key-{number}");
        let body = serde_json::json!({ "key": key, "plan": plan, "blobs": blobs }).to_string();
        let (status, answer) = http(&control.api, "POST", "/api/v1/jobs", &[], &body);
        assert!(matches!(status, 201 | 400 | 422 | 503), "{place}: {status} {answer}");
        if status != 201 {
            refused += 1;
            continue;
        }
        taken += 1;
        let job: Value = serde_json::from_str(&answer).unwrap();
        let job = job["job"].as_str().unwrap();
        // It has a moment to run, as far as it can.
        if number % 4 == 0 {
            until("the job's start or end", WITHIN, || {
                let view = control.get(&format!("/jobs/{job}"));
                (view["state"]["state"] != "accepted").then_some(())
            });
        }
        let cancel = format!("/api/v1/jobs/{job}/cancel");
        let (status, answer) = http(&control.api, "POST", &cancel, &[], "{\"now\":true}");
        assert_eq!(status, 200, "{place}: {answer}");
        control.until_ended(job);
        assert!(worker.is_running(), "{place}: {}", worker.stderr.text());
    }
    assert!(taken > 10 && refused > 10, "{taken} taken, {refused} refused");
    assert!(!worker.stderr.text().contains("panicked"), "{}", worker.stderr.text());
    drop(worker);
    works(&world, &mut control);
}

/// Where the scalars of a value are.
fn scalars(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(n, v)| scalars(v, format!("{at}/{n}"), found));
        }
        Value::Object(values) => {
            for (name, value) in values {
                let name = name.replace('~', "~0").replace('/', "~1");
                scalars(value, format!("{at}/{name}"), found);
            }
        }
        _ => found.push(at),
    }
}

/// Whatever is sent to the API, the answer is a problem in JSON with a stable type.
#[test]
fn pro_03_requests_that_make_no_sense_get_a_problem() {
    let world = World::new();
    let mut control = world.control();
    until("a gate that leads", WITHIN, || {
        (http(&control.api, "GET", "/api/v1/jobs", &[], "").0 == 200).then_some(())
    });
    let deep = format!("{{\"key\":\"a\",\"plan\":{}", "[".repeat(100_000));
    let job = "/api/v1/jobs/job_nonsense";
    let unknown = format!("/api/v1/jobs/{}", hyperscale_model::JobId::from_parts(1, 1));
    let cancel = format!("{unknown}/cancel");
    let cases: [(&str, &str, &str, u16); 15] = [
        ("POST", "/api/v1/jobs", "", 422),
        ("POST", "/api/v1/jobs", "{", 400),
        ("POST", "/api/v1/jobs", "[]", 422),
        ("POST", "/api/v1/jobs", "{\"key\":\"a\"}", 422),
        ("POST", "/api/v1/jobs", &deep, 422),
        ("POST", "/api/v1/jobs", "{\"key\":\"a\",\"plan\":{},\"more\":1}", 422),
        ("PUT", "/api/v1/jobs", "{}", 405),
        ("GET", job, "", 400),
        ("GET", &unknown, "", 404),
        ("GET", &format!("{unknown}/results"), "", 404),
        ("GET", &format!("{unknown}/events"), "", 404),
        ("POST", &cancel, "{\"now\":\"perhaps\"}", 422),
        ("POST", &cancel, "nonsense", 400),
        ("POST", &cancel, "{}", 404),
        ("GET", "/api/v1/nowhere", "", 404),
    ];
    for (method, path, body, expected) in cases {
        let (status, answer) = http(&control.api, method, path, &[], body);
        let shown = body.chars().take(40).collect::<String>();
        assert_eq!(status, expected, "{method} {path} {shown}: {answer}");
        let problem: Value = serde_json::from_str(&answer)
            .unwrap_or_else(|error| panic!("{method} {path} {shown}: {error}: {answer:?}"));
        assert!(problem["type"].is_string(), "{problem}");
        assert_eq!(problem["status"], expected, "{problem}");
        assert!(!problem["detail"].as_str().unwrap().is_empty(), "{problem}");
    }
    // Bytes that are no HTTP.
    for bytes in [&b"\x00\x01\x02\x03\r\n\r\n"[..], &[0xff; 10_000], b"GET / HTTP/9.9\r\n\r\n"] {
        let mut stream = TcpStream::connect(&control.api).unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        stream.write_all(bytes).unwrap();
        until_closed(stream, "no HTTP");
    }
    // A body that is larger than any test.
    let announced = [("x-pad", "1")];
    let large = "x".repeat(97 << 20);
    // It may close before it has read it all.
    if let Ok((status, answer)) = try_http(&control.api, "POST", "/api/v1/jobs", &announced, &large)
    {
        assert_eq!(status, 413, "{answer}");
    }
    works(&world, &mut control);
}
