//! The links of one role.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyperscale_model::{NodeId, Role};
use hyperscale_wire::{Hello, Message};

use crate::link::{LinkEvent, Outbox, Pushed};
use crate::members::Evidence;
use crate::observe::{Count, Observer, Part};

#[derive(Debug)]
pub(crate) struct Links {
    /// By node the link that is up, with the role at its other end.
    up: BTreeMap<NodeId, (Role, Outbox)>,
    observer: Arc<Observer>,
    /// What gossip is told of links that are down.
    pub(crate) evidence: Option<Evidence>,
}

/// What a link's event means for a role.
#[derive(Debug)]
pub(crate) enum Change {
    Up(Box<Hello>),
    Message(NodeId, Box<Message>),
    Down(NodeId),
    /// It concerns a link that another has replaced: the role has no part in it.
    Nothing,
}

impl Links {
    pub(crate) const fn new(observer: Arc<Observer>) -> Self {
        Self { up: BTreeMap::new(), observer, evidence: None }
    }

    pub(crate) fn on(&mut self, event: LinkEvent) -> Change {
        match event {
            LinkEvent::Up { peer, outbox } => {
                // A node that comes back before its old link was found dead has one link, the new.
                if let Some((role, old)) = self.up.insert(peer.node, (peer.role, outbox)) {
                    old.close();
                    self.observer.less(Count::linked(role));
                }
                self.observer.count(Count::linked(peer.role));
                tracing::info!(peer = %peer, "link up");
                Change::Up(peer)
            }
            LinkEvent::Message { from, outbox, message } => match self.up.get(&from) {
                Some((_, current)) if current.is(&outbox) => Change::Message(from, message),
                // Said by an earlier life, perhaps, and read after the next had come.
                Some(_) | None => {
                    self.observer.count(Count::DroppedOldLink);
                    Change::Nothing
                }
            },
            LinkEvent::Down { peer, outbox } => match self.up.get(&peer) {
                Some((role, current)) if current.is(&outbox) => {
                    self.observer.less(Count::linked(*role));
                    self.up.remove(&peer);
                    tracing::info!(%peer, "link down");
                    if let Some(evidence) = &self.evidence {
                        evidence.link_closed(peer);
                    }
                    Change::Down(peer)
                }
                Some(_) | None => Change::Nothing,
            },
        }
    }

    /// Sends, if there is a link: roles send again what is not acknowledged.
    pub(crate) fn send(&self, to: NodeId, message: &Message) {
        let Some((_, outbox)) = self.up.get(&to) else {
            self.observer.count(Count::DroppedNoLink);
            return;
        };
        let name = message.name();
        match outbox.push(message) {
            Ok(Pushed::Fits) => {}
            Ok(Pushed::OldestDropped { is_control }) => {
                let dropped =
                    if is_control { Count::DroppedSlowControl } else { Count::DroppedSlow };
                self.observer.count(dropped);
                if let Some(held_back) = self.observer.trouble(Part::Link, "slow", to) {
                    tracing::warn!(%to, is_control, held_back, "a slow link loses frames");
                }
            }
            Err(error) => {
                if let Some(held_back) = self.observer.trouble(Part::Link, name, to) {
                    tracing::error!(%to, message = name, %error, held_back, "a message cannot be sent");
                }
            }
        }
    }

    /// The role is about to leave: gossip says so.
    pub(crate) fn announce_leaving(&self) {
        if let Some(evidence) = &self.evidence {
            evidence.leave();
        }
    }

    pub(crate) fn close(&mut self) {
        for (role, outbox) in std::mem::take(&mut self.up).into_values() {
            outbox.close();
            self.observer.less(Count::linked(role));
        }
    }
}

#[cfg(test)]
mod tests {
    use hyperscale_model::{BlobHash, DatacenterId, Incarnation};

    use super::*;

    fn up(incarnation: u64) -> (LinkEvent, Outbox) {
        let outbox = Outbox::default();
        let peer = Box::new(Hello {
            cluster: "c".to_owned(),
            environment: "e".to_owned(),
            protocol_min: 1,
            protocol_max: 1,
            node: NodeId(7),
            role: Role::Worker,
            to: Role::Manager,
            datacenter: DatacenterId::from("eu"),
            incarnation: Incarnation(incarnation),
            features: Vec::new(),
            address: None,
        });
        (LinkEvent::Up { peer, outbox: outbox.clone() }, outbox)
    }

    fn said(outbox: &Outbox, number: u64) -> LinkEvent {
        let message = Box::new(Message::Probe { number, removed: Vec::new() });
        LinkEvent::Message { from: NodeId(7), outbox: outbox.clone(), message }
    }

    #[test]
    fn reg_02_what_an_earlier_life_had_said_is_not_heard_after_the_next_has_come() {
        let mut links = Links::new(Observer::start());
        let (first_up, first) = up(1);
        let (second_up, second) = up(2);
        assert!(matches!(links.on(first_up), Change::Up(_)));
        assert!(matches!(links.on(said(&first, 1)), Change::Message(NodeId(7), _)));

        assert!(matches!(links.on(second_up), Change::Up(_)));

        assert!(matches!(links.on(said(&first, 2)), Change::Nothing), "said by the first life");
        let down = LinkEvent::Down { peer: NodeId(7), outbox: first.clone() };
        assert!(matches!(links.on(down), Change::Nothing), "nobody has missed it");
        assert!(matches!(links.on(said(&second, 3)), Change::Message(NodeId(7), _)));
        let down = LinkEvent::Down { peer: NodeId(7), outbox: second.clone() };
        assert!(matches!(links.on(down), Change::Down(NodeId(7))));
        assert!(matches!(links.on(said(&second, 4)), Change::Nothing), "its link is down");
        assert_eq!(links.observer.text().matches("reason=\"old_link\"} 2").count(), 1);
    }

    #[test]
    fn obs_03_a_message_that_cannot_be_sent_is_told_and_the_next_one_goes_out() {
        let mut links = Links::new(Observer::start());
        let (up, outbox) = up(1);
        links.on(up);
        let bytes = vec![0; 4 << 20];
        let (hash, offset, total) = (BlobHash([7; 32]), 0, bytes.len() as u64);
        let too_large = Message::BlobChunk { hash, offset, total, bytes };

        links.send(NodeId(7), &too_large);
        links.send(NodeId(7), &too_large);
        assert_eq!(outbox.waiting(), (0, 0));
        links.send(NodeId(7), &Message::Probe { number: 1, removed: Vec::new() });

        assert_eq!(outbox.waiting(), (1, 0), "the next one waits for the link");
        let text = links.observer.text();
        assert!(text.contains("background_errors_total{part=\"link\"} 2\n"), "{text}");
        let again = links.observer.trouble(Part::Link, too_large.name(), NodeId(7));
        assert_eq!(again, None, "it has its line in this minute");
    }

    #[test]
    fn bpr_02_a_link_that_takes_nothing_loses_data_and_counts_it_and_keeps_what_matters() {
        let mut links = Links::new(Observer::start());
        let (up, outbox) = up(1);
        links.on(up);
        let hash = BlobHash([7; 32]);

        // Bulk and control by turns, while nothing is written.
        for number in 0..5_000 {
            links.send(NodeId(7), &Message::BlobRequest { hash, offset: number });
            links.send(NodeId(7), &Message::Probe { number, removed: Vec::new() });
        }

        let (control, other) = outbox.waiting();
        assert_eq!(control, 5_000, "probes, cancels, leases and ends are all kept");
        assert!(other <= 500, "{other} wait");
        let text = links.observer.text();
        let dropped = format!("reason=\"slow\"}} {}\n", 5_000 - other);
        assert!(text.contains(&dropped), "{text}");
        assert!(text.contains("reason=\"slow_control\"} 0\n"), "{text}");
    }
}
