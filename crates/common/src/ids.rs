//! One type per id, and where new ids come from.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Whether `text` has the form of a document id: 24 hexadecimal digits, or any 12 bytes
/// (contract section 2, as `ObjectId.isValid` of the reference).
pub fn is_document_id(text: &str) -> bool {
    text.len() == 12 || is_object_id(text)
}

/// Whether `text` is 24 hexadecimal digits.
pub fn is_object_id(text: &str) -> bool {
    text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The one spelling of an id: hexadecimal digits in lower case, as in the reference. Other texts stay as they are.
pub fn canonical_id(text: &str) -> Cow<'_, str> {
    if is_object_id(text) && text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

macro_rules! id {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String, example = "6762e154616e91cb8d8b1aaf")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&$name> for Arc<str> {
            fn from(id: &$name) -> Self {
                Arc::clone(&id.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+};
}

id! {
    /// A flow, 24 hexadecimal digits.
    FlowId,
    /// A flow template, 24 hexadecimal digits.
    TemplateId,
    /// A user, 24 hexadecimal digits.
    UserId,
    /// A tenant.
    TenantId,
    /// A role, 24 hexadecimal digits.
    RoleId,
    /// A component, 24 hexadecimal digits.
    ComponentId,
    /// A token, 24 hexadecimal digits.
    TokenId,
    /// A node of a flow's graph, such as `step_1`.
    NodeId,
    /// One execution of a flow, 32 hexadecimal digits.
    ExecutionId,
    /// One run of one step inside an execution, 32 hexadecimal digits.
    StepRunId,
}

/// Where new ids come from: random in production, counted in tests.
#[derive(Clone, Debug)]
pub enum IdGenerator {
    /// Unguessable ids.
    Random(Arc<AtomicU64>),
    /// `1, 2, 3 …`, for tests that compare whole documents.
    Counting(Arc<AtomicU64>),
}

impl IdGenerator {
    /// Unguessable ids.
    pub fn random() -> Self {
        Self::Random(Arc::new(AtomicU64::new(rand::random::<u32>().into())))
    }

    /// Ids that count from 1.
    pub fn counting() -> Self {
        Self::Counting(Arc::new(AtomicU64::new(1)))
    }

    /// A document id of 24 hexadecimal digits, as MongoDB's ObjectId: 4 bytes of time, 3 of a counter, so that ids of
    /// one process sort by creation, and 5 random bytes, so that nobody guesses the id of another's webhook.
    pub fn document(&self, now: Timestamp) -> String {
        match self {
            Self::Random(counter) => {
                let count = counter.fetch_add(1, Ordering::Relaxed) & 0xff_ffff;
                let noise = rand::random::<u64>() & 0xff_ffff_ffff;
                format!("{:08x}{count:06x}{noise:010x}", now.as_seconds() & 0xffff_ffff)
            }
            Self::Counting(counter) => format!("{:024x}", counter.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// An id of 32 hexadecimal digits for executions and events, ordered by time.
    pub fn long(&self) -> String {
        match self {
            Self::Random(_) => random_uuid(),
            Self::Counting(counter) => format!("{:032x}", counter.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that makes random ids")]
fn random_uuid() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twelve_characters_are_a_document_id_as_in_the_reference() {
        assert!(is_document_id("123456789012"));
        assert!(is_document_id("5c99ec7e5ed40d3e7512cffa"));
        assert!(!is_document_id("5c99ec7e5ed40d3e7512cffz"));
        assert!(!is_document_id("1"));
    }

    #[test]
    fn an_id_in_capitals_is_the_same_and_a_name_is_not() {
        assert_eq!(
            canonical_id("5C99EC7E5ED40D3E7512CFFA"),
            "5c99ec7e5ed40d3e7512cffa"
        );
        assert_eq!(canonical_id("ABCDEFABCDEF"), "ABCDEFABCDEF");
    }

    #[test]
    fn random_document_ids_have_the_published_form_and_sort_by_time() {
        let ids = IdGenerator::random();
        let early = ids.document(Timestamp::from_millis(1_000_000));
        let late = ids.document(Timestamp::from_millis(9_000_000));
        assert!(is_object_id(&early) && is_object_id(&late) && early < late);
        let counting = IdGenerator::Random(Arc::new(AtomicU64::new(7)));
        let same_second: Vec<String> = (0..50)
            .map(|_| counting.document(Timestamp::from_millis(1)))
            .collect();
        assert!(same_second.is_sorted());
    }
}
