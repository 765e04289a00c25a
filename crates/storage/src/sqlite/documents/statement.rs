//! Reads as SQL.

use flowmate_common::auth::Visibility;
use rusqlite::{Connection, params_from_iter, types::Value as Sql};
use serde_json::Value;

use super::super::pool::unavailable;
use crate::{CollectionSpec, Error, Filter, Query, Row};

/// SQL text and its bound values. Only names from a [`CollectionSpec`] are ever written into the text.
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) values: Vec<Sql>,
}

impl Statement {
    pub(super) fn new(text: String) -> Self {
        Self {
            text,
            values: Vec::new(),
        }
    }

    /// The documents that match, in order.
    pub(super) fn find(
        spec: &'static CollectionSpec,
        see: &Visibility,
        query: &Query,
    ) -> Result<Self, Error> {
        Self::select("doc", spec, see, query)
    }

    /// The same with the value of the field that they are sorted by, as JSON, in place of the documents.
    pub(super) fn heads(
        spec: &'static CollectionSpec,
        see: &Visibility,
        query: &Query,
    ) -> Result<Self, Error> {
        let field = query.sort.map(|sort| spec.field(sort.field)).transpose()?;
        let value = field.map_or("'null'".to_owned(), |field| {
            format!("json_quote(\"{}\")", field.name)
        });
        Self::select(&value, spec, see, query)
    }

    fn select(
        what: &str,
        spec: &'static CollectionSpec,
        see: &Visibility,
        query: &Query,
    ) -> Result<Self, Error> {
        let mut sql = Self::new(format!(
            "SELECT id, version, {what} FROM \"{}\" AS d WHERE deleted = 0",
            spec.name
        ));
        sql.visible(spec, see);
        sql.push(" AND ");
        sql.filter(spec, &query.filter)?;
        let (column, direction) = match query.sort {
            Some(sort) => (
                spec.field(sort.field)?.name,
                if sort.descending { "DESC" } else { "ASC" },
            ),
            None => ("id", "ASC"),
        };
        sql.push(&format!(
            " ORDER BY \"{column}\" {direction}, id {direction} LIMIT "
        ));
        sql.bind(integer(query.limit));
        sql.push(" OFFSET ");
        sql.bind(integer(query.skip));
        Ok(sql)
    }

    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn bind(&mut self, value: Sql) {
        self.values.push(value);
        self.push(&format!("?{}", self.values.len()));
    }

    /// Lists go in as one JSON array, whatever their length.
    fn bind_list(&mut self, values: &[Value]) {
        self.push("(SELECT value FROM json_each(");
        self.bind(Sql::Text(Value::from(values.to_vec()).to_string()));
        self.push("))");
    }

    pub(super) fn visible(&mut self, spec: &CollectionSpec, see: &Visibility) {
        if let Visibility::OwnedBy(owners) = see {
            self.push(" AND ");
            self.owned_by(spec, owners);
        }
    }

    fn owned_by(&mut self, spec: &CollectionSpec, owners: &[String]) {
        self.push(&format!(
            "id IN (SELECT id FROM \"{}_owners\" WHERE owner IN ",
            spec.name
        ));
        self.bind_list(&texts(owners));
        self.push(")");
    }

    pub(super) fn filter(&mut self, spec: &'static CollectionSpec, filter: &Filter) -> Result<(), Error> {
        match filter {
            Filter::All => self.push("1"),
            Filter::Eq(field, value) => {
                self.push(&format!("\"{}\" = ", spec.field(field)?.name));
                self.bind(scalar(value));
            }
            Filter::In(field, values) => {
                self.push(&format!("\"{}\" IN ", spec.field(field)?.name));
                self.bind_list(values);
            }
            Filter::Ids(ids) => {
                self.push("id IN ");
                self.bind_list(&texts(ids));
            }
            Filter::AtMost(field, value) => self.at_most(spec.field(field)?.name, value),
            Filter::AtLeast(field, value) => self.at_least(spec.field(field)?.name, value),
            Filter::HasAny(field, values) => {
                let path = spec.field(field)?.path;
                self.push(&format!(
                    "EXISTS (SELECT 1 FROM json_each(d.doc, '{path}') AS item WHERE item.value IN "
                ));
                self.bind_list(&texts(values));
                self.push(")");
            }
            Filter::Empty(field) => {
                let path = spec.field(field)?.path;
                self.push(&format!("NOT EXISTS (SELECT 1 FROM json_each(d.doc, '{path}'))"));
            }
            Filter::OwnedBy(owner) => self.owned_by(spec, std::slice::from_ref(owner)),
            Filter::Search(fields, needle) => {
                self.push("(0");
                for field in *fields {
                    self.push(&format!(" OR search_in(\"{}\", ", spec.field(field)?.name));
                    self.bind(Sql::Text(needle.to_lowercase()));
                    self.push(")");
                }
                self.push(")");
            }
            Filter::And(filters) => self.joined(spec, filters, "1", " AND ")?,
            Filter::Or(filters) => self.joined(spec, filters, "0", " OR ")?,
        }
        Ok(())
    }

    /// A range of the field's index that ends at `value` and holds values of its kind only: SQLite orders all numbers
    /// before all texts.
    fn at_most(&mut self, column: &str, value: &Value) {
        match value {
            Value::Number(_) => self.push(&format!("\"{column}\" <= ")),
            Value::String(_) => self.push(&format!("\"{column}\" >= '' AND \"{column}\" <= ")),
            _ => return self.push("0"),
        }
        self.bind(scalar(value));
    }

    /// The same range's other side: no text is above a blob, which documents cannot hold.
    fn at_least(&mut self, column: &str, value: &Value) {
        match value {
            Value::Number(_) => self.push(&format!("\"{column}\" < '' AND \"{column}\" >= ")),
            Value::String(_) => self.push(&format!("\"{column}\" >= ")),
            _ => return self.push("0"),
        }
        self.bind(scalar(value));
    }

    fn joined(
        &mut self,
        spec: &'static CollectionSpec,
        filters: &[Filter],
        neutral: &str,
        by: &str,
    ) -> Result<(), Error> {
        self.push("(");
        self.push(neutral);
        for filter in filters {
            self.push(by);
            self.filter(spec, filter)?;
        }
        self.push(")");
        Ok(())
    }

    pub(super) fn rows(&self, connection: &Connection) -> Result<Vec<Row>, Error> {
        let mut query = connection.prepare_cached(&self.text).map_err(unavailable)?;
        let rows = query
            .query_map(params_from_iter(&self.values), |row| {
                let version: i64 = row.get(1)?;
                Ok(Row {
                    id: row.get(0)?,
                    version: u64::try_from(version).unwrap_or_default(),
                    doc: row.get(2)?,
                })
            })
            .map_err(unavailable)?;
        rows.collect::<Result<_, _>>().map_err(unavailable)
    }
}

fn texts(texts: &[String]) -> Vec<Value> {
    texts.iter().map(|text| Value::from(text.as_str())).collect()
}

fn scalar(value: &Value) -> Sql {
    match value {
        Value::Null => Sql::Null,
        Value::Bool(flag) => Sql::Integer((*flag).into()),
        Value::Number(number) => number
            .as_i64()
            .map_or_else(|| Sql::Real(number.as_f64().unwrap_or_default()), Sql::Integer),
        Value::String(text) => Sql::Text(text.clone()),
        other => Sql::Text(other.to_string()),
    }
}

pub(super) fn integer(value: u64) -> Sql {
    Sql::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Field, Sort};

    static SPEC: CollectionSpec = CollectionSpec {
        name: "waits",
        fields: &[Field {
            name: "due",
            path: "$.due",
        }],
        unique: &[],
    };

    fn plan(query: &Query) -> String {
        let connection = Connection::open_in_memory().unwrap();
        super::super::create(&connection, &SPEC).unwrap();
        let sql = Statement::find(&SPEC, &Visibility::All, query).unwrap();
        let mut explain = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {}", sql.text))
            .unwrap();
        let steps = explain
            .query_map(params_from_iter(&sql.values), |row| row.get::<_, String>(3))
            .unwrap();
        steps.collect::<Result<Vec<_>, _>>().unwrap().join("; ")
    }

    #[test]
    fn what_is_due_is_a_range_of_the_index_in_its_order() {
        for value in [Value::from(5), Value::from("2026")] {
            let due = Query {
                sort: Some(Sort {
                    field: "due",
                    descending: false,
                }),
                ..Query::new(Filter::AtMost("due", value), 10)
            };
            let plan = plan(&due);
            assert!(plan.contains("SEARCH d USING INDEX waits_due ("), "{plan}");
            assert!(!plan.contains("SCAN") && !plan.contains("B-TREE"), "{plan}");
        }
    }

    #[test]
    fn documents_of_some_ids_are_looked_up_and_not_searched_for() {
        let plan = plan(&Query::new(Filter::Ids(vec!["a".into(), "b".into()]), 2));
        assert!(
            plan.contains("SEARCH d USING INDEX sqlite_autoindex_waits_1 (id=?)"),
            "{plan}"
        );
    }
}
