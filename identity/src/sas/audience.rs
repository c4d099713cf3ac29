//! Whether the resource in a token covers what was asked for. Clients write the same place in many ways
//! (`http://host:443/path`, `sb://host`, `http://host/path/`), so scheme, port, case and outer slashes do not count;
//! host and whole path segments do. The path in it is that of an address, with escapes of its own.
use percent_encoding::percent_decode_str;

/// Schemes that clients of a relay sign with.
const SCHEMES: [&str; 5] = ["http", "https", "sb", "ws", "wss"];

/// `resource` is the raw `sr`; `path` what was asked for, entity and suffix.
pub(super) fn covers(resource: &str, host: &str, path: &str) -> bool {
    let Ok(resource) = percent_decode_str(resource).decode_utf8() else { return false };
    let rest = match resource.split_once("://") {
        Some((scheme, rest)) if SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known)) => rest,
        Some(_) => return false,
        None => &resource,
    };
    let (authority, signed) = rest.split_once('/').unwrap_or((rest, ""));
    let Some(signed_host) = host_of(authority) else { return false };
    if !signed_host.eq_ignore_ascii_case(host.trim_matches(['[', ']'])) {
        return false;
    }
    // The clients sign the address as they dial it; `path` has its escapes resolved.
    let signed = percent_decode_str(signed).decode_utf8_lossy();
    let mut asked = segments(path);
    segments(&signed).all(|segment| asked.next().is_some_and(|wanted| wanted.eq_ignore_ascii_case(segment)))
}

/// The host without its port; `None` when the authority holds anything that no relay's authority has.
fn host_of(authority: &str) -> Option<&str> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return is_port(port).then_some(host);
    }
    let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
    (!host.is_empty() && !host.contains('@') && is_port(port)).then_some(host)
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}
