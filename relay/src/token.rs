//! `relay token`: mints a shared access signature for tools that cannot, to standard output.
use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use daemon::config::{ConfigError, SecretRef, Span};
use identity::{sas, secret::Secret};

use crate::sender::{Address, AddressError, JoinFile, JoinLogin};

/// What to mint.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// File with a join string, in place of --url, --rule and --key-file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "rule", "key_file"])]
    pub join: Option<PathBuf>,
    /// Hybrid connection: sb://host/name or sb://host:port/name
    #[arg(long, value_name = "URL", required_unless_present = "join")]
    pub url: Option<String>,
    /// Name of the shared access rule
    #[arg(long, value_name = "NAME", required_unless_present = "join")]
    pub rule: Option<String>,
    /// File with the rule's key
    #[arg(long, value_name = "FILE", required_unless_present = "join")]
    pub key_file: Option<PathBuf>,
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
    Key(#[source] ConfigError),
    /// The join string cannot be read.
    #[error("--join cannot be used")]
    Join(#[source] ConfigError),
    /// It holds no key.
    #[error("--join: the join string holds a token instead of a key; use that")]
    NoKey,
    /// Neither was given.
    #[error("say --join, or --url, --rule and --key-file")]
    Nothing,
}

/// Mints the token.
pub fn mint(args: &Args, now: SystemTime) -> Result<Secret, MintError> {
    let here = Path::new(".");
    let (address, rule, key) = match args {
        Args { join: Some(join), .. } => {
            let join = JoinFile::new(SecretRef::File(join.clone()), here).read().map_err(MintError::Join)?;
            let JoinLogin::Key { rule, key } = join.login else { return Err(MintError::NoKey) };
            (join.address, rule, key)
        }
        Args { url: Some(url), rule: Some(rule), key_file: Some(key_file), .. } => {
            let address: Address = url.parse().map_err(|error| MintError::Url(url.clone(), error))?;
            let key = SecretRef::File(key_file.clone()).read(here).map_err(MintError::Key)?;
            (address, rule.clone(), Secret::from(key))
        }
        _ => return Err(MintError::Nothing),
    };
    Ok(sas::mint(&address.resource(), &rule, &key, now + args.life.0))
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
            join: None,
            url: Some("sb://relay.example.com:8443/factory-a".into()),
            rule: Some("send".into()),
            key_file: Some(key_file),
            life: Span(Duration::from_secs(60)),
        };
        let now = SystemTime::now();
        let token = mint(&args, now).unwrap();
        let join = folder.path().join("join");
        let text = format!(
            "Endpoint=sb://relay.example.com:8443/;SharedAccessKeyName=send;SharedAccessKey={key};EntityPath=factory-a"
        );
        std::fs::write(&join, text).unwrap();
        std::fs::set_permissions(&join, std::fs::Permissions::from_mode(0o600)).unwrap();
        let joined = Args { join: Some(join), url: None, rule: None, key_file: None, ..args };
        assert_eq!(mint(&joined, now).unwrap().expose(), token.expose(), "a join string says the same");
        let rule = Rule { name: "send".into(), rights: Rights::default(), keys: vec![Secret::new(key)] };
        let check = |path| verify(token.expose(), &[&rule], "relay.example.com", path, now, Duration::ZERO);
        assert!(check("factory-a").is_ok());
        assert!(check("factory-b").is_err());
    }
}
