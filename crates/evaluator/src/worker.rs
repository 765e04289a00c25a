//! One child, as its parent sees it.

use std::{
    io::{self, Read},
    os::unix::{
        net::UnixStream,
        process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use flowmate_common::model::Json;
use flowmate_flow_model::{ExpressionError, moment::Request};
use serde_json::value::RawValue;

use crate::{
    Limits, Program,
    cache::ExpressionCache,
    child::{OVER_TIME, OVER_WAIT},
    protocol::{self, Answer, Frame, Hello, MAX_ANSWER, Question},
};

/// How long a child may take to be ready.
const START: Duration = Duration::from_secs(30);
/// How much longer than its limit a child may be silent: it ends itself at the limit unless somebody has stopped it.
const SILENCE: Duration = Duration::from_secs(5);
/// Bytes read of what a child said before it ended.
const LAST_WORDS: u64 = 4 << 10;
/// What the allocator of a child is set to: no large reservations, which would count as taken, and back to the system at
/// once what was freed.
const ALLOCATOR: [(&str, &str); 3] = [
    ("MIMALLOC_ARENA_RESERVE", "0"),
    ("MIMALLOC_PURGE_DELAY", "0"),
    ("MIMALLOC_ALLOW_THP", "0"),
];

pub(crate) struct Worker {
    child: Child,
    pipe: UnixStream,
    cache: ExpressionCache<()>,
    limits: Limits,
    /// When it had nothing to do any more.
    pub(crate) idle_since: Instant,
}

/// How an evaluation ended.
pub(crate) enum Evaluated {
    /// With a result, or an error of its own.
    Answered(Result<Option<Json>, ExpressionError>),
    /// With the child, because of what the expression took.
    Over(ExpressionError),
    /// With the child, which somebody else has ended or stopped.
    Lost(String),
}

impl Worker {
    /// Starts a child and waits until it is ready.
    pub(crate) fn start(program: &Program, limits: Limits) -> io::Result<Self> {
        let (pipe, theirs) = UnixStream::pair()?;
        let mut command = Command::new(&program.path);
        command
            .arg0("flowmate-evaluator")
            .args(&program.arguments)
            .env_clear()
            .envs(ALLOCATOR)
            .current_dir("/")
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs.try_clone()?)))
            .stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stderr(Stdio::piped());
        let child = command.spawn()?;
        // Holds the other end; as long as it is there, the end of the child does not show.
        drop(command);
        let mut worker = Self {
            child,
            pipe,
            cache: ExpressionCache::default(),
            limits,
            idle_since: Instant::now(),
        };
        worker.pipe.set_write_timeout(Some(SILENCE))?;
        worker.pipe.set_read_timeout(Some(START))?;
        let greeted = worker.greet();
        if let Err(error) = greeted {
            let (_, words) = worker.end();
            return Err(io::Error::new(
                error.kind(),
                format!("it did not start: {error} {words}"),
            ));
        }
        let longest = Duration::from_millis(limits.wait_ms) + SILENCE;
        worker.pipe.set_read_timeout(Some(longest))?;
        worker.pipe.set_write_timeout(Some(longest))?;
        Ok(worker)
    }

    fn greet(&mut self) -> io::Result<()> {
        protocol::write(&mut self.pipe, &Hello { limits: self.limits }, &[])?;
        let said: Option<((Answer, bool), _)> = protocol::read(&mut self.pipe, MAX_ANSWER)?;
        match said {
            Some(((Answer::Ready, _), _)) => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Asks, and waits for the answer. The child is there afterwards where it has answered and can go on.
    pub(crate) fn ask(mut self, request: &Request<'_>) -> (Option<Self>, Evaluated) {
        match self.exchange(request) {
            Ok(Some(((answer, is_worn), value))) => {
                let ended = Evaluated::Answered(answered(answer, value));
                ((!is_worn).then_some(self), ended)
            }
            Ok(None) => (None, self.lost("it ended", request)),
            Err(error) => (None, self.lost(&error.to_string(), request)),
        }
    }

    fn exchange(&mut self, request: &Request<'_>) -> io::Result<Option<Frame<(Answer, bool)>>> {
        let source = if self.cache.get(request.id).is_some() {
            None
        } else {
            self.cache.insert(request.id, request.source.len(), ());
            Some(request.source.to_owned())
        };
        let question = Question {
            id: request.id,
            source,
            at: request.at,
            seed: request.seed,
            truth: request.truth,
        };
        // A child that has ended may have said why, so the answer is looked for in any case.
        let written = protocol::write(&mut self.pipe, &question, request.input.get().as_bytes());
        let answer = protocol::read(&mut self.pipe, MAX_ANSWER)?;
        if answer.is_none() {
            written?;
        }
        Ok(answer)
    }

    /// Why there was no answer.
    fn lost(self, problem: &str, request: &Request<'_>) -> Evaluated {
        let limits = self.limits.with_input(request.input.get().len());
        let (status, words) = self.end();
        let bound = |bound: String| Evaluated::Over(ExpressionError::Bound(bound));
        let Some(signal) = status.and_then(|status| status.signal()) else {
            return Evaluated::Lost(format!("{problem} {words}"));
        };
        if signal == OVER_TIME.as_raw() {
            return bound(limits.over_time());
        }
        if signal == OVER_WAIT.as_raw() {
            return Evaluated::Lost(format!("it had no answer after {} ms", limits.wait_ms));
        }
        let (segv, abort) = (
            rustix::process::Signal::SEGV.as_raw(),
            rustix::process::Signal::ABORT.as_raw(),
        );
        if words.contains("overflowed its stack") || signal == segv {
            return bound("nests too deeply".into());
        }
        if signal == abort {
            // The only other thing that aborts a Rust program is a panic while panicking.
            return bound(limits.over_memory());
        }
        Evaluated::Lost(format!("signal {signal}"))
    }

    /// Ends the child if it has not ended; its status and what it said last.
    fn end(mut self) -> (Option<ExitStatus>, String) {
        let status = self.reap();
        let mut words = String::new();
        if let Some(said) = self.child.stderr.take() {
            let _ = said.take(LAST_WORDS).read_to_string(&mut words);
        }
        (status, words.trim().to_owned())
    }

    /// Waits a moment for a child that closed its pipe, since its status says why. Then it is ended.
    fn reap(&mut self) -> Option<ExitStatus> {
        let _ = self.pipe.shutdown(std::net::Shutdown::Write);
        let mut rest = [0; 64];
        let _ = self.pipe.set_read_timeout(Some(Duration::from_millis(100)));
        // Its end closes the pipe: reading ends when it has ended, or after the time.
        while matches!(self.pipe.read(&mut rest), Ok(read) if read > 0) {}
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
        }
        self.child.wait().ok()
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it ended while it had nothing to do.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn answered(answer: Answer, value: Vec<u8>) -> Result<Option<Json>, ExpressionError> {
    let fault = |message: String| ExpressionError::Evaluation { code: None, message };
    match answer {
        Answer::Nothing => Ok(None),
        Answer::Value => {
            let text = String::from_utf8(value).map_err(|error| fault(error.to_string()))?;
            let value = RawValue::from_string(text).map_err(|error| fault(error.to_string()))?;
            Ok(Some(Arc::from(value)))
        }
        Answer::Failed { code, message } => Err(ExpressionError::Evaluation { code, message }),
        Answer::TooLarge(bytes) => Err(ExpressionError::TooLarge(bytes)),
        Answer::Bound(bound) => Err(ExpressionError::Bound(bound)),
        Answer::Ready => Err(fault("the evaluator said nothing".into())),
    }
}
