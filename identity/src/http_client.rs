//! The one place that builds outgoing HTTP clients: our TLS provider and roots, the proxy from the environment (never
//! for loopback and link-local addresses, whatever the environment says), a deadline and a bound for every body, no
//! redirects, no retries. Plain HTTP goes to loopback, and to link-local addresses where the caller means a metadata
//! service. A failure names the host and the cause, never a query, a header or a body. Bodies are wiped after use.
use std::{error::Error as _, net::IpAddr, path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::{Client, RequestBuilder, redirect};
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::tls::{self, TlsError, Trust};

/// A connection that is not there after this long will not come.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Token and key endpoints are asked every few minutes at most; an idle connection would only be found dead.
const IDLE: Duration = Duration::from_secs(60);

/// Room for a body whose length is not told; a token answer fits.
const USUAL_BODY: usize = 8 * 1024;

/// What one exchange may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For everything, from the look-up of the name to the last byte of the body.
    pub deadline: Duration,
    /// Largest body taken, in bytes.
    pub body: usize,
}

/// An answer, whatever its status; redirects are answers too.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// The whole body, within its limit.
    pub body: Bytes,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The text is no URL that we would ask.
    #[error("{url}: {message}")]
    Url {
        /// The URL without its query.
        url: String,
        /// What is wrong with it.
        message: &'static str,
    },
    /// Roots could not be loaded.
    #[error("no HTTP client can be built")]
    Tls(#[from] TlsError),
    /// The client library refused its configuration.
    #[error("no HTTP client can be built: {0}")]
    Build(String),
    /// The deadline passed.
    #[error("{host} did not answer within {} s", .deadline.as_secs_f32())]
    Deadline {
        /// Who.
        host: String,
        /// How long was waited.
        deadline: Duration,
    },
    /// No connection, or it broke.
    #[error("{host} cannot be reached: {cause}")]
    Unreachable {
        /// Who.
        host: String,
        /// The chain of causes, in one line.
        cause: String,
    },
    /// The body is larger than it may be.
    #[error("{host} answered with more than {limit} bytes")]
    TooLarge {
        /// Who.
        host: String,
        /// The bound.
        limit: usize,
    },
}

/// Parses a URL and refuses what must not carry a secret: plain HTTP beyond loopback, user names, other schemes.
pub fn checked(text: &str) -> Result<Url, HttpError> {
    checked_where(text, is_loopback, "plain http is for loopback only; use https")
}

/// The same for metadata services, which speak plain HTTP on link-local addresses too.
pub fn checked_near(text: &str) -> Result<Url, HttpError> {
    checked_where(text, is_near, "plain http is for loopback and link-local addresses only; use https")
}

fn checked_where(text: &str, plain: fn(&Url) -> bool, message: &'static str) -> Result<Url, HttpError> {
    let short = || text.split(['?', '#']).next().unwrap_or_default().chars().take(200).collect();
    let refuse = |message| HttpError::Url { url: short(), message };
    let url = Url::parse(text).map_err(|_| refuse("is not a URL"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(HttpError::Url { url: "(with credentials)".into(), message: "a URL must not hold credentials" });
    }
    match url.scheme() {
        "https" if url.host().is_some() => Ok(url),
        "http" if plain(&url) => Ok(url),
        "http" => Err(refuse(message)),
        _ => Err(refuse("must begin with https://")),
    }
}

/// Whether the host of a URL is this machine.
pub fn is_loopback(url: &Url) -> bool {
    address(url).is_some_and(|address| address.is_loopback()) || is_localhost(url)
}

/// Whether the host of a URL is this machine, or an address that no router forwards: where metadata services live. A
/// proxy would ask in its own name, for its own machine.
pub fn is_near(url: &Url) -> bool {
    is_loopback(url)
        || address(url).is_some_and(|address| match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        })
}

/// The address that a URL names, if it names one; IPv4 inside IPv6 is the IPv4 that it carries.
fn address(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(IpAddr::V4(address)),
        Host::Ipv6(address) => Some(IpAddr::V6(address).to_canonical()),
        Host::Domain(_) => None,
    }
}

fn is_localhost(url: &Url) -> bool {
    matches!(url.host(), Some(Host::Domain(name)) if name.eq_ignore_ascii_case("localhost"))
}

/// An HTTP client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HttpClient {
    /// Absent where no proxy may ever be asked.
    proxied: Option<Client>,
    straight: Client,
}

impl HttpClient {
    /// A client that trusts these roots; relative paths are below `base`.
    pub fn new(trust: &Trust, base: &Path) -> Result<Self, HttpError> {
        let builder = builder(trust, base)?;
        Ok(Self { proxied: Some(build(builder())?), straight: build(builder().no_proxy())? })
    }

    /// A client that asks no proxy, whatever the environment says: for what is part of the same cluster or machine.
    pub fn straight(trust: &Trust, base: &Path) -> Result<Self, HttpError> {
        Ok(Self { proxied: None, straight: build(builder(trust, base)?().no_proxy())? })
    }

    /// A client for one endpoint: roots are loaded only if the endpoint is asked over TLS. `ca` is a PEM file trusted
    /// beside the system's roots.
    pub fn for_endpoint(endpoint: &Url, ca: Option<&Path>, base: &Path) -> Result<Self, HttpError> {
        let tls = endpoint.scheme() == "https";
        let files = ca.filter(|_| tls).map(Path::to_owned).into_iter().collect();
        Self::new(&Trust { system: tls, files }, base)
    }

    /// GET.
    pub async fn get(&self, url: &Url, limits: Limits) -> Result<Answer, HttpError> {
        self.send(Method::GET, url, HeaderMap::new(), Bytes::new(), limits).await
    }

    /// POST of a form. The fields may be secrets: they go into the body and nowhere else.
    pub async fn post_form(&self, url: &Url, fields: &[(&str, &str)], limits: Limits) -> Result<Answer, HttpError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        self.send(Method::POST, url, headers, Bytes::from_owner(form(fields)), limits).await
    }

    /// Any request with these header fields and this body; JSON is asked for.
    pub async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
        limits: Limits,
    ) -> Result<Answer, HttpError> {
        let mut request = self.client(url).request(method, url.clone()).header(header::ACCEPT, "application/json");
        if !body.is_empty() {
            request = request.body(body);
        }
        exchange(request.headers(headers), url, limits).await
    }

    fn client(&self, url: &Url) -> &Client {
        self.proxied.as_ref().filter(|_| !is_near(url)).unwrap_or(&self.straight)
    }
}

/// Makes builders with the same roots, read once.
fn builder(trust: &Trust, base: &Path) -> Result<impl Fn() -> reqwest::ClientBuilder, HttpError> {
    let tls = tls::client(tls::roots(trust, base)?, &[b"http/1.1"]);
    Ok(move || {
        Client::builder()
            .tls_backend_preconfigured(tls.as_ref().clone())
            .user_agent(concat!("causeway-identity/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(CONNECT_DEADLINE)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .http1_only()
    })
}

fn build(builder: reqwest::ClientBuilder) -> Result<Client, HttpError> {
    builder.build().map_err(|error| HttpError::Build(causes(&error)))
}

fn form(fields: &[(&str, &str)]) -> Zeroizing<String> {
    // Reserved at once: growing would leave copies behind in freed memory. An encoded byte has three at most.
    let room = fields.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    let mut form = url::form_urlencoded::Serializer::new(String::with_capacity(room));
    Zeroizing::new(form.extend_pairs(fields).finish())
}

async fn exchange(request: RequestBuilder, url: &Url, limits: Limits) -> Result<Answer, HttpError> {
    let host = || url.host_str().unwrap_or_default().to_owned();
    let broken = |error: reqwest::Error| match error.is_timeout() {
        true => HttpError::Deadline { host: host(), deadline: limits.deadline },
        false => HttpError::Unreachable { host: host(), cause: causes(&error) },
    };
    let mut response = request.timeout(limits.deadline).send().await.map_err(broken)?;
    let told = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(USUAL_BODY);
    let mut body = Zeroizing::new(Vec::with_capacity(told.min(limits.body)));
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > limits.body {
            return Err(HttpError::TooLarge { host: host(), limit: limits.body });
        }
        body.extend_from_slice(&chunk);
    }
    let headers = std::mem::take(response.headers_mut());
    Ok(Answer { status: response.status(), headers, body: Bytes::from_owner(body) })
}

/// The innermost causes in one line. The outermost error is left out, because it repeats the URL.
fn causes(error: &reqwest::Error) -> String {
    let mut texts = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        texts.push(cause.to_string());
        next = cause.source();
    }
    texts.dedup();
    if texts.is_empty() { "the exchange failed".to_owned() } else { texts.join(": ") }
}

#[cfg(test)]
mod tests {
    use std::{
        process::Command,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::testing::{HttpServer, Reply};

    const LIMITS: Limits = Limits { deadline: Duration::from_secs(10), body: 1024 };

    fn client() -> HttpClient {
        HttpClient::new(&Trust { system: false, files: vec![] }, Path::new("")).unwrap()
    }

    /// Does nothing by itself: [`a_proxy_is_used_for_others_and_never_for_loopback_or_metadata_addresses`] runs it in a process whose
    /// environment names a proxy.
    #[tokio::test]
    async fn inside_an_environment_with_a_proxy() {
        let (Ok(near), Ok(far)) = (std::env::var("TEST_NEAR"), std::env::var("TEST_FAR")) else { return };
        assert_eq!(client().get(&checked(&near).unwrap(), LIMITS).await.unwrap().status, StatusCode::OK);
        let error = client().get(&checked(&far).unwrap(), LIMITS).await.unwrap_err();
        assert!(matches!(error, HttpError::Unreachable { .. }), "{error}");
        // Nobody need answer there; it must not be the proxy that is asked.
        let soon = Limits { deadline: Duration::from_millis(50), ..LIMITS };
        let _nobody = client().get(&checked_near("http://169.254.77.77:9/").unwrap(), soon).await;
        let never = HttpClient::straight(&Trust { system: false, files: vec![] }, Path::new("")).unwrap();
        never.get(&checked(&far).unwrap(), soon).await.unwrap_err();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_proxy_is_used_for_others_and_never_for_loopback_or_metadata_addresses() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let sink = asked.clone();
        let proxy = HttpServer::start(move |request| {
            sink.lock().unwrap().push(format!("{} {}", request.method, request.path));
            Reply::status(502)
        })
        .await;
        let near = HttpServer::start(|_| Reply::json("{}".to_owned())).await;
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "http_client::tests::inside_an_environment_with_a_proxy"]);
        for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env(name, proxy.url(""));
        }
        command.env_remove("NO_PROXY").env_remove("no_proxy").env_remove("REQUEST_METHOD");
        command.env("TEST_NEAR", near.url("/")).env("TEST_FAR", "https://login.invalid/");
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(*asked.lock().unwrap(), ["CONNECT login.invalid:443"]);
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        for good in ["https://login.example.com/x", "http://127.0.0.1:8080/", "http://[::1]/", "http://localhost:1/"] {
            checked(good).unwrap();
        }
        for bad in ["http://example.com/", "http://127.0.0.1.example.com/", "ftp://127.0.0.1/", "keys.json", "http://"]
        {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn metadata_services_may_be_link_local() {
        for good in
            ["http://169.254.169.254/x", "http://[fe80::1]/", "http://[::ffff:169.254.1.1]/", "http://127.0.0.1/"]
        {
            assert!(is_near(&checked_near(good).unwrap()), "{good}");
        }
        assert!(checked("http://169.254.169.254/").is_err());
        for bad in
            ["http://10.0.0.1/", "http://169.255.0.1/", "http://169.254.169.254.example.com/", "http://[fd00::1]/"]
        {
            assert!(checked_near(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refused_url_is_told_without_query_or_credentials() {
        let error = checked("http://example.com/keys?sig=hunter2").unwrap_err().to_string();
        assert!(error.contains("example.com/keys") && !error.contains("hunter2"), "{error}");
        assert!(!checked("https://me:hunter2@example.com").unwrap_err().to_string().contains("hunter2"));
    }
}
