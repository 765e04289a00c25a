//! Which work goes first where there is more than the cores can do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// How urgent a thread's work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Somebody waits for the answer.
    Foreground,
    /// Executing and recording. It is already safe in the log: where the cores are full, taking the next webhook and
    /// answering the API go first, and this catches up as soon as they leave room.
    Background,
    /// The same while many requests are being answered: only what they leave of the cores. See [`Pressure`].
    Spare,
}

/// Steps of `nice` below the foreground. The scheduler then gives a background thread about two fifths of what a foreground
/// thread on the same core gets (sched(7)). With less, reading requests falls behind while one flow floods, and who sends
/// little waits for that.
const NICE: i32 = 4;
/// The same for a process whose work is all in the background: it has more threads that ask, and a process of its own can have
/// a machine of its own, where this means nothing.
const PROCESS_NICE: i32 = 19;

impl Priority {
    /// Gives the calling thread this priority, whatever it inherited. On Linux `nice` is a thread's own; elsewhere it is
    /// the whole process's, so there all threads stay equal.
    pub fn take(self) {
        #[cfg(target_os = "linux")]
        // It can only be refused where a policy forbids it, and then all threads are equal.
        match self {
            Self::Foreground => {}
            Self::Background => drop(rustix::process::setpriority_process(None, NICE)),
            Self::Spare => drop(spare()),
        }
    }
}

/// Gives the calling thread, and what it starts from now on, the lowest `nice`.
pub fn give_way() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, PROCESS_NICE);
}

/// `SCHED_IDLE`: unlike any `nice` value it gives way at once when somebody else wakes up.
#[cfg(target_os = "linux")]
fn spare() -> Result<(), thread_priority::Error> {
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
        thread_native_id,
    };
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy)
}

/// Requests that are being answered at the moment. Where they are many, executing moves to threads that run in spare
/// time: what is acknowledged is safe, and is executed when there is room. Where they are few, it does not: spare time
/// may be none for long where other programs fill the machine. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pressure(Arc<AtomicUsize>);

/// As many requests as people cause do not count; as many as this come from programs in a hurry.
const HIGH: usize = 16;

impl Pressure {
    /// A request is being answered as long as the result lives.
    pub fn enter(&self) -> InFlight {
        self.0.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Whether they are many.
    pub fn is_high(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= HIGH
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct InFlight(Pressure);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The time that the calling thread has been working, not counting what others did on its core meanwhile.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_high_while_many_requests_are_being_answered() {
        let pressure = Pressure::default();
        let answering: Vec<InFlight> = (0..HIGH).map(|_| pressure.enter()).collect();
        assert!(pressure.is_high());
        drop(answering);
        assert!(!pressure.is_high());
    }
}
