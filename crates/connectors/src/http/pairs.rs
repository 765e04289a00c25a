//! Objects as names and values, as queries and forms have them.

use serde_json::{Map, Value};

use super::text;

/// Bytes of names and values: nested names repeat what they are nested in.
const MAX_PAIRS: usize = 32 << 20;

/// What `fields` come to: a list repeats its name, an object's fields are `name[field]`, and so are a list's items, by
/// number, where they are not plain. What is null is left out.
pub(super) fn pairs(fields: &Map<String, Value>) -> Result<Vec<(String, String)>, String> {
    let mut flat = Flat {
        pairs: Vec::new(),
        left: MAX_PAIRS,
    };
    for (name, value) in fields {
        flat.add(name, value)?;
    }
    Ok(flat.pairs)
}

struct Flat {
    pairs: Vec<(String, String)>,
    left: usize,
}

impl Flat {
    fn add(&mut self, name: &str, value: &Value) -> Result<(), String> {
        match value {
            Value::Null => {}
            Value::Object(fields) => {
                for (field, inner) in fields {
                    self.nested(name, field, inner)?;
                }
            }
            Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
                for (index, item) in items.iter().enumerate() {
                    self.nested(name, &index.to_string(), item)?;
                }
            }
            Value::Array(items) => {
                for item in items {
                    self.add(name, item)?;
                }
            }
            plain => {
                let value = text(plain);
                self.spend(name.len() + value.len())?;
                self.pairs.push((name.to_owned(), value));
            }
        }
        Ok(())
    }

    fn nested(&mut self, name: &str, field: &str, value: &Value) -> Result<(), String> {
        self.spend(name.len() + field.len())?;
        self.add(&format!("{name}[{field}]"), value)
    }

    fn spend(&mut self, bytes: usize) -> Result<(), String> {
        let left = self.left.checked_sub(bytes);
        self.left = left
            .ok_or_else(|| format!("query or form have more than {MAX_PAIRS} bytes of names and values"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flat(value: &Value) -> Vec<String> {
        let pairs = pairs(value.as_object().unwrap()).unwrap();
        pairs
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    #[test]
    fn nested_fields_are_written_in_brackets_and_absent_ones_are_left_out() {
        let fields = json!({"amount": 2000, "metadata": {"order": {"id": "6735"}, "none": null}, "to": ["a", "b", null],
            "items": [{"sku": "A"}, {"sku": "B", "tags": ["x", "y"]}], "no": null, "empty": "", "nothing": {}, "yes": true});
        let expected = [
            "amount=2000",
            "metadata[order][id]=6735",
            "to=a",
            "to=b",
            "items[0][sku]=A",
            "items[1][sku]=B",
            "items[1][tags]=x",
            "items[1][tags]=y",
            "empty=",
            "yes=true",
        ];
        assert_eq!(flat(&fields), expected);
    }

    #[test]
    fn names_that_multiply_are_bounded() {
        let many: Vec<Value> = (0..100).map(|_| json!({"a": 1})).collect();
        let fields = json!({"x".repeat(1 << 20): many});
        assert!(pairs(fields.as_object().unwrap()).is_err());
    }
}
