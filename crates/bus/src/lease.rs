//! Whether an event is still this member's, asked before each effect. A process that was stopped for a while does not know
//! by itself that its work is somebody else's now; the time since its group last heard of it says so.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

/// When a group last heard of a member.
pub trait Contact: Send + Sync {
    /// Whether that is so short ago that no partition can have gone to another member without this one's consent. Cheap,
    /// and never waits.
    fn is_fresh(&self) -> bool;
}

/// The contact of a log that nobody else reads.
pub(crate) struct Always;

impl Contact for Always {
    fn is_fresh(&self) -> bool {
        true
    }
}

/// How often [`Lease::held`] looks again.
const AGAIN: Duration = Duration::from_millis(20);

/// The right to do the work of one event. Cheap to clone.
#[derive(Clone)]
pub struct Lease {
    contact: Arc<dyn Contact>,
    lost: CancellationToken,
}

impl Lease {
    pub(crate) fn new(contact: Arc<dyn Contact>, lost: CancellationToken) -> Self {
        Self { contact, lost }
    }

    /// Whether an effect may begin now. `false` is for good when the partition is lost, and until the next contact
    /// otherwise.
    pub fn is_held(&self) -> bool {
        self.contact.is_fresh() && !self.lost.is_cancelled()
    }

    /// Waits until an effect may begin; `false` when none may any more: the event is somebody else's.
    pub async fn held(&self) -> bool {
        loop {
            if self.lost.is_cancelled() {
                return false;
            }
            if self.contact.is_fresh() {
                return true;
            }
            // Lost or heard of again, whichever comes first.
            let _ = tokio::time::timeout(AGAIN, self.lost.cancelled()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::FutureExt;

    use super::*;

    struct Switch(AtomicBool);

    impl Contact for Switch {
        fn is_fresh(&self) -> bool {
            self.0.load(Ordering::Acquire)
        }
    }

    #[tokio::test]
    async fn no_effect_begins_without_contact_and_none_ever_after_the_loss() {
        let (contact, lost) = (Arc::new(Switch(AtomicBool::new(false))), CancellationToken::new());
        let lease = Lease::new(contact.clone(), lost.clone());
        assert!(!lease.is_held());
        let mut waiting = std::pin::pin!(lease.held());
        assert_eq!(
            waiting.as_mut().now_or_never(),
            None,
            "nobody knows yet whose it is"
        );
        contact.0.store(true, Ordering::Release);
        assert!(waiting.await && lease.is_held());
        lost.cancel();
        assert!(!lease.is_held() && !lease.held().await, "contact or not");
    }
}
