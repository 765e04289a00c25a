//! Evaluates expressions in processes of their own: what one of them takes, nobody else lacks.
//!
//! An expression can take any amount of memory and time inside one step of the engine, and a process that is out of
//! memory ends. So what is not known to be cheap runs in a child of this process: the same program, with a bound on its
//! address space and a thread that looks at its processor time. A child that goes over a bound ends; the evaluation
//! fails with the bound's name, and the next one gets another child. See [`Pool`] for the parent's side, [`serve`] for
//! the child's.

mod cache;
mod child;
mod pool;
mod protocol;
mod worker;

use serde::{Deserialize, Serialize};

pub use self::{
    child::serve,
    pool::{Pool, Program},
};

/// Bytes of memory that a byte of ordinary input takes when it is read.
const READING_MEMORY: u64 = 16;
/// Milliseconds that reading and writing a mebibyte takes.
const READING_MILLIS: u64 = 40;

/// What one evaluation may take beside its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Mebibytes of memory.
    pub memory_mib: u64,
    /// Milliseconds of processor time.
    pub processor_ms: u64,
    /// Milliseconds by the clock: far more, since others may have the cores. One that reaches it is evaluated again.
    pub wait_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_mib: 128,
            processor_ms: 250,
            wait_ms: 30_000,
        }
    }
}

impl Limits {
    /// Refuses values that make no sense; the error is the key and what it has to be.
    pub fn validate(self) -> Result<(), (&'static str, &'static str)> {
        if !(16..=65_536).contains(&self.memory_mib) {
            return Err(("memory_mib", "has to be from 16 to 65536"));
        }
        if !(1..=600_000).contains(&self.processor_ms) {
            return Err(("processor_ms", "has to be from 1 to 600000"));
        }
        if !(self.processor_ms..=3_600_000).contains(&self.wait_ms) {
            return Err(("wait_ms", "has to be from processor_ms to 3600000"));
        }
        Ok(())
    }

    /// With what it takes to read an input of so many bytes, which is not the expression's doing.
    pub(crate) fn with_input(self, bytes: usize) -> Self {
        let bytes = bytes as u64;
        Self {
            memory_mib: self.memory_mib + (bytes.saturating_mul(READING_MEMORY) >> 20),
            processor_ms: self.processor_ms + (bytes.saturating_mul(READING_MILLIS) >> 20),
            ..self
        }
    }

    pub(crate) fn over_memory(self) -> String {
        format!("needed more than {} MiB of memory", self.memory_mib)
    }

    pub(crate) fn over_time(self) -> String {
        format!("took more than {} ms of processor time", self.processor_ms)
    }
}
