//! One HTTP proxy: where it is, how it is trusted, who we are to it, and the tunnel that it is asked for.
use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use daemon::config::SecretRef;
use http::{HeaderValue, Uri};
use identity::{
    secret::Secret,
    tls::{Trust, client, roots},
};
use percent_encoding::percent_decode_str;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Carrier, ProxyError, ProxySettings, authority, carrier::Tunnel, first_of, is_host, resolve, tunnel};
use crate::transport::{Link, is_untrusted};

/// For the proxy's answer. It connects to the destination meanwhile; what it cannot do in this time would come too late
/// for every caller.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// An HTTP proxy. Displayed as its address, without credentials.
#[derive(Debug)]
pub struct Proxy {
    tls: Option<Arc<ClientConfig>>,
    host: String,
    port: u16,
    login: Option<Login>,
}

/// Who we are to it.
#[derive(Debug)]
struct Login {
    user: String,
    password: Password,
}

#[derive(Debug)]
enum Password {
    Known(Secret),
    Kept(SecretRef, PathBuf),
}

impl Proxy {
    /// From a file's section. An error is a key of the section and what is wrong with its value.
    pub(super) fn open(settings: &ProxySettings, trust: &Trust, base: &Path) -> Result<Self, (&'static str, String)> {
        let url = Url::parse(&settings.url).map_err(|why| ("url", why.to_owned()))?;
        if url.login.is_some() {
            return Err((
                "url",
                "must not hold user and password; write `user` and `password: { file: … }`".to_owned(),
            ));
        }
        let login = match (&settings.user, &settings.password) {
            (None, None) => None,
            (Some(_), None) => return Err(("password", "is missing beside `user`".to_owned())),
            (None, Some(_)) => return Err(("user", "is missing beside `password`".to_owned())),
            (Some(user), Some(password)) => {
                // Read now, so that a wrong path ends the start and not each dial.
                password.read(base).map_err(|error| ("password", error.to_string()))?;
                let password = Password::Kept(password.clone(), base.to_owned());
                Some(Login::new(user.clone(), password).ok_or(("user", USER.to_owned()))?)
            }
        };
        let trust = settings.trust.as_ref().unwrap_or(trust);
        url.into_proxy(login, trust, base).map_err(|why| ("trust", why))
    }

    /// From an environment variable, where the scheme may be missing and user and password stand before the host. The
    /// error continues a sentence that names the variable.
    pub(super) fn from_variable(text: &str, trust: &Trust, base: &Path) -> Result<Self, String> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let mut url = Url::parse(&with_scheme)?;
        let login = match url.login.take() {
            None => None,
            Some((user, password)) => {
                Some(Login::new(user, Password::Known(password)).ok_or_else(|| format!("names a user that {USER}"))?)
            }
        };
        url.into_proxy(login, trust, base)
    }

    /// Whether a login is configured.
    pub fn has_login(&self) -> bool {
        self.login.is_some()
    }

    /// Its host and port.
    pub fn host_and_port(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// A tunnel to a destination.
    pub(super) async fn connect(&self, host: &str, port: u16) -> Result<Carrier, ProxyError> {
        let proxy = || self.to_string();
        let login = self.login.as_ref().map(|login| login.header(self)).transpose()?;
        let io = self.reach().await?;
        let authority = authority(host, port);
        match timeout(ANSWER_DEADLINE, tunnel::ask(io, &authority, login)).await {
            Err(_) => Err(ProxyError::Silent { proxy: proxy() }),
            Ok(Ok((io, ahead))) => Ok(Carrier::Tunnel(Box::new(Tunnel { io, ahead }))),
            Ok(Err(refusal)) => Err(refusal.of(proxy(), authority, self.has_login())),
        }
    }

    /// TCP to the proxy, and TLS where it wants that.
    async fn reach(&self) -> Result<Link<TlsStream<TcpStream>>, ProxyError> {
        let proxy = || self.to_string();
        let addresses = resolve(&self.host, self.port)
            .await
            .map_err(|error| ProxyError::Resolve { proxy: proxy(), source: io::Error::other(error) })?;
        let stream = first_of(&addresses).await.map_err(|source| ProxyError::Connect { proxy: proxy(), source })?;
        let Some(tls) = &self.tls else { return Ok(Link::Tcp(stream)) };
        let failed = |source| ProxyError::Tls { proxy: proxy(), source };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        match timeout(ANSWER_DEADLINE, TlsConnector::from(Arc::clone(tls)).connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(Link::Tls(Box::new(stream))),
            Ok(Err(source)) if is_untrusted(&source) => Err(ProxyError::Untrusted { proxy: proxy(), source }),
            Ok(Err(source)) => Err(failed(source)),
            Err(_) => Err(ProxyError::Silent { proxy: proxy() }),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}", authority(&self.host, self.port))
    }
}

/// What a user must not be; continues a sentence.
const USER: &str = "is empty, holds a colon (which ends a user in Basic authentication) or a control character";

impl Login {
    fn new(user: String, password: Password) -> Option<Self> {
        let is_sound = !user.is_empty() && !user.contains(':') && !user.chars().any(char::is_control);
        is_sound.then_some(Self { user, password })
    }

    /// `Basic …` (RFC 7617).
    fn header(&self, proxy: &Proxy) -> Result<HeaderValue, ProxyError> {
        let read;
        let password = match &self.password {
            Password::Known(password) => password,
            Password::Kept(reference, base) => {
                let kept = reference.read(base);
                read = Secret::from(kept.map_err(|source| ProxyError::Password { proxy: proxy.to_string(), source })?);
                &read
            }
        };
        let unsendable = || ProxyError::Unsendable { proxy: proxy.to_string() };
        if password.expose().chars().any(char::is_control) {
            return Err(unsendable());
        }
        let pair = Secret::new(format!("{}:{}", self.user, password.expose()));
        Secret::new(BASE64_STANDARD.encode(pair.expose())).header("Basic ").ok_or_else(unsendable)
    }
}

/// A proxy's URL, taken apart.
struct Url {
    tls: bool,
    host: String,
    port: u16,
    login: Option<(String, Secret)>,
}

impl Url {
    /// The error continues a sentence and repeats nothing of the text, which may hold a password.
    fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "is no address of an HTTP proxy; write http://host:port or https://host:port";
        let uri: Uri = text.parse().map_err(|_| SHAPE)?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return Err("names a kind of proxy that is not supported; write http:// or https://"),
            None => return Err(SHAPE),
        };
        let whole = uri.authority().ok_or(SHAPE)?;
        if uri.path() != "/" || uri.query().is_some() {
            return Err(SHAPE);
        }
        let login = match whole.as_str().rsplit_once('@') {
            None => None,
            Some((pair, _)) => {
                let (user, password) = pair.split_once(':').unwrap_or((pair, ""));
                let decode = |text| percent_decode_str(text).decode_utf8().map_err(|_| SHAPE);
                Some((decode(user)?.into_owned(), Secret::new(decode(password)?.into_owned())))
            }
        };
        let host = whole.host().trim_start_matches('[').trim_end_matches(']');
        let port = whole.port_u16().unwrap_or(if tls { 443 } else { 80 });
        if !is_host(host) || port == 0 {
            return Err(SHAPE);
        }
        Ok(Self { tls, host: host.to_ascii_lowercase(), port, login })
    }

    fn into_proxy(self, login: Option<Login>, trust: &Trust, base: &Path) -> Result<Proxy, String> {
        let tls = match self.tls {
            true => Some(client(roots(trust, base).map_err(|error| error.to_string())?, &[b"http/1.1"])),
            false => None,
        };
        Ok(Proxy { tls, host: self.host, port: self.port, login })
    }
}
