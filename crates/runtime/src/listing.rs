//! What list operations take from the query string.

use flowmate_common::{Failure, ids::canonical_id};
use flowmate_storage::{Filter, Query, Sort};
use flowmate_web::{Paging, Params};

/// What `filter[type]` of flows and templates may be, and the value it stands for.
pub const FLOW_TYPES: [(&str, &str); 3] = [
    ("ordinary", "ordinary"),
    ("realtime", "realtime"),
    ("long_running", "long_running"),
];

/// Which page, in which order.
#[derive(Clone, Copy, Debug)]
pub struct Listing {
    /// The page.
    pub paging: Paging,
    sort: Sort,
}

impl Listing {
    /// Reads `page[size]`, `page[number]` and `sort`, one of `sortable`, by default the first. Refuses parameters that are
    /// neither these nor `search` nor in `filters`.
    pub fn of(params: &Params, filters: &[&str], sortable: &[&'static str]) -> Result<Self, Failure> {
        params.only(&[&["sort", "search"], filters].concat())?;
        let paging = params.paging()?;
        let default = sortable.first().copied().unwrap_or("id");
        let (field, descending) = params.sort(sortable, default)?;
        Ok(Self {
            paging,
            sort: Sort { field, descending },
        })
    }

    pub(crate) fn query(self, filter: Filter) -> Query {
        Query {
            filter,
            sort: Some(self.sort),
            skip: self.paging.skip(),
            limit: self.paging.size,
        }
    }
}

/// Filters, each from a parameter that may be there.
pub struct Filters<'a> {
    params: &'a Params,
    all: Vec<Filter>,
}

impl<'a> Filters<'a> {
    /// None yet.
    pub fn of(params: &'a Params) -> Self {
        let all = Vec::new();
        Self { params, all }
    }

    /// The parameter is one of these texts, and the field has the value beside it.
    pub fn choice(
        self,
        name: &str,
        field: &'static str,
        values: &[(&str, &'static str)],
    ) -> Result<Self, Failure> {
        let Some(text) = self.params.get(name) else {
            return Ok(self);
        };
        let chosen = values.iter().find(|(known, _)| *known == text);
        let (_, value) = chosen.ok_or_else(|| invalid(name))?;
        Ok(self.and(Filter::eq(field, *value)))
    }

    /// The parameter is the id of an owner.
    pub fn owner(self, name: &str) -> Self {
        match self.params.filled(name) {
            Some(owner) => {
                let owned = Filter::OwnedBy(canonical_id(owner).into_owned());
                self.and(owned)
            }
            None => self,
        }
    }

    /// `search`: a text in one of these fields.
    pub fn search(self, fields: &'static [&'static str]) -> Self {
        match self.params.filled("search") {
            Some(text) => {
                let found = Filter::Search(fields, text.to_owned());
                self.and(found)
            }
            None => self,
        }
    }

    /// One more.
    pub fn and(mut self, filter: impl Into<Option<Filter>>) -> Self {
        self.all.extend(filter.into());
        self
    }

    /// All of them.
    pub fn all(self) -> Filter {
        if self.all.is_empty() {
            Filter::All
        } else {
            Filter::And(self.all)
        }
    }
}

/// The refusal of a parameter.
pub fn invalid(name: &str) -> Failure {
    Failure::invalid(format!("Invalid {name} parameter"))
}
