//! Node fields with `{{ JSONata }}` inside: parsed once when the flow starts, filled for each message.

use flowmate_common::model::Json;
use serde_json::{Map, Value, value::RawValue};

use crate::{Expression, ExpressionError, Moment};

/// A JSON value whose texts may hold expressions.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Without expressions.
    Plain(Value),
    /// A text that is one expression: its result keeps its type.
    Whole(Expression),
    /// A text with expressions inside: results become text.
    Mixed(Vec<Part>),
    /// A list with expressions somewhere inside.
    List(Vec<Fill>),
    /// An object with expressions somewhere inside.
    Object(Vec<(String, Fill)>),
}

/// A piece of a mixed text.
#[derive(Clone, Debug)]
pub enum Part {
    /// As it is.
    Text(String),
    /// To be evaluated.
    Expression(Expression),
}

impl Fill {
    /// Parses `value`; the error names the expression.
    pub fn parse(value: &Value) -> Result<Self, ExpressionError> {
        Ok(match value {
            Value::String(text) => Self::text(text)?,
            Value::Array(items) => {
                let items = items.iter().map(Self::parse).collect::<Result<Vec<_>, _>>()?;
                if items.iter().all(Self::is_plain) {
                    Self::Plain(value.clone())
                } else {
                    Self::List(items)
                }
            }
            Value::Object(map) => {
                let fields = map
                    .iter()
                    .map(|(key, inner)| Ok((key.clone(), Self::parse(inner)?)))
                    .collect::<Result<Vec<_>, ExpressionError>>()?;
                if fields.iter().all(|(_, inner)| inner.is_plain()) {
                    Self::Plain(value.clone())
                } else {
                    Self::Object(fields)
                }
            }
            plain => Self::Plain(plain.clone()),
        })
    }

    fn text(text: &str) -> Result<Self, ExpressionError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((source, after)) = split_at_close(after) else {
                return Err(ExpressionError::Syntax(format!(
                    "\"{text}\" opens {{{{ and does not close it"
                )));
            };
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Expression(Expression::parse(source.trim())?));
            rest = after;
        }
        if parts.is_empty() {
            return Ok(Self::Plain(Value::from(text)));
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(match parts.as_slice() {
            [Part::Expression(only)] => Self::Whole(only.clone()),
            _ => Self::Mixed(parts),
        })
    }

    /// Whether there is nothing to evaluate.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// The value for this message. An expression without a result is null, and nothing inside a text.
    pub fn fill(&self, message: &RawValue, moment: &Moment<'_>) -> Result<Value, ExpressionError> {
        Ok(match self {
            Self::Plain(value) => value.clone(),
            Self::Whole(expression) => expression
                .evaluate(message, moment)?
                .map_or(Value::Null, |json| parse(&json)),
            Self::Mixed(parts) => {
                let mut text = String::new();
                for (index, part) in parts.iter().enumerate() {
                    match part {
                        Part::Text(plain) => text.push_str(plain),
                        Part::Expression(expression) => {
                            match expression
                                .evaluate(message, &moment.item(index))?
                                .map(|json| parse(&json))
                            {
                                None | Some(Value::Null) => {}
                                Some(Value::String(result)) => text.push_str(&result),
                                Some(other) => text.push_str(&other.to_string()),
                            }
                        }
                    }
                }
                Value::from(text)
            }
            Self::List(items) => Value::from(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| item.fill(message, &moment.item(index)))
                    .collect::<Result<Vec<_>, _>>()?,
            ),
            Self::Object(fields) => Value::Object(
                fields
                    .iter()
                    .map(|(key, inner)| Ok((key.clone(), inner.fill(message, &moment.within(key))?)))
                    .collect::<Result<Map<_, _>, ExpressionError>>()?,
            ),
        })
    }
}

/// Splits at the `}}` that ends the expression: the first one at which what stands before it has balanced braces, so
/// that `{{ {"a": {"b": 1}} }}` works.
fn split_at_close(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            _ if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(open), _) if byte == open => quote = None,
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'{') => depth += 1,
            (None, b'}') if depth > 0 => depth -= 1,
            (None, b'}') if text.as_bytes().get(index + 1) == Some(&b'}') => {
                return Some((text.get(..index)?, text.get(index + 2..)?));
            }
            (Some(_) | None, _) => {}
        }
    }
    None
}

fn parse(json: &Json) -> Value {
    serde_json::from_str(json.get()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MOMENT: Moment<'static> = Moment::new(flowmate_common::Timestamp::from_millis(0), 7);

    fn fill(template: &Value) -> Value {
        let message =
            serde_json::value::to_raw_value(&json!({"data": {"id": 7, "name": "Ada", "tags": ["x"]}}))
                .unwrap();
        Fill::parse(template).unwrap().fill(&message, &MOMENT).unwrap()
    }

    #[test]
    fn expressions_are_filled_in_at_any_depth() {
        let template = json!({"url": "http://h/{{ data.id }}/{{data.name}}?n={{ data.none }}", "body": {"tags": "{{data.tags}}"},
            "list": ["{{ data.id + 1 }}", 2], "plain": {"a": "b"}});
        assert_eq!(
            fill(&template),
            json!({"url": "http://h/7/Ada?n=", "body": {"tags": ["x"]}, "list": [8, 2], "plain": {"a": "b"}})
        );
    }

    #[test]
    fn braces_and_quotes_inside_an_expression_do_not_end_it() {
        assert_eq!(
            fill(&json!("{{ {\"a\": {\"b\": data.id}} }}")),
            json!({"a": {"b": 7}})
        );
        assert_eq!(fill(&json!("{{ data.name & '}}' }}!")), json!("Ada}}!"));
    }

    #[test]
    fn what_is_not_closed_or_not_jsonata_is_refused() {
        assert!(Fill::parse(&json!("{{ data.id")).is_err());
        assert!(Fill::parse(&json!({"a": ["{{ ( }}"]})).is_err());
    }
}
