//! Links: one byte stream between two roles, with a handshake and then frames in both directions.
//!
//! The stream may be a socket with TLS or memory within a process; the code is the same. What a
//! role sends while there is no link, or more than a slow link takes, is dropped here: roles send
//! again what is not acknowledged.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use hyperscale_model::{Class, NodeId, Role};
use hyperscale_wire::{
    DecodeError, EncodeError, FrameDecoder, FrameError, Hello, HelloError, Message, decode_message,
    decode_value, encode_frame,
};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

use crate::tls::Certified;

/// Frames that wait for a slow link, control frames apart.
const WAITING_MAX: usize = 500;
const CONTROL_WAITING_MAX: usize = 10_000;
const READ_BYTES: usize = 64 << 10;

/// Why a link ended or never began.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LinkError {
    /// The stream broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// The other side closed it.
    #[error("the other side closed the connection")]
    Closed,
    /// The other side announced too much.
    #[error("the other side sent a frame that is too large")]
    Frame(#[from] FrameError),
    /// The other side sent something else than messages.
    #[error("the other side sent a frame that cannot be read")]
    Decode(#[from] DecodeError),
    /// Our own words do not fit in a frame.
    #[error("a message cannot be sent")]
    Encode(#[from] EncodeError),
    /// Nothing was heard for too long.
    #[error("the other side says nothing")]
    Silent,
    /// The other side wants a role that is not here.
    #[error("the other side asks for a {0}, which is not here")]
    NoRole(Role),
    /// We refuse the other side.
    #[error("this node refuses the other: {0}")]
    Refused(HelloError),
    /// The other side refuses us.
    #[error("the other node refuses this one: {0}")]
    RefusedByPeer(HelloError),
    /// The other side's certificate counts no more.
    #[error("the other side's certificate was revoked")]
    Revoked,
    /// The other side said something that its role may not say.
    #[error("a {from} may not send `{name}` to a {to}")]
    Forbidden {
        /// The sender's role.
        from: Role,
        /// Ours.
        to: Role,
        /// The message's name.
        name: &'static str,
    },
}

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// After so long without a word the caller takes the link for dead: whoever is called says
/// something every second.
const SILENCE: Duration = Duration::from_secs(5);

/// Finds the role that a link is for: what it says of itself, and where it hears of the link.
pub(crate) type Pick<'a> = &'a dyn Fn(&Hello) -> Option<Picked>;
pub(crate) type Picked = (Hello, mpsc::Sender<LinkEvent>);

/// Which end of a link this is.
pub(crate) enum End<'a> {
    /// It has called another role, and speaks first.
    Caller(&'a Hello),
    /// It is called, and finds out by the other's hello for which of its roles.
    Called(Pick<'a>),
}

impl LinkError {
    /// Whether both ends had taken each other before it ended.
    pub(crate) const fn was_up(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Closed | Self::Silent | Self::Forbidden { .. })
    }

    /// Whether two managers only agreed on which of them calls.
    pub(crate) const fn calls_back(&self) -> bool {
        matches!(
            self,
            Self::Refused(HelloError::Callback) | Self::RefusedByPeer(HelloError::Callback)
        )
    }
}

/// What a link tells the role at its end.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    Up { peer: Box<Hello>, outbox: Outbox },
    Message { from: NodeId, outbox: Outbox, message: Box<Message> },
    Down { peer: NodeId, outbox: Outbox },
}

/// What became of a frame that was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    Fits,
    /// The oldest frame of its line had to give way.
    OldestDropped {
        is_control: bool,
    },
}

/// Where a role puts what it sends over a link.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outbox(Rc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: RefCell<Queue>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    control: VecDeque<Vec<u8>>,
    other: VecDeque<Vec<u8>>,
    is_closed: bool,
}

impl Outbox {
    /// Queues a message; control goes first, and of the rest the oldest gives way.
    pub(crate) fn push(&self, message: &Message) -> Result<Pushed, EncodeError> {
        let frame = encode_frame(message)?;
        let mut queue = self.0.queue.borrow_mut();
        let Queue { control, other, .. } = &mut *queue;
        let is_control = match message.class() {
            Class::Control => true,
            Class::Dispatch | Class::Progress | Class::Bulk => false,
        };
        let (line, max) =
            if is_control { (control, CONTROL_WAITING_MAX) } else { (other, WAITING_MAX) };
        let mut pushed = Pushed::Fits;
        if line.len() >= max {
            line.pop_front();
            pushed = Pushed::OldestDropped { is_control };
        }
        line.push_back(frame);
        self.0.ready.notify_one();
        Ok(pushed)
    }

    /// Ends the link once what is queued has been written.
    pub(crate) fn close(&self) {
        self.0.queue.borrow_mut().is_closed = true;
        self.0.ready.notify_one();
    }

    /// How many frames wait: control frames, and others.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let queue = self.0.queue.borrow();
        (queue.control.len(), queue.other.len())
    }

    /// Whether both are the same link.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// All frames that wait, joined; `None` at the end.
    async fn next(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut queue = self.0.queue.borrow_mut();
                let frames = queue.control.len() + queue.other.len();
                if frames > 0 {
                    let Queue { control, other, .. } = &mut *queue;
                    return Some(control.drain(..).chain(other.drain(..)).flatten().collect());
                }
                if queue.is_closed {
                    return None;
                }
            }
            self.0.ready.notified().await;
        }
    }
}

/// Runs a link from its handshake to its end, telling `events`; the called end tells those of the
/// role that it is for.
pub(crate) async fn run<S>(
    stream: S,
    end: End<'_>,
    certified: Option<&Certified>,
    events: Option<mpsc::Sender<LinkEvent>>,
) -> LinkError
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut frames = Frames { decoder: FrameDecoder::default(), reader: &mut reader };
    // Within a process nothing is lost, so silence says nothing.
    let is_over_network = certified.is_some();
    let is_caller = matches!(end, End::Caller(_));
    let shaken = shake_hands(&mut frames, &mut writer, end, certified);
    let (ours, theirs, picked) = match tokio::time::timeout(HANDSHAKE, shaken).await {
        Ok(Ok(shaken)) => shaken,
        Ok(Err(error)) => return error,
        Err(_) => return LinkError::Silent,
    };
    let Some(events) = picked.or(events) else { return LinkError::Closed };
    let (peer, role, our_role) = (theirs.node, theirs.role, ours);
    // Managers say something to each other as often.
    let is_heard_of = is_caller || (role, our_role) == (Role::Manager, Role::Manager);
    let may_fall_silent = is_over_network && is_heard_of;
    let outbox = Outbox::default();
    let up = LinkEvent::Up { peer: Box::new(theirs), outbox: outbox.clone() };
    if events.send(up).await.is_err() {
        return LinkError::Closed;
    }
    let reading = async {
        loop {
            let body = if may_fall_silent {
                match tokio::time::timeout(SILENCE, frames.next()).await {
                    Ok(body) => body,
                    Err(_) => return LinkError::Silent,
                }
            } else {
                frames.next().await
            };
            let message = match body.and_then(|body| Ok(decode_message(&body)?)) {
                Ok(message) => Box::new(message),
                Err(error) => return error,
            };
            if !message.may_pass(role, our_role) {
                return LinkError::Forbidden { from: role, to: our_role, name: message.name() };
            }
            let said = LinkEvent::Message { from: peer, outbox: outbox.clone(), message };
            if events.send(said).await.is_err() {
                return LinkError::Closed;
            }
        }
    };
    let writing = async {
        while let Some(bytes) = outbox.next().await {
            if let Err(error) = writer.write_all(&bytes).await {
                return LinkError::Io(error);
            }
            if let Err(error) = writer.flush().await {
                return LinkError::Io(error);
            }
        }
        match writer.shutdown().await {
            Ok(()) => LinkError::Closed,
            Err(error) => LinkError::Io(error),
        }
    };
    let revoked = async {
        match certified {
            Some(certified) => match certified.until_revoked().await {
                Ok(()) => LinkError::Revoked,
                Err(error) => LinkError::Io(error),
            },
            None => std::future::pending().await,
        }
    };
    let error = tokio::select! {
        error = reading => error,
        error = writing => error,
        error = revoked => error,
    };
    if events.send(LinkEvent::Down { peer, outbox }).await.is_err() {
        tracing::debug!("the role had ended before its link to {peer}");
    }
    error
}

struct Frames<'a, R> {
    decoder: FrameDecoder,
    reader: &'a mut R,
}

impl<R: AsyncRead + Unpin> Frames<'_, R> {
    async fn next(&mut self) -> Result<Vec<u8>, LinkError> {
        loop {
            if let Some(body) = self.decoder.next_frame()? {
                return Ok(body);
            }
            let mut bytes = Vec::with_capacity(READ_BYTES);
            if self.reader.read_buf(&mut bytes).await? == 0 {
                return Err(LinkError::Closed);
            }
            self.decoder.feed(&bytes);
        }
    }

    async fn value<T: DeserializeOwned>(&mut self) -> Result<T, LinkError> {
        Ok(decode_value(&self.next().await?)?)
    }
}

/// The caller says who it is, then the called end; then each says whether it takes the other.
/// Returns our role, the other's hello, and whom the called end picked to hear of the link.
async fn shake_hands<R, W>(
    frames: &mut Frames<'_, R>,
    writer: &mut W,
    end: End<'_>,
    certified: Option<&Certified>,
) -> Result<(Role, Hello, Option<mpsc::Sender<LinkEvent>>), LinkError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (ours, theirs, picked) = match end {
        End::Caller(ours) => {
            send(writer, ours).await?;
            (ours.clone(), frames.value::<Hello>().await?, None)
        }
        End::Called(pick) => {
            let theirs: Hello = frames.value().await?;
            let Some((ours, events)) = pick(&theirs) else {
                return Err(LinkError::NoRole(theirs.to));
            };
            send(writer, &ours).await?;
            (ours, theirs, Some(events))
        }
    };
    let verdict = ours.check(&theirs);
    let verdict = verdict.and_then(|()| certified.map_or(Ok(()), |is| is.check(&theirs)));
    let verdict = verdict.and_then(|()| match picked {
        Some(_) => ours.check_caller(&theirs),
        None => Ok(()),
    });
    send(writer, &verdict).await?;
    verdict.map_err(LinkError::Refused)?;
    let verdict: Result<(), HelloError> = frames.value().await?;
    verdict.map_err(LinkError::RefusedByPeer)?;
    Ok((ours.role, theirs, picked))
}

async fn send<W: AsyncWrite + Unpin>(
    writer: &mut W,
    value: &impl serde::Serialize,
) -> Result<(), LinkError> {
    writer.write_all(&encode_frame(value)?).await?;
    Ok(writer.flush().await?)
}
