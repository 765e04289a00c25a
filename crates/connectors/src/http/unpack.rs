//! Content codings of answers. An answer is unpacked when it is there as a whole, few at a time: what unpacking takes
//! besides the result is large and chosen by whoever answers, and is held only while the processor works.

use async_compression::{
    tokio::bufread::{BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder},
    zstd::DParameter,
};
use reqwest::{Response, header};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::Semaphore,
};

use super::answer::Body;
use crate::Failure;

/// What is asked for.
pub(super) const ACCEPTED: &str = "gzip, deflate, br, zstd";
/// Answers that are unpacked at the same time. Each may take some 48 MiB with br.
const AT_ONCE: usize = 4;
/// Codings one over the other.
const MAX_LAYERS: usize = 3;
/// Bits of the largest window of zstd, as RFC 9659 has it for HTTP.
const ZSTD_WINDOW: u32 = 23;
/// Bytes that are unpacked at once.
const PIECE: usize = 16 << 10;

/// The turns of those who unpack.
pub(super) fn turns() -> Semaphore {
    Semaphore::new(AT_ONCE)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    fn named(name: &str) -> Option<Self> {
        Some(match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Self::Gzip,
            "deflate" => Self::Deflate,
            "br" => Self::Brotli,
            "zstd" => Self::Zstd,
            _ => return None,
        })
    }
}

/// What the answer is packed with, the last one outermost; nothing where one of them is unknown: then it stays as it is.
pub(super) fn codings(response: &Response) -> Vec<Coding> {
    let values = response.headers().get_all(header::CONTENT_ENCODING).iter();
    let names = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter(|name| !matches!(name.trim(), "" | "identity"));
    let found: Option<Vec<Coding>> = names.map(Coding::named).collect();
    found
        .filter(|found| found.len() <= MAX_LAYERS)
        .unwrap_or_default()
}

/// The body without these codings. What comes out counts like what comes in.
pub(super) async fn unpack(mut body: Body, codings: &[Coding], turns: &Semaphore) -> Result<Body, Failure> {
    if codings.is_empty() || body.bytes.is_empty() {
        return Ok(body);
    }
    let _turn = turns
        .acquire()
        .await
        .map_err(|_| Failure::transient("the process ends"))?;
    for coding in codings.iter().rev() {
        let packed = std::mem::take(&mut body.bytes);
        body.beside = packed.len();
        let mut source = decoder(*coding, &packed);
        let mut piece = vec![0; PIECE];
        loop {
            // Nothing here ever waits, so that others get their turn only this way.
            tokio::task::consume_budget().await;
            let read = source.read(&mut piece).await.map_err(|error| {
                Failure::permanent(format!("the answer is not {coding:?} as it says: {error}"))
            })?;
            match piece.get(..read) {
                Some([]) | None => break,
                Some(more) => body.extend(more)?,
            }
        }
        body.beside = 0;
    }
    Ok(body)
}

fn decoder(coding: Coding, packed: &[u8]) -> Box<dyn AsyncRead + Send + Unpin + '_> {
    match coding {
        Coding::Gzip => {
            let mut decoder = GzipDecoder::new(packed);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        // Some send the bare format, without the header that the standard asks for.
        Coding::Deflate if packed.first().is_some_and(|first| first & 0xf == 8) => {
            Box::new(ZlibDecoder::new(packed))
        }
        Coding::Deflate => Box::new(DeflateDecoder::new(packed)),
        Coding::Brotli => Box::new(BrotliDecoder::new(packed)),
        Coding::Zstd => Box::new(ZstdDecoder::with_params(
            packed,
            &[DParameter::window_log_max(ZSTD_WINDOW)],
        )),
    }
}
