//! Crontab expressions.

use croner::parser::{CronParser, Seconds};

/// Whether `text` is a crontab expression of five fields, or six with seconds in front, as the reference takes.
pub fn is_valid(text: &str) -> bool {
    text.len() <= 256
        && CronParser::builder()
            .seconds(Seconds::Optional)
            .build()
            .parse(text)
            .is_ok()
}

#[cfg(test)]
mod tests {
    use super::is_valid;

    #[test]
    fn five_and_six_fields_are_taken_and_nonsense_is_not() {
        assert!(is_valid("*/3 * * * *"));
        assert!(is_valid("*/20 * * * * *"));
        assert!(is_valid("0 9 * * MON"));
        for wrong in ["", "* /2 * * * *", "99 * * * *", "every minute", "* * * *"] {
            assert!(!is_valid(wrong), "{wrong}");
        }
    }
}
