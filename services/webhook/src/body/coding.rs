//! Bodies that come compressed (`Content-Encoding`): unpacked while they come, so that all limits are those of what was
//! meant, and a bomb ends at them.

use std::{cell::Cell, io};

use actix_web::{
    HttpRequest,
    error::PayloadError,
    http::header::{CONTENT_ENCODING, HeaderMap},
    web::Bytes,
};
use async_compression::tokio::bufread::{BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder};
use flowmate_common::{Failure, Kind, Permit};
use flowmate_web::receive as receive_plain;
use futures_util::{Stream, StreamExt, TryStreamExt};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead};
use tokio_util::io::{ReaderStream, StreamReader};

/// What a decoder and its buffers take.
const DECODER: usize = 128 << 10;
/// What one of Brotli takes beside its window: tables of codes, as many as the sender declares.
const BROTLI: usize = 4 << 20;

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    Deflate,
    Brotli,
}

impl Coding {
    /// What the headers say. Nobody packs twice; what does is not understood either.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Failure> {
        let mut coding = Self::Identity;
        for value in headers.get_all(CONTENT_ENCODING) {
            let names = String::from_utf8_lossy(value.as_bytes());
            for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                let named =
                    Self::named(name).filter(|named| coding == Self::Identity || *named == Self::Identity);
                match named {
                    Some(Self::Identity) => {}
                    Some(named) => coding = named,
                    None => {
                        let message = "Content-Encoding has to be gzip, deflate or br, and one of them";
                        return Err(Failure::new(Kind::UnsupportedMediaType, message));
                    }
                }
            }
        }
        Ok(coding)
    }

    fn named(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "identity" => Self::Identity,
            "gzip" | "x-gzip" => Self::Gzip,
            "deflate" => Self::Deflate,
            "br" => Self::Brotli,
            _ => return None,
        })
    }

    /// What unpacking takes beside what comes out, by the first byte.
    fn weight(self, first: u8) -> Result<usize, Failure> {
        match self {
            Self::Identity => Ok(0),
            Self::Gzip | Self::Deflate => Ok(DECODER),
            Self::Brotli => match brotli_window(first) {
                Some(bits) => Ok(BROTLI + (1 << bits)),
                None => Err(Failure::invalid("The body is not packed with br.")),
            },
        }
    }

    /// Receives the body, as [`flowmate_web::receive`] does. `decoder` holds the memory for unpacking.
    pub(crate) async fn receive<S>(
        self,
        request: &HttpRequest,
        payload: &mut S,
        limit: usize,
        buffer: &mut Vec<u8>,
        (permit, decoder): (&mut Permit, &mut Permit),
    ) -> Result<(), Failure>
    where
        S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
    {
        if self == Self::Identity {
            return receive_plain(request, payload, limit, buffer, permit).await;
        }
        // What unpacks to nothing costs time, so what is packed is limited as well.
        let sent = Cell::new(0_usize);
        let packed = payload.map(|chunk| {
            let chunk = chunk.map_err(io::Error::other)?;
            sent.set(sent.get().saturating_add(chunk.len()));
            if sent.get() > limit {
                return Err(io::Error::from(io::ErrorKind::FileTooLarge));
            }
            Ok(chunk)
        });
        let mut packed = StreamReader::new(packed);
        let first = packed.fill_buf().await.map_err(unreadable);
        let result = match first.map(|bytes| bytes.first().copied()) {
            Ok(None) => Ok(()),
            Ok(Some(first)) => {
                decoder.try_reach(self.weight(first)?)?;
                let mut unpacked = self.decoder(first, &mut packed);
                let unpacked = ReaderStream::new(&mut unpacked).map_err(PayloadError::Io);
                receive_plain(request, &mut { unpacked }, limit, buffer, permit).await
            }
            Err(failure) => Err(failure),
        };
        if sent.get() > limit {
            let message = format!("The body is larger than allowed: {limit} bytes.");
            return Err(Failure::new(Kind::TooLarge, message));
        }
        result?;
        if packed.fill_buf().await.is_ok_and(<[u8]>::is_empty) {
            return Ok(());
        }
        Err(Failure::invalid("The body goes on behind its packed part."))
    }

    fn decoder<'a, R>(self, first: u8, packed: R) -> Box<dyn AsyncRead + Unpin + 'a>
    where
        R: AsyncBufRead + Unpin + 'a,
    {
        match self {
            Self::Identity => Box::new(packed),
            Self::Gzip => {
                let mut decoder = GzipDecoder::new(packed);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
            // Old senders leave out the header of zlib; that names the method, 8, in its first four bits.
            Self::Deflate if first & 0x0f == 8 => Box::new(ZlibDecoder::new(packed)),
            Self::Deflate => Box::new(DeflateDecoder::new(packed)),
            Self::Brotli => Box::new(BrotliDecoder::new(packed)),
        }
    }
}

fn unreadable(error: io::Error) -> Failure {
    Failure::invalid(format!("The body could not be read: {error}."))
}

/// The window's bits, as the first bits of a stream say them (RFC 7932, 9.1). `None`: an extension of the decoder's, by
/// which a few bytes would ask for a gigabyte.
fn brotli_window(first: u8) -> Option<u32> {
    let (short, long) = (u32::from((first >> 1) & 7), u32::from((first >> 4) & 7));
    match (first & 1, short, long) {
        (0, ..) => Some(16),
        (_, 0, 0) => Some(17),
        (_, 0, 1) => None,
        (_, 0, long) => Some(8 + long),
        (_, short, _) => Some(17 + short),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use async_compression::tokio::bufread::{BrotliEncoder, DeflateEncoder, GzipEncoder, ZlibEncoder};
    use flowmate_common::{Budget, Holder};
    use futures_util::stream;
    use tokio::io::AsyncReadExt;

    use super::*;

    const LIMIT: usize = 100_000;

    async fn packed(kind: &str, plain: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut reader: Box<dyn AsyncRead + Unpin> = match kind {
            "gzip" => Box::new(GzipEncoder::new(plain)),
            "deflate" => Box::new(ZlibEncoder::new(plain)),
            "raw" => Box::new(DeflateEncoder::new(plain)),
            _ => Box::new(BrotliEncoder::new(plain)),
        };
        reader.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    async fn unpacked(coding: &str, body: &[u8]) -> Result<Vec<u8>, Kind> {
        let request = TestRequest::default()
            .insert_header((CONTENT_ENCODING, coding))
            .to_http_request();
        let chunks: Vec<_> = body
            .chunks(7)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        let mut chunks = stream::iter(chunks);
        let (budget, mut bytes) = (Budget::new(64 << 20), Vec::new());
        let mut permit = budget.try_take(Holder::default(), 0).unwrap();
        let mut decoder = budget.try_take(Holder::default(), 0).unwrap();
        let coding = Coding::of(request.headers()).map_err(|failure| failure.kind)?;
        let received = coding.receive(
            &request,
            &mut chunks,
            LIMIT,
            &mut bytes,
            (&mut permit, &mut decoder),
        );
        received.await.map_err(|failure| failure.kind)?;
        assert!(permit.bytes() >= bytes.len(), "what is held is taken before");
        Ok(bytes)
    }

    #[actix_web::test]
    async fn packed_bodies_are_unpacked() {
        let plain = br#"{"a":"b"}"#.repeat(100);
        for (kind, coding) in [
            ("gzip", "gzip"),
            ("gzip", " X-GZIP , identity"),
            ("deflate", "deflate"),
            ("raw", "deflate"),
            ("br", "br"),
        ] {
            let body = packed(kind, &plain).await;
            assert_eq!(
                unpacked(coding, &body).await.as_ref(),
                Ok(&plain),
                "{kind} {coding}"
            );
            assert_eq!(unpacked(coding, b"").await, Ok(Vec::new()));
            let cut = &body[..body.len() - 3];
            assert_eq!(unpacked(coding, cut).await, Err(Kind::Invalid), "{kind}, cut off");
        }
        let members = [packed("gzip", b"[1,").await, packed("gzip", b"2]").await].concat();
        assert_eq!(unpacked("gzip", &members).await, Ok(b"[1,2]".to_vec()));
        assert_eq!(unpacked("gzip", b"{}").await, Err(Kind::Invalid));
        let more = [packed("deflate", b"{}").await, b"{}".to_vec()].concat();
        assert_eq!(unpacked("deflate", &more).await, Err(Kind::Invalid));
        assert_eq!(unpacked("br", &[0x11, 30, 0, 0, 0]).await, Err(Kind::Invalid));
    }

    #[actix_web::test]
    async fn what_counts_is_what_comes_out() {
        let bomb = vec![b' '; LIMIT + 1];
        for (kind, coding) in [
            ("gzip", "gzip"),
            ("deflate", "deflate"),
            ("raw", "deflate"),
            ("br", "br"),
        ] {
            let body = packed(kind, &bomb).await;
            assert!(body.len() < LIMIT / 100);
            assert_eq!(unpacked(coding, &body).await, Err(Kind::TooLarge), "{kind}");
            let body = packed(kind, &bomb[1..]).await;
            assert_eq!(
                unpacked(coding, &body).await.map(|bytes| bytes.len()),
                Ok(LIMIT),
                "{kind}"
            );
        }
        let nothing = packed("gzip", b"").await.repeat(LIMIT / 20 + 1);
        assert_eq!(unpacked("gzip", &nothing).await, Err(Kind::TooLarge));
    }

    #[actix_web::test]
    async fn other_codings_are_refused() {
        for coding in ["zstd", "compress", "gzip, br", "gzip, gzip", "gzip;q=1"] {
            assert_eq!(
                unpacked(coding, b"{}").await,
                Err(Kind::UnsupportedMediaType),
                "{coding}"
            );
        }
        assert_eq!(unpacked("identity", b"{}").await, Ok(b"{}".to_vec()));
    }

    #[test]
    fn the_window_of_brotli_is_known_before_it_is_taken() {
        for (first, bits) in [
            (0b0, 16),
            (0b1, 17),
            (0b11, 18),
            (0b1111, 24),
            (0b010_0001, 10),
            (0b111_0001, 15),
        ] {
            assert_eq!(brotli_window(first), Some(bits), "{first:b}");
        }
        assert_eq!(brotli_window(0b001_0001), None);
    }
}
