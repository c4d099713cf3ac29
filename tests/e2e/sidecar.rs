//! An unmodified Azure SDK gets a token from the sidecar, and only from it.
use std::time::Duration;

use causeway_tests::{
    curl::Curl,
    programs,
    site::{IDENTITY_HEADER, Site},
    token_endpoint::{CLIENT_SECRET, TokenEndpoint, token_for},
    wait::within,
};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(60);

const RESOURCE: &str = "https://storage.azure.com";

/// What a workload would write; the endpoint comes from the environment, as the SDK expects.
const SCRIPT: &str = "
from azure.identity import ManagedIdentityCredential
credential = ManagedIdentityCredential()
token = credential.get_token('https://storage.azure.com/.default')
print(token.token)
";

#[tokio::test(flavor = "multi_thread")]
async fn pythons_managed_identity_credential_gets_a_token() {
    within(LIMIT, async {
        let site = Site::new().await;
        let endpoint = TokenEndpoint::start(&site.pki).await;
        let (sidecar, address) = site.sidecar(endpoint.address).await;
        let python = programs::repository().join("target/tools/python/bin/python");
        assert!(python.exists(), "{} is missing: run `tests/run setup`", python.display());
        let run = async || {
            let output = Command::new(&python)
                .args(["-c", SCRIPT])
                .env("IDENTITY_ENDPOINT", format!("http://{address}/msi/token"))
                .env("IDENTITY_HEADER", IDENTITY_HEADER)
                .env("NO_PROXY", "*")
                .kill_on_drop(true)
                .output()
                .await
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let expected = token_for(&format!("{RESOURCE}/.default"));
        assert_eq!(run().await, expected);
        // A second workload process is served from the cache.
        assert_eq!(run().await, expected);
        assert_eq!(endpoint.granted(), [format!("{RESOURCE}/.default")]);
        for secret in [&*expected, CLIENT_SECRET, IDENTITY_HEADER] {
            assert!(!sidecar.log().lines().iter().any(|line| line.contains(secret)), "the log holds a secret");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_header_there_is_no_token() {
    within(LIMIT, async {
        let site = Site::new().await;
        let endpoint = TokenEndpoint::start(&site.pki).await;
        let (_sidecar, address) = site.sidecar(endpoint.address).await;
        let url = format!("http://{address}/msi/token?resource={RESOURCE}&api-version=2019-08-01");
        for header in [None, Some("X-IDENTITY-HEADER: wrong")] {
            let mut curl = Curl::new(&url);
            if let Some(header) = header {
                curl = curl.header(header);
            }
            let answer = curl.run().await;
            assert!((400..500).contains(&answer.status), "{answer:?}");
            assert!(!answer.text().contains("token-for"), "{}", answer.text());
        }
        assert!(endpoint.granted().is_empty(), "nobody asked the issuer");
        let good = Curl::new(&url).header(format!("X-IDENTITY-HEADER: {IDENTITY_HEADER}")).run().await;
        assert_eq!(good.status, 200, "{}", good.text());
    })
    .await;
}
