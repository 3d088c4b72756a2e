//! A bound on what one answer of the API server may take in memory.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tower::BoxError;

/// The most bytes without a line end. A watch sends an object a line, of at most 1.5 MiB in etcd and some more as JSON; a page
/// of a list is one line.
pub(super) const LONGEST_LINE: usize = 64 << 20;

/// A body that ends with an error when a line is too long.
#[derive(Debug)]
pub(super) struct Limited<B> {
    body: B,
    /// The bytes since the last line end.
    line: usize,
    longest: usize,
}

impl<B> Limited<B> {
    pub(super) const fn new(body: B, longest: usize) -> Self {
        Self { body, line: 0, longest }
    }
}

/// The error of a line that is too long.
#[derive(Debug, thiserror::Error)]
#[error(
    "the answer has {0} bytes without a line end: this is no API server, or an object is larger than any that it keeps"
)]
struct TooLong(usize);

impl<B: Body<Data = Bytes, Error = BoxError> + Unpin> Body for Limited<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            self.line = match data.iter().rposition(|byte| *byte == b'\n') {
                Some(end) => data.len() - end - 1,
                None => self.line + data.len(),
            };
            if self.line > self.longest {
                return Poll::Ready(Some(Err(TooLong(self.line).into())));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    async fn read(parts: &[&'static str]) -> Result<usize, String> {
        let parts: Vec<Result<Frame<Bytes>, Infallible>> = parts
            .iter()
            .map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes()))))
            .collect();
        let body = StreamBody::new(stream::iter(parts)).map_err(|never| match never {});
        let read = Limited::new(body, 8).collect().await;
        read.map(|body| body.to_bytes().len()).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn only_a_line_is_bounded() {
        assert_eq!(read(&["12345678\n", "1234", "5678\n12", "\n"]).await, Ok(21));
        assert_eq!(read(&["", "\n\n\n"]).await, Ok(3));
        let error = read(&["1234\n5678", "90123"]).await.unwrap_err();
        assert!(error.starts_with("the answer has 9 bytes"), "{error}");
    }
}
