//! `hyperscale cluster`: how it is, and what is done about nodes that are lost.

use std::collections::BTreeMap;
use std::time::Duration;

use hyperscale_gate::{ClusterView, GateView, LedDatacenterView, NodeView, Standing};
use hyperscale_model::{Fence, NodeId};
use hyperscale_report::count;
use hyperscale_web::NodeRef;

use crate::args::{DrainArgs, ListArgs, RemoveArgs};
use crate::exit::{Exit, Failure};
use crate::jobs::{api, print, print_json};
use crate::run::refused;

/// Live jobs that are named of each owner.
const JOBS_SHOWN: usize = 5;

pub(crate) async fn status(args: ListArgs) -> Result<Exit, Failure> {
    let view: ClusterView =
        api(&args.gate).get("/cluster").await.map_err(|error| refused(&error))?;
    if args.output == "json" {
        print_json(&view)?;
    } else {
        print(&text(&view))?;
    }
    Ok(Exit::Passed)
}

/// How long the removal of a node may take once it is decided.
const REMOVAL_WITHIN: Duration = Duration::from_secs(30);
/// How often somebody looks whether it has happened.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Removes a node, and waits until it votes no more.
pub(crate) async fn remove(args: RemoveArgs) -> Result<Exit, Failure> {
    let RemoveArgs { node, list } = args;
    let api = api(&list.gate);
    let asked: Result<NodeRef, _> = api.post("/cluster/remove", &NodeRef { node }).await;
    asked.map_err(|error| refused(&error))?;
    let until = tokio::time::Instant::now() + REMOVAL_WITHIN;
    loop {
        let view: ClusterView = api.get("/cluster").await.map_err(|error| refused(&error))?;
        let is_out = !voters(&view).any(|(_, voter)| voter == node);
        if is_out || tokio::time::Instant::now() >= until {
            if list.output == "json" {
                print_json(&view)?;
            } else if is_out {
                print(&format!("{node} is removed; these vote: {}", electorates(&view)))?;
                let of_two: Vec<&str> = (voters_of(&view).iter())
                    .filter(|(_, count)| **count == 2)
                    .map(|(name, _)| *name)
                    .collect();
                if !of_two.is_empty() {
                    print(&format!(
                        "of two that vote both are needed ({}): start another node in its place, \
                         and stop none before `hyperscale cluster status` shows that three vote",
                        of_two.join(", ")
                    ))?;
                }
            } else {
                print(&format!(
                    "{node} is to vote no more, and still does: whoever leads where it votes acts \
                     on it once a majority of the others is there; `hyperscale cluster status` \
                     shows who is"
                ))?;
            }
            return Ok(if is_out { Exit::Passed } else { Exit::Refused });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How often a node is asked to leave that is still there: the word may be lost.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Asks a node to leave, and waits until nobody sees it any more.
pub(crate) async fn drain(args: DrainArgs) -> Result<Exit, Failure> {
    let DrainArgs { node, within, list } = args;
    let api = api(&list.gate);
    let until = tokio::time::Instant::now() + within;
    let mut next_ask = tokio::time::Instant::now();
    let mut was_asked = false;
    loop {
        let now = tokio::time::Instant::now();
        let nodes: Result<Vec<NodeView>, _> = api.get("/nodes").await;
        let is_there = match &nodes {
            Ok(nodes) => nodes.iter().any(|view| view.node == node),
            // The gate that answered may be the one that has left.
            Err(_) if was_asked => false,
            Err(error) => return Err(refused(error)),
        };
        if was_asked && !is_there {
            print(&format!("{node} has left"))?;
            return Ok(Exit::Passed);
        }
        if now >= until {
            print(&format!("{node} was asked to leave, and is still there"))?;
            return Ok(Exit::Refused);
        }
        if now >= next_ask {
            let asked: Result<NodeRef, _> = api.post("/cluster/drain", &NodeRef { node }).await;
            match asked {
                Ok(NodeRef { .. }) => (was_asked, next_ask) = (true, now + ASK_EVERY),
                Err(_) if was_asked => next_ask = now + ASK_EVERY,
                Err(error) => return Err(refused(&error)),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// All that vote: gates, and the managers of each datacenter.
fn voters(view: &ClusterView) -> impl Iterator<Item = (&str, NodeId)> {
    let gates = view.gates.iter().filter(|gate| gate.votes).map(|gate| ("gates", gate.node));
    let managers = view.datacenters.iter().flat_map(|datacenter| {
        let name = datacenter.view.datacenter.as_str();
        datacenter.voters.iter().map(move |manager| (name, *manager))
    });
    gates.chain(managers)
}

/// How many vote: gates, and managers of each datacenter.
fn voters_of(view: &ClusterView) -> BTreeMap<&str, usize> {
    let mut all: BTreeMap<&str, usize> = BTreeMap::new();
    for (electorate, _) in voters(view) {
        *all.entry(electorate).or_default() += 1;
    }
    all
}

fn electorates(view: &ClusterView) -> String {
    let all: Vec<String> =
        voters_of(view).iter().map(|(name, count)| format!("{name} {count}")).collect();
    all.join(", ")
}

/// What matters first: whether anything can be decided, then who is there, then who does what.
fn text(view: &ClusterView) -> String {
    let quorum = &view.quorum;
    let mut lines = vec![match &quorum.why {
        None => format!(
            "the gates decide: {} of {} reached, {} needed",
            quorum.reached, quorum.voters, quorum.needed
        ),
        Some(why) => format!("NOTHING IS DECIDED by {}: {why}", view.gate),
    }];
    lines.push(String::new());
    lines.extend(view.gates.iter().map(|gate| gate_line(gate, view)));
    lines.push(String::new());
    lines.extend(view.datacenters.iter().map(datacenter_line));
    if view.datacenters.is_empty() {
        lines.push("no datacenter was heard of".to_owned());
    }
    if !view.owners.is_empty() {
        lines.push(String::new());
    }
    for owner in &view.owners {
        let shown = owner.live.iter().take(JOBS_SHOWN).map(|job| format!(" {job}"));
        let more = match owner.live.len().saturating_sub(JOBS_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let live = owner.live.len();
        let jobs: String = shown.collect();
        lines.push(format!("{}  {live} live, {} ended{jobs}{more}", owner.gate, owner.ended));
    }
    lines.join("\n")
}

fn gate_line(gate: &GateView, view: &ClusterView) -> String {
    let reached = match (gate.node == view.gate, gate.is_reached) {
        (true, _) => "answers here",
        (false, true) => "reached",
        (false, false) => "out of reach",
    };
    let part = match (gate.has_session, gate.leads, gate.votes) {
        (true, true, _) => "takes part, leads",
        (true, false, _) => "takes part",
        (false, _, true) => "takes no part",
        (false, _, false) => "follows, a spare",
    };
    format!("{}  gate  {reached:<13} {part:<18} {}", gate.node, gate.software).trim_end().to_owned()
}

fn datacenter_line(known: &LedDatacenterView) -> String {
    let LedDatacenterView { view, leader, fence, standing, heard_ms_ago, voters } = known;
    let leader = match (leader, fence) {
        (Some(leader), Some(Fence(fence))) => format!("led by {leader} (fence {fence})"),
        _ => "led by nobody".to_owned(),
    };
    let heard = match heard_ms_ago / 1_000 {
        0 => "heard of just now".to_owned(),
        seconds => format!("heard of {} s ago", count(seconds)),
    };
    let stale = if view.is_fresh { "" } else { "  GETS NO LOAD" };
    let standing = match standing {
        Standing::Unknown | Standing::Reachable => "",
        Standing::Recovering => "  back for a short while",
        Standing::Flapping => "  COMES AND GOES",
        Standing::Suspected => "  DOES NOT ANSWER",
        Standing::Unreachable => "  OUT OF REACH",
    };
    format!(
        "{:<16} {leader}  {} managers vote, {} workers, {} of {} cores free  {heard}{standing}{stale}",
        view.datacenter.as_str(),
        voters.len(),
        view.workers,
        view.free_cores,
        view.cores,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hyperscale_gate::{DatacenterView, OwnerView, QuorumView};
    use hyperscale_model::{DatacenterId, JobId, NodeId};

    use super::*;

    fn view(why: Option<&str>) -> ClusterView {
        let gate = |node, is_reached| GateView {
            node: NodeId(node),
            has_session: true,
            votes: true,
            leads: node == 1,
            is_reached,
            software: "0.1.0".to_owned(),
        };
        ClusterView {
            gate: NodeId(1),
            gates: vec![gate(1, true), gate(2, why.is_none())],
            quorum: QuorumView {
                voters: 3,
                needed: 2,
                reached: if why.is_none() { 2 } else { 1 },
                can_decide: why.is_none(),
                why: why.map(str::to_owned),
            },
            datacenters: vec![LedDatacenterView {
                view: DatacenterView {
                    datacenter: DatacenterId::from("eu"),
                    is_fresh: why.is_none(),
                    workers: 2,
                    cores: 4,
                    free_cores: 3,
                },
                leader: Some(NodeId(9)),
                fence: Some(Fence(7)),
                standing: Standing::Suspected,
                heard_ms_ago: 12_345,
                voters: BTreeSet::from([NodeId(9)]),
            }],
            owners: vec![OwnerView {
                gate: NodeId(2),
                live: (0..7).map(|n| JobId::from_parts(n, 0)).collect(),
                ended: 3,
            }],
            removed: Vec::new(),
        }
    }

    #[test]
    fn a_cluster_that_decides_shows_who_does_what() {
        let text = text(&view(None));

        assert!(text.starts_with("the gates decide: 2 of 3 reached, 2 needed\n"), "{text}");
        assert!(text.contains("node_0000000000000001  gate  answers here  takes part, leads"));
        assert!(text.contains("eu               led by node_0000000000000009 (fence 7)"), "{text}");
        assert!(text.contains("3 of 4 cores free  heard of 12 s ago  DOES NOT ANSWER"), "{text}");
        assert!(text.contains("7 live, 3 ended job_") && text.ends_with("and 2 more"), "{text}");
    }

    #[test]
    fn without_a_quorum_the_first_line_says_so_and_why() {
        let text = text(&view(Some("2 of 3 gates are out of reach")));

        let first = "NOTHING IS DECIDED by node_0000000000000001: 2 of 3 gates are out of reach\n";
        assert!(text.starts_with(first), "{text}");
        assert!(
            text.contains("out of reach  takes part") && text.contains("GETS NO LOAD"),
            "{text}"
        );
    }
}
