//! What ledgers of one cluster say to each other, in pieces that fit in frames.

use std::collections::BTreeMap;

use hyperscale_ledger::{Input, Ledger};
use hyperscale_model::{NodeId, Time};
use hyperscale_wire::{Assembly, Message, ledger_pieces};

use crate::links::Links;

/// What this node's ledger says, and what it is being told.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    said: u64,
    heard: BTreeMap<NodeId, Assembly>,
}

impl Talk {
    /// A new link begins with a new word.
    pub(crate) fn connect(&mut self, peer: NodeId) {
        self.heard.remove(&peer);
    }

    pub(crate) fn say(&mut self, links: &Links, to: NodeId, word: &[u8]) {
        self.said += 1;
        for piece in ledger_pieces(self.said, word) {
            links.send(to, &piece);
        }
    }

    /// Gives a piece to the ledger, or the message back if it is none.
    pub(crate) fn hear(
        &mut self,
        now: Time,
        ledger: &mut Ledger,
        from: NodeId,
        message: Message,
    ) -> Option<Message> {
        let Message::Ledger { number, offset, total, bytes } = message else {
            return Some(message);
        };
        let heard = self.heard.entry(from).or_default();
        if let Some(message) = heard.take(number, offset, total, bytes) {
            ledger.handle(now, Input::Peer { from, message });
        }
        None
    }
}
