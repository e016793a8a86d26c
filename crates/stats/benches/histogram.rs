//! Recording and merging against the `hdrhistogram` crate, in the same run.
//!
//! `cargo bench -p hyperscale-stats`

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::expect_used, reason = "fixed bounds of a benchmark")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use hyperscale_model::{Outcome, SplitMix};
use hyperscale_plan::StepIndex;
use hyperscale_stats::{Figures, Histogram, Recorder, Sample};

fn per_item(items: u64, mut run: impl FnMut()) -> f64 {
    let best = (0..5)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .min()
        .unwrap_or_default();
    best.as_secs_f64() * 1e9 / items as f64
}

fn main() {
    let mut random = SplitMix::new(1);
    let values: Vec<u64> = (0..1_000_000).map(|_| 50_000 + random.below(5_000_000)).collect();
    let count = values.len() as u64;

    let mut own = Histogram::new();
    let own_record = per_item(count, || values.iter().for_each(|&ns| own.record_ns(ns)));
    let mut peer = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3)
        .expect("the bounds are valid");
    let peer_record = per_item(count, || {
        values.iter().for_each(|&ns| peer.saturating_record(ns / 1_000));
    });
    println!("figure histogram_record {own_record:.1} ns");
    println!("ratio histogram_record_hdrhistogram {:.2}", peer_record / own_record);

    let sparse: Vec<_> = values
        .chunks(500)
        .map(|chunk| {
            let mut histogram = Histogram::new();
            chunk.iter().for_each(|&ns| histogram.record_ns(ns));
            histogram.to_sparse()
        })
        .collect();
    let peers: Vec<_> = values
        .chunks(500)
        .map(|chunk| {
            let mut histogram = peer.clone();
            histogram.reset();
            chunk.iter().for_each(|&ns| histogram.saturating_record(ns / 1_000));
            histogram
        })
        .collect();
    let merges = sparse.len() as u64;
    let own_merge = per_item(merges, || sparse.iter().for_each(|s| own.merge(black_box(s))));
    let peer_merge = per_item(merges, || {
        peers.iter().for_each(|p| peer.add(black_box(p)).expect("equal bounds"));
    });
    println!("figure histogram_merge_500_values {own_merge:.0} ns");
    println!("ratio histogram_merge_hdrhistogram {:.2}", peer_merge / own_merge);

    let mut recorder = Recorder::new(5, 0, 0);
    let request = per_item(count, || {
        for &ns in &values {
            let latency = Duration::from_nanos(ns);
            recorder.request(
                StepIndex(2),
                &Sample {
                    outcome: Outcome::Ok,
                    status: Some(200),
                    latency,
                    service_time: latency,
                    first_byte: Some(latency),
                    connect: None,
                    tls: None,
                    bytes_in: 200,
                    bytes_out: 100,
                },
            );
        }
    });
    println!("figure record_request {request:.1} ns");

    // A thousand workers' windows of 50 steps, 20 requests a step and window.
    let windows: Vec<_> = (0..1_000)
        .map(|_| {
            let mut recorder = Recorder::new(50, 0, 0);
            for i in 0..1_000u16 {
                let latency = Duration::from_nanos(50_000 + random.below(5_000_000));
                recorder.request(
                    StepIndex(i % 50),
                    &Sample {
                        outcome: Outcome::Ok,
                        status: Some(200),
                        latency,
                        service_time: latency,
                        first_byte: Some(latency),
                        connect: None,
                        tls: None,
                        bytes_in: 200,
                        bytes_out: 100,
                    },
                );
            }
            recorder.take()
        })
        .collect();
    let mut totals = Figures::<Histogram>::default();
    let merge = per_item(1, || windows.iter().for_each(|window| totals.merge(window)));
    println!("figure merge_1000_windows_of_50_steps {:.1} ms", merge / 1e6);
}
