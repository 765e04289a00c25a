//! Query strings: `page[size]`, `filter[status]`, `sort`, `search` and the like, with brackets written or encoded.

use std::future::Ready;

use actix_web::{FromRequest, HttpRequest, dev::Payload, web::Query};
use flowmate_common::Failure;

use crate::{ApiError, Page};

/// Documents on a page where the request does not say.
const DEFAULT_SIZE: u64 = 10;
/// Documents on a page at the most; a larger size is taken as this one.
const MAX_SIZE: u64 = 1_000;

/// Parameters that every list takes, whether it heeds them or not.
const EVERYWHERE: [&str; 4] = ["page[size]", "page[number]", "meta", "_"];

/// The decoded parameters of a request.
pub struct Params(Vec<(String, String)>);

impl Params {
    /// The last value of the parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The last value of the parameter, unless it is empty: for texts, where nothing is what people mean by that.
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// All values of a parameter that may be repeated.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Refuses parameters in brackets that the operation does not know: a misspelt filter must not list everything,
    /// and `filter[user][$ne]` is nothing but a try.
    pub fn expect(&self, known: &[&str]) -> Result<(), Failure> {
        let unknown = self
            .0
            .iter()
            .find(|(key, _)| key.contains('[') && !known.contains(&key.as_str()));
        match unknown {
            Some((key, _)) => Err(Failure::invalid(format!("Invalid {key} parameter"))),
            None => Ok(()),
        }
    }

    /// Refuses parameters that a list does not know, in brackets or not: one that was ignored would list everything.
    /// Pages, `meta` and `_`, by which browsers get past caches, are taken by every list.
    pub fn only(&self, known: &[&str]) -> Result<(), Failure> {
        let is_known = |key: &str| EVERYWHERE.contains(&key) || known.contains(&key);
        match self.0.iter().find(|(key, _)| !is_known(key)) {
            Some((key, _)) => Err(Failure::invalid(format!("Invalid {key} parameter"))),
            None => Ok(()),
        }
    }

    /// `page[size]` and `page[number]`.
    pub fn paging(&self) -> Result<Paging, Failure> {
        let size = self.number("page[size]", DEFAULT_SIZE)?.min(MAX_SIZE);
        let number = self.number("page[number]", 1)?;
        Ok(Paging { size, number })
    }

    /// A number from 1; `default` where nothing is said.
    pub fn number(&self, name: &str, default: u64) -> Result<u64, Failure> {
        let Some(text) = self.get(name) else {
            return Ok(default);
        };
        let number = text.parse().ok();
        number
            .filter(|number| (1..=1_000_000_000_000).contains(number))
            .ok_or_else(|| Failure::invalid(format!("Invalid {name} parameter")))
    }

    /// `sort`: one of `fields`, with `-` in front for descending; `default` where nothing is said, or an empty text
    /// (contract 2.2).
    pub fn sort(
        &self,
        fields: &[&'static str],
        default: &'static str,
    ) -> Result<(&'static str, bool), Failure> {
        let Some(text) = self.filled("sort") else {
            return Ok((default, false));
        };
        let (name, descending) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
        let field = fields.iter().find(|field| **field == name);
        field
            .map(|field| (*field, descending))
            .ok_or_else(|| Failure::invalid("Invalid sort parameter"))
    }
}

/// Which part of a list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// Documents on a page.
    pub size: u64,
    /// Which page, from 1.
    pub number: u64,
}

impl Paging {
    /// Documents before the page.
    pub fn skip(self) -> u64 {
        (self.number - 1).saturating_mul(self.size)
    }

    /// What the answer says about the page.
    pub fn page(self, total: u64) -> Page {
        Page {
            page: self.number,
            per_page: self.size,
            total,
            total_pages: total.div_ceil(self.size),
        }
    }
}

impl FromRequest for Params {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let pairs = Query::<Vec<(String, String)>>::from_query(request.query_string());
        let result = pairs.map(|pairs| Self(pairs.into_inner())).map_err(|error| {
            ApiError(Failure::invalid(format!(
                "The query string is malformed: {error}."
            )))
        });
        std::future::ready(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        Params(
            Query::<Vec<(String, String)>>::from_query(query)
                .unwrap()
                .into_inner(),
        )
    }

    #[test]
    fn brackets_may_be_encoded() {
        assert_eq!(
            params("filter%5Bstatus%5D=active").get("filter[status]"),
            Some("active")
        );
        assert_eq!(
            params("page[size]=5&page%5Bnumber%5D=3").paging().unwrap(),
            Paging { size: 5, number: 3 }
        );
    }

    #[test]
    fn nonsense_is_refused_and_huge_pages_are_bounded() {
        for query in [
            "page[size]=0",
            "page[size]=-1",
            "page[number]=x",
            "page[size]=1e9",
            "page[number]=99999999999999999999",
        ] {
            assert!(params(query).paging().is_err(), "{query}");
        }
        assert_eq!(params("page[size]=1000000").paging().unwrap().size, MAX_SIZE);
        assert!(params("filter[user][$ne]=x").expect(&["filter[user]"]).is_err());
        assert!(params("filter[user]=x&other=1").expect(&["filter[user]"]).is_ok());
        for query in ["page[size]=5&meta=true&_=17&search=x", ""] {
            assert!(params(query).only(&["search"]).is_ok(), "{query}");
        }
        for query in ["serach=x", "search[]=x", "page[sise]=5", "filter[user]=x"] {
            assert!(params(query).only(&["search"]).is_err(), "{query}");
        }
        assert!(params("sort=-name").sort(&["name"], "id").unwrap().1);
        assert!(params("sort=nope").sort(&["name"], "id").is_err());
    }
}
