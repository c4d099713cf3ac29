//! The proxy as the environment names it, with the names and the precedence that curl has: lower case first, then upper
//! case; `https_proxy` before `all_proxy`. All our dials beyond loopback are TLS, so `http_proxy` says nothing about them.
use std::{ffi::OsString, path::Path};

use identity::tls::Trust;

use super::{NoProxy, Proxy};

/// Variables that name a proxy; the first one with a value counts.
const PROXY: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// Variables that name exceptions.
const NO_PROXY: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// Reads the variables. An error names the variable and never its value, which may hold a password.
pub(super) fn from_environment(
    read: impl Fn(&str) -> Option<OsString>,
    trust: &Trust,
    base: &Path,
) -> Result<(Option<Proxy>, NoProxy), String> {
    let first = |names: &[&'static str]| {
        let given = names.iter().filter_map(|name| Some((*name, read(name)?)));
        let mut given = given.filter(|(_, value)| !value.is_empty());
        given.next().map(|(name, value)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(format!("the variable {name} is not UTF-8")),
        })
    };
    let Some((name, url)) = first(&PROXY).transpose()? else { return Ok((None, NoProxy::default())) };
    let except = first(&NO_PROXY).transpose()?.map(|(_, text)| NoProxy::lenient(&text)).unwrap_or_default();
    let proxy = Proxy::from_variable(&url, trust, base)
        .map_err(|why| format!("the variable {name} {why}; correct it, or write `proxy: none` to dial straight"))?;
    Ok((Some(proxy), except))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<(Option<String>, NoProxy), String> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
        from_environment(find, &Trust { system: false, files: Vec::new() }, Path::new("."))
            .map(|(proxy, except)| (proxy.map(|proxy| proxy.to_string()), except))
    }

    fn proxy(variables: &[(&str, &str)]) -> Option<String> {
        read(variables).unwrap().0
    }

    #[test]
    fn the_lower_case_name_and_the_narrower_one_come_first() {
        let all = [
            ("ALL_PROXY", "http://d:1"),
            ("all_proxy", "http://c:1"),
            ("HTTPS_PROXY", "http://b:1"),
            ("https_proxy", "http://a:1"),
        ];
        for (rest, expected) in [(4, "http://a:1"), (3, "http://b:1"), (2, "http://c:1"), (1, "http://d:1")] {
            assert_eq!(proxy(&all[..rest]).as_deref(), Some(expected));
        }
        assert_eq!(proxy(&[]), None);
        assert_eq!(proxy(&[("https_proxy", ""), ("HTTPS_PROXY", "b:1")]).as_deref(), Some("http://b:1"));
        assert_eq!(proxy(&[("HTTP_PROXY", "http://plain:1"), ("http_proxy", "http://plain:1")]), None);
    }

    #[test]
    fn every_spelling_of_a_proxy_is_understood() {
        for (value, expected) in [
            ("proxy.corp:3128", "http://proxy.corp:3128"),
            ("http://proxy.corp:3128/", "http://proxy.corp:3128"),
            ("http://proxy.corp", "http://proxy.corp:80"),
            ("https://proxy.corp", "https://proxy.corp:443"),
            ("http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
            ("http://us%40er:hunter2@proxy.corp:3128", "http://proxy.corp:3128"),
        ] {
            assert_eq!(proxy(&[("HTTPS_PROXY", value)]).as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_named_by_its_variable_and_not_by_its_value() {
        for value in
            ["socks5://u:hunter2@proxy:1080", "http://u:hunter2@", "http://u:hunter2@p/hunter2", "hunter2 hunter2"]
        {
            let error = read(&[("all_proxy", value)]).unwrap_err();
            assert!(error.contains("all_proxy") && !error.contains("hunter2"), "{error}");
        }
        let error = read(&[("ALL_PROXY", "socks5://proxy:1080")]).unwrap_err();
        assert!(error.contains("http://") && error.contains("proxy: none"), "{error}");
    }

    #[test]
    fn exceptions_count_with_the_proxy_of_the_environment() {
        let (_, except) = read(&[("HTTPS_PROXY", "p:1"), ("NO_PROXY", "relay.example.com")]).unwrap();
        assert!(except.covers("relay.example.com", 443));
        let (_, except) = read(&[("HTTPS_PROXY", "p:1"), ("NO_PROXY", "*"), ("no_proxy", "other")]).unwrap();
        assert!(!except.covers("relay.example.com", 443));
    }
}
