//! MQTT over WebSocket: binary frames as a byte stream.
//!
//! Packets may span frames and share them [MQTT-6.0.0-2], so frames mean nothing here but bytes. A
//! text frame ends the connection with code 1003 [MQTT-6.0.0-1]. Pings are answered by the library
//! while the stream is read.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        self, Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

/// Bytes of the read buffer that every connection keeps; larger frames get a buffer of their own
/// while they are read.
const READ_BUFFER: usize = 4 * 1024;
/// Bytes of one frame sent. The library keeps a write buffer of about the largest frame.
const MAX_FRAME_SENT: usize = 16 * 1024;

const UPGRADE_REQUIRED: &[u8] = b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\n\
    Connection: close, Upgrade\r\nContent-Type: text/plain\r\nContent-Length: 51\r\n\r\n\
    This port is for MQTT over WebSocket, not for HTTP.";

/// A WebSocket whose binary frames are a byte stream. Holds a few KiB while idle.
#[derive(Debug)]
pub struct WsStream<S> {
    inner: WebSocketStream<S>,
    /// What of the last frame has not been read yet.
    unread: Bytes,
    /// Why the stream is being refused, once it is.
    refused: Option<&'static str>,
}

/// Does the server's half of the handshake.
///
/// The path must be `path` (a query is allowed), and the client must offer the subprotocol `mqtt`, or
/// `mqttv3.1` of old clients; the answer names the one chosen [MQTT-6.0.0-4]. `max_message` bounds a
/// frame and a message in bytes, before memory is spent. Not cancel safe: the stream is lost.
///
/// # Errors
/// What the client did wrong, after it has been told by HTTP.
pub async fn accept<S>(
    mut stream: S,
    path: &str,
    max_message: usize,
) -> Result<WsStream<S>, tungstenite::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MAX_FRAME_SENT)
        .max_frame_size(Some(max_message))
        .max_message_size(Some(max_message));
    let path = path.to_owned();
    #[expect(
        clippy::result_large_err,
        reason = "the library's callback asks for this type"
    )]
    let check = move |request: &Request, response: Response| answer(request, response, &path);
    match accept_hdr_async_with_config(&mut stream, check, Some(config)).await {
        // Nothing has been read beyond the request: the library refuses a client that sends more
        // before it is answered.
        Ok(_) => {}
        Err(error) => {
            if matches!(error, tungstenite::Error::Protocol(_)) {
                // A browser, most likely. It is being refused; whether it hears why changes nothing.
                let _heard = say_last(&mut stream, UPGRADE_REQUIRED).await.is_ok();
            }
            return Err(error);
        }
    }
    let inner = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    Ok(WsStream {
        inner,
        unread: Bytes::new(),
        refused: None,
    })
}

/// Sends the last bytes of a connection, and takes in what the other end still sends, a little: a
/// socket that is closed over unread bytes is reset, and the last words are lost with it.
///
/// # Errors
/// When the connection is broken.
pub(super) async fn say_last<S>(stream: &mut S, bytes: &[u8]) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    let mut ignored = [0; 512];
    for _ in 0..64 {
        if stream.read(&mut ignored).await? == 0 {
            break;
        }
    }
    Ok(())
}

#[expect(
    clippy::result_large_err,
    reason = "the library's callback asks for this type"
)]
fn answer(
    request: &Request,
    mut response: Response,
    path: &str,
) -> Result<Response, ErrorResponse> {
    let refuse = |status, text: String| {
        let mut refusal = ErrorResponse::new(Some(text));
        *refusal.status_mut() = status;
        Err(refusal)
    };
    if request.uri().path() != path {
        return refuse(
            StatusCode::NOT_FOUND,
            format!("MQTT over WebSocket is at {path}\n"),
        );
    }
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let offers = |name: &str| {
        offered
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|offer| offer.trim() == name)
    };
    // Whatever the order of the offers: old clients alone do not know the first.
    let Some(chosen) = ["mqtt", "mqttv3.1"].into_iter().find(|name| offers(name)) else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "the WebSocket subprotocol must be \"mqtt\"\n".to_owned(),
        );
    };
    response
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
    Ok(response)
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsStream<S> {
    /// The stream below.
    pub fn get_ref(&self) -> &S {
        self.inner.get_ref()
    }

    /// Queues the close frame that says why the client is refused.
    fn refuse(&mut self, why: &'static str) {
        self.refused = Some(why);
        let frame = CloseFrame {
            code: CloseCode::Unsupported,
            reason: why.into(),
        };
        // When it cannot be queued the connection is broken, and ends all the same.
        let _failed = Pin::new(&mut self.inner)
            .start_send(Message::Close(Some(frame)))
            .is_err();
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frame: impl FnOnce() -> Bytes,
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(to_io)?;
        let frame = frame();
        let len = frame.len();
        Pin::new(&mut self.inner)
            .start_send(Message::Binary(frame))
            .map_err(to_io)?;
        Poll::Ready(Ok(len))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if let Some(why) = this.refused {
                // The close frame goes out if the socket takes it; the refusal does not wait for it.
                let _sent = Pin::new(&mut this.inner).poll_flush(cx).is_ready();
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
            if !this.unread.is_empty() {
                let len = this.unread.len().min(buf.remaining());
                buf.put_slice(&this.unread[..len]);
                this.unread.advance(len);
                if this.unread.is_empty() {
                    // Lets go of the frame's memory.
                    this.unread = Bytes::new();
                }
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut this.inner).poll_next(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Binary(payload))) => this.unread = payload,
                Some(Ok(Message::Text(_))) => this.refuse("text frame: MQTT needs binary frames"),
                Some(Ok(
                    Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_),
                )) => {}
                // Only text is checked for UTF-8.
                Some(Err(tungstenite::Error::Utf8(_))) => {
                    this.refuse("text frame: MQTT needs binary frames");
                }
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.get_mut().poll_send(cx, || {
            Bytes::copy_from_slice(&buf[..buf.len().min(MAX_FRAME_SENT)])
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        let gather = || {
            let mut frame = Vec::with_capacity(total.min(MAX_FRAME_SENT));
            for buf in bufs {
                let room = MAX_FRAME_SENT - frame.len();
                frame.extend_from_slice(&buf[..buf.len().min(room)]);
            }
            Bytes::from(frame)
        };
        self.get_mut().poll_send(cx, gather)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner)
            .poll_flush(cx)
            .map_err(to_io)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.inner).poll_close(cx)).map_err(to_io)?;
        Pin::new(this.inner.get_mut()).poll_shutdown(cx)
    }
}

fn to_io(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            io::ErrorKind::BrokenPipe.into()
        }
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}
