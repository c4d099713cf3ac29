//! What a gateway's config may say.

use super::*;

const SHORTEST: &str = "
cluster: factory-a
listen: { address: 0.0.0.0:8443, proxy_protocol_from: [10.42.0.0/16] }
identity: { directory: /var/run/causeway/identity }
networks: { pods: 10.42.0.0/16, services: [10.43.0.0/16, \"fd00:43::/112\"], domain: cluster.local }
authenticators:
  entra:
    issuer: https://login.microsoftonline.com/00000000-0000-0000-0000-000000000000/v2.0
    audience: api://causeway/factory-a
    subject: oid
policy: policy.yaml
";

fn parse(yaml: &str) -> Result<Config, String> {
    let config: Config = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
    config.validate().map_err(|(key, message)| format!("{key}: {message}"))?;
    Ok(config)
}

#[test]
fn the_shortest_useful_file_is_enough() {
    let config: Config = serde_saphyr::from_str(&SHORTEST.replace("entra", "e")).unwrap();
    config.validate().unwrap();
    assert_eq!(config.policy, PolicySource::File("policy.yaml".into()));
    assert!(config.networks.services.contains("fd00:43::5".parse().unwrap()));
    assert!(config.listen.proxy_protocol_from.contains("::ffff:10.42.1.1".parse().unwrap()));
    assert!(!config.listen.plaintext_from.contains("10.42.1.1".parse().unwrap()));
    assert_eq!(config.limits, Limits::default());
}

#[test]
fn a_policy_may_stand_inside() {
    let inline = SHORTEST.replace(
        "policy: policy.yaml",
        "policy: { rules: [{ name: r, who: { authenticator: entra, subjects: [a] }, describe: {} }] }",
    );
    assert!(matches!(parse(&inline).unwrap().policy, PolicySource::Inline(file) if file.rules.len() == 1));
    let broken = SHORTEST.replace(
        "policy: policy.yaml",
        "policy: { rules: [{ name: r, who: { authenticator: entra, subjects: [a] } }] }",
    );
    assert!(parse(&broken).unwrap_err().starts_with("policy.rules[0]: rule \"r\": a rule grants exactly one kind"));
}

#[test]
fn what_cannot_work_is_refused_with_its_key() {
    for (from, to, key) in [
        ("cluster: factory-a", "cluster: \"factory a\"", "cluster"),
        ("cluster: factory-a", "cluster: ../a", "cluster"),
        ("  entra:", "  mtls:", "authenticators.mtls"),
        ("10.42.0.0/16, services", "10.42.0.1/16, services", "10.42.0.0/16"),
        ("domain: cluster.local", "domain: \"a b\"", "networks.domain"),
        ("domain: cluster.local", "hosts: { Upper.svc: 10.0.0.1 }", "networks.hosts"),
        ("policy: policy.yaml", "policy: policy.yaml\nlimits: { tunnels: 0 }", "limits.tunnels"),
        ("policy: policy.yaml", "policy: policy.yaml\nlimits: { connect: 0s }", "limits.connect"),
        ("policy: policy.yaml", "policy: policy.yaml\nlimits: { buffers: 8191Ki }", "limits.buffers"),
        ("policy: policy.yaml", "policy: policy.yaml\nlimits: { streams: 0 }", "limits.streams"),
        (
            "policy: policy.yaml",
            "policy: policy.yaml\nlimits: { per_subject: { tunnels: 1 } }",
            "limits.per_subject.tunnels",
        ),
        (
            "policy: policy.yaml",
            "policy: policy.yaml\nlimits: { per_actor: { bytes_per_second: 0 } }",
            "limits.per_actor.bytes_per_second",
        ),
        ("policy: policy.yaml", "policy: policy.yaml\nidentity_headers: { actor: host }", "identity_headers.actor"),
        (
            "policy: policy.yaml",
            "policy: policy.yaml\nidentity_headers: { groups: X-Forwarded-Groups }",
            "identity_headers.groups",
        ),
        (
            "policy: policy.yaml",
            "policy: policy.yaml\nidentity_headers: { actor: x-who, subject: X-Who }",
            "identity_headers.subject",
        ),
        ("policy: policy.yaml", "policy: policy.yaml\ndeny: \"\"", "deny"),
        ("policy: policy.yaml", "policy: policy.yaml\nlimit: {}", "limit"),
    ] {
        let error = parse(&SHORTEST.replace(from, to)).expect_err(to);
        assert!(error.contains(key), "{error} should name {key}");
    }
}
