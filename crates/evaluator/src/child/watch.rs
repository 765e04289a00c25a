//! Looks at the processor time of an evaluation. Over the bound it is asked to end, which it does at the next step of the
//! engine; one that is inside one long step ends with the process.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use flowmate_flow_model::expression::Cancel;
use parking_lot::{Condvar, Mutex};
use rustix::{
    process::{Signal, getpid, kill_process},
    time::{ClockId, clock_gettime},
};

use super::{OVER_TIME, OVER_WAIT};
use crate::Limits;

/// Processor time between being asked to end and being ended.
const GRACE: Duration = Duration::from_millis(25);
/// The shortest sleep between two looks.
const LOOK: Duration = Duration::from_millis(1);

pub(super) struct Watch {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    present: Mutex<Option<Present>>,
    begun: Condvar,
}

/// The evaluation that is watched.
#[derive(Clone)]
struct Present {
    cancel: Cancel,
    limits: Limits,
    over: bool,
    began: Duration,
    by_clock: Instant,
}

/// An evaluation is watched as long as this lives.
pub(super) struct Watched<'a> {
    shared: &'a Shared,
    cancel: Cancel,
}

impl Watch {
    pub(super) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watching = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("watch".into())
            .stack_size(128 << 10)
            .spawn(move || watching.watch())?;
        Ok(Self { shared })
    }

    pub(super) fn begin(&self, limits: Limits) -> Watched<'_> {
        let cancel = Cancel::default();
        *self.shared.present.lock() = Some(Present {
            cancel: cancel.clone(),
            limits,
            over: false,
            began: processor_time(),
            by_clock: Instant::now(),
        });
        self.shared.begun.notify_one();
        Watched {
            shared: &self.shared,
            cancel,
        }
    }
}

impl Watched<'_> {
    pub(super) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Whether it was asked to end.
    pub(super) fn is_over(&self) -> bool {
        self.shared
            .present
            .lock()
            .as_ref()
            .is_some_and(|present| present.over)
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        *self.shared.present.lock() = None;
    }
}

impl Shared {
    fn watch(&self) {
        loop {
            let mut present = self.present.lock();
            let Some(watched) = present.as_mut() else {
                self.begun.wait(&mut present);
                continue;
            };
            let most = Duration::from_millis(watched.limits.processor_ms);
            let longest = Duration::from_millis(watched.limits.wait_ms);
            let (taken, waited) = (
                processor_time().saturating_sub(watched.began),
                watched.by_clock.elapsed(),
            );
            if waited > longest {
                end(OVER_WAIT);
            }
            if taken > most + GRACE {
                end(OVER_TIME);
            }
            if taken > most && !watched.over {
                watched.over = true;
                watched.cancel.cancel();
            }
            let bound = if watched.over { most + GRACE } else { most };
            drop(present);
            // One thread computes: it cannot reach the bound before this.
            let left = bound.saturating_sub(taken).min(longest.saturating_sub(waited));
            std::thread::sleep(left.max(LOOK));
        }
    }
}

/// The time that this process has been working.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Ends the process by a signal that nobody handles: the thread that computes does not return, and nothing is open.
fn end(signal: Signal) {
    let _ = kill_process(getpid(), signal);
}
