//! The children of a process: as many as it has cores, started when they are needed and ended when they are not.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Weak,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use flowmate_common::model::Json;
use flowmate_flow_model::{Evaluator, ExpressionError, moment::Request};
use parking_lot::{Condvar, Mutex};

use crate::{
    Limits,
    worker::{Evaluated, Worker},
};

/// How long a child may have nothing to do.
const IDLE: Duration = Duration::from_secs(20);
/// How often an evaluation is begun whose child somebody else ends.
const TRIES: u32 = 2;

/// What is run as a child.
#[derive(Clone, Debug)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// The words that make it a child.
    pub arguments: Vec<String>,
}

impl Program {
    /// This program, with the subcommand `evaluator`: the same build, even where the file has been replaced since.
    pub fn this() -> io::Result<Self> {
        let path = if cfg!(target_os = "linux") {
            PathBuf::from("/proc/self/exe")
        } else {
            std::env::current_exe()?
        };
        Ok(Self {
            path,
            arguments: vec!["evaluator".into()],
        })
    }
}

/// Evaluates in children. Whoever asks waits: for its turn, for a child, for the answer.
pub struct Pool {
    shared: Arc<Shared>,
    starter: Mutex<Sender<Order>>,
}

struct Shared {
    program: Program,
    limits: Limits,
    idle: Mutex<Vec<Worker>>,
    free: Mutex<usize>,
    freed: Condvar,
    idle_for: Duration,
}

/// Asks for a child.
type Order = Sender<io::Result<Worker>>;

impl Pool {
    /// A pool of at most `size` children, none of which is started before it is needed.
    pub fn new(program: Program, limits: Limits, size: usize) -> io::Result<Self> {
        Self::with_idle(program, limits, size, IDLE)
    }

    /// The same; a child that has nothing to do for `idle_for` ends.
    pub fn with_idle(program: Program, limits: Limits, size: usize, idle_for: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            program,
            limits,
            idle: Mutex::default(),
            free: Mutex::new(size.max(1)),
            freed: Condvar::new(),
            idle_for,
        });
        let (starter, orders) = channel();
        let kept = Arc::downgrade(&shared);
        // Children inherit how urgent the thread is that starts them, and end with it: so one thread starts them all.
        std::thread::Builder::new()
            .name("evaluators".into())
            .stack_size(256 << 10)
            .spawn(move || keep(&kept, &orders))?;
        Ok(Self {
            shared,
            starter: Mutex::new(starter),
        })
    }

    /// Process ids of the children that have nothing to do.
    pub fn idle(&self) -> Vec<u32> {
        self.shared.idle.lock().iter().map(Worker::pid).collect()
    }

    fn worker(&self) -> Result<Worker, ExpressionError> {
        while let Some(mut worker) = self.shared.idle() {
            if !worker.has_ended() {
                return Ok(worker);
            }
        }
        let (answer, started) = channel();
        let sent = self.starter.lock().send(answer);
        let started = sent
            .map_err(io::Error::other)
            .and_then(|()| started.recv().map_err(io::Error::other)?);
        started.map_err(|error| ExpressionError::Transient(format!("no evaluator can be started: {error}")))
    }
}

impl Evaluator for Pool {
    fn evaluate(&self, request: Request<'_>) -> Result<Option<Json>, ExpressionError> {
        let _turn = self.shared.turn();
        let mut lost = String::new();
        for _ in 0..TRIES {
            let (worker, ended) = self.worker()?.ask(&request);
            if let Some(worker) = worker {
                self.shared.put_back(worker);
            }
            match ended {
                Evaluated::Answered(result) => return result,
                Evaluated::Over(error) => {
                    tracing::debug!(%error, "an evaluator ended");
                    return Err(error);
                }
                Evaluated::Lost(reason) => {
                    tracing::warn!(reason, "an evaluator was lost");
                    lost = reason;
                }
            }
        }
        Err(ExpressionError::Bound(format!(
            "was given up: {TRIES} evaluators were lost with it ({lost})"
        )))
    }
}

impl Shared {
    fn turn(&self) -> Turn<'_> {
        let mut free = self.free.lock();
        while *free == 0 {
            self.freed.wait(&mut free);
        }
        *free -= 1;
        Turn(self)
    }

    fn idle(&self) -> Option<Worker> {
        self.idle.lock().pop()
    }

    fn put_back(&self, mut worker: Worker) {
        worker.idle_since = Instant::now();
        self.idle.lock().push(worker);
    }

    /// Ends the children that have had nothing to do for long.
    fn reap(&self) {
        let ended: Vec<Worker> = {
            let mut idle = self.idle.lock();
            let is_over =
                |worker: &mut Worker| worker.idle_since.elapsed() >= self.idle_for || worker.has_ended();
            idle.extract_if(.., is_over).collect()
        };
        drop(ended);
    }
}

/// One of the evaluations that may be at work.
struct Turn<'a>(&'a Shared);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}

/// Starts children and ends idle ones until the pool is gone.
fn keep(shared: &Weak<Shared>, orders: &Receiver<Order>) {
    loop {
        let Some(idle_for) = shared.upgrade().map(|shared| shared.idle_for) else {
            return;
        };
        match orders.recv_timeout(idle_for / 2) {
            Ok(order) => {
                let Some(shared) = shared.upgrade() else { return };
                // Whoever asked has gone: the child ends with the answer.
                let _ = order.send(Worker::start(&shared.program, shared.limits));
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(shared) = shared.upgrade() {
                    shared.reap();
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
