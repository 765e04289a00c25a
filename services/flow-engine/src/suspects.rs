//! What was at work at an unclean end is run first and alone, and all else waits for that. See [`crate::marks`].

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use flowmate_common::ids::ExecutionId;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use crate::{
    marks::{Mark, Marks, Suspect},
    work::{Job, Worker},
};

/// How long suspects are waited for: another replica may have them.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a suspect of a first unclean end may compute alone.
const ALONE: Duration = Duration::from_secs(1);
/// The same for who was there at several: also while it waits for others.
const LONG_ALONE: Duration = Duration::from_secs(30);

/// Who is suspected, and whether all others may run.
pub(crate) struct Suspects {
    marks: Option<Marks>,
    expected: Mutex<HashMap<ExecutionId, Suspect>>,
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
            expected: Mutex::new(expected),
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
        if *self.open.borrow() {
            return suspicion;
        }
        let mut expected = self.expected.lock();
        suspicion.suspect = expected.remove(id);
        if expected.is_empty() {
            self.arrived.notify_one();
        }
        suspicion
    }

    fn acquit(&self, suspect: Suspect) {
        if let Some(marks) = &self.marks {
            marks.acquit(suspect);
        }
    }

    /// The suspect is here; it is run when it is its turn.
    pub(crate) fn arrives(&self, job: Job, suspect: Suspect) {
        let _ = self.alone.send((job, suspect));
    }

    /// Returns when all may run.
    pub(crate) async fn cleared(&self) {
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }

    /// Marks an execution as being at work.
    pub(crate) fn mark(&self, id: &ExecutionId) -> Option<Mark<'_>> {
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

    /// The suspect, to be run alone.
    pub(crate) fn keep(mut self) -> Option<Suspect> {
        self.suspect.take()
    }
}

impl Drop for Suspicion<'_> {
    fn drop(&mut self) {
        if let Some(suspect) = self.suspect.take() {
            self.suspects.acquit(suspect);
        }
    }
}

/// Runs the suspects one after the other, and then lets all others run.
pub(crate) async fn run(worker: Arc<Worker>, mut arriving: Arriving) {
    let suspects = &worker.state.suspects;
    let late = tokio::time::sleep(PATIENCE);
    tokio::pin!(late);
    loop {
        let is_complete = suspects.expected.lock().is_empty();
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
    for (id, suspect) in std::mem::take(&mut *suspects.expected.lock()) {
        tracing::info!(execution.id = %id, "a suspect is not here any more");
        suspects.acquit(suspect);
    }
    suspects.open.send_replace(true);
    // Who arrived just now is one of many.
    while let Ok((job, suspect)) = arriving.try_recv() {
        alone(&worker, job, suspect).await;
    }
}

/// Runs a suspect: alone until it waits for another system, or for as long as its record asks for.
async fn alone(worker: &Arc<Worker>, job: Job, suspect: Suspect) {
    let (waits, running, id) = (Arc::new(Notify::new()), Arc::clone(worker), job.id.clone());
    let told = Arc::clone(&waits);
    let (joins, joined) = tokio::sync::oneshot::channel::<()>();
    let tasks = worker.state.context.tasks.clone();
    let at_work = job.running.at_work.clone();
    let mut work = tasks.spawn(at_work.track_future(async move {
        let mark = running
            .state
            .suspects
            .marks
            .as_ref()
            .map(|marks| marks.mark_alone(&id, suspect));
        let work = running.work(job, None, Some(told));
        tokio::pin!(work);
        tokio::select! {
            () = &mut work => return,
            _ = joined => {}
        }
        if let Some(mark) = &mark {
            mark.joins_others();
        }
        work.await;
    }));
    let is_first = suspect.tries <= 1;
    let limit = if is_first { ALONE } else { LONG_ALONE };
    tokio::select! {
        _ = &mut work => {}
        () = waits.notified(), if is_first => {}
        () = tokio::time::sleep(limit) => {}
    }
    let _ = joins.send(());
}
