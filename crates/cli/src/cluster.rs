//! `hyperscale cluster status`.

use hyperscale_gate::{ClusterView, GateView, LedDatacenterView};
use hyperscale_model::Fence;
use hyperscale_report::count;

use crate::args::ListArgs;
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
    let part = match (gate.has_session, gate.leads) {
        (true, true) => "takes part, leads",
        (true, false) => "takes part",
        (false, _) => "takes no part",
    };
    format!("{}  gate  {reached:<13} {part:<18} {}", gate.node, gate.software).trim_end().to_owned()
}

fn datacenter_line(known: &LedDatacenterView) -> String {
    let LedDatacenterView { view, leader, fence, heard_ms_ago } = known;
    let leader = match (leader, fence) {
        (Some(leader), Some(Fence(fence))) => format!("led by {leader} (fence {fence})"),
        _ => "led by nobody".to_owned(),
    };
    let heard = match heard_ms_ago / 1_000 {
        0 => "heard of just now".to_owned(),
        seconds => format!("heard of {} s ago", count(seconds)),
    };
    let stale = if view.is_fresh { "" } else { "  GETS NO LOAD" };
    format!(
        "{:<16} {leader}  {} workers, {} of {} cores free  {heard}{stale}",
        view.datacenter.as_str(),
        view.workers,
        view.free_cores,
        view.cores,
    )
}

#[cfg(test)]
mod tests {
    use hyperscale_gate::{DatacenterView, OwnerView, QuorumView};
    use hyperscale_model::{DatacenterId, JobId, NodeId};

    use super::*;

    fn view(why: Option<&str>) -> ClusterView {
        let gate = |node, is_reached| GateView {
            node: NodeId(node),
            has_session: true,
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
                heard_ms_ago: 12_345,
            }],
            owners: vec![OwnerView {
                gate: NodeId(2),
                live: (0..7).map(|n| JobId::from_parts(n, 0)).collect(),
                ended: 3,
            }],
        }
    }

    #[test]
    fn a_cluster_that_decides_shows_who_does_what() {
        let text = text(&view(None));

        assert!(text.starts_with("the gates decide: 2 of 3 reached, 2 needed\n"), "{text}");
        assert!(text.contains("node_0000000000000001  gate  answers here  takes part, leads"));
        assert!(text.contains("eu               led by node_0000000000000009 (fence 7)"), "{text}");
        assert!(text.contains("3 of 4 cores free  heard of 12 s ago"), "{text}");
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
