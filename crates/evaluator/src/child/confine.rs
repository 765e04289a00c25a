//! What the child gives up before it evaluates anything.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};

use crate::Limits;

/// Files a child may have open: its pipe, and what it reads about itself.
const FILES: u64 = 16;
/// Address space beside what an evaluation may take: the allocator takes it in pieces.
const SLACK: u64 = 8 << 20;
/// Of the memory that an evaluation may take, what may stay behind in a child.
const REST: u64 = 4;

pub(super) struct Confinement {
    /// Address space before anything was evaluated.
    space: u64,
    /// Resident bytes from which on a child is replaced by a fresh one.
    worn: u64,
}

impl Confinement {
    pub(super) fn take(limits: Limits) -> io::Result<Self> {
        // Nobody waits for its answer any more. That a parent is gone already shows at the pipe.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // Where the machine is out of memory this is the process to end, not the one with everybody's work. It may be
        // refused, and then they are equal.
        let _ = fs::write("/proc/self/oom_score_adj", "1000");
        let memory = limits.memory_mib << 20;
        let (space, resident) = used()?;
        lower(Resource::Core, 0)?;
        lower(Resource::Fsize, 0)?;
        lower(Resource::Nofile, FILES)?;
        Ok(Self {
            space,
            worn: resident + memory / REST,
        })
    }

    /// What the next evaluation may take.
    pub(super) fn allow(&self, limits: Limits) -> io::Result<()> {
        let most = getrlimit(Resource::As).maximum;
        let space = self.space + (limits.memory_mib << 20) + SLACK;
        let limit = Rlimit {
            current: Some(most.map_or(space, |most| most.min(space))),
            maximum: most,
        };
        Ok(setrlimit(Resource::As, limit)?)
    }

    /// Whether so much has stayed behind that the next evaluation would have less than its due.
    pub(super) fn is_worn(&self) -> bool {
        used().is_ok_and(|(_, resident)| resident > self.worn)
    }
}

fn lower(resource: Resource, most: u64) -> io::Result<()> {
    let most = getrlimit(resource).maximum.map_or(most, |known| known.min(most));
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    Ok(setrlimit(resource, limit)?)
}

/// Address space and resident memory in bytes.
fn used() -> io::Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let mut numbers = text
        .split_whitespace()
        .map(|word| word.parse::<u64>().unwrap_or_default() * page);
    Ok((
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    ))
}
