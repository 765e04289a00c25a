//! Which work goes first where there is more than the cores can do.

/// How urgent a thread's work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Somebody waits for the answer.
    Foreground,
    /// Executing and recording. It is already safe in the log: where the cores are full, taking the next webhook and
    /// answering the API go first, and this catches up as soon as they leave room.
    Background,
}

/// Steps of `nice` below the foreground. The scheduler then gives a background thread about a tenth of what a
/// foreground thread on the same core gets (sched(7)); never nothing.
const NICE: i32 = 10;

impl Priority {
    /// Gives the calling thread this priority. On Linux `nice` is a thread's own; elsewhere it is the whole process's,
    /// so there all threads stay equal.
    pub fn take(self) {
        #[cfg(target_os = "linux")]
        if self == Self::Background {
            // It can only be refused where a policy forbids it, and then all threads are equal.
            let _ = rustix::process::nice(NICE);
        }
    }
}
