//! The TCP stream below TLS, with the alert that TLS 1.2 has for a missing certificate.
//!
//! # Design notes
//! rustls sends `certificate_required` (116) in TLS 1.2 too, but only TLS 1.3 defines it.  RFC 5246 section
//! 7.4.6 says `handshake_failure` (40), and clients show their programmers "unknown alert" for 116.  In TLS
//! 1.3 this alert is encrypted, so a record in the clear is one of TLS 1.2.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A record of TLS 1.2 with the fatal alert `certificate_required`.
const CERTIFICATE_REQUIRED: [u8; 7] = [21, 3, 3, 0, 2, 2, 116];
/// The same with `handshake_failure`.
const HANDSHAKE_FAILURE: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

/// A stream of TLS records.
#[derive(Debug)]
pub(super) struct Wire(pub(super) TcpStream);

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bytes = if *bytes == CERTIFICATE_REQUIRED { &HANDSHAKE_FAILURE } else { bytes };
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match parts {
            // The alert ends the handshake, and what comes before it was sent with earlier messages.
            [one] => self.poll_write(context, one),
            _ => Pin::new(&mut self.0).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
