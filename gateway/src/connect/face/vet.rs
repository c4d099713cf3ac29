//! What a face for bytes may not carry: HTTP that a web page in a browser on this machine sends to a local port. No page
//! can say anything but HTTP there, so whatever begins differently passes at once. A request passes if it bears no mark of
//! a browser and its `Host` is one that this face answers to, as on an HTTP face (SD-3); a face that is meant for browsers
//! says `allow_http: true`.
//!
//! Only the first request of a connection is judged. That is enough: a connection that a browser has opened is refused
//! with its first request, and no other program lends its own to a page.
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{guard::Guard, refusal::Refusal};

/// Longest head that is judged. A longer one comes from nobody who could not also write a shorter one.
pub(super) const HEAD_MAX: usize = 16 * 1024;
/// Most fields of a head: what browsers and common servers allow themselves.
pub(super) const FIELDS_MAX: usize = 100;

/// Judges the first bytes of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vet<'a> {
    guard: &'a Guard,
}

/// What the bytes so far say.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Carry them.
    Pass,
    /// A web page may have sent them.
    Refuse(Box<Refusal>),
    /// So far one word, which other protocols begin with, too.
    Word,
    /// The head of an HTTP request that is not complete.
    More,
}

/// How far a request line has come.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// It is none.
    Not,
    /// Nothing but a method.
    Word,
    /// More than that, not complete.
    Begun,
    /// `method target HTTP/1.`
    Complete,
}

impl<'a> Vet<'a> {
    pub(super) fn new(guard: &'a Guard) -> Self {
        Self { guard }
    }

    /// `ended`: nothing follows.
    pub(super) fn judge(&self, bytes: &[u8], ended: bool) -> Verdict {
        match line(bytes) {
            Line::Not => Verdict::Pass,
            Line::Word | Line::Begun if ended => Verdict::Pass,
            Line::Word | Line::Begun | Line::Complete if bytes.len() > HEAD_MAX => Verdict::Refuse(Box::new(
                Refusal::invalid(format!("what may be an HTTP request has a head above {HEAD_MAX} bytes")),
            )),
            Line::Word => Verdict::Word,
            Line::Begun => Verdict::More,
            Line::Complete => match self.head(bytes, ended) {
                Ok(true) => Verdict::Pass,
                Ok(false) => Verdict::More,
                Err(refusal) => Verdict::Refuse(Box::new(refusal.over_bytes())),
            },
        }
    }

    /// Whether the head is complete, and harmless.
    fn head(&self, bytes: &[u8], ended: bool) -> Result<bool, Refusal> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) if ended => return Err(Refusal::invalid("the head of a request broke off")),
            Ok(httparse::Status::Partial) => return Ok(false),
            Err(error) => return Err(Refusal::invalid(format!("the head of a request is malformed: {error}"))),
        }
        let fields = field_map(request.headers)?;
        if let Some(mark) = fields.keys().find(|name| is_of_browsers(name)) {
            return Err(Refusal::from_web_page(format!(
                "this face carries bytes, not requests of a browser, which the field `{mark}` betrays"
            )));
        }
        self.guard.check_host(&fields)?;
        Ok(true)
    }
}

/// Fields that every current browser adds to what a page or its user makes it send, and that no page can leave out.
fn is_of_browsers(name: &HeaderName) -> bool {
    name == http::header::ORIGIN || name.as_str().starts_with("sec-fetch-")
}

/// The fields of a parsed head.
pub(super) fn field_map(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, Refusal> {
    let malformed = |_| Refusal::invalid("a field of the head is malformed");
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| malformed(()))?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| malformed(()))?;
        map.append(name, value);
    }
    Ok(map)
}

fn line(bytes: &[u8]) -> Line {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let method = bytes.iter().take_while(|byte| token(byte)).count();
    let rest = match &bytes[method..] {
        [] => return Line::Word,
        [b' ', rest @ ..] if method > 0 => rest,
        _ => return Line::Not,
    };
    let target = rest.iter().take_while(|byte| **byte > b' ' && **byte != 0x7f).count();
    let rest = match &rest[target..] {
        [] => return Line::Begun,
        [b' ', rest @ ..] if target > 0 => rest,
        _ => return Line::Not,
    };
    const VERSION: &[u8] = b"HTTP/1.";
    let common = rest.len().min(VERSION.len());
    match rest[..common] == VERSION[..common] {
        true if common == VERSION.len() => Line::Complete,
        true => Line::Begun,
        false => Line::Not,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::connect::{config::FaceConfig, place::Place};

    fn guard() -> Guard {
        let config: FaceConfig =
            serde_saphyr::from_str("{ tcp: 127.0.0.1:5432, to: a/db.test.svc:5432, hosts: [db.local] }").unwrap();
        Guard::new(&Place::try_from("127.0.0.1:5432".to_owned()).unwrap(), &config)
    }

    fn verdict(bytes: &[u8], ended: bool) -> String {
        match Vet::new(&guard()).judge(bytes, ended) {
            Verdict::Pass => "pass".to_owned(),
            Verdict::Refuse(refusal) => refusal.status.as_u16().to_string(),
            Verdict::Word => "word".to_owned(),
            Verdict::More => "more".to_owned(),
        }
    }

    const POST: &str =
        "POST / HTTP/1.1\r\nhost: 127.0.0.1:5432\r\ncontent-length: 9\r\norigin: https://evil.example\r\n\r\n";

    #[test]
    fn what_no_browser_says_first_passes_at_once() {
        let startup = [0, 0, 0, 8, 4, 210, 22, 47];
        for bytes in [
            startup.as_slice(),
            b"\x16\x03\x01\x02\x00\x01",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"PING\r\n",
            b"EHLO client.example\r\n",
            b"GET /\r\n",
            b"SET key value\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b" GET / HTTP/1.1\r\n",
        ] {
            assert_eq!(verdict(bytes, false), "pass", "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_request_of_a_page_is_refused_wherever_it_is_cut() {
        assert_eq!(verdict(POST.as_bytes(), false), "403");
        let word = "POST".len();
        for cut in 1..POST.len() {
            let (open, ended) = (verdict(&POST.as_bytes()[..cut], false), verdict(&POST.as_bytes()[..cut], true));
            if cut <= word {
                assert_eq!((open.as_str(), ended.as_str()), ("word", "pass"), "{cut}");
            } else if cut < "POST / HTTP/1.".len() {
                assert_eq!((open.as_str(), ended.as_str()), ("more", "pass"), "{cut}");
            } else {
                assert_eq!((open.as_str(), ended.as_str()), ("more", "400"), "{cut}");
            }
        }
    }

    #[test]
    fn marks_of_browsers_are_refused_and_so_is_a_host_that_is_not_listed() {
        for (fields, expected) in [
            ("host: 127.0.0.1:5432\r\n", "pass"),
            ("host: localhost:5432\r\nuser-agent: curl/8\r\n", "pass"),
            ("host: db.test.svc\r\n", "pass"),
            ("host: db.local:99\r\n", "pass"),
            ("host: rebound.example:5432\r\nuser-agent: Mozilla/5.0\r\n", "403"),
            ("host: 127.0.0.1:5432\r\nsec-fetch-site: none\r\n", "403"),
            ("host: 127.0.0.1:5432\r\nSec-Fetch-Mode: no-cors\r\n", "403"),
            ("host: 127.0.0.1:5432\r\nORIGIN: null\r\n", "403"),
            ("", "400"),
            ("host: 127.0.0.1:5432\r\nhost: 127.0.0.1:5432\r\n", "400"),
            ("host : 127.0.0.1:5432\r\n", "400"),
        ] {
            for method in ["GET", "POST", "ANYTHING", "m-search"] {
                let head = format!("{method} http://x/%20 HTTP/1.1\r\n{fields}\r\n");
                assert_eq!(verdict(head.as_bytes(), false), expected, "{head}");
            }
        }
    }

    #[test]
    fn a_head_is_judged_up_to_its_limit_and_never_let_through_beyond_it() {
        for beginning in ["A", "A /", "A / HTTP/1.1\r\nhost: localhost:5432\r\nx: "] {
            let mut bytes = beginning.as_bytes().to_vec();
            bytes.resize(HEAD_MAX, b'a');
            assert_ne!(verdict(&bytes, false), "pass", "{beginning}");
            assert_ne!(verdict(&bytes, false), "400", "{beginning}");
            bytes.push(b'a');
            assert_eq!(verdict(&bytes, false), "400", "{beginning}");
        }
        let fields = |count| {
            let more = (1..count).map(|number| format!("x-{number}: y\r\n")).collect::<String>();
            format!("GET / HTTP/1.1\r\nhost: localhost:5432\r\n{more}\r\n")
        };
        assert_eq!(verdict(fields(FIELDS_MAX).as_bytes(), false), "pass");
        assert_eq!(verdict(fields(FIELDS_MAX + 1).as_bytes(), false), "400");
    }

    proptest! {
        #[test]
        fn nothing_with_an_origin_passes_however_it_is_written(
            method in "[!#-'*+.0-9A-Z^-z|~-]{1,12}", target in "[!-~]{1,40}", spaces in " {0,3}", origin in "[ -~]{0,30}",
        ) {
            let head = format!("{method} {target} HTTP/1.1\r\nHost: localhost:5432\r\nOrigin:{spaces}{origin}\r\n\r\n");
            prop_assert_ne!(verdict(head.as_bytes(), false), "pass");
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), ended: bool) {
            verdict(&bytes, ended);
        }
    }
}
