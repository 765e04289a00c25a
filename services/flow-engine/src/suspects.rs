//! What was at work at an unclean end is run first and alone, and all else waits for that. See [`crate::marks`].

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flowmate_common::ids::ExecutionId;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use crate::{
    execution::Waits,
    marks::{Mark, Marks, Suspect},
    work::{Job, Worker},
};

/// How long suspects are waited for: another replica may have them.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a suspect of a first unclean end may compute alone.
const ALONE: Duration = Duration::from_secs(1);
/// The same for who was there at several: also while it waits for others.
const LONG_ALONE: Duration = Duration::from_secs(30);
/// How long those are known that did not come.
const KNOWN: Duration = Duration::from_secs(60);

/// Those that did not come yet.
struct Expected {
    suspects: HashMap<ExecutionId, Suspect>,
    /// Those that came and were not handed over yet.
    coming: usize,
}

impl Expected {
    fn is_complete(&self) -> bool {
        self.suspects.is_empty() && self.coming == 0
    }
}

/// Who is suspected, and whether all others may run.
pub(crate) struct Suspects {
    marks: Option<Arc<Marks>>,
    expected: Mutex<Expected>,
    alone: mpsc::UnboundedSender<(Job, Suspect)>,
    open: watch::Sender<bool>,
    arrived: Notify,
}

/// The suspects as they come.
pub(crate) type Arriving = mpsc::UnboundedReceiver<(Job, Suspect)>;

impl Suspects {
    /// Reads who is suspected, where there is a directory for that.
    pub(crate) fn read(directory: Option<&Path>, places: usize) -> (Self, Arriving) {
        let opened = directory.and_then(|directory| {
            Marks::open(directory, places)
                .inspect_err(|error| {
                    let directory = directory.display();
                    tracing::warn!(%error, %directory, "what is at work cannot be marked: after an unclean end nothing is run alone");
                })
                .ok()
        });
        let (marks, expected) = opened.map_or((None, HashMap::new()), |(marks, found)| (Some(marks), found));
        if !expected.is_empty() {
            let count = expected.len();
            tracing::warn!(
                count,
                "the process ended uncleanly; what was at work is run first and alone"
            );
        }
        let (alone, arriving) = mpsc::unbounded_channel();
        let suspects = Self {
            marks,
            open: watch::Sender::new(expected.is_empty()),
            expected: Mutex::new(Expected {
                suspects: expected,
                coming: 0,
            }),
            alone,
            arrived: Notify::new(),
        };
        (suspects, arriving)
    }

    /// The suspicion against this execution, once.
    pub(crate) fn suspicion(&self, id: &ExecutionId) -> Suspicion<'_> {
        let mut suspicion = Suspicion {
            suspects: self,
            suspect: None,
        };
        let mut expected = self.expected.lock();
        suspicion.suspect = expected.suspects.remove(id);
        expected.coming += usize::from(suspicion.suspect.is_some());
        suspicion
    }

    fn came(&self) {
        self.expected.lock().coming -= 1;
        self.arrived.notify_one();
    }

    fn acquit(&self, suspect: Suspect) {
        if let Some(marks) = &self.marks {
            marks.acquit(suspect);
        }
    }

    /// The suspect is here; it is run when it is its turn.
    pub(crate) fn arrives(&self, job: Job, suspect: Suspect) {
        let _ = self.alone.send((job, suspect));
        self.came();
    }

    /// Returns when all may run.
    pub(crate) async fn cleared(&self) {
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }

    /// Marks an execution as being at work.
    pub(crate) fn mark(&self, id: &ExecutionId) -> Option<Mark> {
        self.marks.as_ref().map(|marks| marks.mark(id))
    }
}

/// What is held against an execution. Dropped, it is acquitted: it is not run here, since it has ended or is convicted.
pub(crate) struct Suspicion<'a> {
    suspects: &'a Suspects,
    suspect: Option<Suspect>,
}

impl Suspicion<'_> {
    /// Whether the execution is known to end the process.
    pub(crate) fn is_convicted(&self) -> bool {
        self.suspect.is_some_and(Suspect::is_convicted)
    }

    /// The suspect, to be run alone; none where all may run already.
    pub(crate) fn keep(mut self) -> Option<Suspect> {
        if *self.suspects.open.borrow() {
            return None;
        }
        self.suspect.take()
    }
}

impl Drop for Suspicion<'_> {
    fn drop(&mut self) {
        if let Some(suspect) = self.suspect.take() {
            self.suspects.acquit(suspect);
            self.suspects.came();
        }
    }
}

/// Runs the suspects one after the other, and then lets all others run.
pub(crate) async fn run(worker: Arc<Worker>, mut arriving: Arriving) {
    let suspects = &worker.state.suspects;
    let late = tokio::time::sleep(PATIENCE);
    tokio::pin!(late);
    loop {
        let is_complete = suspects.expected.lock().is_complete();
        let next = tokio::select! {
            biased;
            next = arriving.recv() => next,
            () = std::future::ready(()), if is_complete => None,
            () = suspects.arrived.notified() => continue,
            () = &mut late => None,
        };
        let Some((job, suspect)) = next else { break };
        alone(&worker, job, suspect).await;
    }
    suspects.open.send_replace(true);
    // Who arrived just now is one of many.
    while let Ok((job, suspect)) = arriving.try_recv() {
        alone(&worker, job, suspect).await;
    }
    // Another replica may have those that are missing. Should they come late, they are still known for a while.
    tokio::time::sleep(KNOWN).await;
    let missing = std::mem::take(&mut suspects.expected.lock().suspects);
    for (id, suspect) in missing {
        tracing::info!(execution.id = %id, "what was at work at the unclean end is not here any more");
        suspects.acquit(suspect);
    }
}

/// Runs a suspect: alone until it waits for another system, or until its end where it was there at several unclean ends.
async fn alone(worker: &Arc<Worker>, job: Job, suspect: Suspect) {
    let marks = worker.state.suspects.marks.as_ref();
    let Some(mark) = marks.map(|marks| Arc::new(marks.mark_alone(&job.id, suspect))) else {
        return;
    };
    let (joined, waits) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let told: Waits = {
        let (mark, joined, waits) = (Arc::clone(&mark), Arc::clone(&joined), Arc::clone(&waits));
        Arc::new(move |is_waiting| {
            mark.is_alone(!is_waiting && !joined.load(Ordering::Relaxed));
            if is_waiting {
                waits.notify_one();
            }
        })
    };
    let (running, marked) = (Arc::clone(worker), Arc::clone(&mark));
    let at_work = job.running.at_work.clone();
    let tasks = worker.state.context.tasks.clone();
    let mut work = tasks.spawn(at_work.track_future(async move {
        running.work(job, None, Some(told)).await;
        drop(marked);
    }));
    let is_first = suspect.tries <= 1;
    tokio::select! {
        _ = &mut work => {}
        () = waits.notified(), if is_first => {}
        () = tokio::time::sleep(if is_first { ALONE } else { LONG_ALONE }) => {}
    }
    joined.store(true, Ordering::Relaxed);
    if !work.is_finished() {
        mark.is_alone(false);
    }
}
