//! Bodies on their way in: how long they may take, and what becomes of the connection when one is not wanted.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpMessage,
    body::{BodySize, BoxBody, MessageBody},
    dev::{Payload, ServiceRequest, ServiceResponse},
    error::PayloadError,
    web::{Bytes, Data},
};
use futures_util::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long the body of a request may take: so long, and longer by what has come. Application data of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long it may take whatever comes.
    pub patience: Duration,
    /// For each so many bytes that have come it may take a second more.
    pub bytes_per_second: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(30),
            bytes_per_second: 64 << 10,
        }
    }
}

impl Pace {
    /// What it may take when so much has come.
    fn after(self, received: u64) -> Duration {
        let more = received.saturating_mul(1_000) / self.bytes_per_second.max(1);
        self.patience + Duration::from_millis(more)
    }
}

/// The body of one request, as whoever answers it looks at it from outside.
pub(crate) struct Watch(Rc<Shared>);

struct Shared {
    payload: RefCell<Payload>,
    is_late: Cell<bool>,
    is_chunked: bool,
}

impl Watch {
    /// Puts the body of `request` under its [`Pace`]. `None`: it has none.
    pub(crate) fn over(request: &mut ServiceRequest, began: std::time::Instant) -> Option<Self> {
        let payload = match request.take_payload() {
            Payload::None => return None,
            payload => payload,
        };
        let pace = request.app_data::<Data<Pace>>().map(|pace| ***pace);
        let shared = Rc::new(Shared {
            payload: RefCell::new(payload),
            is_late: Cell::new(false),
            is_chunked: request.chunked().unwrap_or(false),
        });
        let incoming = Incoming {
            shared: Rc::clone(&shared),
            pace: pace.unwrap_or_default(),
            began: began.into(),
            received: 0,
            alarm: None,
        };
        request.set_payload(Payload::Stream {
            payload: Box::pin(incoming),
        });
        Some(Self(shared))
    }

    /// Whether somebody waited for the body until its time was over.
    pub(crate) fn is_late(&self) -> bool {
        self.0.is_late.get()
    }

    /// Takes care that the connection is closed after this answer where the body has not come to its end. The server does
    /// so by itself where the body's length is known; of one in chunks it would read, for ever, whatever comes, as soon as
    /// nobody holds the body any more.
    pub(crate) fn outlive(self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        if !self.0.is_chunked {
            return response;
        }
        response.map_body(|_, body| {
            BoxBody::new(Held {
                body,
                _incoming: self,
            })
        })
    }
}

/// The body under its pace.
struct Incoming {
    shared: Rc<Shared>,
    pace: Pace,
    began: Instant,
    received: u64,
    /// Set the first time that there is something to wait for.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let due = self.began + self.pace.after(self.received);
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if alarm.deadline() != due {
            alarm.as_mut().reset(due);
        }
        alarm.as_mut().poll(cx).is_ready()
    }
}

impl Stream for Incoming {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut *self.shared.payload.borrow_mut()).poll_next(cx);
        match polled {
            Poll::Ready(Some(Ok(bytes))) => {
                self.received += bytes.len() as u64;
                Poll::Ready(Some(Ok(bytes)))
            }
            Poll::Pending if self.is_overdue(cx) => {
                self.shared.is_late.set(true);
                let error = io::Error::from(io::ErrorKind::TimedOut);
                Poll::Ready(Some(Err(PayloadError::Io(error))))
            }
            other => other,
        }
    }
}

/// An answer that holds the request's body until it is sent.
struct Held {
    body: BoxBody,
    _incoming: Watch,
}

impl MessageBody for Held {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
