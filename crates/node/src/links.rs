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
    /// A link that another has replaced is gone: the role never missed it.
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
            LinkEvent::Message { from, message } => Change::Message(from, message),
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
