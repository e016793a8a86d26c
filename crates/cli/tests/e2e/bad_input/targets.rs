//! Targets that misbehave. Every request ends in exactly one outcome, and the summary says which,
//! with an example.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

use crate::system::{Process, WITHIN, World, outcomes, sums_up};

/// Answers each connection as a function does, on threads that end with the test's process.
fn server(answer: impl Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let answer = Arc::clone(&answer);
            // Clients go away in the middle of things here; that is theirs to count.
            std::thread::spawn(move || drop(answer(stream)));
        }
    });
    address
}

/// Reads a request without a body.
fn request(stream: &mut TcpStream) -> std::io::Result<bool> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(false);
        }
        head.push(byte[0]);
    }
    Ok(true)
}

/// A server that answers every request with the same bytes and keeps the connection.
fn says(bytes: impl Into<Vec<u8>>) -> SocketAddr {
    let bytes = bytes.into();
    server(move |mut stream| {
        while request(&mut stream)? {
            stream.write_all(&bytes)?;
        }
        Ok(())
    })
}

/// A server that answers every request with these bytes over and over, as long as they are taken.
fn says_without_end(first: &'static str, again: &'static str) -> SocketAddr {
    server(move |mut stream| {
        request(&mut stream)?;
        stream.write_all(first.as_bytes())?;
        let again = again.repeat(1 + 60_000 / again.len());
        loop {
            stream.write_all(again.as_bytes())?;
        }
    })
}

const USERS: u64 = 2;
const ITERATIONS: u64 = 3;

fn test(url: &str, more: &str) -> String {
    format!(
        "target: {url}\ndefaults: {{ timeout: 700ms, http: {{ connect_timeout: 300ms }} }}\n\
         workflows: {{ main: {{ load: {{ vus: {USERS}, iterations: {ITERATIONS} }}, \
         steps: [ {{ get: /x{more} }} ] }} }}\n"
    )
}

#[track_caller]
fn ends_in(outcome: &str, words: &str, url: &str) {
    ends_in_with(outcome, words, url, "");
}

#[track_caller]
fn ends_in_with(outcome: &str, words: &str, url: &str, more: &str) {
    let world = World::new();
    let file = world.write("test.yaml", test(url, more));
    let (ended, summary) = world.run_test(&file, &[]);
    ended.expect(0);
    sums_up(&summary);
    let expected = [(outcome.to_owned(), USERS * ITERATIONS)].into();
    assert_eq!(outcomes(&summary), expected, "{ended}");
    if outcome != "ok" {
        assert!(ended.stdout.contains(outcome), "the outcome is shown: {ended}");
        assert!(ended.stdout.contains(words), "an example says `{words}`: {ended}");
    }
    assert!(ended.took < Duration::from_secs(20), "{ended}");
}

fn at(address: SocketAddr) -> String {
    format!("http://{address}")
}

#[test]
fn a_target_that_refuses_is_a_failed_connection() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    ends_in("connect", "refused", &at(address));
}

#[test]
fn a_target_that_takes_no_connection_is_a_failed_connection() {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    // Whoever comes after these waits in vain.
    let _queued: Vec<TcpStream> = (0..4)
        .filter_map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(50)).ok())
        .collect();
    ends_in("connect", "no connection within 300ms", &at(address));
}

#[test]
fn a_network_without_a_way_is_a_failed_connection() {
    let world = World::new();
    let in_a_network = |script: &str| {
        let mut command = world.of("unshare");
        command.args(["--net", "sh", "-c"]).arg(script).arg(env!("CARGO_BIN_EXE_hyperscale"));
        command
    };
    let up = "ip link set lo up";
    if !Process::start(&mut in_a_network(up)).end(WITHIN).status.success() {
        println!("SKIPPED: this user may make no network namespaces");
        return;
    }
    let file = world.write("test.yaml", test("http://10.1.2.3", ""));
    let mut command = in_a_network(&format!("{up} && exec \"$0\" \"$@\""));
    command.arg("run").arg(&file);

    let ended = Process::start(&mut command).end(WITHIN);

    ended.expect(0);
    assert!(ended.stdout.contains("connect"), "{ended}");
    assert!(ended.stdout.contains("unreachable"), "{ended}");
}

#[test]
fn a_target_that_resets_is_a_reset() {
    let world = World::new();
    let target = world.target();
    ends_in("reset", "reset by peer", &target.url("/reset"));
    // What a peer that has not read everything sends when it closes.
    ends_in("reset", "reset by peer", &at(server(|mut stream| stream.read_exact(&mut [0; 5]))));
}

#[test]
fn an_answer_that_breaks_off_is_a_reset() {
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this";
    let cuts = [0, 9, whole.len()];
    for cut in cuts {
        let words = if cut < whole.len() { "before the answer" } else { "within the answer" };
        let address = server(move |mut stream| {
            request(&mut stream)?;
            stream.write_all(&whole.as_bytes()[..cut])?;
            // Half closed: this side still listens.
            stream.shutdown(Shutdown::Write)?;
            drop(stream.read(&mut [0]));
            Ok(())
        });
        ends_in("reset", words, &at(address));
    }
}

#[test]
fn an_answer_without_end_is_a_timeout() {
    let ends = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999\r\n\r\n", "x"),
        ("HTTP/1.1 200 OK\r\n\r\n", "x"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "3\r\nabc\r\n"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", "x: y\r\n"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", "x"),
        ("", "HTTP/1.1 100 Continue\r\n\r\n"),
    ];
    for (first, again) in ends {
        ends_in("timeout", "no answer within 700ms", &at(says_without_end(first, again)));
    }
}

#[test]
fn no_answer_and_one_that_drips_are_timeouts() {
    let silent = server(|mut stream| {
        while stream.read(&mut [0; 100])? > 0 {}
        Ok(())
    });
    ends_in("timeout", "no answer within 700ms", &at(silent));
    let drips = server(|mut stream| {
        request(&mut stream)?;
        for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx" {
            stream.write_all(&[*byte])?;
            std::thread::park_timeout(Duration::from_millis(100));
        }
        Ok(())
    });
    ends_in("timeout", "no answer within 700ms", &at(drips));
}

#[test]
fn what_is_no_http_is_a_protocol_failure() {
    let cases: [(&[u8], &str); 9] = [
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "no HTTP/1.1 answer"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "no HTTP/1.1 answer"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "no HTTP/1.1 answer"),
        (b"HTTP/1.1 OK\r\n\r\n", "no HTTP/1.1 answer"),
        (b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n", "no HTTP/1.1 answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "content length"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n", "content length"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnope\r\n", "chunks are malformed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab", "nobody asked for"),
    ];
    for (bytes, words) in cases {
        ends_in("protocol", words, &at(says(bytes)));
    }
}

#[test]
fn heads_that_are_too_large_are_a_protocol_failure() {
    let one = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(200_000));
    ends_in("protocol", "more than 65536 bytes", &at(says(one)));
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "x: y\r\n".repeat(200));
    ends_in("protocol", "no HTTP/1.1 answer", &at(says(many)));
    ends_in("protocol", "bytes", &at(says_without_end("HTTP/1.1 200 OK\r\nx: ", "y")));
}

#[test]
fn statuses_that_no_check_allows_are_outcomes_of_their_own() {
    let world = World::new();
    let target = world.target();
    ends_in("http_4xx", "404", &target.url("/status/404"));
    ends_in("http_5xx", "503", &target.url("/status/503"));
    ends_in("http_other", "799", &target.url("/status/799"));
    ends_in_with("check_failed", "status == 201", &target.url(""), ", check: [ status == 201 ]");
}

#[test]
fn a_redirect_to_nowhere_is_a_protocol_failure() {
    let nowhere = "HTTP/1.1 302 Found\r\nlocation: http://\r\ncontent-length: 0\r\n\r\n";
    ends_in("protocol", "redirect", &at(says(nowhere)));
    // One in a circle ends, and the last answer counts.
    let circle = "HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n";
    ends_in("ok", "", &at(says(circle)));
}

#[test]
fn compressed_nonsense_fails_the_check_that_looks_at_it() {
    let nonsense = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nxxxx";
    ends_in("ok", "", &at(says(nonsense)));
    let check = ", check: [ 'body.contains(\"hello\")' ]";
    ends_in_with("check_failed", "check failed", &at(says(nonsense)), check);
}

#[test]
fn a_name_without_an_address_is_a_failed_lookup() {
    ends_in("dns", "nowhere.invalid", "http://nowhere.invalid:1");
}

/// An example shows its own answer, not that of a request before.
#[test]
fn an_example_without_an_answer_shows_none() {
    let world = World::new();
    let address = server(|mut stream| {
        if request(&mut stream)? {
            stream.write_all(
                b"HTTP/1.1 503 No\r\nconnection: close\r\ncontent-length: 13\r\n\r\nthe-busy-page",
            )?;
        }
        Ok(())
    });
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let file = world.write(
        "test.yaml",
        format!(
            "workflows: {{ main: {{ load: {{ vus: 1, iterations: 2 }}, steps: [ \
             {{ name: busy, get: \"http://{address}/\" }}, \
             {{ name: gone, get: \"http://{closed}/\" }} ] }} }}\n"
        ),
    );

    let ended = world.run([
        "run".as_ref(),
        file.as_os_str(),
        "--out".as_ref(),
        "html=report.html".as_ref(),
    ]);

    ended.expect(0);
    let stored = std::fs::read_dir(world.path("state/hyperscale/results")).unwrap();
    let stored: Vec<_> = stored.map(|entry| entry.unwrap().path()).collect();
    let result = crate::system::read_json(&stored[0]);
    let exchanges = result["exchanges"].as_array().unwrap();
    let of = |outcome: &str| {
        let found = exchanges.iter().find(|exchange| exchange["outcome"] == outcome);
        found.unwrap_or_else(|| panic!("no example of {outcome}: {result:#}"))
    };
    assert!(of("http_5xx")["answer"].as_str().unwrap().contains("the-busy-page"));
    assert_eq!(of("connect")["answer"], "", "nothing answered");
}

/// A server with a certificate.
fn https(params: CertificateParams, key: &KeyPair) -> (SocketAddr, String) {
    let certificate = params.self_signed(key).unwrap();
    let pem = certificate.pem();
    let secret = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], secret)
            .unwrap();
    let config = Arc::new(config);
    let address = server(move |stream| {
        let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = rustls::StreamOwned::new(session, stream);
        while stream.read(&mut [0; 4_096])? > 0 {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        }
        Ok(())
    });
    (address, pem)
}

fn tls_test(url: &str, more: &str) -> String {
    test(url, "").replace("defaults: {", &format!("defaults: {{ tls: {{ {more} }},"))
}

#[track_caller]
fn tls_ends_in(outcome: &str, words: &str, world: &World, url: &str, more: &str) {
    let file = world.write("test.yaml", tls_test(url, more));
    let (ended, summary) = world.run_test(Path::new(&file), &[]);
    ended.expect(0);
    let expected = [(outcome.to_owned(), USERS * ITERATIONS)].into();
    assert_eq!(outcomes(&summary), expected, "{ended}");
    for word in words.split('|') {
        assert!(ended.stdout.contains(word), "an example says `{word}`: {ended}");
    }
}

#[test]
fn certificates_that_cannot_be_trusted_are_tls_failures_that_say_why() {
    let world = World::new();
    let key = KeyPair::generate().unwrap();
    let params = |name: &str| CertificateParams::new(vec![name.to_owned()]).unwrap();
    let (address, pem) = https(params("127.0.0.1"), &key);
    world.write("good.pem", pem);
    let url = format!("https://{address}");
    tls_ends_in("ok", "", &world, &url, "ca: good.pem");
    // Nobody knows it.
    tls_ends_in("tls", "certificate|trusted|tls.ca", &world, &url, "min: \"1.2\"");
    tls_ends_in("ok", "", &world, &url, "insecure: true");

    let mut expired = params("127.0.0.1");
    expired.not_before = date_time_ymd(2019, 1, 1);
    expired.not_after = date_time_ymd(2020, 1, 1);
    let (address, pem) = https(expired, &key);
    world.write("expired.pem", pem);
    let url = format!("https://{address}");
    tls_ends_in("tls", "certificate|expired", &world, &url, "ca: expired.pem");

    let (address, pem) = https(params("example.org"), &key);
    world.write("other.pem", pem);
    let url = format!("https://{address}");
    tls_ends_in("tls", "certificate|example.org", &world, &url, "ca: other.pem");

    // No TLS at all on the other side.
    let plain = server(|mut stream| {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")?;
        stream.read(&mut [0; 4_096]).map(|_| ())
    });
    tls_ends_in("tls", "tls", &world, &format!("https://{plain}"), "insecure: true");
    // Silence instead of a handshake.
    let silent = server(|mut stream| {
        while stream.read(&mut [0; 100])? > 0 {}
        Ok(())
    });
    let url = format!("https://{silent}");
    tls_ends_in("tls", "no TLS session within 200ms", &world, &url, "handshake_timeout: 200ms");
}
