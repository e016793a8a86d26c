//! Links: one byte stream between two roles, with a handshake and then frames in both directions.
//!
//! The stream may be a socket with TLS or memory within a process; the code is the same. What a
//! role sends while there is no link, or more than a slow link takes, is dropped here: roles send
//! again what is not acknowledged.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use hyperscale_model::{NodeId, Role};
use hyperscale_wire::{
    Class, DecodeError, EncodeError, FrameDecoder, FrameError, Hello, HelloError, Message,
    decode_message, decode_value, encode_frame,
};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

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
    /// We refuse the other side.
    #[error("this node refuses the other: {0}")]
    Refused(HelloError),
    /// The other side refuses us.
    #[error("the other node refuses this one: {0}")]
    RefusedByPeer(HelloError),
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

/// Checks what a node says of itself against its certificate.
pub(crate) type Certified<'a> = Option<&'a dyn Fn(&Hello) -> Result<(), HelloError>>;

/// What a link tells the role at its end.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    Up { peer: Box<Hello>, outbox: Outbox },
    Message { from: NodeId, message: Box<Message> },
    Down { peer: NodeId, outbox: Outbox },
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
    dropped: u64,
    is_closed: bool,
}

impl Outbox {
    /// Queues a message; control goes first, and of the rest the oldest gives way.
    pub(crate) fn push(&self, message: &Message) -> Result<(), EncodeError> {
        let frame = encode_frame(message)?;
        let mut queue = self.0.queue.borrow_mut();
        let Queue { control, other, dropped, .. } = &mut *queue;
        let (line, max) = match message.class() {
            Class::Control => (control, CONTROL_WAITING_MAX),
            Class::Dispatch | Class::Progress | Class::Bulk => (other, WAITING_MAX),
        };
        if line.len() >= max {
            line.pop_front();
            *dropped += 1;
        }
        line.push_back(frame);
        self.0.ready.notify_one();
        Ok(())
    }

    /// Ends the link once what is queued has been written.
    pub(crate) fn close(&self) {
        self.0.queue.borrow_mut().is_closed = true;
        self.0.ready.notify_one();
    }

    /// Whether both are the same link.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Frames that had to give way.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.queue.borrow().dropped
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

/// Runs a link from its handshake to its end, telling `events`.
pub(crate) async fn run<S>(
    stream: S,
    ours: &Hello,
    certified: Certified<'_>,
    events: &mpsc::Sender<LinkEvent>,
) -> LinkError
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut frames = Frames { decoder: FrameDecoder::default(), reader: &mut reader };
    let theirs = match shake_hands(&mut frames, &mut writer, ours, certified).await {
        Ok(theirs) => theirs,
        Err(error) => return error,
    };
    let (peer, role) = (theirs.node, theirs.role);
    let outbox = Outbox::default();
    let up = LinkEvent::Up { peer: Box::new(theirs), outbox: outbox.clone() };
    if events.send(up).await.is_err() {
        return LinkError::Closed;
    }
    let reading = async {
        loop {
            let body = match frames.next().await {
                Ok(body) => body,
                Err(error) => return error,
            };
            let message = match decode_message(&body) {
                Ok(message) => Box::new(message),
                Err(error) => return error.into(),
            };
            if !message.may_pass(role, ours.role) {
                return LinkError::Forbidden { from: role, to: ours.role, name: message.name() };
            }
            if events.send(LinkEvent::Message { from: peer, message }).await.is_err() {
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
    let error = tokio::select! {
        error = reading => error,
        error = writing => error,
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

/// Each side says who it is, then whether it takes the other.
async fn shake_hands<R, W>(
    frames: &mut Frames<'_, R>,
    writer: &mut W,
    ours: &Hello,
    certified: Certified<'_>,
) -> Result<Hello, LinkError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    writer.write_all(&encode_frame(ours)?).await?;
    writer.flush().await?;
    let theirs: Hello = frames.value().await?;
    let verdict = ours.check(&theirs).and_then(|()| certified.map_or(Ok(()), |is| is(&theirs)));
    writer.write_all(&encode_frame(&verdict)?).await?;
    writer.flush().await?;
    verdict.map_err(LinkError::Refused)?;
    let verdict: Result<(), HelloError> = frames.value().await?;
    verdict.map_err(LinkError::RefusedByPeer)?;
    Ok(theirs)
}
