//! XML as JSON in the reference's form: attributes under `_attr`, `:` in names of elements as `-`, repeated elements as a
//! list, an element with nothing but text as that text, text beside elements or attributes under `_`. Texts and names of
//! attributes are as they were sent; blanks between elements are none of them.

use flowmate_common::Failure;
use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};
use serde_json::{Map, Value};

/// Levels of nesting.
const MAX_DEPTH: usize = 100;
/// Bytes of a declaration.
const MAX_DECLARATION: usize = 256;
/// Attributes of one element: each is compared with all before it.
const MAX_ATTRIBUTES: usize = 256;

/// An element that is not closed yet.
struct Open {
    name: String,
    children: Map<String, Value>,
    text: String,
}

/// Parses a document in UTF-8, whatever it declares. Nothing external is read, and document types that declare entities
/// are refused: there are the five of XML and characters by number.
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
            Event::DocType(kind) if kind.contains("<!ENTITY") => {
                return Err(malformed(&"entities may not be declared"));
            }
            Event::Eof if open.is_empty() && !root.is_empty() => return Ok(Value::Object(root)),
            Event::Eof => return Err(malformed(&"it ends too early")),
            Event::Comment(_) | Event::Decl(_) | Event::DocType(_) | Event::PI(_) => {}
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
        attributes.insert(
            attribute.key.as_ref().to_owned(),
            Value::from(content.into_owned()),
        );
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
    let value = if children.is_empty() {
        Value::from(text)
    } else {
        if !text.trim().is_empty() {
            add(&mut children, "_".into(), Value::from(text));
        }
        Value::Object(children)
    };
    add(parent.map_or(root, |parent| &mut parent.children), name, value);
}

/// A second value of one name makes a list.
fn add(into: &mut Map<String, Value>, name: String, value: Value) {
    match into.get_mut(&name) {
        None => drop(into.insert(name, value)),
        Some(Value::Array(items)) => items.push(value),
        Some(first) => *first = Value::Array(vec![first.take(), value]),
    }
}

/// The encoding in the declaration, of a document whose first characters are those of ASCII.
pub(crate) fn declared(body: &[u8]) -> Option<&str> {
    let body = body.trim_ascii_start().strip_prefix(b"<?xml")?;
    let end = body
        .windows(2)
        .take(MAX_DECLARATION)
        .position(|two| two == b"?>")?;
    let declaration = std::str::from_utf8(body.get(..end)?).ok()?;
    let (_, value) = declaration.split_once("encoding")?;
    let value = value.trim_start().strip_prefix('=')?.trim_start();
    value.split(['"', '\'']).nth(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_and_attributes_are_as_sent() {
        for (document, expected) in [
            (
                "<a>\n <b> padded </b>\n <c><![CDATA[  two  ]]></c><d>x\n y</d><e> </e>\n</a>",
                json!({"a": {"b": " padded ", "c": "  two  ", "d": "x\n y", "e": " "}}),
            ),
            (
                "<s:E xmlns:s=\"http://x\" s:a.b=\" 1 \"><s:B/></s:E>",
                json!({"s-E": {"_attr": {"xmlns:s": "http://x", "s:a.b": " 1 "}, "s-B": ""}}),
            ),
            (
                "<p>Hello <b>big</b> world</p>",
                json!({"p": {"b": "big", "_": "Hello  world"}}),
            ),
            (
                "<p id='1'> x </p>",
                json!({"p": {"_attr": {"id": "1"}, "_": " x "}}),
            ),
            ("<p><_>x</_>y</p>", json!({"p": {"_": ["x", "y"]}})),
            (
                "<a id='1'><_attr>x</_attr></a>",
                json!({"a": {"_attr": [{"id": "1"}, "x"]}}),
            ),
            (
                "<!DOCTYPE cXML SYSTEM \"http://x/cXML.dtd\"><cXML/>",
                json!({"cXML": ""}),
            ),
            ("<!DOCTYPE a [<!ELEMENT a ANY>]><a>1</a>", json!({"a": "1"})),
        ] {
            assert_eq!(parse(document.as_bytes()).unwrap(), expected, "{document}");
        }
    }

    #[test]
    fn entities_are_not_declared() {
        for bad in [
            "<!DOCTYPE a [<!ENTITY x \"y\">]><a/>",
            "<!DOCTYPE a [<!ENTITY % x SYSTEM \"http://x\"> %x;]><a/>",
            "<!DOCTYPE a SYSTEM \"x\"><a>&x;</a>",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
