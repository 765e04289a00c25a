//! Forms and query strings as senders write them: `a[b]=1&c=2` is `{"a":{"b":"1"},"c":"2"}`. Every one means something,
//! and nothing of it is dropped: fields of one name become a list, what is in no order that a list has keeps its names.

use std::borrow::Cow;

use encoding_rs::Encoding;
use indexmap::IndexMap;
use percent_encoding::percent_decode;
use serde_json::{Map, Value};

use super::charset;

/// Levels of nesting; what is in brackets behind them is a name as it stands there.
const MAX_BRACKETS: usize = 5;
/// Fields that name the encoding of the others: of HTML, and of PayPal.
const CHARSET_FIELDS: [&[u8]; 2] = [b"_charset_", b"charset"];

/// What the fields are. `label` is the encoding that the content type names.
pub(crate) fn parse(form: &[u8], label: Option<&str>) -> Map<String, Value> {
    let encoding = label.and_then(charset::named).or_else(|| named_inside(form));
    let mut root = Group::default();
    for field in fields(form) {
        let (name, value) = split(field);
        let (name, value) = (decoded(name, encoding), decoded(value, encoding));
        let (base, brackets) = path(&name);
        root.named(base).put(&brackets, value);
    }
    into_map(root.names)
}

/// How many nodes [`parse`] makes at the most.
pub(crate) fn nodes(form: &[u8]) -> usize {
    let encoded = form
        .windows(3)
        .filter(|three| three.eq_ignore_ascii_case(b"%5b"))
        .count();
    let plain = form.iter().filter(|byte| matches!(byte, b'&' | b'[')).count();
    1 + plain + encoded
}

fn fields(form: &[u8]) -> impl Iterator<Item = &[u8]> {
    form.split(|byte| *byte == b'&').filter(|field| !field.is_empty())
}

/// Name and value; what is behind brackets may have another `=` inside them.
fn split(field: &[u8]) -> (&[u8], &[u8]) {
    let behind_brackets = field.windows(2).position(|two| two == b"]=").map(|at| at + 1);
    let first = field.iter().position(|byte| *byte == b'=');
    let opened = field.iter().position(|byte| *byte == b'[');
    let at = match (behind_brackets, first, opened) {
        (Some(behind), Some(first), Some(opened)) if opened < first => Some(behind),
        _ => first,
    };
    at.and_then(|at| Some((field.get(..at)?, field.get(at + 1..)?)))
        .unwrap_or((field, b""))
}

/// The encoding that a field says.
fn named_inside(form: &[u8]) -> Option<&'static Encoding> {
    let value = |name| fields(form).map(split).find(|(key, _)| *key == name);
    let label = CHARSET_FIELDS.into_iter().find_map(value)?.1;
    charset::named(std::str::from_utf8(label).ok()?)
}

/// The text of a name or value. A `%` that encodes nothing stands for itself.
fn decoded(text: &[u8], encoding: Option<&'static Encoding>) -> String {
    let spaced: Cow<'_, [u8]> = if text.contains(&b'+') {
        text.iter()
            .map(|byte| if *byte == b'+' { b' ' } else { *byte })
            .collect()
    } else {
        Cow::Borrowed(text)
    };
    let bytes: Cow<'_, [u8]> = percent_decode(&spaced).into();
    let said = encoding.and_then(|encoding| charset::decoded(&bytes, encoding));
    said.unwrap_or_else(|| charset::guessed(&bytes)).into_owned()
}

/// `a[b][]` as `a` and `b`, nothing. What is not closed is part of the name.
fn path(name: &str) -> (&str, Vec<&str>) {
    let Some(opened) = name.find('[') else {
        return (name, Vec::new());
    };
    let (base, mut rest) = name.split_at(opened);
    let mut brackets = Vec::new();
    while !rest.is_empty() {
        if brackets.len() == MAX_BRACKETS {
            brackets.push(rest);
            break;
        }
        let inner = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        match inner {
            Some((inner, behind)) if !inner.contains('[') => {
                brackets.push(inner);
                rest = behind;
            }
            _ => return (name, Vec::new()),
        }
    }
    match brackets.first() {
        // `[a]=1` has its name in the brackets.
        Some(first) if base.is_empty() => (*first, brackets.split_off(1)),
        _ => (base, brackets),
    }
}

/// All that came under one name.
#[derive(Default)]
struct Group {
    items: Vec<Item>,
    /// Whether `[]` was behind the name: it is a list then, however many there are.
    is_list: bool,
    names: IndexMap<String, Group>,
}

enum Item {
    Text(String),
    Group(Group),
}

impl Group {
    fn named(&mut self, name: &str) -> &mut Self {
        self.names.entry(name.to_owned()).or_default()
    }

    fn put(&mut self, path: &[&str], text: String) {
        match path {
            [] => self.items.push(Item::Text(text)),
            [""] => {
                self.is_list = true;
                self.items.push(Item::Text(text));
            }
            ["", rest @ ..] => {
                self.is_list = true;
                // `a[][b]=1&a[][c]=2` is one item; the next begins with a name that it has.
                if let Some(Item::Group(last)) = self.items.last_mut()
                    && !last.has(rest)
                {
                    return last.put(rest, text);
                }
                let mut next = Self::default();
                next.put(rest, text);
                self.items.push(Item::Group(next));
            }
            [name, rest @ ..] => self.named(name).put(rest, text),
        }
    }

    /// Whether there is a value already where another one would be a second.
    fn has(&self, path: &[&str]) -> bool {
        match path {
            [] => !self.items.is_empty(),
            ["", ..] => false,
            [name, rest @ ..] => self.names.get(*name).is_some_and(|group| group.has(rest)),
        }
    }

    fn into_value(mut self) -> Value {
        let is_one = self.items.len() == 1 && !self.is_list && self.names.is_empty();
        if is_one && let Some(Item::Text(text)) = self.items.pop() {
            return Value::String(text);
        }
        let items = self.items.into_iter().map(Item::into_value);
        if self.names.is_empty() {
            return Value::Array(items.collect());
        }
        let mut items: Vec<_> = items.collect();
        match listed(self.names) {
            named if items.is_empty() => named,
            Value::Array(mut named) => {
                named.append(&mut items);
                Value::Array(named)
            }
            named => {
                items.push(named);
                Value::Array(items)
            }
        }
    }
}

impl Item {
    fn into_value(self) -> Value {
        match self {
            Self::Text(text) => Value::String(text),
            Self::Group(group) => group.into_value(),
        }
    }
}

/// A list where the names are its indexes, all of them, in whatever order.
fn listed(names: IndexMap<String, Group>) -> Value {
    let count = names.len();
    let index = |name: &str| {
        let index: usize = name.parse().ok()?;
        (index < count && index.to_string() == name).then_some(index)
    };
    if !names.keys().all(|name| index(name).is_some()) {
        return Value::Object(into_map(names));
    }
    let mut items: Vec<_> = names
        .into_iter()
        .map(|(name, group)| (index(&name), group))
        .collect();
    items.sort_by_key(|(index, _)| *index);
    items.into_iter().map(|(_, group)| group.into_value()).collect()
}

fn into_map(names: IndexMap<String, Group>) -> Map<String, Value> {
    names
        .into_iter()
        .map(|(name, group)| (name, group.into_value()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(form: &[u8]) -> Value {
        Value::Object(parse(form, None))
    }

    #[test]
    fn forms_are_taken_as_their_senders_write_them() {
        for (form, expected) in [
            ("", json!({})),
            ("&&&", json!({})),
            ("a=1&&b=2&", json!({"a": "1", "b": "2"})),
            ("flag&x=1&=y", json!({"flag": "", "x": "1", "": "y"})),
            (
                "a=1&a=2&b[]=x&c[]=1&c[]=2",
                json!({"a": ["1", "2"], "b": ["x"], "c": ["1", "2"]}),
            ),
            (
                "a%5Bb%5D%5bc%5d=1&a[b][d]=x+y",
                json!({"a": {"b": {"c": "1", "d": "x y"}}}),
            ),
            ("i[0][s]=a&i[1][s]=b", json!({"i": [{"s": "a"}, {"s": "b"}]})),
            ("i[1]=b&i[0]=a", json!({"i": ["a", "b"]})),
            (
                "i[1][s]=a&i[2][s]=b",
                json!({"i": {"1": {"s": "a"}, "2": {"s": "b"}}}),
            ),
            ("answers[7]=yes", json!({"answers": {"7": "yes"}})),
            ("i[00]=a&i[-1]=b", json!({"i": {"00": "a", "-1": "b"}})),
            (
                "i[][a]=1&i[][b]=2&i[][a]=3",
                json!({"i": [{"a": "1", "b": "2"}, {"a": "3"}]}),
            ),
            ("i[][a][]=1&i[][a][]=2", json!({"i": [{"a": ["1", "2"]}]})),
            ("[][a]=1&[x]=2&[]=3", json!({"": ["3", {"a": "1"}], "x": "2"})),
            ("a=1&a[b]=2&c=3", json!({"a": ["1", {"b": "2"}], "c": "3"})),
            ("a[b]=2&a=1", json!({"a": ["1", {"b": "2"}]})),
            ("a[]=1&a[b]=2&a=3", json!({"a": ["1", "3", {"b": "2"}]})),
            ("a[0]=x&a[]=y", json!({"a": ["x", "y"]})),
            ("0=a&1=b&n=c", json!({"0": "a", "1": "b", "n": "c"})),
            ("1.3=Jo&input_2.1=x", json!({"1.3": "Jo", "input_2.1": "x"})),
            (
                "a[b=1&c]=2&d[=3&e[[f]]=4&g]h[=5",
                json!({"a[b": "1", "c]": "2", "d[": "3", "e[[f]]": "4", "g]h[": "5"}),
            ),
            ("a[b=c]=1&d=[x]=2", json!({"a": {"b=c": "1"}, "d": "[x]=2"})),
            ("a[b]c=1", json!({"a[b]c": "1"})),
            (
                "t=100%&u=%zz&v=%u010D&w=%4",
                json!({"t": "100%", "u": "%zz", "v": "%u010D", "w": "%4"}),
            ),
            ("a=1;b=2&q=a%5B0%5D%3D1%26", json!({"a": "1;b=2", "q": "a[0]=1&"})),
            (
                "a[1][2][3][4][5][6][7]=x",
                json!({"a": {"1": {"2": {"3": {"4": {"5": {"[6][7]": "x"}}}}}}}),
            ),
            (
                "__proto__[x]=1&constructor=2",
                json!({"__proto__": {"x": "1"}, "constructor": "2"}),
            ),
        ] {
            assert_eq!(read(form.as_bytes()), expected, "{form}");
        }
        let names: Vec<String> = parse(b"zeta=1&alpha=2&10=3&2=4", None).keys().cloned().collect();
        assert_eq!(names, ["zeta", "alpha", "10", "2"], "in their order");
        let many: Vec<_> = (0..30)
            .rev()
            .map(|number| format!("i[{number}]={number}"))
            .collect();
        let expected: Vec<String> = (0..30).map(|number| number.to_string()).collect();
        assert_eq!(read(many.join("&").as_bytes()), json!({"i": expected}));
    }

    #[test]
    fn every_charset_of_a_form_is_read() {
        for (form, label) in [
            (&b"n=M%FCller+%80"[..], None),
            (b"n=M\xfcller \x80", None),
            ("n=Müller €".as_bytes(), None),
            (b"n=M%C3%BCller+%E2%82%AC", None),
            (b"n=M%FCller+%80", Some("ISO-8859-1")),
            (b"n=M%FCller+%A4", Some("ISO-8859-15")),
            (b"n=M%FCller+%A4&_charset_=ISO-8859-15", None),
            (b"n=M%FCller+%80&charset=windows-1252", None),
            (b"n=M%C3%BCller+%E2%82%AC", Some("unheard-of")),
        ] {
            assert_eq!(
                parse(form, label).get("n"),
                Some(&json!("Müller €")),
                "{form:?} {label:?}"
            );
        }
        assert_eq!(
            parse(b"n=%93%fa%96%7b", Some("Shift_JIS")).get("n"),
            Some(&json!("日本"))
        );
    }

    #[test]
    fn nodes_are_counted_before_they_are_made() {
        fn of(value: &Value) -> usize {
            1 + match value {
                Value::Object(map) => map.values().map(of).sum(),
                Value::Array(items) => items.iter().map(of).sum(),
                _ => 0,
            }
        }
        for form in [
            "a=1",
            "a[b][c][d][e][f]=1&g[][h]=2",
            "a%5Bb%5D=1&&a=2",
            "a=1&a=2&a=3",
        ] {
            assert!(nodes(form.as_bytes()) + 2 >= of(&read(form.as_bytes())), "{form}");
        }
    }
}
