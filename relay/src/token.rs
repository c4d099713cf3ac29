//! `relay token`: mints a shared access signature for tools that cannot, to standard output.
use std::{path::PathBuf, time::SystemTime};

use daemon::config::{ConfigError, SecretRef, Span};
use identity::{sas, secret::Secret};

use crate::sender::{Address, AddressError};

/// What to mint.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Hybrid connection: sb://host/name or sb://host:port/name
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// Name of the shared access rule
    #[arg(long, value_name = "NAME")]
    pub rule: String,
    /// File with the rule's key
    #[arg(long, value_name = "FILE")]
    pub key_file: PathBuf,
    /// How long the token is good for: 30s, 15m, 24h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = span)]
    pub life: Span,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The address cannot be read.
    #[error("--url {0:?} {1}")]
    Url(String, AddressError),
    /// The key cannot be read.
    #[error("--key-file cannot be used")]
    Key(#[from] ConfigError),
}

/// Mints the token.
pub fn mint(args: &Args, now: SystemTime) -> Result<Secret, MintError> {
    let address: Address = args.url.parse().map_err(|error| MintError::Url(args.url.clone(), error))?;
    let key = Secret::from(SecretRef::File(args.key_file.clone()).read(std::path::Path::new("."))?);
    Ok(sas::mint(&address.resource(), &args.rule, &key, now + args.life.0))
}

fn span(text: &str) -> Result<Span, String> {
    text.parse().map_err(|_| "write a time such as 30s, 15m or 24h".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use identity::sas::{Rights, Rule, verify};

    use super::*;

    #[test]
    fn a_minted_token_verifies_for_its_hybrid_connection() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let key_file = folder.path().join("key");
        let key = "c2l4dGVlbi1ieXRlcy1vZi1rZXktYW5kLW1vcmU=";
        std::fs::write(&key_file, format!("{key}\n")).unwrap();
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let args = Args {
            url: "sb://relay.example.com:8443/factory-a".into(),
            rule: "send".into(),
            key_file,
            life: Span(Duration::from_secs(60)),
        };
        let now = SystemTime::now();
        let token = mint(&args, now).unwrap();
        let rule = Rule { name: "send".into(), rights: Rights::default(), keys: vec![Secret::new(key)] };
        let check = |path| verify(token.expose(), &[&rule], "relay.example.com", path, now, Duration::ZERO);
        assert!(check("factory-a").is_ok());
        assert!(check("factory-b").is_err());
    }
}
