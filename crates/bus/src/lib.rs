//! The event bus: durable topics, consumer groups, and the parts of consuming that are easily got wrong.
//!
//! - [`Bus`] and [`Subscription`] are what a backend implements; [`conformance`] is what it has to pass.
//! - [`local`] is the embedded backend: a durable log in the data directory. `kafka` is the distributed one.
//! - [`lease`] tells before each effect whether the work is still this member's.
//! - [`inbox`] tracks what is being worked on, so that work may complete out of order while commits stay in order.
//! - [`dispatch`] runs a handler for each event or batch, with retries and dead letters, and rejoins its group after faults.
//! - [`consumers`] is how the consumers of a process are.

#[expect(clippy::indexing_slicing, reason = "a test suite")]
pub mod conformance;
pub mod consumers;
pub mod dispatch;
pub mod inbox;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod lease;
pub mod local;

use std::sync::Arc;

use async_trait::async_trait;
use flowmate_common::{Event, Fault, Topic};

/// Why the bus did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The event is larger than the bus takes; sending it again will not help.
    #[error("an event of {size} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Bytes of the event.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The backend does not answer or refuses; worth another try.
    #[error("the event bus is not available: {0}")]
    Unavailable(String),
}

impl Fault for Error {
    fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::TooLarge { .. } => false,
        }
    }
}

/// An event as it was delivered.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Positions are comparable within a partition only.
    pub partition: u32,
    /// Where the event is.
    pub position: u64,
    /// Where the one after it may begin: commit this when the event and all before it are done.
    pub next: u64,
    /// Which time the member has this partition: as told by [`Assignment::assigned`].
    pub epoch: u64,
    /// The event.
    pub event: Event,
}

/// Where a group that has never committed begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With everything that is still there.
    Beginning,
    /// With what comes from now on.
    End,
}

/// Durable topics.
///
/// Contract, checked by [`conformance::bus`] on every backend:
/// - When `publish` returns `Ok`, all its events are durable: they are delivered to every group, also after a crash.
///   When it returns an error, or does not return, each of them may or may not be delivered.
/// - Events with the same key on the same topic are delivered in the order in which their `publish` calls returned or
///   stand in one call.
/// - Every group gets every event at least once. Without a crash and with its commits in time it gets each once.
/// - After a restart a group gets again whatever it had not committed, in order, and nothing before its commit. The last
///   commits before a crash may be lost; that only delivers more again.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Publishes events, each on its own topic, and returns when all are durable.
    async fn publish(&self, events: Vec<Event>) -> Result<(), Error>;
    /// Joins a consumer group. `assignment` is told of the partitions that this member gets and loses.
    async fn subscribe(
        &self,
        topic: Topic,
        group: &str,
        start: Start,
        assignment: Arc<dyn Assignment>,
    ) -> Result<Box<dyn Subscription>, Error>;
    /// Everything in `partition` of `topic` that was published since the oldest event in the same partition of `of` that
    /// `group` has not committed, and perhaps some before. This is how a consumer finds what was already said about
    /// uncommitted work; it needs two topics whose events have the same keys.
    async fn since_commit(
        &self,
        topic: Topic,
        of: Topic,
        group: &str,
        partition: u32,
    ) -> Result<Box<dyn History>, Error>;
    /// Every event of `topic` since the oldest that `group` has not committed, and then on for ever: for each who asks,
    /// not one for the group. This is how every replica keeps a view up to date that `group` stores: load what is stored
    /// after this returned, then follow. It does not end, and what it has yet to read is kept for it. An error moves
    /// nothing: the next call goes on where it was.
    async fn watch(&self, topic: Topic, group: &str) -> Result<Box<dyn History>, Error>;
    /// The event at this position, which was delivered before and is not committed yet: for work that kept only the
    /// position. `None`: there is no event of `topic` there, or it is gone.
    async fn read_at(&self, topic: Topic, partition: u32, position: u64) -> Result<Option<Event>, Error>;
    /// Returns when what was committed by subscriptions that were dropped is durable, or after some seconds.
    async fn close(&self) {}
    /// Whether the bus answers.
    async fn ping(&self) -> Result<(), Error>;
    /// Whether this process can still reach the bus: fails where it cannot, although others can. Only another process
    /// helps then.
    fn alive(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Bytes or events that each group has still to take, for metrics: topic, group, how many. A group of which that is not
    /// known is left out.
    fn lag(&self) -> Vec<(Topic, String, u64)>;
}

/// One member of a consumer group on one topic.
#[async_trait]
pub trait Subscription: Send {
    /// The next events, at least one and at most `max`; waits for them. Dropping the future loses none. After an error it
    /// may be called again; where the error stays, the group has to be joined again.
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, Error>;
    /// The event at a position that was delivered before and is not done. `None`: it comes again after a restart only.
    async fn again(&mut self, _partition: u32, _position: u64) -> Result<Option<Event>, Error> {
        Ok(None)
    }
    /// How to commit from elsewhere.
    fn committer(&self) -> Arc<dyn Commit>;
    /// When the group last heard of this member: what has no group to hear of it never loses anything.
    fn contact(&self) -> Arc<dyn lease::Contact> {
        Arc::new(lease::Always)
    }
}

/// What a member is told of its partitions. A bus whose log is one has partition 0, which stays.
#[async_trait]
pub trait Assignment: Send + Sync {
    /// The partition's events come next, with this epoch. None is delivered before this returns.
    async fn assigned(&self, partition: u32, epoch: u64) -> Result<(), Error>;
    /// No more events come. What is not committed when this returns is delivered to somebody else.
    async fn revoked(&self, partition: u32);
    /// The session is over, and somebody else may have the partition already: what is in hand ends now.
    async fn lost(&self, partition: u32) {
        self.revoked(partition).await;
    }
}

/// Commits positions.
pub trait Commit: Send + Sync {
    /// Everything before `next` in this partition is done. Returns at once; it becomes durable soon.
    fn commit(&self, partition: u32, next: u64);
}

/// Events, read without a group.
#[async_trait]
pub trait History: Send {
    /// The next events, in order for each key; none at the end.
    async fn next(&mut self) -> Result<Vec<Event>, Error>;
}
