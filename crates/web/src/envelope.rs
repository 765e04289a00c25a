//! `{data, meta}` (contract 2.2, 3.10).

use serde::Serialize;
use utoipa::ToSchema;

/// One document.
#[derive(Debug, Serialize, ToSchema)]
pub struct Envelope<T> {
    /// The document.
    pub data: T,
    /// Always empty.
    pub meta: Empty,
}

/// An empty object.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Empty {}

impl<T> Envelope<T> {
    /// `{"data": …, "meta": {}}`
    pub fn of(data: T) -> Self {
        Self { data, meta: Empty {} }
    }
}

/// A page of documents.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListEnvelope<T> {
    /// The documents.
    pub data: Vec<T>,
    /// Which page, of how many.
    pub meta: Page,
}

/// Which page of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// From 1.
    #[schema(example = 1)]
    pub page: u64,
    /// Documents on a page.
    #[schema(example = 10)]
    pub per_page: u64,
    /// Documents in all.
    #[schema(example = 1)]
    pub total: u64,
    /// Pages in all; 0 where there are no documents.
    #[schema(example = 1)]
    pub total_pages: u64,
}
