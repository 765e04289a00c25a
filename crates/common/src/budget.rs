//! A budget of bytes that a process may hold for others: what is received, what is being worked on. Nobody gets all of
//! it: a tenant and a flow have a share each, so that the rest stays free for others.

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::Mutex;

use crate::ids::{FlowId, TenantId};

/// Of the whole, what one tenant may hold: one part in so many.
const TENANT_PART: usize = 2;
/// Of the whole, what one flow may hold: one part in so many.
const FLOW_PART: usize = 4;

/// For whom bytes are held. Without a tenant or flow only the whole counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// The tenant; whoever stands in for one has a share of that size.
    pub tenant: Option<Arc<str>>,
    /// The flow; whoever stands in for one has a share of that size.
    pub flow: Option<Arc<str>>,
}

impl Holder {
    /// A flow, and its tenant where it has one.
    pub fn flow(flow: &FlowId, tenant: Option<&TenantId>) -> Self {
        Self {
            tenant: tenant.map(Into::into),
            flow: Some(flow.into()),
        }
    }
}

/// Which bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// The flow has its share.
    Flow,
    /// The tenant has its share.
    Tenant,
    /// All of it is taken.
    Whole,
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self {
            Self::Flow => "what one flow may hold",
            Self::Tenant => "what one tenant may hold",
            Self::Whole => "what this process may hold",
        };
        write!(f, "memory for requests is spent: {whose}")
    }
}

impl std::error::Error for Spent {}

/// The budget. Cheap to clone; clones are the same one.
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    whole: usize,
    tenant: usize,
    flow: usize,
    held: Mutex<Held>,
}

/// Only who holds something is in here: never more entries than permits.
#[derive(Default)]
struct Held {
    whole: usize,
    tenants: HashMap<Arc<str>, usize>,
    flows: HashMap<Arc<str>, usize>,
}

impl Budget {
    /// So many bytes: half of them for a tenant at the most, a quarter for a flow.
    pub fn new(whole: usize) -> Self {
        Self(Arc::new(Shared {
            whole,
            tenant: whole / TENANT_PART,
            flow: whole / FLOW_PART,
            held: Mutex::default(),
        }))
    }

    /// Takes `bytes` for `holder`, all of them or none.
    pub fn try_take(&self, holder: Holder, bytes: usize) -> Result<Permit, Spent> {
        let mut permit = Permit {
            budget: self.clone(),
            holder,
            bytes: 0,
        };
        permit.try_grow(bytes)?;
        Ok(permit)
    }

    /// Whether `holder` could take `bytes` at this moment. Says nothing of the next one; for refusing early.
    pub fn check(&self, holder: &Holder, bytes: usize) -> Result<(), Spent> {
        self.0.room(&self.0.held.lock(), holder, bytes)
    }

    /// The most that one flow may ever hold.
    pub fn of_flow(&self) -> usize {
        self.0.flow
    }

    /// Bytes that are held now, for metrics.
    pub fn held(&self) -> usize {
        self.0.held.lock().whole
    }

    /// All bytes there are.
    pub fn whole(&self) -> usize {
        self.0.whole
    }
}

impl Shared {
    fn room(&self, held: &Held, holder: &Holder, bytes: usize) -> Result<(), Spent> {
        let of = |map: &HashMap<Arc<str>, usize>, key: &Option<Arc<str>>| {
            key.as_ref().and_then(|key| map.get(key)).copied().unwrap_or(0)
        };
        // What is held never exceeds its bound, so nothing wraps here.
        if holder.flow.is_some() && bytes > self.flow - of(&held.flows, &holder.flow) {
            return Err(Spent::Flow);
        }
        if holder.tenant.is_some() && bytes > self.tenant - of(&held.tenants, &holder.tenant) {
            return Err(Spent::Tenant);
        }
        if bytes > self.whole - held.whole {
            return Err(Spent::Whole);
        }
        Ok(())
    }

    fn take(&self, holder: &Holder, bytes: usize) -> Result<(), Spent> {
        let mut held = self.held.lock();
        self.room(&held, holder, bytes)?;
        held.whole += bytes;
        let Held { tenants, flows, .. } = &mut *held;
        for (map, key) in [(tenants, &holder.tenant), (flows, &holder.flow)] {
            if let Some(key) = key {
                match map.get_mut(key) {
                    Some(held) => *held += bytes,
                    None => drop(map.insert(Arc::clone(key), bytes)),
                }
            }
        }
        Ok(())
    }

    fn give_back(&self, holder: &Holder, bytes: usize) {
        let mut held = self.held.lock();
        held.whole -= bytes;
        let Held { tenants, flows, .. } = &mut *held;
        for (map, key) in [(tenants, &holder.tenant), (flows, &holder.flow)] {
            let Some(key) = key else { continue };
            if let Some(held) = map.get_mut(key) {
                *held -= bytes;
                if *held == 0 {
                    map.remove(key);
                }
            }
        }
    }
}

/// Bytes that are held; given back when dropped.
#[must_use = "what is dropped holds nothing"]
pub struct Permit {
    budget: Budget,
    holder: Holder,
    bytes: usize,
}

impl Permit {
    /// Takes `bytes` more, all of them or none.
    pub fn try_grow(&mut self, bytes: usize) -> Result<(), Spent> {
        if bytes > 0 {
            self.budget.0.take(&self.holder, bytes)?;
            self.bytes += bytes;
        }
        Ok(())
    }

    /// Takes what is missing to `bytes`.
    pub fn try_reach(&mut self, bytes: usize) -> Result<(), Spent> {
        self.try_grow(bytes.saturating_sub(self.bytes))
    }

    /// Whether [`Permit::try_grow`] would work at this moment.
    pub fn check(&self, bytes: usize) -> Result<(), Spent> {
        self.budget.check(&self.holder, bytes)
    }

    /// Gives back what is above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let above = self.bytes.saturating_sub(bytes);
        if above > 0 {
            self.budget.0.give_back(&self.holder, above);
            self.bytes -= above;
        }
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// Bytes that these have more as a text in JSON, where control characters take six and quotes two.
pub fn escapes(bytes: &[u8]) -> usize {
    let more = bytes.iter().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
        0..=0x1f => 5,
        _ => 0,
    });
    more.sum()
}

#[cfg(test)]
mod tests;
