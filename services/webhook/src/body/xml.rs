//! XML as JSON in the reference's form: attributes under `_attr`, `:` in names as `-`, repeated elements as a list, an
//! element with nothing but text as that text.

use flowmate_common::Failure;
use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};
use serde_json::{Map, Value};

/// Levels of nesting.
const MAX_DEPTH: usize = 100;
/// Attributes of one element: each is compared with all before it.
const MAX_ATTRIBUTES: usize = 256;

/// An element that is not closed yet.
struct Open {
    name: String,
    children: Map<String, Value>,
    text: String,
}

/// Parses a document. Document types are refused, and with them all entities but the five of XML and characters by
/// number.
pub(crate) fn parse(body: &[u8]) -> Result<Value, Failure> {
    let malformed = |error: &dyn std::fmt::Display| Failure::invalid(format!("Malformed XML: {error}"));
    let text = std::str::from_utf8(body).map_err(|error| malformed(&error))?;
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Open> = Vec::new();
    let mut root = Map::new();
    loop {
        match reader.read_event().map_err(|error| malformed(&error))? {
            Event::Start(start) if open.len() < MAX_DEPTH => open.push(element(&start)?),
            Event::Start(_) => return Err(malformed(&format!("more than {MAX_DEPTH} levels of nesting"))),
            Event::Empty(start) => close(element(&start)?, open.last_mut(), &mut root),
            Event::End(_) => {
                let ended = open
                    .pop()
                    .ok_or_else(|| malformed(&"an element is closed that is not open"))?;
                close(ended, open.last_mut(), &mut root);
            }
            Event::Text(part) => {
                if let Some(current) = open.last_mut() {
                    current.text.push_str(&part.xml10_content());
                }
            }
            Event::CData(part) => {
                if let Some(current) = open.last_mut() {
                    current.text.push_str(&part.xml10_content());
                }
            }
            Event::GeneralRef(reference) => {
                let name: &str = &reference;
                let character = match reference.resolve_char_ref().map_err(|error| malformed(&error))? {
                    Some(character) => character,
                    None => predefined(name).ok_or_else(|| malformed(&format!("unknown entity &{name};")))?,
                };
                if let Some(current) = open.last_mut() {
                    current.text.push(character);
                }
            }
            Event::DocType(_) => return Err(malformed(&"document types are not allowed")),
            Event::Eof if open.is_empty() && !root.is_empty() => return Ok(Value::Object(root)),
            Event::Eof => return Err(malformed(&"it ends too early")),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
}

fn predefined(name: &str) -> Option<char> {
    Some(match name {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "quot" => '"',
        "apos" => '\'',
        _ => return None,
    })
}

fn element(start: &BytesStart<'_>) -> Result<Open, Failure> {
    let malformed = |error: &dyn std::fmt::Display| Failure::invalid(format!("Malformed XML: {error}"));
    let mut attributes = Map::new();
    for (count, attribute) in start.attributes().enumerate() {
        if count >= MAX_ATTRIBUTES {
            return Err(malformed(&format!(
                "an element has more than {MAX_ATTRIBUTES} attributes"
            )));
        }
        let attribute = attribute.map_err(|error| malformed(&error))?;
        let content = quick_xml::escape::unescape(&attribute.value).map_err(|error| malformed(&error))?;
        attributes.insert(name(attribute.key.as_ref()), Value::from(content.into_owned()));
    }
    let mut children = Map::new();
    if !attributes.is_empty() {
        children.insert("_attr".into(), Value::Object(attributes));
    }
    Ok(Open {
        name: name(start.name().as_ref()),
        children,
        text: String::new(),
    })
}

fn name(text: &str) -> String {
    text.replace(':', "-")
}

fn close(ended: Open, parent: Option<&mut Open>, root: &mut Map<String, Value>) {
    let Open {
        name,
        mut children,
        text,
    } = ended;
    let text = text.trim();
    let value = if children.is_empty() {
        Value::from(text)
    } else {
        if !text.is_empty() {
            children.insert("_".into(), Value::from(text));
        }
        Value::Object(children)
    };
    let into = parent.map_or(root, |parent| &mut parent.children);
    match into.get_mut(&name) {
        None => {
            into.insert(name, value);
        }
        Some(Value::Array(items)) => items.push(value),
        Some(first) => *first = Value::Array(vec![first.take(), value]),
    }
}
