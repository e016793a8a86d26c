//! Jobs that wait for cores.

use hyperscale_model::JobId;
use hyperscale_wire::StopReason;

use super::*;

/// A job of one datacenter that takes two cores.
fn wide(number: usize, submit_at: u64, length: u64) -> Test {
    let mut test = test(number, submit_at, users(4, seconds(length)));
    test.plan.workflows[0].cores = Some(2);
    test.plan.run.datacenters = Datacenters::Choose(1);
    test.plan.run.deadline = seconds(600);
    test
}

/// Lives until all that is wanted has come.
#[track_caller]
fn live(world: &mut World, until: u64) -> BTreeMap<String, Came> {
    world.live_until(at(until));
    assert_eq!(world.broken(), None);
    world.finish()
}

/// What was said of a job's wait.
#[derive(Debug, Default)]
struct Told {
    /// When, and how long it was to be.
    waits: Vec<(Time, Duration)>,
    /// When its load was started.
    begun: Vec<Time>,
}

/// What was said of each job, in the order of their submission.
fn forecasts(world: &World) -> BTreeMap<JobId, Told> {
    let mut all: BTreeMap<JobId, Told> = BTreeMap::new();
    for (at, _, _, message) in &world.heard {
        match message {
            Message::PartReport(report) => {
                if let Some(wait) = report.wait {
                    all.entry(report.part.job).or_default().waits.push((*at, wait));
                }
            }
            Message::StartAttempt { attempt, .. } => {
                let job = attempt.shard.job;
                all.entry(job).or_default().begun.push(*at);
            }
            _ => {}
        }
    }
    all
}

#[test]
fn dsp_07_a_job_that_waits_gets_its_cores_when_it_was_told() {
    let jobs = vec![wide(0, 5, 50), wide(1, 8, 40), wide(2, 11, 10)];
    let mut world = world(scenario(1, vec![datacenter(1, &[2])], jobs), 1, None);
    let came = live(&mut world, 115);
    assert!(came.values().all(|came| came.status == "completed"), "{came:?}");

    let forecasts = forecasts(&world);
    let waited: Vec<&Told> = forecasts.values().filter(|told| !told.waits.is_empty()).collect();
    assert_eq!(waited.len(), 2, "the first had cores at once");
    for Told { waits, begun } in waited {
        assert!(waits.len() > 30, "it is said with every report");
        let begun = *begun.first().unwrap();
        for &(at, wait) in waits {
            let error = (at + wait).since(begun).max(begun.since(at + wait));
            assert!(error <= seconds(5), "at {at} it was to wait {wait:?}, and began at {begun}");
        }
    }
}

#[test]
fn dsp_07_what_waits_is_moved_to_where_cores_come_free_and_counts_once() {
    // Both datacenters are taken for long, the one where nobody waits not for so long after all.
    let mut jobs = vec![wide(0, 4, 200), wide(1, 7, 200), wide(2, 12, 10), wide(3, 18, 10)];
    jobs[0].cancel = Some(crate::scenario::Cancel {
        after: seconds(30),
        workflows: Vec::new(),
        mode: hyperscale_wire::StopMode::Graceful,
    });
    let datacenters = vec![datacenter(1, &[2]), datacenter(1, &[2])];
    let mut world = world(scenario(3, datacenters, jobs), 2, None);
    world.live_until(at(100));
    assert_eq!(world.broken(), None);

    let asked_back: BTreeSet<(NodeId, JobId)> = (world.heard.iter())
        .filter_map(|(_, _, to, message)| match message {
            Message::StopPart { part, reason: StopReason::Returned, .. } => Some((*to, part.job)),
            _ => None,
        })
        .collect();
    assert!(!asked_back.is_empty(), "nothing was moved");
    let came = live(&mut world, 215);
    for name in ["test-2", "test-3"] {
        let came = &came[name];
        assert_eq!((came.status.as_str(), came.partial), ("completed", false), "{name}");
    }
    let begun = forecasts(&world);
    for (_, job) in asked_back {
        assert_eq!(begun[&job].begun.len(), 1, "it began once");
        assert!(begun[&job].begun[0] < at(100), "and long before the other job ends");
    }
}
