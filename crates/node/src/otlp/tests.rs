use hyperscale_model::{DatacenterId, JobId, NodeId, PartId, PartIndex, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::*;
use crate::traces::Subject;

const TAKEN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

fn span(index: usize) -> Span {
    let (datacenter, name) = (DatacenterId::from("eu"), "blue".to_owned());
    let (role, node) = (Role::Manager, NodeId(1));
    let source = Source { role, node, datacenter, cluster: name.clone(), environment: name };
    let part = PartIndex(u16::try_from(index).unwrap());
    Span {
        source: Arc::new(source),
        subject: Subject::Part(PartId { job: JobId::from_parts(1, 1), part }),
        start: WallTime(1_000),
        end: WallTime(2_500),
        failure: None,
        attributes: Vec::new(),
        moments: Vec::new(),
        moments_dropped: 0,
    }
}

fn queue() -> (Arc<Observer>, Arc<SpanQueue>) {
    let observer = Observer::start();
    (Arc::clone(&observer), SpanQueue::new(observer))
}

/// What was counted of spans: exported, refused, dropped.
fn counted(observer: &Observer) -> [u64; 3] {
    let text = observer.text();
    ["exported", "refused", "dropped"].map(|outcome| {
        let name = format!("hyperscale_traces_spans_total{{outcome=\"{outcome}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
        line.parse().unwrap()
    })
}

/// A collector that gives these answers and tells what it was sent.
async fn collector(answers: &[&'static str]) -> (OtlpEndpoint, mpsc::Receiver<Json>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::channel(100);
    let answers = answers.to_vec();
    tokio::task::spawn_local(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            let request = loop {
                stream.read_buf(&mut bytes).await.unwrap();
                let text = String::from_utf8_lossy(&bytes).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
                    let is_whole = serde_json::from_str::<Json>(body);
                    if let Ok(request) = is_whole {
                        break request;
                    }
                }
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
            sender.send(request).await.unwrap();
        }
    });
    (url.parse().unwrap(), requests)
}

fn spans(request: &Json) -> &[Json] {
    request["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap()
}

#[test]
fn an_endpoint_is_an_http_url_to_which_the_path_of_traces_is_added() {
    for (text, address, path) in [
        ("http://localhost:4318", "localhost:4318", "/v1/traces"),
        ("http://10.0.0.1:4318/", "10.0.0.1:4318", "/v1/traces"),
        ("http://[::1]:4318/otlp/", "[::1]:4318", "/otlp/v1/traces"),
        ("http://tempo.example", "tempo.example:80", "/v1/traces"),
    ] {
        let endpoint: OtlpEndpoint = text.parse().unwrap();

        assert_eq!((&*endpoint.address, &*endpoint.path), (address, path), "{text}");
    }
    use ParseOtlpEndpointError as E;
    for (text, error) in [
        ("", E::NotUrl),
        ("localhost:4318", E::NotUrl),
        ("/v1/traces", E::NotUrl),
        ("grpc://localhost:4317", E::NotUrl),
        ("https://tempo.example", E::NotHttp),
        ("http://ann:secret@tempo.example", E::TooMuch),
        ("http://tempo.example?key=1", E::TooMuch),
    ] {
        assert_eq!(text.parse::<OtlpEndpoint>(), Err(error), "{text}");
    }
}

#[test]
fn a_queue_that_is_full_forgets_the_oldest_and_counts_it() {
    let (observer, queue) = queue();

    (0..QUEUE_MAX + 3).for_each(|index| queue.push(span(index)));
    let batch = queue.take();
    let first = batch[0].subject;
    queue.push(span(7));
    queue.put_back(batch);

    assert_eq!(first, span(3).subject);
    assert_eq!(queue.len(), QUEUE_MAX);
    assert_eq!(counted(&observer), [0, 0, 3 + 1]);
    assert_eq!(queue.take()[0].subject, span(4).subject, "what is put back is the oldest");
}

#[tokio::test]
async fn obs_01_spans_are_written_as_the_specification_wants_them() {
    let run = async {
        let (observer, queue) = queue();
        let (endpoint, mut requests) = collector(&[TAKEN]).await;
        queue.push(span(4));

        let export = Export::start(endpoint, queue);
        let request = requests.recv().await.unwrap();
        export.finish().await;

        let subject = span(4).subject;
        let [written] = spans(&request) else { panic!("{request:#}") };
        assert_eq!(written["traceId"], subject.trace().to_string());
        assert_eq!(written["spanId"], subject.span().to_string());
        assert_eq!(written["parentSpanId"], subject.parent().unwrap().to_string());
        assert_eq!(written["startTimeUnixNano"], "1000000000");
        assert_eq!(written["endTimeUnixNano"], "2500000000");
        let resource = request["resourceSpans"][0]["resource"]["attributes"].to_string();
        assert!(resource.contains("\"hyperscale-manager\""), "{resource}");
        assert_eq!(counted(&observer), [1, 0, 0]);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_busy_collector_is_asked_again_and_one_that_refuses_is_not() {
    let run = async {
        let (observer, queue) = queue();
        let (endpoint, mut requests) = collector(&[
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            TAKEN,
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\n\r\nno!",
            "HTTP/1.1 200 OK\r\ncontent-length: 41\r\n\r\n{\"partialSuccess\":{\"rejectedSpans\":\"1\"}}\n",
        ])
        .await;

        let export = Export::start(endpoint, Arc::clone(&queue));
        queue.push(span(0));
        let (first, second) = (requests.recv().await.unwrap(), requests.recv().await.unwrap());
        queue.push(span(1));
        let refused = requests.recv().await.unwrap();
        (2..4).for_each(|index| queue.push(span(index)));
        let partial = requests.recv().await.unwrap();
        export.finish().await;

        assert_eq!(first, second, "the same batch comes again");
        assert_eq!((spans(&refused).len(), spans(&partial).len()), (1, 2));
        assert_eq!(counted(&observer), [1 + 1, 1 + 1, 0]);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_dead_collector_costs_spans_and_nothing_else() {
    let run = async {
        let (observer, queue) = queue();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let endpoint = format!("http://{gone}").parse().unwrap();

        let export = Export::start(endpoint, Arc::clone(&queue));
        (0..QUEUE_MAX + 100).for_each(|index| queue.push(span(index)));
        let end = tokio::time::timeout(LAST / 2, export.finish()).await;

        assert!(end.is_ok(), "a node that leaves does not wait for who is not there");
        let all = QUEUE_MAX as u64 + 100;
        assert_eq!(counted(&observer), [0, 0, all], "each span is accounted for");
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn a_collector_that_says_nothing_holds_a_leaving_node_for_a_moment_only() {
    let run = async {
        let (observer, queue) = queue();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();

        let export = Export::start(endpoint, Arc::clone(&queue));
        queue.push(span(0));
        let (_open, _) = silent.accept().await.unwrap();
        let end = tokio::time::timeout(LAST + LAST, export.finish()).await;

        assert!(end.is_ok(), "it leaves after {LAST:?}");
        assert_eq!(counted(&observer), [0, 0, 1], "each span is accounted for");
    };
    LocalSet::new().run_until(run).await;
}
