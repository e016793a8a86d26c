//! What is reported is what was sent: to the request, to the byte.

use std::path::Path;

use serde_json::Value;

use crate::system::{Counted, Process, Target, WITHIN, World, sums_up, until};

/// A load that ends by itself with all its answers, over two steps of different sizes.
fn test(target: &Target, load: &str) -> String {
    format!(
        "target: {}\nworkflows:\n  main:\n    load: {load}\n    steps:\n      - get: /bytes/700\n      \
         - {{ name: post, post: /echo, text: \"0123456789\" }}\n",
        target.url("")
    )
}

#[track_caller]
fn agrees(summary: &Value, counted: &Counted) {
    sums_up(summary);
    assert_eq!(summary["status"], "completed", "{summary:#}");
    assert_eq!(summary["partial"], false, "{summary:#}");
    let totals = &summary["totals"];
    assert_eq!(totals["requests"], totals["outcomes"]["ok"], "{totals}");
    assert_eq!(totals["requests"].as_u64(), Some(counted.requests), "requests");
    assert_eq!(totals["bytes_out"].as_u64(), Some(counted.bytes_in), "bytes sent");
    assert_eq!(totals["bytes_in"].as_u64(), Some(counted.bytes_out), "bytes received");
    assert!(counted.requests > 0, "nothing was sent");
}

/// Runs loads over so many workers of their own; each figure agrees with the target's.
fn sta_03_totals_equal(workers: usize) {
    let world = World::new();
    let target = world.target();
    let (control, _workers) = world.system(workers);
    let mut before = target.counted();
    let loads = [
        "{ vus: 7, duration: 2s }",
        "{ rate: 150/s, duration: 2s, max_vus: 50 }",
        "{ executor: ramping-arrival-rate, start_rate: 10/s, stages: [ { to: 200/s, over: 2s } ], \
           max_vus: 50 }",
        "{ executor: per-vu-iterations, vus: 5, iterations: 31 }",
    ];
    for load in loads {
        let file = world.write("test.yaml", test(&target, load));

        let job = world.submit(&control, &file);
        let summary = world.summary(&control, &job);

        let after = target.counted();
        agrees(&summary, &since(&before, &after));
        before = after;
    }
}

fn since(before: &Counted, after: &Counted) -> Counted {
    Counted {
        requests: after.requests - before.requests,
        bytes_in: after.bytes_in - before.bytes_in,
        bytes_out: after.bytes_out - before.bytes_out,
        per_second: Vec::new(),
    }
}

#[test]
fn sta_03_totals_equal_what_the_target_counted_with_one_worker() {
    sta_03_totals_equal(1);
}

#[test]
fn sta_03_totals_equal_what_the_target_counted_with_four_workers() {
    sta_03_totals_equal(4);
}

#[test]
fn sta_03_totals_of_a_local_run_equal_what_the_target_counted() {
    let world = World::new();
    let target = world.target();
    let file = world.write("test.yaml", test(&target, "{ vus: 10, duration: 2s }"));

    let (ended, summary) = world.run_test(&file, &[]);

    ended.expect(0);

    agrees(&summary, &target.counted());
}

#[test]
fn shared_iterations_over_three_workers_are_exactly_as_many_as_the_test_says() {
    let world = World::new();
    let target = world.target();
    let (control, _workers) = world.system(3);
    let text = format!(
        "target: {}\nworkflows:\n  main:\n    load: {{ executor: shared-iterations, vus: 24, \
         total: 100003 }}\n    steps: [ {{ get: / }} ]\n",
        target.url("")
    );
    let file = world.write("test.yaml", text);

    let job = world.submit(&control, &file);
    let summary = world.summary(&control, &job);

    assert_eq!(summary["totals"]["iterations"], 100_003);
    assert_eq!(summary["totals"]["requests"], 100_003);
    agrees(&summary, &target.counted());
}

/// The same against a server that is none of ours, counted by its access log.
#[test]
fn sta_03_totals_equal_what_nginx_logged() {
    let Some(nginx) = found("nginx") else {
        println!("SKIPPED: there is no nginx on this machine");
        return;
    };
    let world = World::new();
    // nginx announces no port: one is asked for from the system and handed over.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let root = world.path("").display().to_string();
    let configuration = format!(
        "daemon off; pid {root}/nginx.pid; error_log stderr warn; worker_processes 1;\n\
         user root;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n  log_format plain '$request_length $bytes_sent';\n  \
         access_log {root}/access.log plain;\n  keepalive_requests 1000000;\n  \
         client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;\n  \
         fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi;\n  \
         scgi_temp_path {root}/scgi;\n  \
         server {{ listen 127.0.0.1:{port}; location / {{ return 200 hello; }} }}\n}}\n"
    );
    let file = world.write("nginx.conf", configuration);
    let mut command = world.of(&nginx);
    command.arg("-p").arg(world.path("")).arg("-c").arg(&file).arg("-e").arg("stderr");
    let server = Process::start(&mut command);
    let address = format!("127.0.0.1:{port}");
    until(&format!("nginx on {address}: {}", server.stderr.text()), WITHIN, || {
        std::net::TcpStream::connect(&address).ok()
    });
    for load in ["{ vus: 8, duration: 2s }", "{ rate: 200/s, duration: 2s, max_vus: 50 }"] {
        let text = format!(
            "target: http://{address}\nworkflows: {{ main: {{ load: {load}, \
             steps: [ {{ get: / }}, {{ get: /longer }} ] }} }}\n"
        );
        let file = world.write("test.yaml", text);
        let before = logged(&world.path("access.log"));

        let (ended, summary) = world.run_test(&file, &[]);

        ended.expect(0);
        let requests = summary["totals"]["requests"].as_u64().unwrap();
        until("the last lines of the log", WITHIN, || {
            (logged(&world.path("access.log")).requests - before.requests >= requests).then_some(())
        });
        agrees(&summary, &since(&before, &logged(&world.path("access.log"))));
    }
}

fn logged(log: &Path) -> Counted {
    let text = std::fs::read_to_string(log).unwrap();
    let mut counted = Counted { requests: 0, bytes_in: 0, bytes_out: 0, per_second: Vec::new() };
    for line in text.lines() {
        let Some((bytes_in, bytes_out)) = line.split_once(' ') else { continue };
        counted.requests += 1;
        counted.bytes_in += bytes_in.parse::<u64>().unwrap();
        counted.bytes_out += bytes_out.parse::<u64>().unwrap();
    }
    counted
}

/// Where a program lies.
fn found(program: &str) -> Option<std::path::PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|path| path.join(program)).find(|path| path.is_file())
}
