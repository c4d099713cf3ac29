//! Heads of HTTP requests that a relay describes in JSON, and of answers on their way back: whatever the text, nothing
//! panics; a target that is taken means one path to every reader and no other host; what becomes a head is one, without a
//! field that belongs to a connection.
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use proto::hybrid::{address::segments, message::Headers};

#[path = "../../../relay/src/listen/http/fields.rs"]
mod fields;
#[path = "../../../relay/src/listen/http/target.rs"]
mod target;

/// What must never cross: a head with one of these could be read in two ways.
const FRAMING: [&str; 5] = ["connection", "content-length", "transfer-encoding", "upgrade", "trailer"];

/// The first line is a target; each other is a field.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    target(first);
    let list: Vec<(String, String)> = rest
        .split('\n')
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim_start_matches(' ').to_owned()))
        .collect();
    request(&Headers(list.clone()));
    answer(&list);
}

/// Inputs that reach deep: targets that servers read in several ways, fields that smuggle.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "/hyco/sub/a%2Fb?x=1&&y=//z\nHost: ns\nVia: 1.1 ns\nAccept: a\naccept: b",
        "//evil.example/hyco\nConnection: close, x-mine\nX-Mine: 1\nTransfer-Encoding: chunked\nContent-Length: 7",
        "/hyco/%2e%2e/x\nSet-Cookie: a=1\nset-cookie: b=2, c\nExpect: 100-continue",
        "/hyco//x\nContent-Length: +7\nContent-Length: 7\nX: a\rInjected: 1",
        "http://169.254.169.254/hyco\n: empty\nX Y: space\nX-\u{e9}: latin",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn target(text: &str) {
    let Ok(checked) = target::check(text, &segments("hyco")) else { return };
    assert_eq!(checked.whole.as_str(), text, "a target is taken as it is or not at all");
    let below = checked.below.as_str();
    assert!(
        below.starts_with('/') && !below.starts_with("//") && text.ends_with(below.trim_start_matches('/')),
        "{below}"
    );
    let uri: Uri = format!("http://host{below}").parse().expect("it can stand behind a host");
    assert_eq!((uri.host(), uri.path_and_query()), (Some("host"), Some(&checked.below)));
    let path = below.split('?').next().unwrap_or_default();
    assert!(segments(path).iter().all(|segment| segment != ".." && segment != "."), "{below}");
}

fn request(list: &Headers) {
    let Ok((headers, _)) = fields::of_request(list) else { return };
    is_clean(&headers);
    for (name, value) in &headers {
        let came = list
            .0
            .iter()
            .any(|(other, text)| other.eq_ignore_ascii_case(name.as_str()) && text.as_bytes() == value.as_bytes());
        assert!(came, "{name} is made up");
    }
}

fn answer(list: &[(String, String)]) {
    let mut headers = HeaderMap::new();
    for (name, value) in list {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    }
    for lists in [false, true] {
        let said = fields::of_answer(&headers, lists);
        let (back, _) = fields::of_request(&said).expect("what we say is a head");
        is_clean(&back);
        let names = |headers: &HeaderMap| headers.keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>();
        let mut own = headers.clone();
        for name in headers.keys().filter(|name| !back.contains_key(*name)) {
            own.remove(name);
        }
        let (mut left, mut crossed) = (names(&own), names(&back));
        left.sort();
        crossed.sort();
        assert_eq!(left, crossed, "only whole fields are left out");
    }
}

fn is_clean(headers: &HeaderMap) {
    for name in FRAMING {
        assert!(!headers.contains_key(name), "{name} crossed");
    }
    for value in headers.values() {
        assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{value:?}");
    }
}
