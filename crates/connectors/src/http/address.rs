//! The URL of a request. Its template says where the request goes; data says only what stands in its places: a value in
//! the path is one segment, one in the query is one value, and none of them leads elsewhere.

use flowmate_flow_model::{
    Moment,
    template_text::{Fill, Part},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, value::RawValue};

use super::text;
use crate::StepError;

/// Bytes of a URL: as many as the HTTP library takes.
pub(super) const MAX_URL: usize = 65_534;

/// What a segment of a path may hold as it is and mean nothing else than itself.
const SEGMENT: &AsciiSet = &COMPONENT.remove(b'@').remove(b':').remove(b'$').remove(b',');
/// What JSONata's `$encodeUrlComponent` leaves as it is.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'!')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*');
/// What would end a query.
const QUERY: &AsciiSet = &percent_encoding::CONTROLS.add(b'#').add(b' ');

/// The URL, filled for a message. One expression alone is the whole URL, as it comes.
pub(super) fn fill(url: &Fill, message: &RawValue, moment: &Moment<'_>) -> Result<String, StepError> {
    let Fill::Mixed(parts) = url else {
        return url
            .fill(message, moment)
            .map(|url| text(&url))
            .map_err(StepError::new);
    };
    let mut pieces = Vec::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        pieces.push(match part {
            Part::Text(text) => Piece::Text(text),
            Part::Expression(expression) => {
                let result = expression.evaluate(message, &moment.item(index));
                let json = result.map_err(StepError::new)?;
                let value: Option<Value> = json.and_then(|json| serde_json::from_str(json.get()).ok());
                Piece::Value {
                    source: expression.source(),
                    value: value.filter(|value| !value.is_null()).map(|value| text(&value)),
                }
            }
        });
    }
    compose(&pieces).map_err(|reason| StepError::new(format!("field \"url\": {reason}")))
}

/// A piece of a URL.
enum Piece<'a> {
    /// Of the template.
    Text(&'a str),
    /// What an expression yields.
    Value { source: &'a str, value: Option<String> },
}

/// Where in a URL something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing is before it.
    Beginning,
    /// In the scheme, or in user, host and port.
    Host,
    Path,
    Query,
    Fragment,
}

impl Place {
    fn after(url: &str) -> Self {
        let url = url.trim_start();
        if url.is_empty() {
            return Self::Beginning;
        }
        let Some((_, rest)) = url.split_once(':') else {
            return Self::Host;
        };
        // Any number of slashes, and of backslashes too, is what the URL standard takes for two.
        let rest = rest.trim_start_matches(['/', '\\']);
        if rest.contains('#') {
            Self::Fragment
        } else if rest.contains('?') {
            Self::Query
        } else if rest.contains(['/', '\\']) {
            Self::Path
        } else {
            Self::Host
        }
    }
}

/// A URL that is being put together.
#[derive(Default)]
struct Url<'a> {
    text: String,
    /// Where in the path values begin and end, and what yielded them.
    in_path: Vec<(usize, usize, &'a str)>,
    /// Where in the query a value is absent.
    absent: Vec<usize>,
}

fn compose(pieces: &[Piece<'_>]) -> Result<String, String> {
    let mut url = Url::default();
    for (index, piece) in pieces.iter().enumerate() {
        match piece {
            // The URL standard drops these wherever they are.
            Piece::Text(text) => url.text.extend(text.chars().filter(|c| !"\t\r\n".contains(*c))),
            Piece::Value { source, value } => {
                let after = pieces.get(index + 1..).unwrap_or_default();
                url.insert(source, value.as_deref(), after)?;
            }
        }
        if url.text.len() > MAX_URL {
            return Err(format!("the URL has more than {MAX_URL} bytes"));
        }
    }
    url.check_segments()?;
    Ok(url.without_absent())
}

impl<'a> Url<'a> {
    fn insert(&mut self, source: &'a str, value: Option<&str>, after: &[Piece<'_>]) -> Result<(), String> {
        let mut place = Place::after(&self.text);
        if place == Place::Beginning && follows(after, "://") {
            place = Place::Host;
        }
        match (place, value) {
            (Place::Beginning | Place::Host | Place::Path, None) => return Err(missing(source)),
            (Place::Beginning, Some(value)) => self.text.push_str(value),
            (Place::Host, Some(value)) if is_before_at(after) => self.encoded(source, value, COMPONENT),
            (Place::Host, Some(value)) => {
                let leads_elsewhere = |c: char| "/\\?#@".contains(c) || c.is_whitespace() || c.is_control();
                if value.contains(leads_elsewhere) {
                    return Err(format!(
                        "{{{{ {source} }}}} stands in the host and yields what is no part of one; an expression that yields \
                         the beginning of the URL has to stand at its beginning"
                    ));
                }
                self.text.push_str(value);
            }
            (Place::Path, Some(value)) => {
                let begin = self.text.len();
                self.encoded(source, value, SEGMENT);
                self.in_path.push((begin, self.text.len(), source));
            }
            (Place::Query, None) => self.absent.push(self.text.len()),
            (Place::Query, Some(value)) if self.is_whole_pairs(after) => {
                self.text.extend(utf8_percent_encode(value, QUERY));
            }
            (Place::Query | Place::Fragment, Some(value)) => self.encoded(source, value, COMPONENT),
            (Place::Fragment, None) => {}
        }
        Ok(())
    }

    /// Adds the value so that it means itself; what the expression has encoded already stays as it is.
    fn encoded(&mut self, source: &str, value: &str, set: &'static AsciiSet) {
        let is_encoded = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!~*'()%".contains(&byte);
        if encodes_itself(source) && value.bytes().all(is_encoded) {
            self.text.push_str(value);
        } else {
            self.text.extend(utf8_percent_encode(value, set));
        }
    }

    /// Whether what comes next stands between `&` and `&`: it is neither a parameter's name nor its value.
    fn is_whole_pairs(&self, after: &[Piece<'_>]) -> bool {
        let pair = self.text.rsplit(['?', '&']).next().unwrap_or_default();
        let ends = match after.first() {
            None => true,
            Some(Piece::Text(text)) => text.starts_with(['&', '#']),
            Some(Piece::Value { .. }) => false,
        };
        pair.is_empty() && ends
    }

    /// Refuses segments that data has made `.` or `..`: there is no way to write them that does not lead elsewhere.
    fn check_segments(&self) -> Result<(), String> {
        for (begin, end, source) in &self.in_path {
            let (before, after) = (self.text.get(..*begin), self.text.get(*end..));
            let begin = before
                .unwrap_or_default()
                .rfind(['/', '\\'])
                .map_or(0, |at| at + 1);
            let rest = after.unwrap_or_default();
            let end = end + rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len());
            let segment = self.text.get(begin..end).unwrap_or_default();
            if matches!(
                segment.to_ascii_lowercase().replace("%2e", ".").as_str(),
                "." | ".."
            ) {
                return Err(format!(
                    "{{{{ {source} }}}} yields \"{segment}\", which would lead to another path"
                ));
            }
        }
        Ok(())
    }

    /// Without the parameters whose value is absent.
    fn without_absent(self) -> String {
        let Some(begin) = self.text.find('?').filter(|_| !self.absent.is_empty()) else {
            return self.text;
        };
        let (address, query) = self.text.split_at(begin);
        let query = query.get(1..).unwrap_or_default();
        let (query, fragment) = query.split_at(query.find('#').unwrap_or(query.len()));
        let mut at = begin + 1;
        let mut kept = Vec::new();
        for pair in query.split('&') {
            let is_absent = self
                .absent
                .iter()
                .any(|absent| (at..=at + pair.len()).contains(absent));
            at += pair.len() + 1;
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !(is_absent && (name.is_empty() || value.is_empty())) {
                kept.push(pair);
            }
        }
        let mark = if kept.is_empty() { "" } else { "?" };
        format!("{address}{mark}{}{fragment}", kept.join("&"))
    }
}

fn missing(source: &str) -> String {
    format!(
        "{{{{ {source} }}}} has no value in this message, and without it the URL would be another one; where it may be \
         missing, write {{{{ {source} ? {source} : \"\" }}}}"
    )
}

fn follows(after: &[Piece<'_>], what: &str) -> bool {
    matches!(after.first(), Some(Piece::Text(text)) if text.starts_with(what))
}

/// Whether the template has an `@` before the host ends: what stands here is a name or a password.
fn is_before_at(after: &[Piece<'_>]) -> bool {
    let texts = after.iter().filter_map(|piece| match piece {
        Piece::Text(text) => Some(*text),
        Piece::Value { .. } => None,
    });
    let end = texts.flat_map(str::chars).find(|c| "/\\?#@".contains(*c));
    end == Some('@')
}

/// Whether the expression is a call of `$encodeUrlComponent`.
fn encodes_itself(source: &str) -> bool {
    const NAME: &str = "$encodeUrlComponent";
    let source = source.trim();
    if let Some((_, last)) = source.rsplit_once("~>") {
        return matches!(last.trim().strip_prefix(NAME), Some("" | "()"));
    }
    let inner = source
        .strip_prefix(NAME)
        .and_then(|rest| rest.trim_start().strip_prefix('('))
        .and_then(|rest| rest.strip_suffix(')'));
    let mut depth = 0_usize;
    inner.is_some_and(|inner| {
        inner.chars().all(|c| match c {
            '(' => {
                depth += 1;
                true
            }
            ')' if depth == 0 => false,
            ')' => {
                depth -= 1;
                true
            }
            _ => true,
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::MOMENT;

    fn filled(template: &str, data: &Value) -> Result<String, String> {
        let message = serde_json::value::to_raw_value(&json!({"data": data})).unwrap();
        let template = Fill::parse(&Value::from(template)).unwrap();
        let url = fill(&template, &message, &MOMENT).map_err(|error| error.message)?;
        // What is sent is what the library makes of it.
        Ok(url
            .parse::<reqwest::Url>()
            .map_err(|error| error.to_string())?
            .into())
    }

    #[track_caller]
    fn sent(template: &str, data: Value, expected: &str) {
        assert_eq!(
            filled(template, &data).unwrap(),
            expected,
            "{template} with {data}"
        );
    }

    #[test]
    fn a_value_in_a_path_is_one_segment() {
        let template = "http://h/users/{{ data.id }}/notes";
        for (id, segment) in [
            ("a/b#c?d=e@example.com", "a%2Fb%23c%3Fd%3De@example.com"),
            ("../../admin", "..%2F..%2Fadmin"),
            ("a\\b", "a%5Cb"),
            ("%2e%2e", "%252e%252e"),
            ("a b\n\tü", "a%20b%0A%09%C3%BC"),
            ("7;x=1", "7%3Bx%3D1"),
            ("...", "..."),
        ] {
            sent(
                template,
                json!({"id": id}),
                &format!("http://h/users/{segment}/notes"),
            );
        }
        sent(template, json!({"id": 7}), "http://h/users/7/notes");
        sent(
            "http://h/{{ $encodeUrlComponent(data.id) }}/{{ data.id ~> $encodeUrlComponent() }}",
            json!({"id": "a/b%"}),
            "http://h/a%2Fb%25/a%2Fb%25",
        );
    }

    #[test]
    fn a_value_that_would_lead_to_another_path_is_refused() {
        for (template, data) in [
            ("http://h/users/{{ data.a }}", json!({"a": ".."})),
            ("http://h/users/{{ data.a }}/notes", json!({"a": "."})),
            (
                "http://h/users/{{ data.a }}{{ data.b }}?x=1",
                json!({"a": ".", "b": "."}),
            ),
            ("http://h/users/.{{ data.a }}", json!({"a": "."})),
            ("http://h/users/%2E{{ data.a }}", json!({"a": "."})),
            ("http://h/users/.\n{{ data.a }}", json!({"a": "."})),
            ("http://h\\users\\{{ data.a }}\\x", json!({"a": ".."})),
        ] {
            let refused = filled(template, &data).unwrap_err();
            assert!(refused.contains("{{ data.a }}"), "{template}: {refused}");
        }
    }

    #[test]
    fn an_absent_value_in_a_path_is_an_error_unless_the_template_says_otherwise() {
        for data in [json!({}), json!({"id": null})] {
            let refused = filled("http://h/users/{{ data.id }}", &data).unwrap_err();
            assert!(refused.contains("{{ data.id }}"), "{refused}");
            sent(
                "http://h/users/{{ data.id ? data.id : \"\" }}",
                data,
                "http://h/users/",
            );
        }
        assert!(filled("http://{{ data.host }}/a", &json!({})).is_err());
        assert!(filled("{{ data.base }}/a", &json!({})).is_err());
    }

    #[test]
    fn a_value_in_a_query_is_one_value_and_an_absent_one_is_left_out() {
        sent(
            "http://h/?q={{ data.q }}&x=1",
            json!({"q": "a&b=c#d+e"}),
            "http://h/?q=a%26b%3Dc%23d%2Be&x=1",
        );
        sent(
            "http://h/?{{ data.name }}=1",
            json!({"name": "a&b"}),
            "http://h/?a%26b=1",
        );
        sent(
            "http://h/?{{ data.all }}",
            json!({"all": "a=1&b=2#c"}),
            "http://h/?a=1&b=2%23c",
        );
        sent(
            "http://h/?q={{ data.q }}&x={{ data.x }}",
            json!({"x": 1}),
            "http://h/?x=1",
        );
        sent("http://h/p?q={{ data.q }}#f", json!({}), "http://h/p#f");
        sent("http://h/?q=a{{ data.q }}&e=", json!({}), "http://h/?q=a&e=");
        sent("http://h/?q={{ data.q }}", json!({"q": ""}), "http://h/?q=");
    }

    #[test]
    fn the_beginning_of_the_url_may_be_data() {
        sent(
            "{{ data.url }}",
            json!({"url": "http://h/a/b?c=d"}),
            "http://h/a/b?c=d",
        );
        sent(
            "{{ data.base }}/users/{{ data.id }}",
            json!({"base": "http://h:81/v1", "id": "a/b"}),
            "http://h:81/v1/users/a%2Fb",
        );
        sent("{{ data.s }}://h/", json!({"s": "https"}), "https://h/");
        sent(
            "http://{{ data.host }}:{{ data.port }}/",
            json!({"host": "h", "port": 81}),
            "http://h:81/",
        );
        sent(
            "http://{{ data.user }}:{{ data.password }}@h/",
            json!({"user": "a@b", "password": "x/y"}),
            "http://a%40b:x%2Fy@h/",
        );
        for (template, value) in [
            ("https://{{ data.v }}.example.com/", "evil.example/"),
            ("https://{{ data.v }}.example.com/", "evil.example#"),
            ("https://{{ data.v }}.example.com/", "evil.example\\"),
            ("https://example.com{{ data.v }}/", "@evil.example"),
            ("{{ data.v }}://example.com/", "https://evil.example/?"),
        ] {
            assert!(
                filled(template, &json!({"v": value})).is_err(),
                "{template} with {value}"
            );
        }
    }

    #[test]
    fn what_the_template_has_encoded_stays_as_it_is() {
        sent(
            "http://h/a%2Fb%20c/{{ data.id }}?sig=a%2Bb%3D&x=%E4",
            json!({"id": 1}),
            "http://h/a%2Fb%20c/1?sig=a%2Bb%3D&x=%E4",
        );
        assert!(filled("http://h/{{ data.id }}", &json!({"id": "x".repeat(MAX_URL)})).is_err());
    }
}
