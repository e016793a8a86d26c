use proptest::prelude::*;

use super::*;
use crate::config::AddressRange;

const SELF: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const FIRST: Incarnation = Incarnation(1);

fn address(node: NodeId) -> SocketAddr {
    let [.., high, low] = node.0.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 7_400))
}

fn identity(node: NodeId, incarnation: u64) -> Identity {
    Identity { node, incarnation: Incarnation(incarnation), address: address(node) }
}

fn config() -> Config {
    Config::new(SELF, address(SELF), Incarnation::NONE)
}

fn membership() -> Membership {
    let mut membership = Membership::new(config(), Time::ZERO, 7);
    assert_eq!(membership.drain().next(), Some(Output::StoreIncarnation(FIRST)));
    membership
}

/// What a node says, with what it believes of others.
fn says(sender: Identity, kind: Kind, records: &[(Identity, Belief)]) -> Input {
    let mut writer = Writer::new(kind, sender, None);
    for &(subject, belief) in records {
        assert!(writer.record(&Record { subject, belief }));
    }
    Input::Datagram { from: sender.node, bytes: writer.finish() }
}

fn gossip(sender: NodeId, records: &[(Identity, Belief)]) -> Input {
    says(identity(sender, 1), Kind::Gossip, records)
}

fn suspect(node: NodeId, incarnation: u64, accuser: NodeId) -> (Identity, Belief) {
    (identity(node, incarnation), Belief::Suspect { accuser })
}

/// Node, incarnation, state.
type Told = (NodeId, u64, MemberState);

fn changes(membership: &mut Membership) -> Vec<Told> {
    let changes = membership.drain().filter_map(|output| match output {
        Output::Member { node, incarnation, state } => Some((node, incarnation.0, state)),
        _ => None,
    });
    changes.collect()
}

fn refusals(membership: &mut Membership) -> Vec<Refusal> {
    let refusals = membership.drain().filter_map(|output| match output {
        Output::Event(Event::Refused { reason, .. } | Event::PeersRefused { reason, .. }) => {
            Some(reason)
        }
        _ => None,
    });
    refusals.collect()
}

/// Drops the outputs so far.
fn forget(membership: &mut Membership) {
    membership.drain().for_each(drop);
}

fn state(membership: &Membership, node: NodeId) -> Option<MemberState> {
    membership.member(node).map(|member| member.state)
}

#[test]
fn life_of_a_member_as_it_is_told() {
    use MemberState::{Alive, Dead, Left, Suspect, Unconfirmed};
    let other = |incarnation| identity(OTHER, incarnation);
    let third = NodeId(3);
    let rows: &[(Input, &[Told])] = &[
        (gossip(third, &[]), &[(third, 1, Alive)]),
        (gossip(third, &[(other(4), Belief::Alive)]), &[(OTHER, 4, Unconfirmed)]),
        (gossip(third, &[suspect(OTHER, 4, third)]), &[]), // Not heard from: no suspect.
        (gossip(third, &[(other(5), Belief::Alive)]), &[(OTHER, 5, Unconfirmed)]),
        (says(other(4), Kind::Gossip, &[]), &[]), // A life that a higher one has replaced.
        (says(other(5), Kind::Gossip, &[]), &[(OTHER, 5, Alive)]),
        (gossip(third, &[suspect(OTHER, 4, third)]), &[]),
        (gossip(third, &[suspect(OTHER, 5, third)]), &[(OTHER, 5, Suspect)]),
        (gossip(third, &[(other(5), Belief::Alive)]), &[]), // Suspect beats alive.
        (says(other(5), Kind::Gossip, &[]), &[]),           // It has not heard of it yet.
        (gossip(third, &[(other(6), Belief::Alive)]), &[(OTHER, 6, Alive)]),
        (
            gossip(third, &[(other(6), Belief::Dead)]),
            &[(OTHER, 6, Suspect), (OTHER, 6, Dead)], // No step is left out.
        ),
        (gossip(third, &[(other(6), Belief::Dead)]), &[]),
        (gossip(third, &[(other(6), Belief::Alive), suspect(OTHER, 6, third)]), &[]),
        (says(other(6), Kind::Gossip, &[]), &[]),
        (Input::Heard { node: OTHER, incarnation: Incarnation(6) }, &[]),
        (gossip(third, &[(other(7), Belief::Alive)]), &[(OTHER, 7, Unconfirmed)]), // Anew.
        (Input::Heard { node: OTHER, incarnation: Incarnation(7) }, &[(OTHER, 7, Alive)]),
        (gossip(OTHER, &[]), &[]),
        (gossip(third, &[(other(7), Belief::Left)]), &[(OTHER, 7, Left)]),
        (gossip(third, &[(other(7), Belief::Dead)]), &[]),
    ];
    let mut membership = membership();
    for (step, (input, expected)) in rows.iter().enumerate() {
        membership.handle(Time::ZERO, input.clone());
        assert_eq!(changes(&mut membership), *expected, "step {step}: {input:?}");
    }
}

#[test]
fn link_that_began_before_a_refutation_is_a_sign_of_life() {
    let mut membership = membership();
    membership.handle(Time::ZERO, gossip(NodeId(3), &[(identity(OTHER, 4), Belief::Alive)]));
    assert_eq!(state(&membership, OTHER), Some(MemberState::Unconfirmed));
    assert!(membership.admits(OTHER, Incarnation(2)));

    membership.handle(Time::ZERO, Input::Heard { node: OTHER, incarnation: Incarnation(2) });
    assert_eq!(state(&membership, OTHER), Some(MemberState::Alive));
    assert_eq!(membership.member(OTHER).unwrap().incarnation, Incarnation(4));

    membership.handle(Time::ZERO, gossip(NodeId(3), &[(identity(OTHER, 4), Belief::Dead)]));
    membership.handle(Time::ZERO, gossip(NodeId(3), &[(identity(OTHER, 6), Belief::Alive)]));
    assert!(!membership.admits(OTHER, Incarnation(4)), "a dead life is listened to");
    membership.handle(Time::ZERO, Input::Heard { node: OTHER, incarnation: Incarnation(4) });
    assert_eq!(state(&membership, OTHER), Some(MemberState::Unconfirmed));
    assert!(membership.admits(OTHER, Incarnation(5)));
}

#[test]
fn mem_06_node_that_stood_still_reads_before_it_judges() {
    let mut membership = membership();
    let third = NodeId(3);
    membership.handle(Time::ZERO, gossip(OTHER, &[]));
    membership.handle(Time::ZERO, gossip(third, &[suspect(OTHER, 1, third)]));
    // It hears somebody all the time, but stands still from 3.5 s to 5 s: past the end.
    for now in (0..=3_500).map(Time::from_millis) {
        membership.handle(now, Input::Tick);
        membership.handle(now, gossip(third, &[]));
    }
    let woken = Time::from_secs(5);
    membership.handle(woken, Input::Tick);
    assert_eq!(state(&membership, OTHER), Some(MemberState::Suspect), "judged unheard");

    membership.handle(woken, gossip(third, &[(identity(OTHER, 2), Belief::Alive)]));
    assert_eq!(state(&membership, OTHER), Some(MemberState::Alive));
}

#[test]
fn mem_05_whoever_is_suspect_or_dead_hears_of_it_with_each_probe() {
    let mut membership = membership();
    membership.handle(Time::ZERO, gossip(OTHER, &[]));
    for peer in 10..60 {
        membership.handle(Time::ZERO, gossip(NodeId(peer), &[]));
    }
    membership.handle(Time::ZERO, gossip(NodeId(10), &[suspect(OTHER, 1, NodeId(10))]));
    let mut told = [0, 0];
    for now in (0..60_000).map(Time::from_millis) {
        membership.handle(now, Input::Tick);
        for output in membership.drain() {
            let Output::Datagram { to, bytes } = output else { continue };
            let datagram = Datagram::decode(&bytes).unwrap();
            if to != address(OTHER) || !matches!(datagram.kind, Kind::Ping { .. }) {
                continue;
            }
            let first = datagram.records.first().expect("a probe without a word");
            assert_eq!(first.subject, identity(OTHER, 1));
            told[usize::from(first.belief == Belief::Dead)] += 1;
        }
        if now == Time::from_secs(3) {
            membership.handle(now, Input::LinkClosed { node: OTHER });
        }
    }
    assert!(told.iter().all(|&count| count > 0), "suspect, dead: {told:?}");
}

#[test]
fn mem_04_fifty_peers_confirming_every_50_ms_do_not_keep_a_suspect_alive() {
    let mut membership = membership();
    let peers: Vec<NodeId> = (10..60).map(NodeId).collect();
    membership.handle(Time::ZERO, gossip(OTHER, &[]));
    for &peer in &peers {
        membership.handle(Time::ZERO, gossip(peer, &[]));
    }
    let mut dead_at = None;
    for step in 0..200u64 {
        let now = Time::from_millis(step * 50);
        for &peer in &peers {
            membership.handle(now, gossip(peer, &[suspect(OTHER, 1, peer)]));
        }
        while membership.next_deadline().is_some_and(|due| due <= now) {
            membership.handle(now, Input::Tick);
        }
        if dead_at.is_none() && state(&membership, OTHER) == Some(MemberState::Dead) {
            dead_at = Some(now);
        }
    }

    let dead_at = dead_at.expect("the suspicion never ended");
    assert!((1_500..=8_000).contains(&(dead_at.as_nanos() / 1_000_000)), "it ended at {dead_at}");
}

#[test]
fn mem_05_incarnation_is_stored_before_it_is_used() {
    let mut membership = membership();
    membership.handle(Time::ZERO, gossip(OTHER, &[]));
    let mut stored = FIRST;
    for round in 0..5u64 {
        let accusation = suspect(SELF, membership.incarnation().0, OTHER);
        membership.handle(Time::from_millis(round), gossip(OTHER, &[accusation]));
        for output in membership.drain() {
            match output {
                Output::StoreIncarnation(incarnation) => stored = incarnation,
                Output::Datagram { bytes, .. } => {
                    let used = Datagram::decode(&bytes).unwrap().sender.incarnation;
                    assert!(used <= stored, "{used} was used while {stored} was stored");
                }
                _ => {}
            }
        }
        assert_eq!(stored, Incarnation(round + 2));
        assert_eq!(membership.incarnation(), stored);
    }
}

#[test]
fn mem_05_at_most_five_refutations_in_10_s() {
    let mut membership = membership();
    membership.handle(Time::ZERO, gossip(OTHER, &[]));
    let mut refuted = Vec::new();
    for step in 0..3_000 {
        let now = Time::from_millis(step * 10);
        // A new one each second, since none of them answers probes.
        let accuser = NodeId(100 + step / 100);
        let accusation = suspect(SELF, membership.incarnation().0, accuser);
        membership.handle(now, gossip(accuser, &[accusation]));
        membership.handle(now, Input::Tick);
        let is_store = |output: &Output| matches!(output, Output::StoreIncarnation(_));
        refuted.extend(membership.drain().filter(is_store).map(|_| now));
    }

    assert_eq!(refuted.len(), 15, "in 30 s");
    for six in refuted.windows(6) {
        assert!(six[5].since(six[0]) >= Duration::from_secs(10), "six refutations: {six:?}");
    }
}

#[test]
fn mem_05_suspicions_of_earlier_lives_are_not_refuted() {
    let config = Config { stored_incarnation: Incarnation(8), ..config() };
    let mut membership = Membership::new(config, Time::ZERO, 7);
    assert_eq!(membership.incarnation(), Incarnation(9));

    membership.handle(Time::ZERO, gossip(OTHER, &[suspect(SELF, 8, OTHER)]));
    assert_eq!(membership.incarnation(), Incarnation(9));

    let dead = (identity(SELF, 9), Belief::Dead);
    membership.handle(Time::ZERO, gossip(OTHER, &[dead]));
    assert_eq!(membership.incarnation(), Incarnation(10));

    // A life that this node does not remember: its disk was restored.
    membership.handle(Time::ZERO, gossip(OTHER, &[(identity(SELF, 40), Belief::Alive)]));
    assert_eq!(membership.incarnation(), Incarnation(41));
}

#[test]
fn sec_04_absurd_jumps_change_nothing() {
    let mut membership = membership();
    membership.handle(Time::ZERO, gossip(OTHER, &[]));
    membership.handle(Time::ZERO, gossip(NodeId(3), &[]));
    let before: Vec<MemberView> = membership.members().collect();
    forget(&mut membership);

    for incarnation in [u64::MAX, 3 << 20] {
        for belief in
            [Belief::Alive, Belief::Suspect { accuser: NodeId(3) }, Belief::Dead, Belief::Left]
        {
            for node in [SELF, OTHER] {
                let record = (identity(node, incarnation), belief);
                membership.handle(Time::ZERO, gossip(NodeId(3), &[record]));
                assert_eq!(refusals(&mut membership), [Refusal::Jump], "{record:?}");
            }
        }
        membership.handle(Time::ZERO, says(identity(OTHER, incarnation), Kind::Gossip, &[]));
        assert_eq!(refusals(&mut membership), [Refusal::Jump]);
    }

    assert_eq!(membership.members().collect::<Vec<_>>(), before);
    assert_eq!(membership.incarnation(), FIRST);
}

#[test]
fn sec_04_forged_senders_change_nothing() {
    let mut membership = membership();
    membership.handle(Time::ZERO, gossip(OTHER, &[]));
    forget(&mut membership);
    let Input::Datagram { bytes, .. } = gossip(OTHER, &[(identity(NodeId(9), 1), Belief::Alive)])
    else {
        panic!("no datagram");
    };

    membership.handle(Time::ZERO, Input::Datagram { from: NodeId(3), bytes });
    assert_eq!(refusals(&mut membership), [Refusal::Unreadable]);
    membership.handle(Time::ZERO, gossip(SELF, &[]));
    assert_eq!(refusals(&mut membership), [Refusal::OwnId]);
    let elsewhere = Identity { address: address(NodeId(7)), ..identity(OTHER, 1) };
    membership.handle(Time::ZERO, says(elsewhere, Kind::Gossip, &[]));
    assert_eq!(refusals(&mut membership), [Refusal::Address]);

    assert_eq!(membership.members().count(), 1);
}

#[test]
fn sec_04_addresses_outside_the_allowed_ranges_are_refused() {
    let range = AddressRange { address: [10, 0, 0, 0].into(), prefix_bits: 24 };
    let config = Config { allowed: vec![range], ..config() };
    let mut membership = Membership::new(config, Time::ZERO, 7);
    let outside = Identity { address: ([10, 0, 1, 1], 7_400).into(), ..identity(OTHER, 1) };
    forget(&mut membership);

    membership.handle(Time::ZERO, says(outside, Kind::Gossip, &[]));
    assert_eq!(refusals(&mut membership), [Refusal::Address]);
    membership.handle(Time::ZERO, gossip(NodeId(3), &[(outside, Belief::Alive)]));
    assert_eq!(refusals(&mut membership), [Refusal::Address]);
    membership.handle(Time::ZERO, Input::Peers([outside.address].into()));
    assert_eq!(refusals(&mut membership), [Refusal::Address]);

    assert_eq!(state(&membership, OTHER), None);
}

#[test]
fn sec_04_sixth_change_of_addresses_in_300_s_is_refused() {
    let mut membership = membership();
    membership.handle(Time::ZERO, gossip(OTHER, &[]));
    forget(&mut membership);
    let moved = |incarnation: u64| {
        let address = address(NodeId(100 + incarnation));
        says(Identity { address, ..identity(OTHER, incarnation) }, Kind::Gossip, &[])
    };
    for incarnation in 2..=6 {
        membership.handle(Time::from_secs(incarnation), moved(incarnation));
        assert_eq!(refusals(&mut membership), [], "change {incarnation}");
    }
    membership.handle(Time::from_secs(7), moved(7));
    assert!(refusals(&mut membership).contains(&Refusal::TooManyMoves));
    assert_eq!(membership.member(OTHER).unwrap().incarnation, Incarnation(6));
    membership.handle(Time::from_secs(302), moved(7));
    assert_eq!(membership.member(OTHER).unwrap().incarnation, Incarnation(7));

    let mut peers = |at: u64, last: u64| {
        membership.handle(Time::from_secs(at), Input::Peers([address(NodeId(last))].into()));
        refusals(&mut membership).contains(&Refusal::TooManyMoves)
    };
    assert!(!peers(400, 50), "the first set is no change");
    assert!((1..=5).all(|n| !peers(400 + n, 50 + n)));
    assert!(!peers(406, 55), "the same set is no change");
    assert!(peers(407, 56));
    assert!(!peers(701, 56));
}

proptest! {
    #[test]
    fn sec_04_no_authenticated_bytes_make_it_panic(
        datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
    ) {
        let mut membership = membership();
        for bytes in datagrams {
            membership.handle(Time::ZERO, Input::Datagram { from: OTHER, bytes });
        }
        prop_assert_eq!(membership.members().count(), 0);
    }

    /// Whatever is said in whatever order, each life of each node goes forward only.
    #[test]
    fn any_sequence_tells_each_state_once_and_in_order(
        said in prop::collection::vec((0u64..4, 1u64..5, 0u8..7, 0u64..3_000), 0..80),
    ) {
        let mut membership = membership();
        let mut now = Time::ZERO;
        let mut told: BTreeMap<NodeId, (Incarnation, MemberState)> = BTreeMap::new();
        let mut stored = FIRST;
        for (node, incarnation, what, wait_ms) in said {
            now += Duration::from_millis(wait_ms);
            while membership.next_deadline().is_some_and(|due| due <= now) {
                membership.handle(now, Input::Tick);
            }
            let subject = identity(NodeId(node + 1), incarnation);
            let input = match what {
                0 => gossip(NodeId(9), &[(subject, Belief::Alive)]),
                1 => gossip(NodeId(9), &[suspect(subject.node, incarnation, NodeId(9))]),
                2 => gossip(NodeId(9), &[(subject, Belief::Dead)]),
                3 => gossip(NodeId(9), &[(subject, Belief::Left)]),
                4 => says(subject, Kind::Ping { number: 1 }, &[]),
                5 => Input::Heard { node: subject.node, incarnation: subject.incarnation },
                _ => Input::LinkClosed { node: subject.node },
            };
            membership.handle(now, input);
            for output in membership.drain() {
                match output {
                    Output::StoreIncarnation(incarnation) => {
                        prop_assert!(incarnation > stored);
                        stored = incarnation;
                    }
                    Output::Datagram { bytes, .. } => {
                        prop_assert!(bytes.len() <= crate::PAYLOAD_BYTES_MAX);
                        let used = Datagram::decode(&bytes).unwrap().sender.incarnation;
                        prop_assert!(used <= stored, "{} used before it was stored", used);
                    }
                    Output::Member { node, incarnation, state } => {
                        let before = told.insert(node, (incarnation, state));
                        prop_assert!(before < Some((incarnation, state)), "{:?} twice", state);
                        let was = before.filter(|was| was.0 == incarnation).map(|was| was.1);
                        prop_assert!(
                            match state {
                                MemberState::Suspect => was == Some(MemberState::Alive),
                                MemberState::Dead => was == Some(MemberState::Suspect),
                                MemberState::Left => was.is_some(),
                                MemberState::Unconfirmed | MemberState::Alive => true,
                            },
                            "{:?} after {:?}",
                            state,
                            was
                        );
                    }
                    _ => {}
                }
            }
        }
    }
}

mod metadata {
    use super::*;

    fn said(incarnation: u64, version: u64) -> Versioned {
        let bytes = format!("{incarnation}.{version}").into_bytes();
        Versioned {
            incarnation: Incarnation(incarnation),
            version: Version(version),
            metadata: Metadata::new(bytes).unwrap(),
        }
    }

    /// By gossip or by a link.
    fn deliver(membership: &mut Membership, by_link: bool, of: &Versioned) {
        let input = if by_link {
            Input::Metadata { node: OTHER, said: of.clone() }
        } else {
            let mut writer = Writer::new(Kind::Gossip, identity(NodeId(3), 1), None);
            assert!(writer.metadata(OTHER, of));
            Input::Datagram { from: NodeId(3), bytes: writer.finish() }
        };
        membership.handle(Time::ZERO, input);
    }

    #[test]
    fn reg_03_order_duplicates_and_paths_do_not_matter() {
        let mut random = SplitMix::new(3);
        let all: Vec<Versioned> =
            (1..=3).flat_map(|incarnation| (1..=4).map(move |v| said(incarnation, v))).collect();
        for round in 0..10_000 {
            let mut membership = membership();
            if random.chance(0.5) {
                membership.handle(Time::ZERO, gossip(OTHER, &[]));
            }
            let mut deliveries: Vec<&Versioned> = all.iter().chain(&all).collect();
            for place in (1..deliveries.len()).rev() {
                deliveries.swap(place, below(&mut random, place + 1));
            }
            let mut highest = (Incarnation::NONE, Version::NONE);
            for of in deliveries {
                forget(&mut membership);
                deliver(&mut membership, random.chance(0.5), of);
                let is_told =
                    membership.drain().any(|output| matches!(output, Output::Metadata { .. }));
                assert_eq!(is_told, of.order() > highest, "round {round}: {of:?} at {highest:?}");
                highest = highest.max(of.order());
            }
            assert_eq!(membership.metadata(OTHER), Some(&said(3, 4)), "round {round}");
        }
    }

    #[test]
    fn reg_03_own_metadata_is_not_taken_from_others() {
        let mut membership = membership();
        membership.handle(Time::ZERO, Input::SetMetadata(said(1, 1).metadata));
        membership.handle(Time::ZERO, Input::Metadata { node: SELF, said: said(9, 9) });

        assert_eq!(membership.metadata(SELF), Some(&said(1, 1)));
    }

    #[test]
    fn mem_05_metadata_of_a_dead_life_is_refused() {
        let mut membership = membership();
        membership.handle(Time::ZERO, gossip(OTHER, &[]));
        let dead = (identity(OTHER, 1), Belief::Dead);
        membership.handle(Time::ZERO, gossip(NodeId(3), &[dead]));

        deliver(&mut membership, true, &said(1, 1));
        assert_eq!(membership.metadata(OTHER), None);
        deliver(&mut membership, true, &said(2, 1));
        assert_eq!(membership.metadata(OTHER), Some(&said(2, 1)));
    }

    #[test]
    fn metadata_too_large_for_a_datagram_is_refused() {
        assert!(Metadata::new(vec![0; crate::METADATA_BYTES_MAX]).is_ok());
        assert!(Metadata::new(vec![0; crate::METADATA_BYTES_MAX + 1]).is_err());
    }
}
