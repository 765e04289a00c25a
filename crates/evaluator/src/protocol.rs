//! What parent and child say: frames of a length (32 bits, little endian) and so many bytes. The parent begins with the
//! limits, the child answers that it is ready; then each question has one answer. Both are the same build of the same
//! program, so there are no versions.

use std::io::{self, Read, Write};

use flowmate_common::Timestamp;
use flowmate_flow_model::expression::{ExpressionError, MAX_RESULT};
use serde::{Deserialize, Serialize};

/// Bytes of one frame: the largest input there is, and a text beside it.
const MAX_FRAME: usize = 1 << 30;
/// Bytes of one answer.
pub(crate) const MAX_ANSWER: usize = MAX_RESULT + (64 << 10);

/// What the parent says first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) limits: crate::Limits,
}

/// What is known of an evaluation beside its input, which follows behind it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Question {
    pub(crate) id: u64,
    /// The text, where the child does not have it.
    pub(crate) source: Option<String>,
    #[serde(with = "flowmate_common::clock::millis")]
    pub(crate) at: Timestamp,
    pub(crate) seed: u64,
    pub(crate) truth: bool,
}

/// How it ended; beside it stands whether the child is worn and wants to be replaced. A value follows behind.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Ready,
    Nothing,
    Value,
    Failed { code: Option<String>, message: String },
    TooLarge(usize),
    Bound(String),
}

impl From<ExpressionError> for Answer {
    fn from(error: ExpressionError) -> Self {
        match error {
            ExpressionError::Evaluation { code, message } => Self::Failed { code, message },
            ExpressionError::TooLarge(bytes) => Self::TooLarge(bytes),
            ExpressionError::Bound(bound) => Self::Bound(bound),
            other @ (ExpressionError::Syntax(_)
            | ExpressionError::Transient(_)
            | ExpressionError::Elsewhere) => Self::Failed {
                code: None,
                message: other.to_string(),
            },
        }
    }
}

/// Writes a head as JSON and what follows it.
pub(crate) fn write(to: &mut impl Write, head: &impl Serialize, body: &[u8]) -> io::Result<()> {
    let head = serde_json::to_vec(head)?;
    let mut start = Vec::with_capacity(8 + head.len());
    for length in [head.len(), body.len()] {
        let length = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
        start.extend(
            length
                .ok_or_else(|| invalid("a frame is too long"))?
                .to_le_bytes(),
        );
    }
    start.extend(head);
    to.write_all(&start)?;
    to.write_all(body)?;
    to.flush()
}

/// What is read: a head, and what follows it.
pub(crate) type Frame<H> = (H, Vec<u8>);

/// Reads a head and what follows it; `None` where the other side has closed before one.
pub(crate) fn read<H: for<'a> Deserialize<'a>>(
    from: &mut impl Read,
    most: usize,
) -> io::Result<Option<Frame<H>>> {
    let mut lengths = [0; 8];
    match from.read(&mut lengths)? {
        0 => return Ok(None),
        some => from.read_exact(lengths.get_mut(some..).unwrap_or_default())?,
    }
    let (head, body) = lengths.split_at(4);
    let length = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).map_or(u32::MAX, u32::from_le_bytes) as usize;
    let (head, body) = (length(head), length(body));
    if head.saturating_add(body) > most {
        return Err(invalid("a frame is too long"));
    }
    let head = serde_json::from_slice(&exactly(from, head)?)?;
    Ok(Some((head, exactly(from, body)?)))
}

/// The longest frame that a child reads.
pub(crate) const MAX_QUESTION: usize = MAX_FRAME;

fn exactly(from: &mut impl Read, bytes: usize) -> io::Result<Vec<u8>> {
    let mut read = vec![0; bytes];
    from.read_exact(&mut read)?;
    Ok(read)
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written_and_bad_ones_refused() {
        let mut wire = Vec::new();
        write(&mut wire, &Answer::Value, b"[1]").unwrap();
        write(&mut wire, &Answer::TooLarge(7), b"").unwrap();
        let mut from = wire.as_slice();
        assert_eq!(
            read(&mut from, 1_000).unwrap(),
            Some((Answer::Value, b"[1]".to_vec()))
        );
        assert_eq!(
            read(&mut from, 1_000).unwrap(),
            Some((Answer::TooLarge(7), Vec::new()))
        );
        assert_eq!(read::<Answer>(&mut from, 1_000).unwrap(), None);
        assert!(read::<Answer>(&mut wire.as_slice(), 4).is_err());
        assert!(read::<Answer>(&mut wire.get(..6).unwrap(), 1_000).is_err());
        assert!(read::<Answer>(&mut [2, 0, 0, 0, 0, 0, 0, 0, b'[', b']'].as_slice(), 1_000).is_err());
    }
}
