//! Client certificates: what is signed, what is read anew, and what is told when the files do not fit.
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};

use super::*;
use crate::token::fakes::{self, CLIENT, Fake, Jwt, TENANT, TOKEN, Trusted};

/// A self-signed certificate in a folder, with the RSA key beside it.
struct Files {
    folder: tempfile::TempDir,
    der: Vec<u8>,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap(), der: Vec::new() };
        files.renewed(&KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(), |_| {})
    }

    /// Writes a certificate for this key.
    fn renewed(mut self, key: &KeyPair, change: impl Fn(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::default();
        change(&mut params);
        let certificate = params.self_signed(key).unwrap();
        self.der = certificate.der().to_vec();
        self.write("app.crt", &certificate.pem());
        self.write("app.key", &key.serialize_pem());
        self
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn config(&self, authority: &str, changes: Value) -> SourceConfig {
        let mut config = json!({
            "source": "client_certificate", "authority": authority, "tenant": TENANT, "client_id": CLIENT,
            "certificate": "app.crt", "key": { "file_readable_by_others": "app.key" },
        });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        serde_json::from_value(config).unwrap()
    }

    fn source(&self, server: &Fake, changes: Value) -> Arc<dyn Source> {
        source(&self.config(&server.url(""), changes), self.folder.path()).unwrap()
    }

    async fn entra(&self) -> Fake {
        fakes::entra(Trusted::Certificate(self.der.clone())).await
    }

    fn refusal(&self) -> TokenError {
        source(&self.config("https://login.example.com", json!({})), self.folder.path()).unwrap_err()
    }
}

#[tokio::test]
async fn the_assertion_is_what_entra_accepts_once() {
    let files = Files::new();
    let server = files.entra().await;
    let source = files.source(&server, json!({}));
    assert_eq!(source.fetch(AUDIENCE).await.unwrap().secret.expose(), TOKEN);
    source.fetch(AUDIENCE).await.expect("each fetch has an assertion of its own");
    let form = server.seen()[0].form();
    assert_eq!(form.len(), 5);
    let assertion = &form.iter().find(|(name, _)| name == "client_assertion").unwrap().1;
    let jwt = Jwt::parse(assertion).unwrap();
    assert_eq!((&jwt.head["alg"], &jwt.head["typ"]), (&json!("PS256"), &json!("JWT")));
    assert_eq!(jwt.head.as_object().unwrap().len(), 3);
    assert_eq!(jwt.claims["aud"], server.url("/contoso/oauth2/v2.0/token"));
}

#[tokio::test]
async fn older_authorities_are_served_with_rs256() {
    let files = Files::new();
    let server = files.entra().await;
    files.source(&server, json!({ "signature": "rs256" })).fetch(AUDIENCE).await.unwrap();
}

#[tokio::test]
async fn the_chain_is_sent_where_it_is_wanted() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let files = Files::new();
    let other = Files::new();
    let pem = |files: &Files| std::fs::read_to_string(files.folder.path().join("app.crt")).unwrap();
    files.write("app.crt", &format!("{}{}", pem(&files), pem(&other)));
    let server = files.entra().await;
    files.source(&server, json!({ "send_chain": true })).fetch(AUDIENCE).await.unwrap();
    let form = server.seen()[0].form();
    let assertion = &form.iter().find(|(name, _)| name == "client_assertion").unwrap().1;
    let jwt = Jwt::parse(assertion).unwrap();
    assert_eq!(jwt.head["x5c"], json!([STANDARD.encode(&files.der), STANDARD.encode(&other.der)]));
}

#[tokio::test]
async fn a_renewed_certificate_is_used_for_the_next_fetch() {
    let files = Files::new();
    let before = files.entra().await;
    let source = files.source(&before, json!({}));
    source.fetch(AUDIENCE).await.unwrap();
    let generation = source.generation();
    let files = files.renewed(&KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(), |_| {});
    assert_ne!(generation, source.generation());
    let error = source.fetch(AUDIENCE).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::EntraRejected, "the old trust does not know the new certificate: {error}");
    let after = files.entra().await;
    files.source(&after, json!({})).fetch(AUDIENCE).await.unwrap();
}

#[tokio::test]
async fn key_and_certificate_may_stand_in_one_file_in_either_form_of_rsa_key() {
    let files = Files::new();
    let read = |name: &str| std::fs::read_to_string(files.folder.path().join(name)).unwrap();
    // PKCS#8 wraps PKCS#1 behind 26 bytes that are the same for every key of this size.
    let pkcs8 = crate::tls::pem::private_key(&read("app.key")).unwrap();
    let pkcs1 = rustls::pki_types::PrivateKeyDer::Pkcs1(pkcs8.secret_der()[26..].to_vec().into());
    use base64::{Engine, engine::general_purpose::STANDARD};
    let body = STANDARD.encode(pkcs1.secret_der());
    let traditional = format!("-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----\n");
    let server = files.entra().await;
    for key in [read("app.key"), traditional] {
        files.write("both.pem", &format!("{key}{}", read("app.crt")));
        let changes = json!({ "certificate": "both.pem", "key": { "file_readable_by_others": "both.pem" } });
        files.source(&server, changes).fetch(AUDIENCE).await.unwrap();
    }
}

#[test]
fn files_that_do_not_fit_are_told_at_the_start() {
    let files = Files::new();
    let key = std::fs::read_to_string(files.folder.path().join("app.key")).unwrap();
    files.write("app.key", &KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap().serialize_pem());
    let error = files.refusal();
    assert_eq!((error.code, error.stage), (ErrorCode::SourceMisconfigured, Stage::Proof));
    assert!(error.message.contains("does not belong"), "{error}");

    files.write("app.key", "hunter2");
    let error = files.refusal();
    assert!(error.message.contains("PEM private key") && !error.message.contains("hunter2"), "{error}");
    files.write("app.key", &key);
    files.write("app.crt", &key);
    let error = files.refusal();
    assert!(error.message.contains("no PEM certificate") && !error.message.contains("PRIVATE"), "{error}");
    std::fs::remove_file(files.folder.path().join("app.crt")).unwrap();
    assert_eq!(files.refusal().code, ErrorCode::FileUnreadable);

    let files = files.renewed(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), |_| {});
    let error = files.refusal();
    assert!(error.message.contains("RSA"), "{error}");
}

#[tokio::test]
async fn an_ended_certificate_is_told_without_asking_anybody() {
    let files = Files::new().renewed(&KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(), |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let server = files.entra().await;
    let error = files.source(&server, json!({})).fetch(AUDIENCE).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SourceMisconfigured);
    assert!(error.message.contains("expired") && error.message.contains("app.crt"), "{error}");
    assert!(server.seen().is_empty());
}

#[test]
fn what_is_missing_is_named() {
    let files = Files::new();
    for key in ["certificate", "key", "tenant", "client_id"] {
        assert_eq!(files.config("https://login.example.com", json!({ key: null })).check().unwrap_err().0, key);
    }
    let foreign = files.config("https://login.example.com", json!({ "client_secret": { "env": "X" } }));
    assert_eq!(foreign.check().unwrap_err().0, "client_secret");
}
