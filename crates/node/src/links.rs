//! The links of one role.

use std::collections::BTreeMap;

use hyperscale_model::NodeId;
use hyperscale_wire::{Hello, Message};

use crate::link::{LinkEvent, Outbox};

/// By node the link that is up.
#[derive(Debug, Default)]
pub(crate) struct Links(BTreeMap<NodeId, Outbox>);

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
    pub(crate) fn on(&mut self, event: LinkEvent) -> Change {
        match event {
            LinkEvent::Up { peer, outbox } => {
                // A node that comes back before its old link was found dead has one link, the new.
                if let Some(old) = self.0.insert(peer.node, outbox) {
                    old.close();
                }
                tracing::info!(peer = %peer, "link up");
                Change::Up(peer)
            }
            LinkEvent::Message { from, message } => Change::Message(from, message),
            LinkEvent::Down { peer, outbox } => {
                if outbox.dropped() > 0 {
                    tracing::warn!(%peer, frames = outbox.dropped(), "a slow link lost frames");
                }
                if self.0.get(&peer).is_some_and(|current| current.is(&outbox)) {
                    self.0.remove(&peer);
                    tracing::info!(%peer, "link down");
                    Change::Down(peer)
                } else {
                    Change::Nothing
                }
            }
        }
    }

    /// Sends, if there is a link: roles send again what is not acknowledged.
    pub(crate) fn send(&self, to: NodeId, message: &Message) {
        if let Some(outbox) = self.0.get(&to)
            && let Err(error) = outbox.push(message)
        {
            tracing::error!(%to, message = message.name(), %error, "a message cannot be sent");
        }
    }

    pub(crate) fn close(&mut self) {
        for outbox in std::mem::take(&mut self.0).into_values() {
            outbox.close();
        }
    }
}
