//! A runtime for the consensus library on which nothing happens by itself.
//!
//! Tasks run in the order in which they became ready, on the thread that drives them, until none is
//! ready. Time is what the driver says; randomness follows from a seed. So a node of a ledger is a
//! state machine like every other: equal inputs give equal outputs. Of tokio only its channels and
//! its lock are used, which need no runtime; names such as `thread_rng` are the library's.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex as StdMutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use hyperscale_model::{SplitMix, Time};
use openraft::async_runtime::{
    self, AsyncRuntime, MpscReceiver, MpscSender, MpscWeakSender, OneshotSender, TryRecvError,
    WatchReceiver, WatchSender, mpsc, watch,
};
use rand::SeedableRng;
use rand::rngs::StdRng;

thread_local! {
    /// The executor that is being driven on this thread.
    static CURRENT: RefCell<Option<Rc<Shared>>> = const { RefCell::new(None) };
}

/// Timers so close to the driver's time fire at once.
const SLACK: Duration = Duration::from_micros(50);

type Task = Pin<Box<dyn Future<Output = ()>>>;

struct Shared {
    now: Cell<Time>,
    random: RefCell<SplitMix>,
    ready: Arc<StdMutex<VecDeque<u64>>>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    spawned: Cell<u64>,
    timers: RefCell<BTreeMap<(Time, u64), Waker>>,
    timers_made: Cell<u64>,
}

/// Runs the tasks of one ledger node.
pub(crate) struct Executor(Rc<Shared>);

struct TaskWaker {
    task: u64,
    ready: Arc<StdMutex<VecDeque<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        // A poisoned queue means that a task panicked: the node is gone, and wakes nobody.
        if let Ok(mut ready) = self.ready.lock()
            && !ready.contains(&self.task)
        {
            ready.push_back(self.task);
        }
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("now", &self.0.now.get()).finish_non_exhaustive()
    }
}

impl Executor {
    pub(crate) fn new(seed: u64, now: Time) -> Self {
        Self(Rc::new(Shared {
            now: Cell::new(now),
            random: RefCell::new(SplitMix::new(seed)),
            ready: Arc::default(),
            tasks: RefCell::default(),
            spawned: Cell::new(0),
            timers: RefCell::default(),
            timers_made: Cell::new(0),
        }))
    }

    /// Runs `work`, and then all tasks until none is ready.
    pub(crate) fn drive<T>(&self, now: Time, work: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(Some(Rc::clone(&self.0)));
        self.0.now.set(self.0.now.get().max(now));
        let result = work();
        loop {
            self.0.fire_timers();
            self.0.run_ready();
            // The library yields by sleeping for a microsecond: no driver's clock is that fine.
            match self.next_deadline().filter(|&next| next <= now + SLACK) {
                Some(next) => self.0.now.set(self.0.now.get().max(next)),
                None => break,
            }
        }
        CURRENT.set(before);
        result
    }

    /// When the next timer is due.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.0.timers.borrow().keys().next().map(|&(at, _)| at)
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Tasks may look for the runtime as they go.
        let before = CURRENT.replace(Some(Rc::clone(&self.0)));
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        drop(tasks);
        CURRENT.set(before);
    }
}

impl Shared {
    #[expect(clippy::expect_used, reason = "the consensus library runs only while it is driven")]
    fn current() -> Rc<Self> {
        CURRENT.with_borrow(|current| current.clone()).expect("a ledger is being driven")
    }

    fn fire_timers(&self) {
        loop {
            let mut timers = self.timers.borrow_mut();
            let Some(entry) = timers.first_entry().filter(|entry| entry.key().0 <= self.now.get())
            else {
                return;
            };
            let waker = entry.remove();
            drop(timers);
            waker.wake();
        }
    }

    fn run_ready(&self) {
        loop {
            let next = self.ready.lock().ok().and_then(|mut ready| ready.pop_front());
            let Some(id) = next else { return };
            let Some(mut task) = self.tasks.borrow_mut().remove(&id) else { continue };
            let waker =
                Waker::from(Arc::new(TaskWaker { task: id, ready: Arc::clone(&self.ready) }));
            if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                self.tasks.borrow_mut().insert(id, task);
            }
        }
    }

    fn spawn(&self, task: Task) {
        let id = self.spawned.get();
        self.spawned.set(id + 1);
        self.tasks.borrow_mut().insert(id, task);
        if let Ok(mut ready) = self.ready.lock() {
            ready.push_back(id);
        }
    }
}

/// Runs a task of its own beside those of the library.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    Shared::current().spawn(Box::pin(task));
}

/// The runtime as the consensus library sees it.
#[derive(Debug, Default)]
pub(crate) struct Virtual;

/// An instant of the driver's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(pub(crate) Time);

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        self.0 += duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

impl async_runtime::Instant for Instant {
    fn now() -> Self {
        Self(now())
    }
}

/// The node's time.
pub(crate) fn now() -> Time {
    Shared::current().now.get()
}

/// Ready at an instant.
pub(crate) struct Sleep {
    until: Time,
    registered: Option<(Time, u64)>,
    shared: Rc<Shared>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.now.get() >= self.until {
            return Poll::Ready(());
        }
        let key = match self.registered {
            Some(key) => key,
            None => {
                let number = self.shared.timers_made.get();
                self.shared.timers_made.set(number + 1);
                (self.until, number)
            }
        };
        self.shared.timers.borrow_mut().insert(key, cx.waker().clone());
        self.registered = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.registered {
            self.shared.timers.borrow_mut().remove(&key);
        }
    }
}

fn sleep_until(until: Time) -> Sleep {
    Sleep { until, registered: None, shared: Shared::current() }
}

/// A future that gives up at an instant.
pub(crate) struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: Sleep,
}

/// The instant came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time is over")]
pub(crate) struct TimeoutError;

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, TimeoutError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut self.sleep).poll(cx).map(|()| Err(TimeoutError))
    }
}

/// The result of a spawned task.
pub(crate) struct JoinHandle<T>(tokio::sync::oneshot::Receiver<T>);

/// The task is gone without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the task is gone")]
pub(crate) struct JoinError;

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|result| result.map_err(|_gone| JoinError))
    }
}

impl AsyncRuntime for Virtual {
    type JoinError = JoinError;
    type JoinHandle<T: 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = TimeoutError;
    type Timeout<R, T: Future<Output = R>> = Timeout<T>;
    type ThreadLocalRng = StdRng;
    type Mpsc = Mpsc;
    type Watch = Watch;
    type Oneshot = Oneshot;
    type Mutex<T: 'static> = Mutex<T>;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + 'static,
        T::Output: 'static,
    {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        spawn(async move {
            // Nobody may wait for the result: then it is nobody's loss.
            drop(sender.send(future.await));
        });
        JoinHandle(receiver)
    }

    fn sleep(duration: Duration) -> Sleep {
        sleep_until(now() + duration)
    }

    fn sleep_until(deadline: Instant) -> Sleep {
        sleep_until(deadline.0)
    }

    fn timeout<R, F: Future<Output = R>>(duration: Duration, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), sleep: Self::sleep(duration) }
    }

    fn timeout_at<R, F: Future<Output = R>>(deadline: Instant, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), sleep: sleep_until(deadline.0) }
    }

    fn is_panic(_: &JoinError) -> bool {
        false
    }

    fn thread_rng() -> StdRng {
        StdRng::seed_from_u64(Shared::current().random.borrow_mut().next_u64())
    }

    fn new(_: usize) -> Self {
        Self
    }

    #[expect(clippy::panic, reason = "nothing may block: there is no thread that could go on")]
    fn block_on<F, T>(&mut self, _: F) -> T
    where
        F: Future<Output = T>,
    {
        panic!("a driven runtime cannot block");
    }
}

/// Bounded channels; tokio's need no runtime and wake in order.
#[derive(Debug)]
pub(crate) struct Mpsc;

pub(crate) struct Sender<T>(tokio::sync::mpsc::Sender<T>);
pub(crate) struct Receiver<T>(tokio::sync::mpsc::Receiver<T>);
pub(crate) struct WeakSender<T>(tokio::sync::mpsc::WeakSender<T>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl async_runtime::Mpsc for Mpsc {
    type Sender<T> = Sender<T>;
    type Receiver<T> = Receiver<T>;
    type WeakSender<T> = WeakSender<T>;

    fn channel<T>(buffer: usize) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = tokio::sync::mpsc::channel(buffer);
        (Sender(sender), Receiver(receiver))
    }
}

impl<T> MpscSender<Mpsc, T> for Sender<T> {
    async fn send(&self, message: T) -> Result<(), mpsc::SendError<T>> {
        self.0.send(message).await.map_err(|error| mpsc::SendError(error.0))
    }

    fn downgrade(&self) -> WeakSender<T> {
        WeakSender(self.0.downgrade())
    }
}

impl<T> MpscReceiver<T> for Receiver<T> {
    async fn recv(&mut self) -> Option<T> {
        self.0.recv().await
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.0.try_recv().map_err(|error| match error {
            tokio::sync::mpsc::error::TryRecvError::Empty => TryRecvError::Empty,
            tokio::sync::mpsc::error::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }
}

impl<T> MpscWeakSender<Mpsc, T> for WeakSender<T> {
    fn upgrade(&self) -> Option<Sender<T>> {
        self.0.upgrade().map(Sender)
    }
}

/// Single values; tokio's need no runtime.
#[derive(Debug)]
pub(crate) struct Oneshot;

pub(crate) struct Once<T>(tokio::sync::oneshot::Sender<T>);

impl async_runtime::Oneshot for Oneshot {
    type Sender<T> = Once<T>;
    type Receiver<T> = tokio::sync::oneshot::Receiver<T>;
    type ReceiverError = tokio::sync::oneshot::error::RecvError;

    fn channel<T>() -> (Once<T>, Self::Receiver<T>) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        (Once(sender), receiver)
    }
}

impl<T> OneshotSender<T> for Once<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

/// A lock between tasks.
pub(crate) struct Mutex<T>(tokio::sync::Mutex<T>);

impl<T: 'static> async_runtime::Mutex<T> for Mutex<T> {
    type Guard<'a> = tokio::sync::MutexGuard<'a, T>;

    fn new(value: T) -> Self {
        Self(tokio::sync::Mutex::new(value))
    }

    async fn lock(&self) -> Self::Guard<'_> {
        self.0.lock().await
    }
}

/// A value to watch. Tokio's wakes its watchers in a random order; this one in order of waiting.
#[derive(Debug)]
pub(crate) struct Watch;

struct Watched<T> {
    value: RefCell<T>,
    version: Cell<u64>,
    senders: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

impl<T> Watched<T> {
    fn wake(&self) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }
}

pub(crate) struct Teller<T>(Rc<Watched<T>>);

pub(crate) struct Watcher<T> {
    watched: Rc<Watched<T>>,
    seen: u64,
}

impl<T> Clone for Teller<T> {
    fn clone(&self) -> Self {
        self.0.senders.set(self.0.senders.get() + 1);
        Self(Rc::clone(&self.0))
    }
}

impl<T> Drop for Teller<T> {
    fn drop(&mut self) {
        self.0.senders.set(self.0.senders.get() - 1);
        if self.0.senders.get() == 0 {
            self.0.wake();
        }
    }
}

impl<T> Clone for Watcher<T> {
    fn clone(&self) -> Self {
        Self { watched: Rc::clone(&self.watched), seen: self.seen }
    }
}

impl async_runtime::Watch for Watch {
    type Sender<T> = Teller<T>;
    type Receiver<T> = Watcher<T>;
    type Ref<'a, T: 'a> = Ref<'a, T>;

    fn channel<T>(init: T) -> (Teller<T>, Watcher<T>) {
        let watched = Rc::new(Watched {
            value: RefCell::new(init),
            version: Cell::new(0),
            senders: Cell::new(1),
            waiting: RefCell::default(),
        });
        (Teller(Rc::clone(&watched)), Watcher { watched, seen: 0 })
    }
}

impl<T> WatchSender<Watch, T> for Teller<T> {
    fn send(&self, value: T) -> Result<(), watch::SendError<T>> {
        if Rc::strong_count(&self.0) == self.0.senders.get() {
            return Err(watch::SendError(value)); // Nobody watches.
        }
        self.0.value.replace(value);
        self.0.version.set(self.0.version.get() + 1);
        self.0.wake();
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let is_modified = modify(&mut self.0.value.borrow_mut());
        if is_modified {
            self.0.version.set(self.0.version.get() + 1);
            self.0.wake();
        }
        is_modified
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.value.borrow()
    }

    fn subscribe(&self) -> Watcher<T> {
        Watcher { watched: Rc::clone(&self.0), seen: self.0.version.get() }
    }
}

impl<T> WatchReceiver<Watch, T> for Watcher<T> {
    async fn changed(&mut self) -> Result<(), watch::RecvError> {
        std::future::poll_fn(|cx| {
            let version = self.watched.version.get();
            if version != self.seen {
                self.seen = version;
                return Poll::Ready(Ok(()));
            }
            if self.watched.senders.get() == 0 {
                return Poll::Ready(Err(watch::RecvError(())));
            }
            self.watched.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.watched.value.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = self.watched.version.get();
        self.watched.value.borrow()
    }
}
