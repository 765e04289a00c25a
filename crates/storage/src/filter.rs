//! The closed filter language: what SQLite and MongoDB both do well on declared fields, and no more.

use serde_json::Value;

/// Which documents match.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Every document.
    All,
    /// The field has this value, a text, number or boolean.
    Eq(&'static str, Value),
    /// The field has one of these values.
    In(&'static str, Vec<Value>),
    /// The document has one of these ids.
    Ids(Vec<String>),
    /// The field is at most this value, a number or a text: numbers are compared with numbers and texts, by their
    /// bytes, with texts. Anything else is matched by nothing.
    AtMost(&'static str, Value),
    /// The field is at least this value, compared in the same way.
    AtLeast(&'static str, Value),
    /// The field, a list of texts, holds at least one of these.
    HasAny(&'static str, Vec<String>),
    /// The field is absent, null or an empty list.
    Empty(&'static str),
    /// This user or tenant is an owner.
    OwnedBy(String),
    /// One of the fields holds this text, in any case, in any script, literally.
    Search(&'static [&'static str], String),
    /// All of them match.
    And(Vec<Filter>),
    /// At least one of them matches.
    Or(Vec<Filter>),
}

impl Filter {
    /// The field has this value.
    pub fn eq(field: &'static str, value: impl Into<Value>) -> Self {
        Self::Eq(field, value.into())
    }
}

/// By which field, and in which direction; ties by id in the same direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// A declared field.
    pub field: &'static str,
    /// Largest first.
    pub descending: bool,
}

/// Which documents, in which order, and which part of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// Which documents.
    pub filter: Filter,
    /// By id where there is none.
    pub sort: Option<Sort>,
    /// How many to leave out at the beginning.
    pub skip: u64,
    /// How many to return at most.
    pub limit: u64,
}

impl Query {
    /// All that match, up to `limit`, by id.
    pub fn new(filter: Filter, limit: u64) -> Self {
        Self {
            filter,
            sort: None,
            skip: 0,
            limit,
        }
    }
}
