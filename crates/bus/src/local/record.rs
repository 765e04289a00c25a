//! The form of an event in the log.
//!
//! ```text
//! u32 length of the rest | u32 CRC-32 of the rest | u8 form = 1 | i64 time, ms
//! | u8 + type | u8 + id | u16 + key | u8 + traceparent (empty: none) | JSON body
//! ```
//! Numbers are little-endian. A golden test pins it: files of older versions must stay readable.
//!
//! Each group of records that is written and synced together begins with a mark, which says where it stands:
//!
//! ```text
//! u32 9 | u32 CRC-32 of the rest | u8 form = 2 | u64 position of the mark
//! ```
//! A group is written after the sync of the one before, so a mark proves that everything before it was on disk. What is
//! unreadable before a mark was damaged later; what is unreadable with no mark behind it may be a write that a crash cut
//! short, of which nothing was acknowledged. A mark cannot be taken for something that a stranger sent: it has zero
//! bytes, and events are JSON texts. Versions that do not know form 2 pass over it.

use bytes::{Buf, BufMut, Bytes};
use flowmate_common::{Event, EventType, Timestamp};

/// Bytes before the checked part.
pub(super) const HEADER: usize = 8;
const FORM: u8 = 1;
const MARK_FORM: u8 = 2;
/// Bytes of a mark.
pub(super) const MARK: usize = HEADER + 9;

/// The mark that stands at `position`.
pub(super) fn mark(position: u64) -> [u8; MARK] {
    let mut mark = [0; MARK];
    let (mut header, body) = mark.split_at_mut(HEADER);
    let mut rest: &mut [u8] = body;
    rest.put_u8(MARK_FORM);
    rest.put_u64_le(position);
    header.put_u32_le(u32::try_from(MARK - HEADER).unwrap_or_default());
    header.put_u32_le(crc32fast::hash(body));
    mark
}

/// Whether `bytes` begin with the mark that stands at `position`.
pub(super) fn is_mark(bytes: &[u8], position: u64) -> bool {
    // What most bytes fail first.
    bytes.first() == Some(&9) && bytes.get(HEADER) == Some(&MARK_FORM) && bytes.starts_with(&mark(position))
}

/// Appends the record of `event` to `out`. Texts longer than their length field are cut; ours are not.
pub(super) fn encode(event: &Event, out: &mut Vec<u8>) {
    let start = out.len();
    out.put_u64_le(0);
    out.put_u8(FORM);
    out.put_i64_le(event.time.as_millis());
    put_short(out, event.kind.name());
    put_short(out, &event.id);
    let key = event.key.as_bytes();
    let key = key.get(..usize::from(u16::MAX)).unwrap_or(key);
    out.put_u16_le(u16::try_from(key.len()).unwrap_or_default());
    out.put_slice(key);
    put_short(out, event.trace.as_deref().unwrap_or_default());
    out.put_slice(&event.data);
    let (Some(length), Some(checksum)) = (
        out.get(start + HEADER..).map(<[u8]>::len),
        out.get(start + HEADER..).map(crc32fast::hash),
    ) else {
        return;
    };
    if let Some(mut header) = out.get_mut(start..start + HEADER) {
        header.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
        header.put_u32_le(checksum);
    }
}

fn put_short(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let bytes = bytes.get(..usize::from(u8::MAX)).unwrap_or(bytes);
    out.put_u8(u8::try_from(bytes.len()).unwrap_or_default());
    out.put_slice(bytes);
}

/// What stands at the beginning of `bytes`.
pub(super) enum Decoded {
    /// A whole record of `length` bytes. The event is `None` where a newer version wrote a type unknown to this one.
    Record {
        /// Bytes of the record with its header.
        length: usize,
        /// The event.
        event: Option<Event>,
    },
    /// `needed` bytes in all are needed.
    Short {
        /// Bytes of the record with its header, as far as known.
        needed: usize,
    },
    /// Not a record.
    Damaged,
}

/// Reads the record at the beginning of `bytes`.
pub(super) fn decode(bytes: &Bytes) -> Decoded {
    let mut header: &[u8] = bytes;
    if header.len() < HEADER {
        return Decoded::Short { needed: HEADER };
    }
    let (length, checksum) = (header.get_u32_le() as usize, header.get_u32_le());
    if length == 0 {
        return Decoded::Damaged;
    }
    if header.len() < length {
        return Decoded::Short {
            needed: HEADER + length,
        };
    }
    let body = bytes.slice(HEADER..HEADER + length);
    if crc32fast::hash(&body) != checksum {
        return Decoded::Damaged;
    }
    parse(body).map_or(Decoded::Damaged, |event| Decoded::Record {
        length: HEADER + length,
        event,
    })
}

/// The outer `None`: not of this form. The inner: of a type that this version does not know.
#[expect(clippy::option_option, reason = "two different absences")]
fn parse(mut body: Bytes) -> Option<Option<Event>> {
    if body.try_get_u8().ok()? != FORM {
        return Some(None);
    }
    let time = Timestamp::from_millis(body.try_get_i64_le().ok()?);
    let kind = take_short(&mut body)?;
    let id = take_short(&mut body)?;
    let key = usize::from(body.try_get_u16_le().ok()?);
    let key = take(&mut body, key)?;
    let trace = take_short(&mut body)?;
    let trace = (!trace.is_empty()).then_some(trace);
    Some(EventType::parse(&kind).map(|kind| Event {
        id: id.into(),
        kind,
        key: key.into(),
        time,
        trace,
        data: body,
    }))
}

fn take_short(body: &mut Bytes) -> Option<String> {
    let length = usize::from(body.try_get_u8().ok()?);
    take(body, length)
}

fn take(body: &mut Bytes, length: usize) -> Option<String> {
    (body.len() >= length).then(|| String::from_utf8(body.split_to(length).to_vec()).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            id: "01".into(),
            kind: EventType::FlowStarting,
            key: "f1".into(),
            time: Timestamp::from_millis(1_564_491_165_957),
            trace: None,
            data: Bytes::from_static(b"{}"),
        }
    }

    #[test]
    fn the_form_is_pinned() {
        let mut out = Vec::new();
        encode(&event(), &mut out);
        let hex = out
            .iter()
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let golden = "21000000d3b7924001\
            05b1f0426c010000\
            0d666c6f772e7374617274696e67\
            023031\
            02006631\
            00\
            7b7d";
        assert_eq!(hex, golden);
    }

    #[test]
    fn the_form_of_a_mark_is_pinned_and_older_versions_pass_over_it() {
        let bytes = mark(0x0102);
        let hex = bytes
            .iter()
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        assert_eq!(hex, "09000000e130ad2c020201000000000000");
        let decoded = decode(&Bytes::copy_from_slice(&bytes));
        assert!(matches!(
            decoded,
            Decoded::Record {
                length: MARK,
                event: None
            }
        ));
        assert!(is_mark(&bytes, 0x0102) && !is_mark(&bytes, 0x0103));
    }

    #[test]
    fn records_read_back_and_damage_is_seen() {
        let mut out = Vec::new();
        encode(&event(), &mut out);
        let bytes = Bytes::from(out.clone());
        assert!(matches!(decode(&bytes), Decoded::Record { event: Some(read), .. } if read == event()));
        for cut in 0..bytes.len() {
            assert!(matches!(decode(&bytes.slice(..cut)), Decoded::Short { .. }));
        }
        for flipped in HEADER..out.len() {
            let mut damaged = out.clone();
            damaged[flipped] ^= 1;
            assert!(matches!(decode(&damaged.into()), Decoded::Damaged));
        }
        assert!(matches!(decode(&Bytes::from(vec![0; 64])), Decoded::Damaged));
    }
}
