//! Checks of every request that come before its handler.
//!
//! hyper and h2 are lenient in a few places where RFC 9112 and RFC 9113 demand a refusal.  A proxy in front
//! that reads such a request differently could be made to see another request than the handler sees.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, StatusCode, Version};

use crate::http::reply::{self, Reply};
use crate::runtime::hosts::{Host, ServedHosts};

/// The hosts that a connection serves.
#[derive(Debug, Clone)]
pub enum Hosts {
    /// Every valid host, on listeners whose name is not known.
    Any,
    /// Those of the TLS listeners, on a connection to the given local address.
    Of(Arc<ServedHosts>, IpAddr),
}

/// Returns the refusal of a request that no handler may see.
///
/// `has_fragment`: the target has a fragment, which the URI of `request` does not show.
pub(super) fn refusal<B>(request: &Request<B>, hosts: &Hosts, has_fragment: bool) -> Option<Reply> {
    let (status, why) = match has_fragment {
        true => (StatusCode::BAD_REQUEST, "the request target has a fragment\n"),
        false => check(request, hosts).err()?,
    };
    let mut reply = reply::typed(status, "text/plain; charset=utf-8", why);
    // After 421 the connection is good for other hosts.  After the others its framing is not certain.
    if status != StatusCode::MISDIRECTED_REQUEST && request.version() < Version::HTTP_2 {
        reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Some(reply)
}

fn check<B>(request: &Request<B>, hosts: &Hosts) -> Result<(), (StatusCode, &'static str)> {
    let malformed = |why| (StatusCode::BAD_REQUEST, why);
    let headers = request.headers();
    check_transfer_encoding(headers)?;
    // RFC 9113 section 8.2.1.  In HTTP/1, this white space is not part of the value.
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let has_blanks = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        is_blank(bytes.first()) || is_blank(bytes.last())
    };
    if headers.values().any(has_blanks) {
        return Err(malformed("a field value begins or ends with white space\n"));
    }
    let host = host(request).map_err(malformed)?;
    match (hosts, host) {
        (Hosts::Of(served, local), Some(host)) if !served.serves(host, *local) => {
            Err((StatusCode::MISDIRECTED_REQUEST, "this listener does not serve the host\n"))
        }
        _ => Ok(()),
    }
}

/// Returns the host that a request is for (RFC 9112 section 3.2, RFC 9113 section 8.3.1); `None` only for
/// HTTP/1.0.
fn host<B>(request: &Request<B>) -> Result<Option<Host<'_>>, &'static str> {
    let valid = |authority: &'_ str| Host::of_authority(authority).is_some();
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (_, Some(_)) => return Err("there is more than one Host field\n"),
        (None, None) => None,
        (Some(value), None) => match value.to_str() {
            Ok(text) if valid(text) => Some(text),
            _ => return Err("the Host field is not valid\n"),
        },
    };
    let authority = request.uri().authority().map(hyper::http::uri::Authority::as_str);
    if authority.is_some_and(|text| !valid(text)) {
        return Err("the authority is not valid\n");
    }
    let version = request.version();
    let host = match (authority, field) {
        (Some(authority), Some(field)) if version == Version::HTTP_2 => {
            if !authority.eq_ignore_ascii_case(field) {
                return Err("the Host field differs from the authority\n");
            }
            authority
        }
        (None, None) if version < Version::HTTP_11 => return Ok(None),
        (_, None) if version == Version::HTTP_11 => return Err("the Host field is missing\n"),
        // An authority in the target replaces Host (RFC 9112 section 3.2.2).
        (authority, field) => authority.or(field).ok_or("the authority is missing\n")?,
    };
    Ok(Host::of_authority(host))
}

/// Accepts only the transfer coding `chunked`, once.
fn check_transfer_encoding(headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    let mut chunked = 0;
    for value in headers.get_all(header::TRANSFER_ENCODING) {
        for coding in value.as_bytes().split(|byte| *byte == b',') {
            if !coding.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                let why = "the only transfer coding is chunked\n";
                return Err((StatusCode::NOT_IMPLEMENTED, why));
            }
            chunked += 1;
        }
    }
    if chunked > 1 {
        return Err((StatusCode::BAD_REQUEST, "chunked is applied more than once\n"));
    }
    Ok(())
}

/// Looks for a fragment in the request line of HTTP/1.  The library drops it (RFC 9112 section 3.2 has no
/// fragment in a target).
///
/// A request that arrives in one piece with the end of the one before it is not looked at: where it begins
/// is known to the library only.
#[derive(Debug, Default)]
pub(super) enum RequestLine {
    /// Empty lines may precede it (RFC 9112 section 2.2).
    #[default]
    Before,
    Inside,
    After,
}

impl RequestLine {
    /// Reads the next bytes of a request.  Returns true if the request line has a fragment.
    pub(super) fn has_fragment(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            match (&self, byte) {
                (Self::After, _) => return false,
                (Self::Before, b'\r' | b'\n') => {}
                (Self::Inside, b'\n') => *self = Self::After,
                (_, b'#') => return true,
                _ => *self = Self::Inside,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(version: Version, target: &str, fields: &[(&str, &str)]) -> u16 {
        let mut served = ServedHosts::default();
        assert!(served.add("gw.example"));
        let hosts = Hosts::Of(Arc::new(served), [10, 0, 0, 1].into());
        let mut request = Request::builder().version(version).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        refusal(&request, &hosts, false).map_or(200, |reply| reply.status().as_u16())
    }

    #[test]
    fn checks_the_host_of_http1() {
        let host = |value| ("host", value);
        for (target, fields, expected) in [
            ("/", &[host("gw.example")][..], 200),
            ("/", &[host("10.0.0.1:8443")], 200),
            ("/", &[], 400),
            ("/", &[host("gw.example"), host("gw.example")], 400),
            ("/", &[host("evil@gw.example")], 400),
            ("/", &[host("[::1]evil")], 400),
            ("/", &[host("")], 400),
            ("/", &[host("other.example")], 421),
            ("/", &[host("10.0.0.2")], 421),
            ("https://gw.example/", &[host("other.example")], 200),
            ("https://other.example/", &[host("gw.example")], 421),
            ("https://gw.example/", &[], 400),
            ("https://x@gw.example/", &[host("gw.example")], 400),
        ] {
            assert_eq!(status(Version::HTTP_11, target, fields), expected, "{target} {fields:?}");
        }
        assert_eq!(status(Version::HTTP_10, "/", &[]), 200);
        assert_eq!(status(Version::HTTP_10, "/", &[host("other.example")]), 421);
    }

    #[test]
    fn checks_the_authority_of_http2() {
        let host = |value| ("host", value);
        for (target, fields, expected) in [
            ("https://gw.example:1/", &[][..], 200),
            ("https://gw.example/", &[host("GW.example")], 200),
            ("/", &[host("gw.example")], 200),
            ("/", &[], 400),
            ("https://gw.example/", &[host("other.example")], 400),
            ("https://x@gw.example/", &[], 400),
            ("https://other.example/", &[], 421),
        ] {
            assert_eq!(status(Version::HTTP_2, target, fields), expected, "{target} {fields:?}");
        }
    }

    #[test]
    fn accepts_one_transfer_coding_only() {
        for (values, expected) in [
            (&["chunked"][..], 200),
            (&["Chunked"], 200),
            (&["gzip, chunked"], 501),
            (&["gzip", "chunked"], 501),
            (&["chunked, chunked"], 400),
            (&["chunked", "chunked"], 400),
        ] {
            let mut fields = vec![("host", "gw.example")];
            fields.extend(values.iter().map(|value| ("transfer-encoding", *value)));
            assert_eq!(status(Version::HTTP_11, "/", &fields), expected, "{values:?}");
        }
    }

    #[test]
    fn refuses_values_with_blanks_around_them() {
        for value in [" x", "x ", "\tx", "x\t"] {
            let fields = [("host", "gw.example"), ("x", value)];
            assert_eq!(status(Version::HTTP_2, "/", &fields), 400, "{value:?}");
        }
        assert_eq!(status(Version::HTTP_2, "/", &[("host", "gw.example"), ("x", "")]), 200);
    }

    #[test]
    fn finds_a_fragment_in_the_request_line_only() {
        for (request, expected) in [
            (&b"GET /jwks.json#x HTTP/1.1\r\nhost: x\r\n\r\n"[..], true),
            (b"\r\n\r\nGET /?a#x HTTP/1.1\r\nhost: x\r\n\r\n", true),
            (b"POST /jwks.json HTTP/1.1\r\nhost: x\r\nx: #\r\n\r\n#", false),
        ] {
            for size in 1..request.len() {
                let mut line = RequestLine::default();
                let found = request.chunks(size).any(|piece| line.has_fragment(piece));
                assert_eq!(found, expected, "pieces of {size} bytes");
            }
        }
    }

    #[test]
    fn closes_http1_connections_unless_only_the_host_differs() {
        let request = |host| Request::builder().header("host", host).body(()).expect("a request");
        let mut served = ServedHosts::default();
        assert!(served.add("gw.example"));
        let hosts = Hosts::Of(Arc::new(served), [10, 0, 0, 1].into());
        let connection = |host| {
            let reply = refusal(&request(host), &hosts, false).expect("refused");
            reply.headers().get(header::CONNECTION).cloned()
        };
        assert_eq!(connection("[::1]evil"), Some(HeaderValue::from_static("close")));
        assert_eq!(connection("other.example"), None);
    }
}
