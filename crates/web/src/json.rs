//! What a JSON text would become, found out before it becomes anything.

/// What one look over the bytes tells. Of what is no JSON it says something too; whoever parses it says what is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Levels of lists and objects inside one another.
    pub depth: usize,
    /// Values in it, at the most.
    pub values: usize,
    /// Whether there are characters by number, `\u0041`.
    pub has_escapes: bool,
}

impl Survey {
    /// Looks over `text`.
    pub fn of(text: &[u8]) -> Self {
        let mut seen = Self {
            values: 1,
            ..Self::default()
        };
        let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
        for byte in text {
            match byte {
                _ if is_escaped => {
                    is_escaped = false;
                    seen.has_escapes |= *byte == b'u';
                }
                b'\\' if in_string => is_escaped = true,
                b'"' => in_string = !in_string,
                _ if in_string => {}
                b'{' | b'[' => {
                    depth += 1;
                    seen.depth = seen.depth.max(depth);
                    // Its first; each further one has a comma before it.
                    seen.values += 1;
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                b',' => seen.values += 1,
                _ => {}
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_values_and_escapes_are_counted_outside_of_texts() {
        for (text, depth, values, has_escapes) in [
            ("", 0, 1, false),
            ("1", 0, 1, false),
            (r#"[1,2,[3],{"a":4,"b":[]}]"#, 3, 9, false),
            (r#"{"a[{,":"]}],,\"[[","c":"\\"}"#, 1, 3, false),
            (r#"["\u0041"]"#, 1, 2, true),
            (r#"["\\u0041"]"#, 1, 2, false),
            ("]]]][", 1, 2, false),
        ] {
            let expected = Survey {
                depth,
                values,
                has_escapes,
            };
            assert_eq!(Survey::of(text.as_bytes()), expected, "{text}");
        }
    }
}
