//! Header fields across the border: what a relay says becomes a head that HTTP allows or nothing at all, what a handler
//! answers becomes the JSON of a response. What belongs to one connection alone never crosses, in either direction.
use http::{HeaderMap, HeaderName, HeaderValue, header};
use proto::hybrid::message::Headers;

/// Fields of one request that are taken; browsers send some thirty.
const FIELDS_MAX: usize = 256;

/// Fields that belong to a connection (RFC 9110 section 7.6.1, and `Close`, which Azure's documentation lists). A body is
/// framed anew on each connection, hence neither its length nor an expectation of the sender's goes on.
const HOP_BY_HOP: [&str; 13] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "close",
    "content-length",
    "expect",
    "http2-settings",
];

/// Why the fields of a request are not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadFields {
    #[error("a header field has a name or a value that HTTP does not allow")]
    Field,
    #[error("the request has more than {FIELDS_MAX} header fields")]
    TooMany,
    #[error("the request says more than one length of its body")]
    Length,
}

/// A request's fields as HTTP has them, and the length of its body where one is said.
pub(super) fn of_request(fields: &Headers) -> Result<(HeaderMap, Option<u64>), BadFields> {
    if fields.0.len() > FIELDS_MAX {
        return Err(BadFields::TooMany);
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &fields.0 {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| BadFields::Field)?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| BadFields::Field)?;
        headers.append(name, value);
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).into_iter();
    let length = match (lengths.next(), lengths.next()) {
        (None, _) => None,
        (Some(length), None) => Some(number(length).ok_or(BadFields::Length)?),
        (Some(_), Some(_)) => return Err(BadFields::Length),
    };
    strip(&mut headers);
    Ok((headers, length))
}

/// An answer's fields as JSON has them. A relay that takes no lists gets several fields of one name as one, with commas:
/// nothing is lost, though clients read one `Set-Cookie` where there were two. Bytes that are no UTF-8 are read as
/// ISO 8859-1, as they were meant before there was anything else.
pub(super) fn of_answer(headers: &HeaderMap, lists: bool) -> Headers {
    let mut own = headers.clone();
    strip(&mut own);
    let mut fields = Headers::default();
    for (name, value) in &own {
        let value = match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => text.to_owned(),
            Err(_) => value.as_bytes().iter().copied().map(char::from).collect(),
        };
        if lists && name == header::SET_COOKIE {
            fields.0.push((name.as_str().to_owned(), value));
        } else {
            fields.join(name.as_str(), &value);
        }
    }
    fields
}

/// A number as HTTP writes it: digits alone.
fn number(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Headers {
        Headers(list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn what_belongs_to_a_connection_does_not_cross() {
        let said = fields(&[
            ("Host", "ns"),
            ("Via", "1.1 ns"),
            ("Connection", "x-mine, close"),
            ("X-Mine", "1"),
            ("Keep-Alive", "1"),
            ("Transfer-Encoding", "chunked"),
            ("TE", "trailers"),
            ("Upgrade", "h2c"),
            ("Proxy-Authorization", "Basic x"),
            ("Expect", "100-continue"),
            ("Content-Length", "7"),
            ("Accept", "a"),
            ("accept", "b"),
        ]);
        let (headers, length) = of_request(&said).unwrap();
        let names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!((names, length), (vec!["host", "via", "accept"], Some(7)));
        assert_eq!(headers.get_all("accept").iter().count(), 2);
        let answer = of_answer(&of_request(&fields(&[("A", "1")])).unwrap().0, false);
        assert_eq!(answer, fields(&[("a", "1")]));
    }

    #[test]
    fn fields_that_would_break_a_head_are_refused_whole() {
        for (name, value) in [
            ("X", "a\r\nInjected: 1"),
            ("X", "a\nb"),
            ("X", "a\0b"),
            ("X Y", "a"),
            ("X:", "a"),
            (":path", "/"),
            ("", "a"),
            ("X\r\nY", "a"),
        ] {
            assert_eq!(of_request(&fields(&[(name, value)])), Err(BadFields::Field), "{name:?}: {value:?}");
        }
        for lengths in [&[("content-length", "1"), ("Content-Length", "2")][..], &[("Content-Length", "+1")]] {
            assert_eq!(of_request(&fields(lengths)), Err(BadFields::Length), "{lengths:?}");
        }
        let most = vec![("x", "y"); FIELDS_MAX];
        assert!(of_request(&fields(&most)).is_ok());
        assert_eq!(of_request(&fields(&[&most[..], &[("x", "y")]].concat())), Err(BadFields::TooMany));
    }

    #[test]
    fn cookies_stay_apart_where_the_relay_takes_lists_and_are_joined_where_it_does_not() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("set-cookie", "a=1"), ("vary", "x"), ("set-cookie", "b=2"), ("vary", "y")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(
            of_answer(&headers, true),
            fields(&[("set-cookie", "a=1"), ("set-cookie", "b=2"), ("vary", "x, y")])
        );
        assert_eq!(of_answer(&headers, false), fields(&[("set-cookie", "a=1, b=2"), ("vary", "x, y")]));
    }
}
